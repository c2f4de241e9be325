"""The Prometheus metrics; ``GET /metrics`` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from dhvt.artifact import ModelCard
from dhvt.data.text import encodable
from dhvt.ranking import Ranking

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_SCORES = tuple(step / 10 for step in range(1, 10))


class Metrics:
    """The server's counters, gauges and histograms; :func:`metrics` gives those of this process."""

    def __init__(self) -> None:
        # Not before BentoML has set PROMETHEUS_MULTIPROC_DIR, or /metrics would not see these.
        from prometheus_client import Counter, Gauge, Histogram

        self._children: dict[tuple[str, int], tuple[Any, Any]] = {}
        self.requests = Counter("dhvt_requests_total", "Requests by route and status", ["route", "status"])
        self.request_seconds = Histogram(
            "dhvt_request_duration_seconds",
            "From the headers to the end of the response",
            ["route"],
            buckets=_SECONDS,
        )
        self.in_flight = Gauge(
            "dhvt_requests_in_flight", "Requests that are read, decoded or waiting", multiprocess_mode="livesum"
        )
        self.images = Counter("dhvt_images_total", "Images by outcome: ok or the error's code", ["outcome"])
        self.samples = Counter("dhvt_samples_total", "Images chosen to be kept for labelling, by outcome", ["outcome"])
        self.decode_seconds = Histogram("dhvt_decode_duration_seconds", "Decoding one image", buckets=_SECONDS)
        self.queue_seconds = Histogram(
            "dhvt_queue_duration_seconds", "From an image's arrival, decoding included, to its batch's start", buckets=_SECONDS
        )
        self.engine_seconds = Histogram("dhvt_engine_duration_seconds", "One engine call", buckets=_SECONDS)
        self.batch_size = Histogram("dhvt_batch_size", "Images in one engine call", buckets=_BATCH_SIZES)
        self.predictions = Counter("dhvt_predictions_total", "Images by the most likely class", ["label"])
        self.score = Histogram("dhvt_prediction_score", "Score of the most likely class", buckets=_SCORES)
        self.drift_images = Counter("dhvt_drift_images_total", "Images that the test for drift has seen")
        self.drift_evidence = Gauge(
            "dhvt_drift_log10_evidence", "Evidence that the images have changed, as a power of ten", multiprocess_mode="livemax"
        )
        self.drift_alarm = Gauge(
            "dhvt_drift_alarm", "1 after the evidence reached 1 / DHVT_DRIFT_FALSE_ALARM", multiprocess_mode="livemax"
        )
        self.engine = Gauge(
            "dhvt_engine_info", "1 for the model and engine that serve", ["model", "version", "digest", "engine", "precision"],
            multiprocess_mode="livemax",
        )  # fmt: skip

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Counts a request that has been answered.

        Args:
            route: one of few; a label each.
            seconds: from the request's headers to the end of its response.
        """
        counter, histogram = self._of_requests(route, status)
        counter.inc()
        histogram.observe(seconds)

    def _of_requests(self, route: str, status: int) -> tuple[Any, Any]:
        """Counter and histogram of these labels; looked up once, which costs as much as to count."""
        found = self._children.get((route, status))
        if found is None:
            found = self._children[route, status] = self.requests.labels(route, status), self.request_seconds.labels(route)
        return found

    def observe_batch(self, seconds: float, images: Sequence[tuple[float | None, Ranking]], card: ModelCard) -> None:
        """Counts one engine call.

        Args:
            seconds: that it took.
            images: for each, the seconds from its arrival to the start of the call, and its result. None for those of a batch,
                which is kept waiting on purpose and would tell nothing of how single images fare.
            card: of its model.
        """
        self.engine_seconds.observe(seconds)
        self.batch_size.observe(len(images))
        for wait, ranking in images:
            if wait is not None:
                self.queue_seconds.observe(wait)
            self.score.observe(ranking.scores[0])
            self.predictions.labels(encodable(card.classes[ranking.indices[0]])).inc()


@cache
def metrics() -> Metrics:
    """Returns the metrics of this process."""
    return Metrics()
