"""The network: its configuration (without PyTorch), its layers, every model that can be built, and checkpoints."""
