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
        ends: tokens that end a text too, beside the tokenizer's end.

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
    ends: tuple[int, ...] = ()

    def found(self, tokens: Sequence[int]) -> int | None:
        """Return how many of the tokens it takes for the first stop to stand in the text; None where there is none.

        A token of `ends` is a stop by itself.
        """
        end = self.tokenizer.end
        own = list(tokens[: tokens.index(end)] if end in tokens else tokens)
        ended = next((place for place, token in enumerate(own, start=1) if token in self.ends), None)
        own = own[: ended and ended - 1]

        def stops(size: int) -> bool:
            text = self.tokenizer.decode(own[:size])
            text = text.removeprefix(" ") if self.healed else text
            return any(stop in text for stop in self.texts)

        stopped = self.texts and own and stops(len(own))
        return bisect_left(range(len(own)), True, key=stops) if stopped else ended

    def cut(self, text: str) -> str:
        """Return what stands before the first stop."""
        return text[: min((text.index(stop) for stop in self.texts if stop in text), default=len(text))]
