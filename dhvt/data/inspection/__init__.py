"""What ``dhvt check`` finds in labelled images: broken ones, files that are not read, duplicates, sizes, classes."""
