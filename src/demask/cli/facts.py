"""What is said of a model on the command line when it is loaded: `--load device=cuda --load mask=126336`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from demask.errors import SpecError


def _number(text: str) -> int:
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",")) if text else ()


def _yes(text: str) -> bool:
    return {"yes": True, "true": True, "no": False, "false": False}[text.lower()]


def _precision(text: str) -> Any:
    import torch

    found = getattr(torch, text, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(text)
    return found


def _file(text: str) -> str:
    return Path(text).read_text(encoding="utf-8")


_KINDS: Final[dict[str, tuple[Callable[[str], Any], str]]] = {
    "device": (str, "cpu, cuda or cuda:1"),
    "dtype": (_precision, "float32, bfloat16 or float16"),
    "family": (str, "a model_type"),
    "mask": (_number, "a token id"),
    "ends": (_numbers, "token ids, as in 126081,126348"),
    "shift": (_yes, "yes or no"),
    "block": (_number, "a number of positions"),
    "context": (_number, "a number of positions"),
    "before": (_numbers, "token ids, as in 101"),
    "after": (_numbers, "token ids, as in 102"),
    "chat": (_file, "a file that holds a Jinja template"),
    "device_map": (str, "auto, as transformers has it"),
    "pickles": (_yes, "yes or no"),
    "trust_remote_code": (_yes, "yes or no"),
    "sparse": (_yes, "yes or no"),
}


def read(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Return the arguments of `demask.load` that were typed.

    Raises:
        SpecError: no pair, a name that nobody knows, one given twice, or a value of another kind.

    Example:
        >>> read(["mask=126336", "ends=126081,126348", "shift=no"])
        {'mask': 126336, 'ends': (126081, 126348), 'shift': False}
    """
    out: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or name not in _KINDS:
            raise SpecError(f"--load {pair!r}: expected NAME=VALUE, with NAME one of {', '.join(_KINDS)}")
        if name in out:
            raise SpecError(f"--load {name} is given twice; leave one of them out")
        kind, wanted = _KINDS[name]
        try:
            out[name] = kind(text)
        except OSError as error:
            raise SpecError(f"--load {pair}: {(error.strerror or str(error)).lower()}; expected {wanted}") from None
        except (ValueError, KeyError):
            raise SpecError(f"--load {pair}: expected {wanted}") from None
    return out
