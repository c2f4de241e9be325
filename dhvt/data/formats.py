"""The image formats that are read, and those that are only named: by a file's first bytes and by its ending."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

from PIL import AvifImagePlugin, Image, features

try:
    import pillow_heif
except ImportError:
    _HAS_HEIF = False
else:
    _HAS_HEIF = True
    # Thumbnails are other pixels than the image's. Several images are decoded at once, each in one thread.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)

AvifImagePlugin.DEFAULT_MAX_THREADS = 1

Image.init()  # Otherwise the first request pays for loading the format plugins.

HEIC_INSTALL = "pip install 'dhvt-serve[heif]'"

FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"),
    *(("AVIF",) if features.check("avif") else ()),  # distributions' Pillow may lack it
    *(("HEIF",) if _HAS_HEIF else ()),  # after AVIF: both take the brand mif1
)
"""Pillow's names of the formats that are decoded here, recognised by the first bytes and never by a name or declared type."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif"}
)
"""Endings, in lower case, of the files in a folder that are taken as images.

Those of HEIC and AVIF are among them where they cannot be decoded too: such a file is an error that says what to install.
"""

UNREAD_SUFFIXES = {
    **dict.fromkeys((".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".nef", ".nrw", ".orf", ".pef"), "a camera's RAW"),
    **dict.fromkeys((".raf", ".raw", ".rw2", ".sr2", ".srw", ".x3f"), "a camera's RAW"),
    **dict.fromkeys((".jp2", ".j2k", ".jpf", ".jpx"), "JPEG 2000"),
    **dict.fromkeys((".pbm", ".pgm", ".pnm", ".ppm"), "Netpbm"),
    **dict.fromkeys((".avifs", ".heics", ".heifs"), "an image sequence"),
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
    **dict.fromkeys((".svg", ".svgz"), "SVG"),
    **{".jxl": "JPEG XL", ".psd": "Photoshop", ".exr": "OpenEXR", ".hdr": "Radiance HDR", ".ico": "an icon", ".tga": "TGA"},
    **{".dds": "DDS", ".eps": "EPS", ".fits": "FITS", ".nii": "NIfTI", ".npy": "NumPy", ".pcx": "PCX"},
}
"""Endings of images that are not read, in lower case, with what they are."""

_BRANDS = {
    "AVIF": frozenset({b"avif", b"avis"}),
    "HEIC": frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}),
}
"""Of ISO/IEC 23008-12 and of AVIF's specification: what a file's first box says that it is."""


def describe_formats() -> str:
    """The formats that are decoded here, for messages: ``JPEG, PNG, WEBP, …``."""
    return ", ".join("HEIC" if name == "HEIF" else name for name in FORMATS)


def describe_unread(name: str | PurePath) -> str | None:
    """What an image is that is not read here, by its file's ending, and what to do about it.

    Returns:
        None of an ending that is read, and of one that is no image's.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix in (".heic", ".heif", ".hif") and "HEIF" not in FORMATS:
        return f"HEIC: {HEIC_INSTALL}"
    if suffix == ".avif" and "AVIF" not in FORMATS:
        return "AVIF: this Pillow was built without it; install Pillow from PyPI"
    kind = UNREAD_SUFFIXES.get(suffix)
    return None if kind is None else f"{kind}: convert it, such as to PNG or TIFF"


def count_unread(names: Iterable[str | PurePath]) -> dict[str, int]:
    """By ending, in lower case, the files that :func:`describe_unread` has something to say of; the most frequent first."""
    return dict(Counter(PurePath(name).suffix.lower() for name in names if describe_unread(name)).most_common())


def name_of_brand(data: bytes) -> str | None:
    """``HEIC`` or ``AVIF`` where the file's first box says so; None otherwise."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), 1024)
    brands = [data[8:12], *(data[start : start + 4] for start in range(16, end - 3, 4))]
    return next((name for brand in brands for name, known in _BRANDS.items() if brand in known), None)
