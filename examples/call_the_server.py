"""Classifies image files on a server, with Python's standard library alone.

    python examples/call_the_server.py http://localhost:3000 cat.jpg dog.jpg

A server with a token takes it from ``DHVT_TOKEN``. What a client under load should do besides is in ``retry_client.py``.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def classify(url: str, image: bytes, token: str = "") -> dict[str, Any]:
    """Returns the server's answer to one image, which is the body of the request as it lies on the disk.

    Raises:
        urllib.error.HTTPError: the server refuses it; the body of the error says why.
    """
    headers = {"Content-Type": "application/octet-stream"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(f"{url}/classify?top_k=1", data=image, headers=headers)
    with urllib.request.urlopen(request, timeout=40) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def main() -> None:
    """Prints a line for each file."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    url, *paths = sys.argv[1:]
    failed = False
    for path in paths:
        try:
            best = classify(url, Path(path).read_bytes(), os.environ.get("DHVT_TOKEN", ""))["predictions"][0]
            print(f"{path}: {best['label']} ({best['score']:.1%})")
        except urllib.error.HTTPError as error:
            detail = json.load(error)["error"]
            print(f"{path}: {error.code} {detail['code']}: {detail['message']}", file=sys.stderr)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
