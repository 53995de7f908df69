"""Texts at which a generated text stops."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from demask.generate.template import Tokens


@dataclass(frozen=True)
class Stops:
    """What ends a text, apart from its end token.

    Parameters:
        texts: before the first of which it stops.
        tokenizer: of the model.
        healed: whether the first token brings the space that the prompt ends with.

    Example:
        >>> from demask.tokenizer import Tokenizer
        >>> words = Tokenizer.words(["tick", "tock", "."])
        >>> stops = Stops(("tock .", "."), words, healed=False)
        >>> tokens = words.encode("tick tock . tick")
        >>> stops.found(tokens), stops.cut("tick tock . tick")
        (3, 'tick ')
    """

    texts: tuple[str, ...]
    tokenizer: Tokens
    healed: bool

    def found(self, tokens: Sequence[int]) -> int | None:
        """Return how many of the tokens it takes for the first stop to stand in the text; None where there is none."""
        end = self.tokenizer.end
        own = list(tokens[: tokens.index(end)] if end in tokens else tokens)

        def stops(size: int) -> bool:
            text = self.tokenizer.decode(own[:size])
            text = text.removeprefix(" ") if self.healed else text
            return any(stop in text for stop in self.texts)

        return bisect_left(range(len(own)), True, key=stops) if own and stops(len(own)) else None

    def cut(self, text: str) -> str:
        """Return what stands before the first stop."""
        return text[: min((text.index(stop) for stop in self.texts if stop in text), default=len(text))]
