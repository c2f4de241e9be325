"""Labelled images: sources, splits, decoding, preprocessing, fingerprints. Nothing here needs PyTorch."""
