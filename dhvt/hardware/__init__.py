"""What this machine has: processors and GPUs."""
