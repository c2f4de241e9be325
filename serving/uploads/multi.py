"""Many images in one request: a form with several files, or a tar or zip archive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing

from serving.errors import BadRequest, TooLarge, UnsupportedMedia
from serving.settings import Settings
from serving.uploads.archives import ArrivingFile, read_tar, read_zip
from serving.uploads.image import UploadedImage, image_too_large
from serving.uploads.multipart import FIELD, FormParser, media_type, parse_boundary

_IMAGES_AT_ONCE, _BYTES_AT_ONCE = 64, 1_000_000  # read from an archive before the event loop has its turn
_MAX_TEXT_FIELDS = 16
_MAX_NAME = 4096  # characters; a tar can give one name of megabytes to all its files, and each result repeats it
_HINT = (
    f"send files as multipart/form-data, curl -F {FIELD}=@a.jpg -F {FIELD}=@b.jpg …, "
    "an archive, curl --data-binary @images.tar -H 'Content-Type: application/x-tar' …, or application/zip, or "
    '{"images": ["<base64>", …]} with Content-Type: application/json'
)
_ArchiveReader = Callable[[ArrivingFile, int, int], Iterator[UploadedImage | None]]


def read_images(declared: str, body: AsyncIterator[bytes], settings: Settings) -> AsyncIterator[UploadedImage]:
    """Returns a body's images in their order, while it comes; those of a zip archive, once all of it is here.

    Args:
        declared: the Content-Type.
        body: in chunks, under a limit.
        settings: of this process.

    Raises:
        UnsupportedMedia, BadRequest: at once, for the Content-Type.
        BadRequest, TooLarge: in the middle, for the whole body. One image that is too large has an error in its place.
    """
    content_type = media_type(declared)
    if content_type == "multipart/form-data":
        return _read_form(body, parse_boundary(declared), settings)
    if content_type in _ARCHIVES:
        return _read_archive(body, _ARCHIVES[content_type], settings)
    raise UnsupportedMedia(f"Content-Type is {content_type or 'missing'!r}; {_HINT}")


async def _read_form(body: AsyncIterator[bytes], boundary: str, settings: Settings) -> AsyncIterator[UploadedImage]:
    parser = FormParser(
        boundary, max_part_bytes=settings.max_upload_bytes, max_parts=settings.max_batch_images + _MAX_TEXT_FIELDS
    )
    count = 0
    async for chunk in body:
        for part in parser.feed(chunk):
            if not part.is_file:
                raise BadRequest(
                    f"the form has a field {part.name[:100]!r}, which is no file {FIELD!r}; give options in the URL"
                )
            count += 1
            if count > settings.max_batch_images:
                raise TooLarge(f"the form has more than {settings.max_batch_images:,} files; send several")
            yield UploadedImage(part.filename, image_too_large(settings.max_upload_bytes) if part.is_cut else part.data)
    parser.finish()
    if not count:
        raise BadRequest(f"the form has no file {FIELD!r}; {_HINT}")


async def _read_archive(body: AsyncIterator[bytes], read: _ArchiveReader, settings: Settings) -> AsyncIterator[UploadedImage]:
    loop = asyncio.get_running_loop()
    with closing(ArrivingFile()) as file:
        images = read(file, settings.max_upload_bytes, settings.max_batch_images)
        count = 0
        async for _ in file.fill(body):
            has_more = True
            while has_more:
                found, has_more, damage = await loop.run_in_executor(None, _read_some, images)
                for image in found:
                    count += 1
                    if count > settings.max_batch_images:
                        raise TooLarge(f"the archive has more than {settings.max_batch_images:,} files; send several")
                    if len(image.name) > _MAX_NAME:
                        raise BadRequest(f"the archive has a file whose name is longer than {_MAX_NAME:,} characters")
                    yield image
                if damage:
                    raise BadRequest(f"the archive is damaged, compressed as a whole, or encrypted ({damage}); {_HINT}")
        if not count:
            raise BadRequest(f"the archive has no file, or hidden ones alone; {_HINT}")


def _read_some(images: Iterator[UploadedImage | None]) -> tuple[list[UploadedImage], bool, str]:
    """Returns some of the images that have come, whether there may be more, and what is wrong with the archive after them."""
    found: list[UploadedImage] = []
    size = 0
    try:
        for image in images:
            if image is None:
                break
            found.append(image)
            # An error may have cost as much as the largest image: its bytes were unpacked before it was found.
            size += image.size if isinstance(image.data, bytes) else _BYTES_AT_ONCE
            if size >= _BYTES_AT_ONCE or len(found) >= _IMAGES_AT_ONCE:
                return found, True, ""
    except Exception as error:  # Both modules raise their own, zlib.error, OSError, ValueError, OverflowError and others.
        return found, False, str(error) or type(error).__name__
    return found, False, ""


_ARCHIVES = {
    "application/x-tar": read_tar,
    "application/tar": read_tar,
    "application/zip": read_zip,
    "application/x-zip-compressed": read_zip,
}
