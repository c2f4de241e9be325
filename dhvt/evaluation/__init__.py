"""How good a model is: accuracy, calibration, agreement of two runtimes, and the report. Nothing here needs PyTorch."""
