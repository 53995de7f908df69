"""The symbols that tokens stand for."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from demask.errors import OracleError


@dataclass(frozen=True)
class Alphabet:
    """Tokens are the indices of distinct symbols: characters of a str, or the values of bytes.

    Parameters:
        symbols: distinct characters (str) or distinct byte values (bytes).

    Raises:
        OracleError: no symbol, a repeated one, or one that is not in the alphabet.

    Example:
        >>> alphabet = Alphabet("abc ")
        >>> alphabet.encode("a cab").tolist()
        [0, 3, 2, 0, 1]
        >>> alphabet.decode(torch.tensor([1, 0, 2]))
        'bac'
    """

    symbols: str | bytes

    def __post_init__(self) -> None:
        if not self.symbols:
            raise OracleError('an alphabet without symbols; expected distinct ones, such as Alphabet("abc")')
        if len(set(self.symbols)) != len(self.symbols):
            raise OracleError(f"{len(self.symbols) - len(set(self.symbols))} repeated symbols; expected distinct ones")

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str | bytes) -> Tensor:
        """Return the tokens of `text`, (N,) int64; str and bytes are converted by UTF-8 where they differ."""
        codes = units(text, bytes if isinstance(self.symbols, bytes) else str)
        tokens = np.full(int(codes.max(initial=0)) + 1, -1, dtype=np.int64)
        known = self._codes < len(tokens)
        tokens[self._codes[known]] = np.flatnonzero(known)
        found = tokens[codes]
        if (found < 0).any():
            at = int(np.argmax(found < 0))
            symbol = bytes([codes[at]]) if isinstance(self.symbols, bytes) else chr(codes[at])
            raise OracleError(f"{symbol!r} at position {at} is not one of the {len(self)} symbols {self.symbols!r}")
        return torch.from_numpy(found)

    def decode(self, tokens: Tensor) -> str:
        """Return the text of `tokens` (N,); bytes that are not UTF-8 are shown as the replacement character."""
        values = tokens.cpu().numpy()
        if values.ndim != 1 or (len(values) and not 0 <= values.min() <= values.max() < len(self)):
            raise OracleError(
                f"tokens of shape {values.shape}; expected one row of integers from 0 to {len(self) - 1}: "
                "decode a batch row by row"
            )
        if isinstance(self.symbols, bytes):
            return bytes(self._codes[values].tolist()).decode("utf-8", errors="replace")
        return "".join(map(chr, self._codes[values].tolist()))

    @cached_property
    def _codes(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return units(self.symbols, type(self.symbols))


def units(text: str | bytes, kind: type[str] | type[bytes]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the code points (`kind` str) or the byte values (`kind` bytes) of a text."""
    if kind is bytes:
        raw = text.encode("utf-8") if isinstance(text, str) else text
        return np.frombuffer(raw, dtype=np.uint8).astype(np.int64)
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as failure:
            raise OracleError(
                f"byte {text[failure.start]:#04x} at offset {failure.start} is not UTF-8, so the text has no characters; "
                'read it as bytes: fit(text, unit="bytes", ...)'
            ) from None
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4").astype(np.int64)
