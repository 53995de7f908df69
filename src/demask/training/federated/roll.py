"""Who takes part in which round, agreed upon by peers in different processes through a store of small values.

The store holds names and numbers, never weights or data. Whoever comes first to a round writes down who takes part in it,
once for all, so that all mix with the same W. A life of a peer is counted: one that returns has another number than the
one that was lost.
"""

import json
import time
from typing import Final, Protocol

from demask.errors import TrainingError

_OLD: Final = 64  # rounds after which the list of those who took part is forgotten
_PAUSE: Final = 0.02  # seconds between two looks


class Store(Protocol):
    """What `torch.distributed.TCPStore` offers."""

    def add(self, key: str, amount: int) -> int:
        """Add to a number, 0 at first; return the sum."""
        ...

    def set(self, key: str, value: str) -> None:
        """Write."""
        ...

    def get(self, key: str) -> bytes:
        """Read what is there; wait for it if it is not."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Return whether all are there."""
        ...

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """Write if nothing is there (expected is ""); return what is there then."""
        ...

    def delete_key(self, key: str) -> bool:
        """Forget."""
        ...


class Roll:
    """The roll of one training, as one peer sees it.

    Parameters:
        store: common to all.
        number: of this peer.
        peers: how many there are, m.
        patience: seconds to wait for others at the very beginning.
    """

    def __init__(self, store: Store, number: int, peers: int, *, patience: float = 120.0) -> None:
        self.store, self.number, self.peers, self.patience = store, number, peers, patience
        self.life = 0

    def enter(self, first: int) -> int | None:
        """Begin a life; return the round to begin with, None if the training is over.

        At the very beginning all wait for each other, and begin with `first`; who comes later waits to be put on the list.
        """
        self.life = self.store.add(f"lives/{self.number}", 1)
        if not self.store.check(["latest"]):
            self._gather()
        if not self.store.check(["latest"]):
            return first
        turn = int(self.store.get("latest"))
        while not self.store.check(["over"]):
            if self.store.check([f"members/{turn}"]):
                if self._listed(turn).get(self.number) == self.life:
                    return turn
                turn += 1
            elif self._deserted(turn - 1):
                return turn
            else:
                time.sleep(_PAUSE)
        return None

    def members(self, turn: int) -> dict[int, int]:
        """Return who takes part in a round, with the number of their lives; nobody, if all are to stop before it."""
        key = f"members/{turn}"
        if not self.store.check([key]):
            lives = {} if self.store.check(["stop"]) else self._present()
            self.store.compare_set(key, "", json.dumps(lives))
            self.store.set("latest", str(turn))
            self.store.delete_key(f"members/{turn - _OLD}")
        listed = self._listed(turn)
        if not listed:
            self.store.set("over", "")
        return listed

    def lose(self, other: int, life: int) -> None:
        """Tell all that a life of a peer has ended."""
        self.store.set(f"lost/{other}/{life}", "")

    def fail(self, reason: str) -> None:
        """Tell all to stop, and why."""
        self.store.set("failed", reason)
        self.stop()

    def stop(self) -> None:
        """Tell all to stop before the next round that nobody has begun."""
        self.store.set("stop", "")

    def finish(self) -> None:
        """Tell those who come late that it is over."""
        self.store.set("over", "")

    def failed(self) -> str | None:
        """Return why a peer told all to stop, if one did."""
        return self.store.get("failed").decode() if self.store.check(["failed"]) else None

    def _present(self) -> dict[int, int]:
        lives = {number: self.store.add(f"lives/{number}", 0) for number in range(self.peers)}
        return {
            number: life for number, life in lives.items() if life and not self.store.check([f"lost/{number}/{life}"])
        }

    def _listed(self, turn: int) -> dict[int, int]:
        body = json.loads(self.store.get(f"members/{turn}"))
        return {int(number): life for number, life in body.items()}

    def _deserted(self, turn: int) -> bool:
        """Return whether all who took part in a round are gone, so that nobody would write the next list."""
        if not self.store.check([f"members/{turn}"]):
            return False
        return all(self.store.check([f"lost/{number}/{life}"]) for number, life in self._listed(turn).items())

    def _gather(self) -> None:
        until = time.monotonic() + self.patience
        while len(self._present()) < self.peers and not self.store.check(["latest"]):
            if self.store.check(["stop"]) or time.monotonic() > until:
                return
            time.sleep(_PAUSE)


def place(meet: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT.

    Raises:
        TrainingError: something else.

    Example:
        >>> place("10.0.0.1:29500")
        ('10.0.0.1', 29500)
    """
    host, _, port = meet.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise TrainingError(f"--meet {meet}; expected HOST:PORT, such as 10.0.0.1:29500")
    return host, int(port)
