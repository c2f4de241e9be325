"""What a server does to its whole process is not done to the process of the tests."""

import gc

import pytest

from serving.inference import reload


@pytest.fixture(autouse=True)
def process_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(reload, "prefer_event_loop", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
