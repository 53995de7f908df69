"""What a peer would need to go on: one file per peer and round, the last two rounds of each kept.

Two, since peers save one after another: whoever is killed in between leaves a round that all have saved.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demask.denoisers.folder import read_tensors, write_tensors
from demask.errors import CheckpointError
from demask.training.federated.gossip import Objective, Peer

SCHEMA: Final = "demask.peer/1"
_KEPT: Final = 2


@dataclass(frozen=True)
class States:
    """The states of peers in a folder.

    Parameters:
        folder: made when something is saved.
        facts: plain values by name that must be the same when a state is read, such as the recipe and the topology.
    """

    folder: Path
    facts: Mapping[str, Any]

    def save(self, peer: Peer, turn: int) -> None:
        """Write a peer's state after `turn` rounds whole or not at all, then let go of old ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "facts": dict(self.facts),
            "turn": turn,
            "loss": peer.loss,
            "gradients": peer.gradients,
            "sent": peer.sent,
        }
        tensors = {"point": peer.point, **{f"memory/{name}": value for name, value in peer.memory.items()}}
        write_tensors(self._path(peer.number, turn), tensors, {"schema": SCHEMA, "state": json.dumps(state)})
        for old in self.turns(peer.number)[:-_KEPT]:
            self._path(peer.number, old).unlink(missing_ok=True)

    def turns(self, number: int) -> list[int]:
        """Return after which rounds a peer has a state, ascending."""
        return sorted(int(path.stem.split("-")[1]) for path in self.folder.glob(f"{number}-*.safetensors"))

    def begin(self, numbers: Iterable[int]) -> tuple[dict[int, int], int]:
        """Return which state each peer goes on from, and in which round all go on.

        That is the last round that all have saved; or, where a peer was away for long, the last one of each, and the latest
        of these.

        Raises:
            CheckpointError: a peer without any state.
        """
        saved = {number: self.turns(number) for number in numbers}
        missing = [number for number, turns in saved.items() if not turns]
        if missing:
            raise CheckpointError(f"{self.folder}: peers {missing} have no state; start again without resume")
        common = set.intersection(*map(set, saved.values()))
        if common:
            return dict.fromkeys(saved, max(common)), max(common)
        last = {number: turns[-1] for number, turns in saved.items()}
        return last, max(last.values())

    def load(self, number: int, turn: int, objective: Objective) -> Peer:
        """Return the peer as it was after a round.

        Raises:
            CheckpointError: none there, a damaged one, or one of another training; says what differs.
        """
        path = self._path(number, turn)
        tensors, facts = read_tensors(path, SCHEMA)
        try:
            state = json.loads(facts["state"])
            theirs = dict(state["facts"])
            told = float(state["loss"]), int(state["gradients"]), int(state["sent"])
            point = tensors.pop("point")
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: not the state of a peer ({error}); start again without resume") from None
        mine = json.loads(json.dumps(dict(self.facts)))
        differing = sorted(_differing(mine, theirs))
        if differing:
            raise CheckpointError(
                f"{path} is of another training: {', '.join(differing)} differ; resume with the same options, or choose "
                "another --out"
            )
        memory = {name.partition("/")[2]: value for name, value in tensors.items()}
        return Peer(number, objective, point, memory, *told)

    def _path(self, number: int, turn: int) -> Path:
        return self.folder / f"{number}-{turn}.safetensors"


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterable[str]:
    for name in mine.keys() | theirs.keys():
        one, other = mine.get(name), theirs.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differing(one, other)
        elif one != other:
            yield name
