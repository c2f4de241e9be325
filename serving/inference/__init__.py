"""The model that serves, its replacement by another, and the scheduler that feeds the engine."""
