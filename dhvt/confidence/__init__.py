"""What an answer is worth: judged by labelled images that neither trained, nor chose, nor calibrated the model. NumPy alone."""
