"""The command line: a file for each command, and in main.py, options.py and field_options.py what they share."""
