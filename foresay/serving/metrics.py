"""What the server counts, for Prometheus.

In: observations. Out: the text format, by `text`.
Be careful: every server has a registry of its own, so several in one process do not mix their numbers.
"""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The numbers of one server."""

    def __init__(self) -> None:
        """Makes them, all zero."""
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry, namespace="foresay")
        gauge = partial(Gauge, registry=self.registry, namespace="foresay")
        histogram = partial(Histogram, registry=self.registry, namespace="foresay")
        self.requests = counter("requests", "Requests by route, status and key.", ("route", "status", "key"))
        self.seconds = histogram(
            "request_seconds", "Seconds from the first byte to the last.", ("route",), buckets=_SECONDS
        )
        self.in_progress = gauge("requests_in_progress", "Requests that are being answered.")
        self.refused = counter("refused", "Requests refused, by reason.", ("reason",))
        self.dropped = counter("dropped", "Jobs dropped: their client left, or they were late.", ("why",))
        self.tokenize = histogram("tokenize_seconds", "Seconds to make tokens of texts.", buckets=_SECONDS)
        self.queued = histogram("queue_seconds", "Seconds until a job's first batch began.", buckets=_SECONDS)
        self.run = histogram("run_seconds", "Seconds of one forward pass.", ("kind",), buckets=_SECONDS)
        self.serialize = histogram("serialize_seconds", "Seconds to write a response.", buckets=_SECONDS)
        self.tokens = counter("tokens", "Tokens read and written.", ("kind",))
        self.batch_fill = histogram("batch_fill", "Share of a batch that is not padding.", buckets=_SHARES)
        self.batch_items = histogram("batch_items", "Texts in one batch.", buckets=_ITEMS)
        self.cut = counter("cut_inputs", "Texts that were too long and were cut.")
        self.waiting_tokens = gauge("waiting_tokens", "Tokens that wait.")
        self.waiting_items = gauge("waiting_items", "Texts that wait to be embedded.")
        self.writing = gauge("writing", "Texts that are being written.")
        self.out_of_memory = counter("out_of_memory", "Batches that memory could not hold.")
        self.checkpoints = gauge("checkpoints", "Checkpoints that are served.")

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
