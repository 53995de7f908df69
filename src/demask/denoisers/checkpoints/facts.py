"""What has to be known of a checkpoint before it can be asked: read from its own files, contradictions named."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from demask.errors import CheckpointError

CONFIG: Final = "config.json"
_FILES: Final = (CONFIG, "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_LARGEST: Final = 1 << 26  # bytes of a configuration


@dataclass(frozen=True)
class Facts:
    """What a checkpoint's own files say of it.

    Parameters:
        family: that its architecture belongs to.
        vocabulary: tokens that can be written, V.
        context: the most positions of a canvas.
        mask: the id that stands for a masked position.
        ends: ids that end a text, the one of config.json first.
        shift: whether the logits at position i predict the token at i + 1.
        block: positions that are generated together, or None where the model knows no blocks.
        causal: whether a position sees its own block and those before it alone; blocks are then counted over the row.
        before: ids that stand before every text.
        after: ids that stand after every text.
        unused: ids that stand for no token and are never written.
        sources: where each fact comes from, by its name.
    """

    family: str
    vocabulary: int
    context: int
    mask: int
    ends: tuple[int, ...]
    shift: bool = False
    block: int | None = None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    unused: tuple[int, ...] = ()
    causal: bool = False
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name, ids in (("ends", self.ends), ("before", self.before), ("after", self.after)):
            if wrong := [token for token in ids if not _whole(token) or not 0 <= token < self.vocabulary]:
                raise CheckpointError(f"{name} holds {wrong[0]!r}; expected token ids 0 .. {self.vocabulary - 1}")
        if not self.ends or self.mask in self.ends:
            raise CheckpointError(
                f"ends = {self.ends} with the mask {self.mask}; expected one other id or more: ends=(..,)"
            )
        if not _whole(self.mask) or self.mask < 0:
            raise CheckpointError(f"mask = {self.mask!r}; expected a token id >= 0")
        for name, value in (("context", self.context), ("vocabulary", self.vocabulary), ("block", self.block)):
            if value is not None and (not _whole(value) or value < 1):
                raise CheckpointError(f"{name} = {value!r}; expected an integer >= 1")


@dataclass(frozen=True)
class Configs:
    """The JSON files beside the weights.

    Parameters:
        folder: where they lie.
        bodies: by name; only those that are there.
    """

    folder: Path
    bodies: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, folder: str | Path) -> "Configs":
        """Read them.

        Raises:
            CheckpointError: no folder, no config.json, or a file that is not one JSON object.
        """
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise CheckpointError(f"{folder} holds no {CONFIG}; expected the folder of a published checkpoint")
        bodies = {name: _object(folder / name) for name in _FILES if (folder / name).is_file()}
        return cls(folder, bodies)

    @property
    def main(self) -> Mapping[str, Any]:
        """config.json."""
        return self.bodies[CONFIG]

    @property
    def kind(self) -> str:
        """model_type, or the empty string."""
        return str(self.main.get("model_type") or "")

    def need(self, key: str, kind: type = int) -> Any:
        """Return a number of config.json.

        Raises:
            CheckpointError: it is not there, or not of that kind.
        """
        value = self.main.get(key)
        kinds = int if kind is int else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise CheckpointError(
                f"{self.folder / CONFIG}: {key} = {value!r}; expected a positive {kind.__name__}, as published"
            )
        return value

    def mask(self, ids: Mapping[str, int], usual: tuple[int, str] | None = None) -> tuple[int, str]:
        """Return the mask id and where it stands; `usual` where the files are silent.

        Raises:
            CheckpointError: it stands nowhere, or the files contradict each other.
        """
        told = self._told("mask_token", ids)
        if not told and usual is not None:
            return usual
        if not told:
            raise CheckpointError(
                f"{self.folder}: no mask_token_id in {CONFIG} and no mask_token of the tokenizer; give mask=.."
            )
        if len({value for value, _ in told}) > 1:
            raise CheckpointError(f"{self.folder}: {_contradiction('the mask', told)}; give the right one as mask=..")
        return told[0][0][0], _sources(told)

    def ends(
        self, ids: Mapping[str, int], usual: tuple[tuple[int, ...], str] | None = None
    ) -> tuple[tuple[int, ...], str]:
        """Return the ids that end a text and where they stand: of sets that contain one another, the largest.

        Raises:
            CheckpointError: they stand nowhere, or the files contradict each other.
        """
        told = self._told("eos_token", ids) or self._told("sep_token", ids)
        if not told and usual is not None:
            return usual
        if not told:
            raise CheckpointError(f"{self.folder}: no eos_token_id, eos_token or sep_token anywhere; give ends=(..,)")
        largest = max((value for value, _ in told), key=len)
        if any(set(value) - set(largest) for value, _ in told):
            raise CheckpointError(
                f"{self.folder}: {_contradiction('the end of a text', told)}; give the right ones as ends=(..,)"
            )
        first = told[0][0]
        return first + tuple(token for token in largest if token not in first), _sources(told)

    def frame(self, ids: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...], str]:
        """Return the ids before and after every text, where the tokenizer has a class and a separator token."""
        before, after = self._told("cls_token", ids), self._told("sep_token", ids)
        if not before or not after:
            return (), (), "no cls_token and sep_token"
        return before[0][0], after[0][0], f"{_sources(before)}; {_sources(after)}"

    def _told(self, token: str, ids: Mapping[str, int]) -> list[tuple[tuple[int, ...], str]]:
        """Return what each file says of a token: its ids, and the file with the key."""
        out: list[tuple[tuple[int, ...], str]] = []
        for name, body in self.bodies.items():
            value = body.get(f"{token}_id")
            if value is not None:
                many = tuple(value) if isinstance(value, list) else (value,)
                if not many or not all(_whole(one) for one in many):
                    raise CheckpointError(f"{self.folder / name}: {token}_id = {value!r}; expected token ids")
                out.append((many, f"{name}: {token}_id"))
            text = body.get(token)
            text = text.get("content") if isinstance(text, dict) else text
            if text is not None:
                if text not in ids:
                    raise CheckpointError(
                        f"{self.folder / name}: {token} is {text!r}, which the tokenizer does not have; the files are of "
                        "different models"
                    )
                out.append(((ids[text],), f"{name}: {token}"))
        return out


def chosen(given: Any, found: Any, source: str, name: str) -> tuple[Any, str]:
    """Return the caller's value if there is one, else that of the files; with its source."""
    return (found, source) if given is None else (given, f"given as {name}=")


def _contradiction(what: str, told: Sequence[tuple[tuple[int, ...], str]]) -> str:
    sides = ", ".join(f"{' '.join(map(str, value))} in {source}" for value, source in told)
    return f"the files contradict each other on {what}: {sides}"


def _sources(told: Sequence[tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(source for _, source in told)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _object(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path.stat().st_size} bytes")
        body = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {(error.strerror or str(error)).lower()}; check who may read it") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not whole JSON ({error}); download it again") from None
    if not isinstance(body, dict):
        raise CheckpointError(f"{path}: {type(body).__name__}; expected one JSON object")
    return body
