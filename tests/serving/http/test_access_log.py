"""Limits of the access log."""

import logging
from queue import Queue
from threading import Event, Timer

from serving.http.access_log import RateLimit, RateLimitFilter, _Listener


def test_a_rate_limit_is_for_each_kind_and_each_second():
    now = 0.0
    limit = RateLimit(2, lambda: now)
    assert [limit.allow("a") for _ in range(4)] == [True, True, False, False]
    assert limit.allow("b")
    now = 1.0
    assert limit.allow("a")
    assert (limit.suppressed_kinds(), limit.take_suppressed("a"), limit.take_suppressed("a")) == (["a"], 2, 0)


def test_a_message_that_comes_too_often_is_left_out_and_counted():
    now = 0.0
    filter_ = RateLimitFilter(2)
    filter_._limit = RateLimit(2, lambda: now)

    def log():
        record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, "Invalid HTTP request received.", None, None)
        return filter_.filter(record) and record.getMessage()

    assert [bool(log()) for _ in range(5)] == [True, True, False, False, False]
    now = 1.0
    assert log() == "Invalid HTTP request received. (3 more lines like this were left out)"


def test_what_is_queued_is_written_at_the_end_though_the_queue_is_full():
    written, may_write = [], Event()

    class Slow(logging.Handler):
        def emit(self, record):
            may_write.wait()
            written.append(record)

    queue = Queue(2)
    listener = _Listener(queue, Slow())
    listener.start()
    for _ in range(3):  # it has taken the first, and waits
        queue.put("a line")
    assert queue.full()
    Timer(0.1, may_write.set).start()
    listener.stop()
    assert len(written) == 3
