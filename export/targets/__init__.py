"""The formats that a model is exported to; registry.py says how to add one."""
