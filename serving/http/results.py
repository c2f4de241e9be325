"""Results of several images as a response's body: one JSON document, or lines that are sent as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from serving.errors import TooLarge
from serving.http.response import JSON_LINES, to_json

MAX_RESPONSE_BYTES = 100_000_000
Results = AsyncGenerator[dict[str, Any], None]


async def collect_json(results: Results, identity: Mapping[str, str], max_bytes: int = MAX_RESPONSE_BYTES) -> bytes:
    """Returns one JSON document; encoded result by result, which takes less memory and lets other requests run between.

    Args:
        results: see :meth:`serving.inference.multi.MultiImageClassifier.classify`.
        identity: of the model that gave them, the fields before them.
        max_bytes: of the document.

    Raises:
        TooLarge: it has more than ``max_bytes``.
    """
    encoded: list[bytes] = []
    size = 0
    async with aclosing(results):
        async for result in results:
            encoded.append(to_json(result))
            size += len(encoded[-1])
            if size > max_bytes:
                raise TooLarge(
                    f"the response has more than {max_bytes:,} bytes; ask for it line by line, with the header "
                    f"Accept: {JSON_LINES}, or for fewer classes, with top_k"
                )
    return b'%b,"results":[%b]}' % (to_json(identity)[:-1], b",".join(encoded))


async def json_lines(
    results: Results, identity: Mapping[str, str], max_waiting_bytes: int = MAX_RESPONSE_BYTES
) -> AsyncGenerator[bytes, None]:
    """Yields each result as a line of JSON.

    They are computed as fast as the body comes: many clients read nothing before they have sent everything.

    Args:
        results: see :meth:`serving.inference.multi.MultiImageClassifier.classify`.
        identity: of the model that gave them, fields of each line.
        max_waiting_bytes: of lines that nobody has read.

    Raises:
        TooLarge: more than that wait.
    """
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()
    waiting_bytes = 0

    async def fill() -> None:
        nonlocal waiting_bytes
        try:
            async with aclosing(results):
                async for result in results:
                    line = to_json({**result, **identity}) + b"\n"
                    waiting_bytes += len(line)
                    if waiting_bytes > max_waiting_bytes:
                        raise TooLarge(f"{max_waiting_bytes:,} bytes of lines wait to be read; read them while you send")
                    lines.put_nowait(line)
        finally:
            lines.put_nowait(None)

    filling = asyncio.create_task(fill())
    try:
        while (line := await lines.get()) is not None:
            waiting_bytes -= len(line)
            yield line
        await filling  # for its error
    finally:
        filling.cancel()
        await asyncio.wait([filling])
