"""Images of a tar archive, while it comes, or of a zip archive, whose table of contents is at its end."""

from __future__ import annotations

import math
import os
import tarfile
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterator
from tempfile import SpooledTemporaryFile
from typing import IO, cast

from serving.errors import InvalidImage, RequestError, UnsupportedMedia
from serving.uploads.image import UploadedImage, image_too_large

_SPOOL_BYTES = 8_000_000  # a larger archive goes to the disk
_TAR_HEADER_BYTES = 8192  # a path of Linux has 4096; before Python 3.11.10 tarfile takes seconds for 30,000 bytes of digits
_TAR_HEADERS_BYTES = 65_536  # of all headers of one file: tarfile follows a sparse file's without end
_ZIP_ENTRY_BYTES = 400  # of a zip's table of contents for each image that may be in it, on average
_ZIP_SMALL_BYTES = 70_000  # its end with a comment; the name of a file
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # Python unpacks the others without a limit


class NotYet(Exception):
    """The bytes to be read have not come yet."""


class ArrivingFile:
    """A request's body as a file: what has come can be read, for the rest :class:`NotYet` is raised.

    Attributes:
        max_total: bytes that may be read until the reader sets it again.
        max_read: bytes that may be read at once; the reader sets it to the most that is plausible here. A zip's table of
            contents is read at once, and so is each header of a tar.
        is_complete: whether all of it is here.
        awaited: bytes that must have come before it makes sense to read again.
    """

    def __init__(self) -> None:
        self.max_read, self.max_total = 0, math.inf
        self.is_complete = False
        self.awaited = 0.0
        self._file = SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 (close does it)
        self._position, self._received = 0, 0

    async def fill(self, body: AsyncIterator[bytes]) -> AsyncIterator[None]:
        """Takes the body; yields wherever it makes sense to read, the last time at the end."""
        async for chunk in body:
            self._file.seek(0, os.SEEK_END)
            self._file.write(chunk)
            self._received += len(chunk)
            if self._received >= self.awaited:
                yield
        self.is_complete = True
        yield

    def read(self, size: int = -1) -> bytes:
        """Returns bytes from the position on; fewer only at the end of a complete body.

        Raises:
            NotYet: some of them have not come.
            ValueError: they are too many.
        """
        limit = min(self.max_read, self.max_total)
        if min(self._received - self._position if size < 0 else size, self._received) > limit:
            raise ValueError(f"its table of contents or a file's header has more than {limit:,} bytes")
        if not self.is_complete:
            end = math.inf if size < 0 else self._position + size
            if end > self._received:
                self.awaited = end
                raise NotYet
        self._file.seek(self._position)
        data = self._file.read(size)
        self._position += len(data)
        self.max_total -= len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position, as for any file."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._received}[whence]
        return self._position

    def tell(self) -> int:
        """Returns the position."""
        return self._position

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def close(self) -> None:
        """Frees its memory or temporary file."""
        self._file.close()


def read_tar(file: ArrivingFile, max_bytes: int, max_images: int) -> Iterator[UploadedImage | None]:
    """Yields the files in their order, None when more must come first. Raises whatever tarfile does for a damaged archive."""
    archive: tarfile.TarFile | None = None
    member: tarfile.TarInfo | None = None
    last_offset = -1
    while True:
        try:
            file.max_read, file.max_total = _TAR_HEADER_BYTES, _TAR_HEADERS_BYTES
            if archive is None:
                file.seek(0)
                archive = tarfile.open(fileobj=cast("IO[bytes]", file), mode="r:")  # noqa: SIM115 (holds nothing else)
            if member is None:
                member = archive.next()
                if member is None:
                    _check_end(file, archive.offset)
                elif member.offset <= last_offset:  # tarfile follows a negative size backwards
                    raise tarfile.ReadError(f"the header at byte {member.offset:,} comes a second time")
                else:
                    last_offset = member.offset
            file.max_read, file.max_total = max_bytes, math.inf
            image = None if member is None else _read_member(archive, member, max_bytes)
        except NotYet:  # what was begun is begun again
            yield None
            continue
        if member is None:
            return
        if image is not None:
            yield image
        member = None
        archive.members = []  # type: ignore[attr-defined]  # or it would keep every member's header until the end


def _check_end(file: ArrivingFile, offset: int) -> None:
    """Raises where tarfile found no header although the archive does not end: it takes a damaged header for the end."""
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"what is at byte {offset:,} is no file's header")


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, max_bytes: int) -> UploadedImage | None:
    if not member.isreg() or _is_hidden(member.name):
        return None
    content = archive.extractfile(member) if member.size <= max_bytes else None
    return UploadedImage(member.name, content.read(member.size) if content else image_too_large(max_bytes))


def read_zip(file: ArrivingFile, max_bytes: int, max_images: int) -> Iterator[UploadedImage | None]:
    """Yields the files in their order, None until all has come. Raises whatever zipfile does for a damaged archive."""
    if not file.is_complete:
        file.awaited = math.inf
        yield None
    file.max_read = max(_ZIP_ENTRY_BYTES * max_images, _ZIP_SMALL_BYTES)
    with zipfile.ZipFile(cast("IO[bytes]", file)) as archive:
        file.max_read = max(max_bytes + 1, _ZIP_SMALL_BYTES)
        for member in archive.infolist():
            if member.is_dir() or _is_hidden(member.filename):
                continue
            yield UploadedImage(member.filename, _read_entry(archive, member, max_bytes))


def _read_entry(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int) -> bytes | RequestError:
    """A zip's file, or why it cannot be read; the others are independent of it."""
    if member.compress_type not in _ZIP_METHODS:
        return UnsupportedMedia("the file is not stored or deflated; pack it with zip's defaults")
    if member.file_size > max_bytes:  # zipfile unpacks no more than the declared size, so a smaller one is no way around
        return image_too_large(max_bytes)
    try:
        with archive.open(member) as content:
            return content.read(max_bytes)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return InvalidImage(f"the file is damaged in the archive ({error})")


def _is_hidden(name: str) -> bool:
    """macOS and other tools add such files and folders to archives."""
    return any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in name.split("/"))
