"""What one server takes on."""

from dataclasses import dataclass, fields

from demask.errors import SpecError


@dataclass(frozen=True)
class Limits:
    """What one server takes on; what goes beyond is refused, never shortened.

    Parameters:
        rows: that are decoded side by side.
        positions: of all rows that are decoded side by side: logits of so many positions must fit into memory.
        queue: rows that may wait; more are answered 429.
        samples: rows of one request, prompts times samples.
        body: bytes of one request.
        deadline: seconds a request may take, queueing included.

    Example:
        >>> Limits(rows=0)
        Traceback (most recent call last):
        demask.errors.SpecError: rows = 0; expected a number > 0
    """

    rows: int = 64
    positions: int = 1 << 16
    queue: int = 256
    samples: int = 64
    body: int = 1 << 20
    deadline: float = 300.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise SpecError(f"{field.name} = {value}; expected a number > 0")
