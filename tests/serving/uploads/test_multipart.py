"""Multipart bodies: the short cut must see what the parser sees, and neither may be surprised."""

import asyncio
import itertools
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import BadRequest
from serving.uploads import single as uploads
from serving.uploads.multipart import FormParser, parse_boundary

BOUNDARY = "XbX"
HEAD = b'Content-Disposition: form-data; name="image"; filename="cat.jpg"\r\nContent-Type: image/jpeg'


def body(data: bytes, head: bytes = HEAD, tail: bytes = b"--\r\n") -> bytes:
    return b"--XbX\r\n" + head + b"\r\n\r\n" + data + b"\r\n--XbX" + tail


def outcome(parse, content):
    try:
        return asyncio.run(parse(content, BOUNDARY))
    except BadRequest as error:
        return str(error)


pieces = st.sampled_from(
    [
        b"--XbX",
        b"--XbX--",
        b"\r\n",
        b"\r\n\r\n",
        b"--",
        HEAD,
        b'name="top_k"',
        b"x",
        b'filename="a\\"b"',
        b"\x00\xff",
        b"\r",
        b"\n",
    ]
)


@settings(deadline=None)
@given(st.lists(pieces, max_size=12).map(b"".join), st.sampled_from([b"--\r\n", b"--", b"", b"\r\n", b"--x"]))
def test_the_short_cut_agrees_with_the_parser(data, tail):
    for content in (body(data, tail=tail), data, body(data, head=HEAD.replace(b"image/jpeg", data))):
        short = uploads._cut_only_part(content, BOUNDARY.encode())
        if short is not None:
            assert short == outcome(uploads._parse_fields, content)


def test_a_body_that_is_slow_to_parse_leaves_others_their_turn():
    """What looks like a boundary and is none costs the parser a hundred times as much as other bytes."""
    content = body(b"\r\n--XbY" * 100_000, tail=b"--x--\r\n")
    turns = 0

    async def take_turns():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run():
        others = asyncio.create_task(take_turns())
        with suppress(BadRequest):
            await uploads.parse_form(content, BOUNDARY)
        others.cancel()

    asyncio.run(run())
    assert turns >= len(content) // 100_000


def test_the_short_cut_is_taken_for_what_clients_send():
    for head in (
        HEAD,
        HEAD.partition(b"\r\n")[0],
        HEAD.replace(b"Content-D", b"content-d"),
        HEAD.replace(b"cat.jpg", "ねこ".encode()),
    ):
        assert uploads._cut_only_part(body(b"\r\n-- data", head), b"XbX") == uploads.Upload(b"\r\n-- data")


@settings(deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=4))
def test_however_a_body_is_cut_into_chunks_its_parts_are_the_same(data, cuts):
    content = body(data.replace(b"XbX", b""))
    parser = FormParser(BOUNDARY, max_part_bytes=1000, max_parts=2)
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    parts = [part for start, end in itertools.pairwise(edges) for part in parser.feed(content[start:end])]
    parser.finish()
    assert [(part.filename, part.data) for part in parts] == [("cat.jpg", data.replace(b"XbX", b""))]


def test_a_part_is_kept_up_to_its_limit_and_no_further():
    parser = FormParser(BOUNDARY, max_part_bytes=4, max_parts=2)
    (part,) = parser.feed(body(b"123456"))
    assert (part.data, part.is_cut) == (b"1234", True)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_form_or_a_bad_request(content):
    parser = FormParser(BOUNDARY, max_part_bytes=100, max_parts=3)
    with suppress(BadRequest):
        parser.feed(content)
        parser.finish()


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=abc", "abc"),
        ('multipart/form-data; boundary="a b;c"', "a b;c"),
        ("multipart/form-data; charset=utf-8; Boundary=abc", "abc"),
    ],
)
def test_boundaries(header, boundary):
    assert parse_boundary(header) == boundary


@pytest.mark.parametrize("header", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=ä"])
def test_missing_boundaries(header):
    with pytest.raises(BadRequest, match="boundary"):
        parse_boundary(header)
