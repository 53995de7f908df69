"""What a grammar is made of, and how its parts are linked for a walk.

"words {name}"      words as they are; {name} repeats the word that was bound to that name
(part, part, ...)   one after the other
Pick(name, words)   one of the words, uniformly, bound to a name
Recall(name, table) what the table says of the bound words: a pronoun of a name, the sum of two numbers
Choice(parts)       one of the parts, with given weights
Case(name, parts)   the part that an earlier `Choice` of that name chose
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, groupby
from typing import Final, TypeAlias

from demask.errors import OracleError

Scope: TypeAlias = dict[str, str]  # the word bound to every name; for a `Choice`, the number of the part chosen
END: Final = ""  # stands for the end of a text where the next word decides


@dataclass(frozen=True)
class Pick:
    """One of `words`, uniformly: not one bound to a name in `other`, and later in the list than the one bound to `after`.

    Parameters:
        name: what the word is bound to; None where nobody asks for it later.
        words: distinct words, in order.
        other: names whose words are excluded.
        after: a name whose word is in the list; the words up to it are excluded.

    Raises:
        OracleError: no words, or one of them twice.
    """

    name: str | None
    words: tuple[str, ...]
    other: tuple[str, ...] = ()
    after: str | None = None

    def __post_init__(self) -> None:
        if not self.words or len(set(self.words)) != len(self.words):
            raise OracleError(f"the words {self.words} to pick {self.name!r} from; expected one or more, all different")

    @property
    def reads(self) -> frozenset[str]:
        """The names that decide which words are allowed."""
        return frozenset(self.other) | ({self.after} if self.after else set())

    def allowed(self, scope: Scope) -> Sequence[str]:
        """Return the words that may be picked, in order."""
        words: Sequence[str] = self.words
        if self.after:
            words = words[words.index(scope[self.after]) + 1 :]
        if self.other:
            words = list(words)
            for name in self.other:
                if scope[name] in words:
                    words.remove(scope[name])
        if not words:
            raise OracleError(f"no word is left for {self.name!r} after {scope}; give it more words")
        return words


@dataclass(frozen=True)
class Recall:
    """The word bound to a name, or what a table says of it.

    Parameters:
        names: one name, or several whose words are looked up together.
        table: the word for every bound word, or for every tuple of them; None repeats the bound word.
    """

    names: str | tuple[str, ...]
    table: Mapping[str, str] | Mapping[tuple[str, ...], str] | None = None

    def word(self, scope: Scope) -> str:
        """Return the word."""
        bound = scope[self.names] if isinstance(self.names, str) else tuple(scope[name] for name in self.names)
        return bound if self.table is None else self.table[bound]  # type: ignore[return-value, index]


@dataclass(frozen=True)
class Choice:
    """One of `parts`, with probabilities proportional to `weights` (equal without).

    No two parts may begin with the same word. With a `name`, a later `Case` knows which part it was.
    """

    parts: tuple["Part", ...]
    weights: tuple[float, ...] | None = None
    name: str | None = None

    @property
    def shares(self) -> tuple[float, ...]:
        """The probabilities of the parts.

        Raises:
            OracleError: weights that are not one positive number for each part.
        """
        weights = self.weights or (1.0,) * len(self.parts)
        if not self.parts or len(weights) != len(self.parts) or not all(0 < weight < math.inf for weight in weights):
            raise OracleError(f"weights {weights} for {len(self.parts)} parts; expected as many, all positive")
        return tuple(weight / sum(weights) for weight in weights)


@dataclass(frozen=True)
class Case:
    """The part with the number that the `Choice` of this name chose."""

    name: str
    parts: tuple["Part", ...]


@dataclass(frozen=True)
class Text:
    """Words as they are."""

    words: tuple[str, ...]


Part: TypeAlias = "str | tuple[Part, ...] | Text | Pick | Recall | Choice | Case"


def optional(part: Part, share: float, *, name: str | None = None) -> Choice:
    """Return `part` with probability `share`, else nothing; for a `Case`, part 0 is that it is there.

    Example:
        >>> optional("soon", 0.25).shares
        (0.25, 0.75)
    """
    return Choice((part, ()), (share, 1 - share), name)


@dataclass(frozen=True, eq=False)
class Branch:
    """A linked `Choice`: `select` says which part begins with a word."""

    parts: "tuple[Node, ...]"
    shares: tuple[float, ...]
    name: str | None
    select: dict[str, int]
    until: tuple[float, ...]  # cumulative shares, without the last


@dataclass(frozen=True, eq=False)
class Switch:
    """A linked `Case`."""

    parts: "tuple[Node, ...]"
    name: str


Node: TypeAlias = (
    "tuple[Node, ...] | Text | Pick | Recall | Branch | Switch"  # a tuple runs from its end: it is a stack
)


class Links:
    """A grammar whose choices know which words lead where.

    Attributes:
        root: the linked grammar.
        depends: for every name, the names on which the law of its word depends directly.

    Raises:
        OracleError: two parts of a choice that begin with the same word, a name that is recalled and nowhere bound, a case
            with another number of parts than its choice.
    """

    root: Node
    depends: dict[str, frozenset[str]]

    def __init__(self, root: Part) -> None:
        self.depends = defaultdict(frozenset)
        self._domains: dict[str, tuple[str, ...]] = {}
        self._sizes: dict[str, int] = {}
        self._declare(root, frozenset())
        self.root, _ = self._link(root, frozenset([END]))

    def possible(self, node: Pick | Recall) -> tuple[str, ...]:
        """Return the words that a node can be, whatever was bound."""
        if isinstance(node, Pick):
            return node.words
        return self._domains[str(node.names)] if node.table is None else tuple(dict.fromkeys(node.table.values()))

    def _declare(self, part: Part, inside: frozenset[str]) -> None:
        """Take down what is bound, and on what that depends."""
        if isinstance(part, tuple):
            for each in part:
                self._declare(each, inside)
        elif isinstance(part, Pick) and part.name is not None:
            self.depends[part.name] |= inside | part.reads
            self._domains[part.name] = tuple(dict.fromkeys(self._domains.get(part.name, ()) + part.words))
        elif isinstance(part, (Choice, Case)):
            if isinstance(part, Choice) and part.name is not None:
                self.depends[part.name] |= inside
                self._sizes[part.name] = len(part.parts)
            for each in part.parts:
                self._declare(each, inside | ({part.name} if isinstance(part, Case) else set()))

    def _link(self, part: Part, follow: frozenset[str]) -> tuple[Node, frozenset[str]]:
        """Return the node, and the words that it and what follows can begin with."""
        if isinstance(part, str):
            return self._link(tuple(map(_word, part.split())), follow)
        if isinstance(part, Text):
            return part, frozenset(part.words[:1])
        if isinstance(part, tuple):
            nodes: list[Node] = []
            for each in reversed(part):
                node, follow = self._link(each, follow)
                nodes += node if isinstance(node, tuple) else (node,)
            return _joined(nodes), follow
        if isinstance(part, (Pick, Recall)):
            self._refuse_unbound(part)
            return part, frozenset(self.possible(part))
        linked = [self._link(each, follow) for each in part.parts]
        nodes_of_parts = tuple(node for node, _ in linked)
        first = [words for _, words in linked]
        if isinstance(part, Case):
            if self._sizes.get(part.name) != len(part.parts):
                raise OracleError(f"a case of {len(part.parts)} parts; {part.name!r} is no choice of as many")
            return Switch(nodes_of_parts, part.name), frozenset().union(*first)
        select: dict[str, int] = {}
        for number, words in enumerate(first):
            if twice := sorted(words & select.keys()):
                raise OracleError(
                    f"parts {select[twice[0]]} and {number} of a choice both begin with {twice[0] or 'the end'!r}; take "
                    "their common beginning out of the choice"
                )
            select |= dict.fromkeys(words, number)
        shares = part.shares
        return Branch(nodes_of_parts, shares, part.name, select, tuple(accumulate(shares[:-1]))), frozenset(select)

    def _refuse_unbound(self, part: Pick | Recall) -> None:
        if isinstance(part, Pick):
            names = part.reads
        else:
            names = frozenset([part.names] if isinstance(part.names, str) else part.names)
        if unbound := sorted(names - self._domains.keys()):
            raise OracleError(f"{unbound[0]!r} is never bound; bound are {', '.join(sorted(self._domains)) or 'none'}")


def _word(word: str) -> Text | Recall:
    return Recall(word[1:-1]) if word[0] == "{" and word[-1] == "}" else Text((word,))


def _joined(nodes: list[Node]) -> tuple[Node, ...]:
    """Nodes in reverse, with neighbouring texts made one."""
    out: list[Node] = []
    for is_text, run in groupby(nodes, lambda node: isinstance(node, Text)):
        if is_text:
            out.append(Text(reduce(lambda later, node: node.words + later, run, ())))  # type: ignore[union-attr]
        else:
            out += run
    return tuple(out)
