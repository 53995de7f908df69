"""What is trained on: windows of texts, drawn by key and step alone, so that no position in the data must be kept.

Two ways to fill windows. *Packed*: all texts one after another, each closed by the end token, cut at random places; a
position sees only its own text. *Windows*: one text per window, closed and filled up with end tokens that the network
predicts, so it learns how long texts are; a longer text is cut into several windows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from pathlib import Path
from random import Random
from typing import Final, Protocol

import torch
from torch import Tensor

from demask.canvas import ABSENT
from demask.chance import Keyed
from demask.errors import TrainingError
from demask.tokenizer import Tokenizer

FILLS: Final = ("packed", "windows")


@dataclass(frozen=True)
class Text:
    """A document and its name."""

    name: str
    content: str


@dataclass(frozen=True)
class Batch:
    """Rows to learn from.

    Parameters:
        tokens: (B, N).
        documents: which document each token belongs to, (B, N); None if each row is one.
        asked: what some rows are asked for; None if none is.
    """

    tokens: Tensor
    documents: Tensor | None = None
    asked: "Asked | None" = None


@dataclass(frozen=True)
class Asked:
    """What rows are asked for, and the answers: not a word drawn from the truth, but its law.

    The mean of the loss over the word, given all else, has the same gradient in the mean and none of the noise. What must
    not be said shows in nothing else: one word of 24 that never comes is lost in the noise of those that do.

    Parameters:
        where: (B, N) bool, what alone is masked of a row; no position of a row that is not asked.
        laws: (B, V), the law of the word at these positions given the rest of the row; zeros where nothing is asked.
    """

    where: Tensor
    laws: Tensor


class Data(Protocol):
    """Where rows come from."""

    @property
    def context(self) -> int:
        """Positions per row, N."""
        ...

    def batch(self, chance: Keyed) -> Batch:
        """Return one row per name of `chance`, a function of it alone."""
        ...


class Sampler(Protocol):
    """A known language, such as `demask.oracles.notes.Notes`.

    One whose rows are to be asked has two methods besides: `questions(text)`, by constraint, places that are masked
    together; and `law(text, places)`, the law of the one word at all of them given the rest.
    """

    @property
    def words(self) -> Sequence[str]:
        """Its vocabulary."""
        ...

    def sample(self, count: int, *, key: int) -> list[str]:
        """Texts of words with single spaces between them."""
        ...


@dataclass(frozen=True, eq=False)
class Packed:
    """Windows at random places of one stream of texts.

    Parameters:
        stream: (T,) token ids, each text closed by `end`.
        context: positions per window.
        end: the end token.

    Raises:
        TrainingError: a stream shorter than a window.
    """

    stream: Tensor
    context: int
    end: int

    def __post_init__(self) -> None:
        if len(self.stream) < self.context:
            raise TrainingError(
                f"the texts have {len(self.stream)} tokens in all, shorter than one window of {self.context}; give more "
                f"text, or a smaller context: --context {max(1, len(self.stream) // 4)}"
            )

    def batch(self, chance: Keyed) -> Batch:
        """Return windows whose starts are uniform over the stream."""
        start = _uniform(chance, len(self.stream) - self.context + 1)
        tokens = self.stream[start[:, None] + torch.arange(self.context)].long()
        ended = tokens == self.end
        return Batch(tokens, ended.cumsum(1) - ended.long())


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows drawn from a list of them: tokens (S, N)."""

    tokens: Tensor

    @property
    def context(self) -> int:
        """Positions per window."""
        return self.tokens.shape[1]

    def batch(self, chance: Keyed) -> Batch:
        """Return windows drawn uniformly, with replacement."""
        return Batch(self.tokens[_uniform(chance, len(self.tokens))].long())


