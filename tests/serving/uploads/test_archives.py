"""Archives that come in pieces."""

import asyncio
import io
import tarfile
import zipfile
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.uploads import multi
from serving.uploads.archives import ArrivingFile, read_tar, read_zip

FILES = {"a.png": b"1" * 1000, "b" * 300: b"", "täglich/c.png": b"3" * 512, "d" * 120 + "/e": bytes(range(256)) * 30}
MAX_BYTES = 5000
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def make_tar(files, format):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def make_zip(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def arrivals(read, body, size, max_images=2000):
    """What is read of a body that comes in pieces, each with the count of bytes that had come by then."""

    async def collect():
        found, come = [], 0

        async def pieces():
            nonlocal come
            for start in range(0, len(body), size):
                come = min(start + size, len(body))
                yield body[start:come]

        with closing(ArrivingFile()) as file:
            images = read(file, MAX_BYTES, max_images)
            async for _ in file.fill(pieces()):
                while (image := next(images, None)) is not None:
                    found.append((image.name, image.data if image.size or not image.data else "too large", come))
        return found

    return asyncio.run(collect())


def expected(files):
    return [(name, data if len(data) <= MAX_BYTES else "too large") for name, data in files.items()]


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@settings(deadline=None)
@given(size=st.integers(1, 12_000))
def test_a_tar_reads_the_same_in_any_pieces(format, size):
    files = {name: data for name, data in FILES.items() if len(name) < 100 or format != tarfile.USTAR_FORMAT}
    assert [found[:2] for found in arrivals(read_tar, make_tar(files, format), size)] == expected(files)


@settings(deadline=None)
@given(size=st.integers(1, 12_000))
def test_a_zip_reads_the_same_in_any_pieces(size):
    assert [found[:2] for found in arrivals(read_zip, make_zip(FILES), size)] == expected(FILES)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_a_file_of_a_tar_is_there_once_its_last_byte_has_come(format):
    body = make_tar({"a": b"1" * 1000, "b": b"2" * 1000}, format)
    ends = [body.index(byte * 1000) + 1000 for byte in (b"1", b"2")]
    assert [come for *_, come in arrivals(read_tar, body, 1)] == ends


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("size", [100, 10_000])
def test_a_tar_with_a_damaged_header_is_not_read_as_if_it_ended_there(format, size):
    body = bytearray(make_tar({"a": b"1" * 1000, "b": b"2" * 1000, "c": b"3" * 1000}, format))
    body[body.index(b"b\0")] ^= 1
    with pytest.raises(tarfile.ReadError, match="no file's header"):
        arrivals(read_tar, bytes(body), size)


def test_a_table_of_contents_or_a_name_may_not_take_all_memory():
    """Both are read as a whole, before there is an image to be counted."""
    body = make_zip({str(number): b"" for number in range(2000)})
    assert len(arrivals(read_zip, body, 50_000)) == 2000
    with pytest.raises(ValueError, match="table of contents"):
        arrivals(read_zip, body, 50_000, max_images=200)
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert len(arrivals(read_tar, make_tar({"n" * 7000: b"1"}, format), 50_000)) == 1
        with pytest.raises(ValueError, match="header"):
            arrivals(read_tar, make_tar({"n" * 9000: b"1"}, format), 50_000)


def test_a_damaged_file_of_a_zip_costs_no_other():
    body = bytearray(make_zip({"a": b"1" * 1000, "b": b"2" * 1000}))
    body[body.index(b"a", 30) + 3] ^= 255
    (first, damaged, _), (second, data, _) = arrivals(read_zip, bytes(body), 512)
    assert (first, second, data) == ("a", "b", b"2" * 1000)
    assert damaged == "too large"  # what `arrivals` calls each that is no image


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_the_headers_of_one_file_of_a_tar_end(size):
    """A sparse file's go on for as long as each says so; here for a megabyte."""
    member = tarfile.TarInfo("a")
    member.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[482] = 1
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    more = bytes(b"00000000001\0" * 42 + b"\1").ljust(512, b"\0")
    with pytest.raises(ValueError, match="header has more than"):
        arrivals(read_tar, bytes(head) + more * 2048, size)


def test_a_tar_that_points_back_at_itself_ends():
    member = tarfile.TarInfo(".hidden")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    first = make_tar({"a": b"1"}, tarfile.GNU_FORMAT)[:1024]
    with pytest.raises(tarfile.ReadError, match="second time"):
        arrivals(read_tar, first + bytes(header) + b"\0" * 1024, 512)


@pytest.mark.parametrize(
    ("read", "make"), [(read_tar, lambda files: make_tar(files, tarfile.PAX_FORMAT)), (read_zip, make_zip)]
)
def test_hidden_files_are_left_out_and_no_others(read, make):
    names = ["./a", "../b", "././c", "d/../e", ".hidden", "f/.hidden/g", "__MACOSX/._a", "h"]
    assert [name for name, *_ in arrivals(read, make(dict.fromkeys(names, b"1")), 512)] == [
        "./a",
        "../b",
        "././c",
        "d/../e",
        "h",
    ]


@settings(deadline=None)
@given(cut=st.integers(1, 3000), size=st.integers(1, 4000))
def test_a_tar_that_ends_early_is_damaged_or_lacks_its_end_mark_alone(cut, size):
    body = make_tar({"a": b"1" * 1000, "b": b"2" * 1000}, tarfile.PAX_FORMAT)[:cut]
    whole = [name for name, byte in (("a", b"1"), ("b", b"2")) if byte * 1000 in body]
    try:
        names = [found[0] for found in arrivals(read_tar, body, size)]
    except tarfile.ReadError:
        return
    assert names == whole


def test_files_whose_declared_size_is_above_the_limit_are_not_unpacked(monkeypatch):
    """64 of them took three seconds."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(str(number), bytes(100_000))
    with monkeypatch.context() as patch, closing(ArrivingFile()) as file:
        patch.setattr(zipfile.ZipFile, "open", None)
        asyncio.run(anext_of(file, buffer.getvalue()))
        images = list(read_zip(file, 1000, 10))
    assert [image.data.code for image in images] == ["too_large"] * 3


def test_files_that_cost_time_and_give_nothing_do_not_add_up_in_one_call():
    """Each is unpacked to its end before its checksum tells that it is damaged."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for number in range(64):
            archive.writestr(str(number), b"x" * 1000)
    damaged = buffer.getvalue().replace(b"x" * 1000, b"y" * 1000)
    with closing(ArrivingFile()) as file:
        asyncio.run(anext_of(file, damaged))
        images = read_zip(file, 1000, 64)
        found, has_more, _ = multi._read_some(images)
    assert [image.data.code for image in found] == ["invalid_image"]
    assert has_more


async def anext_of(file, body):
    """Fills the file with a body that comes at once."""

    async def chunks():
        yield body

    async for _ in file.fill(chunks()):
        pass
