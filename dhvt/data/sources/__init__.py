"""Where labelled images come from. A source has encoded bytes and labels; :mod:`dhvt.data.decode` decodes them."""

from dhvt.data.sources.base import SPLITS, FileSource, ImageSource, Subset
from dhvt.data.sources.registry import list_splits, open_dataset

__all__ = ["SPLITS", "FileSource", "ImageSource", "Subset", "list_splits", "open_dataset"]