@dataclass(frozen=True, eq=False)
class Fresh:
    """New texts of a known language at every step; none is ever seen twice but by chance.

    What a network must look up can stay at chance for hours, while all else is learned: of a row with many masks it is one
    word among fifty. So `focus` names constraints, and `share` of the rows ask for one of them each, in turn from a random
    one on: only the words of one question are masked. The rows that ask are the first of a batch.

    Parameters:
        source: the language.
        tokenizer: of its words.
        context: positions per row.
        focus: constraints of the language.
        share: of the rows, in (0, 1], if there is a focus.

    Raises:
        TrainingError: a constraint that the language has no questions for, a share out of range; while sampling, a text
            that does not fit into a window with its end token.
    """

    source: Sampler
    tokenizer: Tokenizer
    context: int
    focus: tuple[str, ...] = ()
    share: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise TrainingError(f"a share of {self.share} of the rows; expected a number in (0, 1]")
        known = {name for text in self.source.sample(64, key=0) for name in self._questions(text)} if self.focus else ()
        for name in self.focus:
            if name not in known:
                raise TrainingError(f"no question asks for {name!r}; there are: {', '.join(sorted(known))}")

    def batch(self, chance: Keyed) -> Batch:
        """Return one new text per row."""
        rows, seed = len(chance.names), chance.fork("text").seed
        texts, asked = self.source.sample(rows, key=seed), None
        if self.focus:
            first = chance.fork("turn").seed  # so that few rows come to all constraints in time
            asks = range(first, first + max(1, round(self.share * rows)))
            wanted = [self.focus[turn % len(self.focus)] for turn in asks]
            asking = self._asking(wanted, chance)
            texts[: len(asking)] = [text for text, _ in asking]
            asked = self._answered(asking, rows)
        ids = [self.tokenizer.encode(text) for text in texts]
        longest = max(map(len, ids))
        if longest >= self.context:
            raise TrainingError(
                f"a text of {longest} tokens for windows of {self.context}; expected a context of {longest + 1} or more: "
                f"--context {-(-(longest + 1) // 16) * 16}"
            )
        return Batch(_rows(ids, self.context, self.tokenizer.end), asked=asked)

    def _answered(self, asking: Sequence[tuple[str, tuple[int, ...]]], rows: int) -> Asked:
        """Return what the first rows are asked for, and its laws."""
        where, laws = torch.zeros(rows, self.context, dtype=torch.bool), torch.zeros(rows, self.tokenizer.size)
        for row, (text, places) in enumerate(asking):
            law = self.source.law(text, places)  # type: ignore[attr-defined]  # who has questions has answers
            where[row, list(places)] = True
            laws[row, [self.tokenizer.encode(word)[0] for word in law]] = torch.tensor([*law.values()])
        return Asked(where, laws)

    def _asking(self, wanted: Sequence[str], chance: Keyed) -> list[tuple[str, tuple[int, ...]]]:
        """Return for each constraint wanted a new text that can be asked for it, and one of its questions."""
        picks = Random(chance.fork("question").seed)
        found: list[tuple[str, tuple[int, ...]]] = []
        for turn in count():
            for text in self.source.sample(8 * len(wanted), key=chance.fork("asking", turn).seed):
                if len(found) == len(wanted):
                    return found
                questions = self._questions(text).get(wanted[len(found)])
                if questions:
                    found.append((text, picks.choice(questions)))
        raise AssertionError  # count() has no end

    def _questions(self, text: str) -> Mapping[str, Sequence[tuple[int, ...]]]:
        ask = getattr(self.source, "questions", None)
        if ask is None or not hasattr(self.source, "law"):
            raise TrainingError(
                f"{type(self.source).__name__} has no questions to focus on, with their laws; leave the focus out"
            )
        return ask(text)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Texts that are not trained on, cut into windows.

    Parameters:
        tokens: (S, N), `ABSENT` behind the last token of a text.
        owner: (S,) which text a window is of.
        texts: how many.
        bytes: of all the texts in UTF-8.
    """

    tokens: Tensor
    owner: Tensor
    texts: int
    bytes: int

    @classmethod
    def of(cls, texts: Iterable[str], tokenizer: Tokenizer, *, context: int, fill: str) -> "HeldOut":
        """Cut each text and its end token into windows; `fill` "windows" counts the end tokens that fill the last one."""
        _check_fill(fill)
        pieces: list[list[int]] = []
        owner: list[int] = []
        size = number = 0
        for number, text in enumerate(texts, 1):
            cut = _cut([*tokenizer.encode(text), tokenizer.end], context)
            pieces += cut
            owner += [number - 1] * len(cut)
            size += len(text.encode())
        if not pieces or not size:
            raise TrainingError("nothing is held out to evaluate on; give more text or a larger --held-out")
        rows = _rows(pieces, context, ABSENT if fill == "packed" else tokenizer.end)
        return cls(rows, torch.tensor(owner), number, size)


def corpus(texts: Sequence[Text], tokenizer: Tokenizer, *, context: int, fill: str) -> Data:
    """Encode texts, and fill windows with them: `fill` is "packed" or "windows".

    Raises:
        TrainingError: no text, too little of it, or another `fill`.
        TokenizerError: a word that the tokenizer does not know.

    Example:
        >>> tokenizer = Tokenizer.words(["a", "cat", "sat"])
        >>> data = corpus([Text("one", "a cat sat"), Text("two", "sat")], tokenizer, context=4, fill="windows")
        >>> data.tokens.tolist()
        [[0, 1, 2, 3], [2, 3, 3, 3]]
    """
    _check_fill(fill)
    if not texts:
        raise TrainingError("no text to train on; name files, or folders that hold some")
    ids = [[*tokenizer.encode(text.content), tokenizer.end] for text in texts]
    if fill == "packed":
        stream = torch.tensor([index for row in ids for index in row], dtype=torch.int32)
        return Packed(stream, context, tokenizer.end)
    return Windows(_rows([piece for row in ids for piece in _cut(row, context)], context, tokenizer.end))


def read(paths: Sequence[str | Path], *, glob: str = "*") -> list[Text]:
    """Read the files named, and those within the folders named that match `glob`, sorted; hidden ones are left out.

    Raises:
        TrainingError: a missing path, a named file that is empty, bytes that are not UTF-8, nothing found. Empty files
            within folders have nothing to teach and are left out.
    """
    found: dict[Path, Text] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise TrainingError(f"{path}: no such file or folder; check the path")
        inside = [path]
        if path.is_dir():
            inside = sorted(file for file in path.rglob(glob) if file.is_file() and not _hidden(file, path))
            if not inside:
                raise TrainingError(f"{path} holds no file that matches {glob!r}; try another --glob, such as '*.txt'")
        for file in inside:
            content = _decoded(file)
            if content:
                found[file.resolve()] = Text(str(file), content)
            elif file == path:
                raise TrainingError(f"{path} is empty; leave it out")
    if not found:
        raise TrainingError(f"every file of {', '.join(map(str, paths))} is empty; name files with text")
    return list(found.values())


def split(texts: Sequence[Text], share: float) -> tuple[list[Text], list[Text]]:
    """Set some texts aside: about `share` of the characters, whole texts, chosen by a hash of their content.

    Of a single text the last part is set aside, from the start of a line on where there is one.

    Raises:
        TrainingError: a share outside (0, 1), or a text too short to be cut.

    Example:
        >>> [len(part) for part in split([Text(str(i), "word " * i) for i in range(1, 11)], 0.2)]
        [8, 2]
    """
    if not 0 < share < 1:
        raise TrainingError(f"a share of {share} to hold out; expected a number between 0 and 1, such as 0.05")
    if len(texts) == 1:
        text = texts[0]
        place = int(len(text.content) * (1 - share))
        place = text.content.rfind("\n", 1, place) + 1 or place
        if not 0 < place < len(text.content):
            raise TrainingError(
                f"{text.name} has {len(text.content)} characters, too few to hold some out; give more text"
            )
        return [Text(text.name, text.content[:place])], [Text(f"{text.name} (end)", text.content[place:])]
    order = sorted(texts, key=lambda text: blake2b(text.content.encode(errors="surrogatepass"), digest_size=8).digest())
    goal, taken, count = share * sum(len(text.content) for text in texts), 0, 0
    while count < len(order) - 1 and (count == 0 or taken + len(order[count].content) <= goal):
        taken += len(order[count].content)
        count += 1
    aside = {id(text) for text in order[:count]}
    return [text for text in texts if id(text) not in aside], [text for text in texts if id(text) in aside]


def _uniform(chance: Keyed, size: int) -> Tensor:
    """Return an integer in [0, size) per row, independent of the others: (B,) int64."""
    one = torch.ones(len(chance.names), 1, dtype=torch.bool)
    return (chance.fork("place").permutation(one)[:, 0] * size).long()


def _cut(ids: list[int], context: int) -> list[list[int]]:
    return [ids[start : start + context] for start in range(0, len(ids), context)]


def _rows(ids: Sequence[Sequence[int]], context: int, fill: int) -> Tensor:
    out = torch.full((len(ids), context), fill, dtype=torch.int32)
    for row, piece in zip(out, ids, strict=True):
        row[: len(piece)] = torch.tensor(piece, dtype=torch.int32)
    return out.long()


def _check_fill(fill: str) -> None:
    if fill not in FILLS:
        raise TrainingError(f"windows filled by {fill!r}; expected one of {', '.join(FILLS)}")


def _hidden(file: Path, top: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(top).parts)


def _decoded(file: Path) -> str:
    raw = file.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TrainingError(
            f"{file}: byte {raw[error.start]:#04x} at offset {error.start} is not UTF-8; convert it, or leave it out "
            "by --glob"
        ) from None
