"""What Prometheus sees."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from demask.generate import Result

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", ("path", "status"))
        self.passes = self._counter("forward_passes", "Forward passes of the model, each for a whole batch.")
        self.nfe = self._counter("nfe", "Forward passes as every row counts its own.")
        self.steps = self._counter("steps", "Steps of finished rows.")
        self.tokens = self._counter("generated_tokens", "Tokens generated.")
        self.model = self._counter("model_seconds", "Seconds of turns, in the model.")
        self.step = self._counter("step_seconds", "Seconds of turns, in the samplers' own steps.")
        self.engine = self._counter("engine_seconds", "Seconds of turns, in neither of them: what serving costs.")
        self.batch = Histogram(
            "demask_batch_rows",
            "Rows of one forward pass.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
        )
        self.latency = self._seconds("request_seconds", "From request to its whole answer.")
        self.first = self._seconds("first_canvas_seconds", "From request to the first canvas or text.")

    def follow(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Show a number that is asked for when it is read."""
        Gauge(f"demask_{name}", about, registry=self.registry).set_function(value)

    def turned(self, rows: int, seconds: float, model: float, step: float) -> None:
        """See one turn of the engine."""
        self.passes.inc()
        self.batch.observe(rows)
        self.model.inc(model)
        self.step.inc(max(0.0, step))
        self.engine.inc(max(0.0, seconds - model - step))

    def finished(self, result: Result) -> None:
        """See one row."""
        self.nfe.inc(result.nfe)
        self.steps.inc(result.steps)
        self.tokens.inc(result.new)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, about: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"demask_{name}", about, labels, registry=self.registry)

    def _seconds(self, name: str, about: str) -> Histogram:
        return Histogram(f"demask_{name}", about, registry=self.registry, buckets=_SECONDS)
