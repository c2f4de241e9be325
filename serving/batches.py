"""Many pictures in one request: a form with several files, or a tar or zip archive."""

from __future__ import annotations

import asyncio
import tarfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO

from serving.bodies import Receive, Scope, read_content_type, stream_body
from serving.errors import BadRequest, RequestError, TooLarge, UnsupportedMedia
from serving.forms import FIELD, FormParser, parse_boundary
from serving.settings import Settings

_SPOOL_BYTES = 8_000_000  # a larger archive goes to the disk
_MAX_NAME = 4096  # characters; a tar can give one name of megabytes to all its files, and each answer repeats it
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # Python unpacks the others without a limit
_HINT = (
    f"send files as multipart/form-data, curl -F {FIELD}=@a.jpg -F {FIELD}=@b.jpg …, "
    "or an archive, curl --data-binary @pictures.tar -H 'Content-Type: application/x-tar' …, or application/zip"
)


@dataclass(frozen=True)
class Picture:
    """A file of a batch by its name, or why it cannot be had."""

    name: str
    data: bytes | RequestError

    @property
    def size(self) -> int:
        """Bytes that it holds in memory."""
        return len(self.data) if isinstance(self.data, bytes) else 0

    def read(self) -> bytes:
        """The file.

        Raises:
            RequestError: it cannot be had.
        """
        if isinstance(self.data, RequestError):
            raise self.data
        return self.data


def read_pictures(scope: Scope, receive: Receive, settings: Settings) -> AsyncIterator[Picture]:
    """A request's pictures in their order, while its body comes or, of an archive, once it is here.

    Raises:
        UnsupportedMedia, BadRequest: at once, for the Content-Type.
        BadRequest, TooLarge: in the middle; one picture that is too large is not that, but says so in its place.
    """
    declared, content_type = read_content_type(scope)
    limit = settings.max_batch_upload_bytes
    body = stream_body(scope, receive, limit, f"the upload is larger than {limit:,} bytes; send several")
    if content_type == "multipart/form-data":
        return _read_form(body, parse_boundary(declared), settings)
    if content_type in _ARCHIVES:
        return _read_archive(body, content_type, settings)
    raise UnsupportedMedia(f"Content-Type is {content_type or 'missing'!r}; {_HINT}")


async def _read_form(body: AsyncIterator[bytes], boundary: str, settings: Settings) -> AsyncIterator[Picture]:
    parser = FormParser(boundary, max_part_bytes=settings.max_upload_bytes, max_parts=settings.max_batch_images)
    count = 0
    async for chunk in body:
        for part in parser.feed(chunk):
            if part.is_file:
                count += 1
                yield Picture(part.filename, _too_large(settings) if part.is_cut else part.data)
    parser.finish()
    if not count:
        raise BadRequest(f"the form has no file {FIELD!r}; {_HINT}")


async def _read_archive(body: AsyncIterator[bytes], content_type: str, settings: Settings) -> AsyncIterator[Picture]:
    loop = asyncio.get_running_loop()
    with SpooledTemporaryFile(max_size=_SPOOL_BYTES) as file:
        async for chunk in body:
            file.write(chunk)
        file.seek(0)
        pictures = _ARCHIVES[content_type](file, settings)
        count = 0
        while (picture := await loop.run_in_executor(None, _next_picture, pictures)) is not None:
            count += 1
            if count > settings.max_batch_images:
                raise TooLarge(f"the archive has more than {settings.max_batch_images:,} files; send several")
            if len(picture.name) > _MAX_NAME:
                raise BadRequest(f"the archive has a file whose name is longer than {_MAX_NAME:,} characters")
            yield picture


def _next_picture(pictures: Iterator[Picture]) -> Picture | None:
    try:
        return next(pictures, None)
    except Exception as error:  # Both modules raise their own, zlib.error, OSError, ValueError, OverflowError and others.
        raise BadRequest(f"the archive is damaged, compressed as a whole, or encrypted ({error}); {_HINT}") from error


def _read_tar(file: IO[bytes], settings: Settings) -> Iterator[Picture]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if member.isreg() and not _is_hidden(member.name):
                content = archive.extractfile(member) if member.size <= settings.max_upload_bytes else None
                yield Picture(member.name, content.read() if content else _too_large(settings))
            archive.members = []  # type: ignore[attr-defined]  # or it would keep every member's header until the end


def _read_zip(file: IO[bytes], settings: Settings) -> Iterator[Picture]:
    limit = settings.max_upload_bytes
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.is_dir() or _is_hidden(member.filename):
                continue
            if member.compress_type not in _ZIP_METHODS:
                yield Picture(
                    member.filename, UnsupportedMedia("the file is not stored or deflated; pack it with zip's defaults")
                )
                continue
            with archive.open(member) as content:
                data = content.read(limit + 1)  # the declared size may lie
            yield Picture(member.filename, data if len(data) <= limit else _too_large(settings))


def _is_hidden(name: str) -> bool:
    """macOS and other tools add such files to archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.removeprefix("./").split("/"))


def _too_large(settings: Settings) -> TooLarge:
    return TooLarge(f"the picture is larger than {settings.max_upload_bytes:,} bytes")


_ARCHIVES = {
    "application/x-tar": _read_tar,
    "application/tar": _read_tar,
    "application/zip": _read_zip,
    "application/x-zip-compressed": _read_zip,
}
