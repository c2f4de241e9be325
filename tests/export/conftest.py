"""Every test here may export the small model without waiting for PyTorch."""

import pytest


@pytest.fixture(autouse=True)
def _graphs_are_exported_once(graphs_once: None) -> None:
    """Applies :func:`tests.conftest.graphs_once`."""
