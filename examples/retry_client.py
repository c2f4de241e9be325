"""A client that retries: classifies image files, and comes back when the server is busy or restarts.

    python examples/retry_client.py http://localhost:3000 cat.jpg dog.jpg

Classifying changes nothing on the server, so a request may be sent again whenever its answer is missing. Three rules keep
clients from making an overload worse: wait as long as ``Retry-After`` asks, else longer after each try; add chance, so that
many clients do not come back at the same moment; and give up.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import httpx

MAX_TRIES = 6
MAX_WAIT_S = 20.0
RETRIED = {429, 502, 503, 504}
"""Statuses that another try may change: this server's 503 and 504, and those of proxies. A 400 stays a 400."""


def classify(client: httpx.Client, image: bytes, top_k: int = 5) -> dict[str, Any]:
    """Returns the server's answer to one image.

    Raises:
        httpx.HTTPError: the server refuses the image, or does not answer after :data:`MAX_TRIES`.
    """
    for tried in range(1, MAX_TRIES + 1):
        try:
            response = client.post("/classify", files={"image": image}, params={"top_k": top_k})
            if response.status_code not in RETRIED or tried == MAX_TRIES:
                response.raise_for_status()
                answer: dict[str, Any] = response.json()
                return answer
            wait_s = seconds_to_wait(tried, response.headers.get("Retry-After", ""))
        except httpx.TransportError:  # no connection, or it was closed before the answer had come
            if tried == MAX_TRIES:
                raise
            wait_s = seconds_to_wait(tried)
        time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


def seconds_to_wait(tried: int, retry_after: str = "") -> float:
    """Returns how long to wait: at least ``Retry-After`` seconds, else up to 0.2, 0.4, 0.8 … seconds; never over the limit."""
    backoff_s = min(0.1 * 2**tried, MAX_WAIT_S)
    # It may be a date too, which this server never sends.
    least_s = float(retry_after) if retry_after.isdigit() else backoff_s / 2
    return min(least_s + random.uniform(0, backoff_s / 2), MAX_WAIT_S)


def main() -> None:
    """Prints a line for each file."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    url, *paths = sys.argv[1:]
    token = os.environ.get("DHVT_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(40, connect=5)) as client:
        for path in paths:
            best = classify(client, Path(path).read_bytes(), top_k=1)["predictions"][0]
            print(f"{path}: {best['label']} ({best['score']:.1%})")


if __name__ == "__main__":
    main()
