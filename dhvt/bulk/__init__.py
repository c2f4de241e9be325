"""Classification of millions of images on Ray Data, resumable: ``dhvt bulk``."""
