"""Where the distribution comes from: a text that a chain is fitted to, or a known oracle."""

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from demask.cli.choose import built
from demask.cli.options import LENGTH, MARKOV, SMOOTHING
from demask.errors import OracleError, SpecError
from demask.oracles import Chain, Oracle, fit


@dataclass(frozen=True)
class Source:
    """What the user said about the data.

    Parameters:
        text: a file, "-" for stdin, or None.
        oracle: a specification, or None.
        unit: "characters" or "bytes".
        markov: the chain's order.
        smoothing: added to every count.
        length: positions, or None.
    """

    text: str | None
    oracle: str | None
    unit: str
    markov: int
    smoothing: float
    length: int | None

    def open(self) -> Oracle:
        """Return the distribution.

        Raises:
            SpecError: neither text nor oracle, or both, or options that do not go together.
            OracleError: a text from which no chain can be fitted.
        """
        if self.text is not None and self.oracle is not None:
            raise SpecError(f"--text {self.text} and --oracle {self.oracle}: give one of them")
        if self.text is not None:
            return self._fitted(self.text)
        if self.oracle is None:
            raise SpecError("no distribution; give --text FILE, or --oracle SPEC such as latin_square (compare only)")
        if (self.unit, self.markov, self.smoothing) != ("characters", MARKOV, SMOOTHING):
            raise SpecError(
                f"--unit, --markov and --smoothing are for --text; leave them out with --oracle {self.oracle}"
            )
        context = {} if self.length is None else {"length": self.length}
        oracle = cast(Oracle, built(self.oracle, "oracle", **context))
        if self.length not in (None, oracle.length):
            raise SpecError(
                f"--oracle {self.oracle} has length {oracle.length}, --length is {self.length}; leave it out"
            )
        return oracle

    def describe(self, oracle: Oracle) -> str:
        """Return one line about the distribution."""
        if self.oracle is not None:
            return f"{self.oracle}, V = {oracle.vocabulary}"
        kind = "a Markov chain" if self.markov == 1 else f"a Markov chain of order {self.markov}"
        return f"{kind} fitted to {self.text if self.text != '-' else 'stdin'}, V = {oracle.vocabulary} {self.unit}"

    @cached_property
    def content(self) -> str | bytes:
        """The text, decoded if its unit is characters; stdin is read once."""
        name = self.text or "-"
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        where = "stdin" if name == "-" else name
        text: str | bytes = raw
        if self.unit == "characters":
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise OracleError(
                    f"{where}: byte {raw[error.start]:#04x} at offset {error.start} is not UTF-8; "
                    "read it with --unit bytes, or convert it"
                ) from None
        return text

    def _fitted(self, name: str) -> Chain:
        text, where = self.content, "stdin" if name == "-" else name
        length = LENGTH if self.length is None else self.length
        if length < self.markov:
            raise OracleError(
                f"--length {length} with --markov {self.markov}; expected a length of at least {self.markov}"
            )
        if len(text) < self.markov + 2:
            raise OracleError(
                f"{where} has {len(text)} of the {self.unit} that --markov {self.markov} needs; "
                f"expected at least {self.markov + 2}"
            )
        unit = cast(Literal["characters", "bytes"], self.unit)
        return fit(text, length=length, order=self.markov, unit=unit, smoothing=self.smoothing)
