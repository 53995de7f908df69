"""Text with gaps, and how it lies on a canvas."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final, Protocol

from demask.errors import GenerateError

MASK: Final = "MASK"
END: Final = "[END]"
# A bracket that looks like a mark: a word of two or more capitals, and perhaps a colon and a value.
_MARK: Final = re.compile(r"(\\*)\[([A-Z][A-Z_]+)(?::([^\[\]\n]*))?\]")


class Tokens(Protocol):
    """What is needed of a tokenizer; `demask.tokenizer.Tokenizer` is one."""

    def __hash__(self) -> int:
        """Tokenizers are values."""
        ...

    @property
    def size(self) -> int:
        """The number of tokens, V."""
        ...

    @property
    def end(self) -> int:
        """The end-of-text token."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of tokens."""
        ...


@dataclass(frozen=True)
class Template:
    r"""Text that stands, and gaps of a number of tokens, in turn.

    Parameters:
        pieces: strings, and integers >= 1 for the gaps.
        ends: whether the text ends with the last piece.

    Raises:
        GenerateError: a piece that is neither, or no gap.

    Example:
        >>> Template.parse("def add(a, b):\n    return [MASK:6]").pieces
        ('def add(a, b):\n    return ', 6)
        >>> Template.parse("xs[N] + [MASK] [END]").ends
        True
        >>> Template.parse(r"[MASK] is \[MASK]").pieces
        (1, ' is [MASK]')
    """

    pieces: tuple[str | int, ...]
    ends: bool = False

    def __post_init__(self) -> None:
        for piece in self.pieces:
            if not isinstance(piece, str) and (isinstance(piece, bool) or not isinstance(piece, int) or piece < 1):
                raise GenerateError(f"a gap of {piece!r} tokens; expected an integer >= 1, such as [MASK:6]")
        if not self.gaps:
            raise GenerateError("the template has no gap; mark one with [MASK], or with [MASK:6] for six tokens")

    @classmethod
    def parse(cls, text: str, mask: str | None = None) -> "Template":
        """Read a template.

        `[MASK]` is a gap of one token, `[MASK:6]` one of six. `[END]` may stand once, as the last thing: the text ends
        there; a space before it is left out. Every other bracket around a word of two or more capitals, such as [EOS] or
        [MSAK:3], is refused. A backslash before such a bracket makes it plain text, and two make one backslash;
        elsewhere a backslash is itself. The text `mask` of a tokenizer's own mask token is a gap of one token too.

        Raises:
            GenerateError: a mark that is unknown, or a gap that is not an integer >= 1, or no gap.
        """
        pieces: list[str | int] = []
        plain, begin, ends = "", 0, False
        for found in _MARK.finditer(text):
            slashes, name, value = found.groups()
            plain += text[begin : found.start()] + slashes[::2][: len(slashes) // 2]
            begin = found.end()
            mark = found[0][len(slashes) :]
            if len(slashes) % 2:
                plain += mark
            elif mark == END and begin == len(text):
                plain, ends = plain.removesuffix(" "), True
            elif name == MASK:
                pieces += [plain, _gap(mark, value)] if plain else [_gap(mark, value)]
                plain = ""
            else:
                raise GenerateError(
                    f"{mark} at character {found.start()} is no mark; write [MASK] or [MASK:6] for a gap, {END} at the very "
                    f"end where the text ends, or \\{mark} for these characters themselves"
                )
        plain += text[begin:]
        pieces += [plain] if plain else []
        return cls(tuple(pieces if mask in (None, f"[{MASK}]") else _opened(pieces, str(mask))), ends)

    @property
    def gaps(self) -> tuple[int, ...]:
        """The sizes of the gaps."""
        return tuple(piece for piece in self.pieces if not isinstance(piece, str))

    def __str__(self) -> str:
        out = ""
        for piece in (*self.pieces, *([END] if self.ends else ())):
            if piece is END or not isinstance(piece, str):  # backslashes before a mark count twice
                slashes = len(out) - len(out.rstrip("\\"))
                out += "\\" * slashes + (END if isinstance(piece, str) else f"[{MASK}:{piece}]")
            else:
                out += _MARK.sub(lambda found: found[1] + "\\" + found[0], piece)
        return out


def _opened(pieces: Iterable[str | int], mask: str) -> Iterator[str | int]:
    """Return the pieces with a gap of one token wherever the mask stands in a text."""
    for piece in pieces:
        if not isinstance(piece, str):
            yield piece
            continue
        for place, part in enumerate(piece.split(mask)):
            if place:
                yield 1
            if part:
                yield part


def _gap(mark: str, value: str | None) -> int:
    if value is None:
        return 1
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < 1:
        raise GenerateError(f"{mark}: a gap of {value!r} tokens; expected an integer >= 1, such as [MASK:6]")
    return int(value)


@dataclass(frozen=True)
class Gap:
    """A gap on the canvas.

    Parameters:
        start: its first position.
        stop: the position after its last.
        healed: whether its first token brings the space that the text before it ends with.
        joined: what stands between the text before it and its own, unless that is empty.
    """

    start: int
    stop: int
    healed: bool = False
    joined: str = ""


@dataclass(frozen=True)
class Layout:
    """A template as tokens.

    The pieces are tokenised one by one, so a gap never changes what stands beside it. Where a piece ends with a space,
    tokenizers of pieces have learned that the space belongs to the word behind it: the space is then not shown to the
    model, and the first token of the gap has to begin with one ("healed"). Where tokens are whole words, the spaces
    around a gap are the separators.

    Parameters:
        template: the text.
        tokens: (N,), 0 in the gaps.
        gaps: where they are, from the left.
        tokenizer: of the model.
    """

    template: Template
    tokens: tuple[int, ...]
    gaps: tuple[Gap, ...]
    tokenizer: Tokens = field(repr=False)

    @classmethod
    def of(cls, template: Template, tokenizer: Tokens) -> "Layout":
        """Lay a template out.

        Raises:
            GenerateError: text that the tokenizer does not give back as it was.
            TokenizerError: text that it cannot represent.
        """
        tokens: list[int] = []
        gaps: list[Gap] = []
        joiner = separator(tokenizer)
        pieces = template.pieces
        for place, piece in enumerate(pieces):
            before = pieces[place - 1] if place else None
            if isinstance(piece, str):
                after = not isinstance(before, str) and before is not None
                tokens += _pinned(piece, tokenizer, joiner, after=after, gap=place + 1 < len(pieces))
                continue
            told = isinstance(before, str) and before.endswith(" ")
            healed = told and not joiner
            joined = joiner if before not in (None, "") and not told else ""
            gaps.append(Gap(len(tokens), len(tokens) + piece, healed, joined))
            tokens += [0] * piece
        return cls(template, tuple(tokens), tuple(gaps), tokenizer)

    @cached_property
    def masked(self) -> tuple[bool, ...]:
        """Which positions are in a gap, (N,)."""
        masked = [False] * len(self.tokens)
        for gap in self.gaps:
            masked[gap.start : gap.stop] = [True] * (gap.stop - gap.start)
        return tuple(masked)

    @cached_property
    def healed(self) -> tuple[int, ...]:
        """The positions whose token has to begin with a space."""
        return tuple(gap.start for gap in self.gaps if gap.healed)

    def texts(self, tokens: Sequence[int], known: Sequence[bool] | None = None) -> tuple[str, ...]:
        """Return the text of every gap up to its first end token, and to its first token not `known`; both (N,)."""
        return tuple(self._texts(tokens, known))

    def _texts(self, tokens: Sequence[int], known: Sequence[bool] | None) -> Iterator[str]:
        for gap in self.gaps:
            own = list(tokens[gap.start : gap.stop])
            if known is not None and not all(known[gap.start : gap.stop]):
                own = own[: list(known[gap.start : gap.stop]).index(False)]
            text = self.tokenizer.decode(own[: own.index(self.tokenizer.end)] if self.tokenizer.end in own else own)
            yield text.removeprefix(" ") if gap.healed else text

    def write(self, gaps: Sequence[str]) -> str:
        """Return the text: what stands, byte for byte, and the texts of the gaps between."""
        filled = iter(zip(self.gaps, gaps, strict=True))
        out = ""
        for piece in self.template.pieces:
            if isinstance(piece, str):
                out += piece
            else:
                gap, text = next(filled)
                out += gap.joined + text if text else ""
        return out

    def cells(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return what every token adds to the text, (N,); end tokens add nothing."""
        joiner = separator(self.tokenizer)
        words = ["" if token == self.tokenizer.end else self.tokenizer.decode([token]) for token in tokens]
        return tuple(joiner + word if place and word else word for place, word in enumerate(words))


@lru_cache(maxsize=16)
def separator(tokenizer: Tokens) -> str:
    """Return what the tokenizer writes between two tokens: a space where they are words, nothing where they are pieces."""
    token = 0 if tokenizer.end else 1
    one = tokenizer.decode([token])
    return " " if tokenizer.decode([token, token]) == f"{one} {one}" else ""


@lru_cache(maxsize=16)
def spaced(tokenizer: Tokens) -> tuple[bool, ...]:
    """Return which tokens begin with a space, (V,)."""
    return tuple(
        token != tokenizer.end and tokenizer.decode([token]).startswith(" ") for token in range(tokenizer.size)
    )


def ends(tokenizer: Tokens) -> tuple[int, ...]:
    """Return the tokens that end a text: those of a published tokenizer, or the one there is."""
    return tuple(getattr(tokenizer, "ends", (tokenizer.end,)))


def _pinned(piece: str, tokenizer: Tokens, joiner: str, *, after: bool, gap: bool) -> list[int]:
    """Return the tokens of a piece that stands after a gap, and before one."""
    if not joiner:
        shown = piece.removesuffix(" ") if gap else piece
    elif piece == joiner and (after or gap):
        return []
    else:
        if after and not piece.startswith(joiner):
            raise GenerateError(
                f"{piece[:40]!r} follows a gap without a space; tokens are whole words: leave a space around a gap"
            )
        shown = piece[1:] if after else piece
        shown = shown.removesuffix(joiner) if gap else shown
        shown = shown or piece  # nothing but spaces: the tokenizer says what is wrong
    ids = tokenizer.encode(shown)
    if (back := tokenizer.decode(ids)) != shown:
        raise GenerateError(
            f"the tokenizer gives {back[:60]!r} back for {shown[:60]!r}; expected the same text: use a tokenizer that "
            "round-trips, such as Tokenizer.train(texts, size=2048)"
        )
    return ids
