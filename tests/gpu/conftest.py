"""These run where there is an NVIDIA GPU: ``pytest tests/gpu``. Elsewhere they are skipped, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def why_no_gpu() -> str | None:
    """What keeps CUDA from running here, None where nothing does."""
    try:
        from dhvt.engines.cuda import find_gpu
    except ImportError as error:
        return f"pip install cuda-bindings ({error})"
    found = find_gpu()
    return found if isinstance(found, str) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    reason = why_no_gpu() if mine else None
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"needs an NVIDIA GPU; {reason}"))
