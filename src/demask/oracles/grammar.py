"""Grammars that remember: texts with long-range constraints, whose exact probability is known.

A grammar is data (`demask.oracles.parts`), and one walk through it does everything. Who decides at a `Pick` or a `Choice`
makes the difference: chance (a sample), the next word of a text (its probability), or a script (an enumeration). That the
next word always suffices to decide is checked when the grammar is built, so every text has exactly one derivation, and its
probability is the product of its choices.
"""

import math
import re
from bisect import bisect
from collections.abc import Iterator, Sequence
from functools import cached_property
from random import Random
from typing import Protocol

from demask.errors import OracleError
from demask.oracles import expectation
from demask.oracles.parts import END, Branch, Links, Node, Part, Pick, Recall, Scope, Switch, Text


class Grammar:
    """A distribution over texts, one derivation each: words joined by single spaces.

    log p(text) = sum over its choices of log p(choice).

    Parameters:
        root: the grammar, a part as `demask.oracles.parts` lists them.

    Attributes:
        words: the vocabulary, sorted.
        bounds: no text has fewer words than the first, or more than the second; not always attained.

    Raises:
        OracleError: two parts of a choice that begin with the same word, a name that is recalled and nowhere bound, a case
            with another number of parts than its choice, weights that are not one positive number for each part.

    Example:
        >>> from demask.oracles.parts import Choice
        >>> pet = Pick("pet", ("cat", "dog"))
        >>> grammar = Grammar((pet, Choice(("and {pet}", ("or", Pick("next", pet.words, other=("pet",)))), (1, 3))))
        >>> grammar.enumerate()
        {'cat and cat': 0.125, 'cat or dog': 0.375, 'dog and dog': 0.125, 'dog or cat': 0.375}
        >>> grammar.sample(3, key=0)
        ['dog or cat', 'cat or dog', 'dog or cat']
        >>> round(math.exp(grammar.logp("dog or cat")), 3), grammar.logp("dog and cat"), grammar.bounds
        (0.375, -inf, (3, 3))
    """

    words: tuple[str, ...]
    bounds: tuple[int, int]

    def __init__(self, root: Part) -> None:
        self._links = Links(root)
        self._root = self._links.root
        self.words = tuple(sorted(self._words(self._root)))
        self.bounds = self._bounds(self._root)

    def __repr__(self) -> str:
        return f"Grammar(words={len(self.words)}, entropy={self.entropy:.6g})"

    def sample(self, count: int, *, key: int) -> list[str]:
        """Return `count` independent texts.

        Equal keys give equal texts on every machine, and a shorter list is the beginning of a longer one.

        Raises:
            OracleError: a negative count or key.
        """
        if count < 0 or key < 0:
            raise OracleError(f"{count} samples with key {key}; expected both to be 0 or more")
        chance = _Chance(key)
        return [" ".join(self._walk(chance)) for _ in range(count)]

    def logp(self, text: str) -> float:
        """Return log p(text) in nats, -inf outside the language.

        Cost: one walk, O(words).

        Raises:
            OracleError: a word that is not in the vocabulary.
        """
        words = self.split(text)
        reader = _Reader(words)
        try:
            return reader.logp if self._walk(reader) == words else -math.inf
        except _ForeignError:
            return -math.inf

    def law(self, text: str, places: Sequence[int]) -> dict[str, float]:
        """Return the law of the one word that stands at all of `places`, given all other words of the text.

        Its probabilities sum to 1, or it is empty where no word fits.

        Cost: one walk for every word that could stand at the first place; of a text outside the language, for every word.

        Raises:
            OracleError: a word that is not in the vocabulary, no place, or one that the text does not have.

        Example:
            >>> from demask.oracles.parts import Choice
            >>> pet = Pick("pet", ("cat", "dog"))
            >>> grammar = Grammar((pet, Choice(("and {pet}", ("or", Pick("next", pet.words, other=("pet",)))), (1, 3))))
            >>> grammar.law("cat and cat", [0, 2]), grammar.law("cat or dog", [2])
            ({'cat': 0.5, 'dog': 0.5}, {'dog': 1.0})
        """
        words = self.split(text)
        if not places or not all(0 <= place < len(words) for place in places):
            raise OracleError(
                f"places {list(places)} of {len(words)} words; expected one or more of 0 .. {len(words) - 1}"
            )
        fits = self.logp(text) > -math.inf  # so that the first place is one where this word could stand
        known = {}
        for word in sorted(self._kin[words[places[0]]]) if fits else self.words:
            for place in places:
                words[place] = word
            known[word] = math.exp(self.logp(" ".join(words)))
        whole = sum(known.values())
        return {word: share / whole for word, share in known.items() if share}

    def enumerate(self, *, limit: int = 100_000) -> dict[str, float]:
        """Return the probability of every text, as the product of its choices.

        Raises:
            OracleError: more than `limit` derivations, or two of the same text.
        """
        found: dict[str, float] = {}
        script: list[int] | None = []
        while script is not None:
            reel = _Script(script)
            text = " ".join(self._walk(reel))
            if text in found or len(found) == limit:
                what = f"two derivations of {text!r}" if text in found else f"more than {limit} texts"
                raise OracleError(f"{what}; expected a grammar that lists each of at most {limit} texts once")
            found[text] = reel.probability
            script = reel.next()
        return found

    def split(self, text: str) -> list[str]:
        """Return the words of a text.

        Raises:
            OracleError: a word that is not in the vocabulary, by name.
        """
        words = text.split(" ") if text else []
        for place, word in enumerate(words):
            if word not in self._known:
                raise OracleError(
                    f"{word!r}, word {place} of the text, is not one of the {len(self.words)} words; expected words joined "
                    "by single spaces"
                )
        return words

    @cached_property
    def entropy(self) -> float:
        """H = sum over choices of E[-log p(choice)], nats, exact.

        By the chain rule each choice counts by itself, so each mean is taken over the names it depends on and no others.
        """
        return expectation.mean(self._root, self._links.depends, expectation.entropy)

    @cached_property
    def length(self) -> float:
        """The mean number of words, exact."""
        return expectation.mean(self._root, self._links.depends, expectation.length)

    @cached_property
    def form(self) -> re.Pattern[str]:
        """The regular expression of the texts with words of the right kind in the right places; a space ends each word.

        It forgets what was bound: a recall is any word that it could be, and a pick any of its words.
        """
        return re.compile(self._pattern(self._root))

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.words)

    @cached_property
    def _kin(self) -> dict[str, set[str]]:
        """For every word those that could stand where it can."""
        kin: dict[str, set[str]] = {word: {word} for word in self.words}
        for words in self._kinds(self._root):
            for word in words:
                kin[word].update(words)
        return kin

    def _kinds(self, node: Node) -> Iterator[tuple[str, ...]]:
        """Per place of the grammar where something is decided, the words that it could be."""
        if isinstance(node, Branch):
            yield tuple(node.select.keys() - {END})
        if isinstance(node, (tuple, Branch, Switch)):
            for part in node if isinstance(node, tuple) else node.parts:
                yield from self._kinds(part)
        elif not isinstance(node, Text):
            yield self._links.possible(node)

    def _walk(self, decide: "_Decide") -> list[str]:
        """Return the words of the text that `decide` chooses."""
        words: list[str] = []
        scope: Scope = {}
        stack = [self._root]
        try:
            while stack:
                node = stack.pop()
                if isinstance(node, Text):
                    words += node.words
                elif isinstance(node, tuple):
                    stack += node
                elif isinstance(node, Pick):
                    word = decide.pick(node.allowed(scope), len(words))
                    if node.name is not None:
                        scope[node.name] = word
                    words.append(word)
                elif isinstance(node, Recall):
                    words.append(node.word(scope))
                elif isinstance(node, Branch):
                    number = decide.branch(node, len(words))
                    if node.name is not None:
                        scope[node.name] = str(number)
                    stack.append(node.parts[number])
                else:
                    stack.append(node.parts[int(scope[node.name])])
        except KeyError as missing:
            raise OracleError(
                f"{missing} is recalled before it is bound; bind it earlier by a Pick or a Choice"
            ) from None
        return words

    def _pattern(self, node: Node) -> str:
        if isinstance(node, Text):
            return "".join(re.escape(word) + " " for word in node.words)
        if isinstance(node, tuple):
            return "".join(map(self._pattern, reversed(node)))
        if isinstance(node, (Branch, Switch)):
            return f"(?:{'|'.join(map(self._pattern, node.parts))})"
        return f"(?:{'|'.join(map(re.escape, self._links.possible(node)))}) "

    def _words(self, node: Node) -> set[str]:
        if isinstance(node, (tuple, Branch, Switch)):
            return set().union(*map(self._words, node if isinstance(node, tuple) else node.parts))
        return set(node.words if isinstance(node, Text) else self._links.possible(node))

    def _bounds(self, node: Node) -> tuple[int, int]:
        if isinstance(node, tuple):
            sizes = [self._bounds(part) for part in node]
            return sum(least for least, _ in sizes), sum(most for _, most in sizes)
        if isinstance(node, (Branch, Switch)):
            sizes = [self._bounds(part) for part in node.parts]
            return min(least for least, _ in sizes), max(most for _, most in sizes)
        size = len(node.words) if isinstance(node, Text) else 1
        return size, size


class _Decide(Protocol):
    """Who chooses the words: `place` is the number of words so far."""

    def pick(self, allowed: Sequence[str], place: int) -> str: ...

    def branch(self, node: Branch, place: int) -> int: ...


class _Chance:
    """Decide at random."""

    def __init__(self, key: int) -> None:
        self._uniform = Random(key).random  # of all methods the one whose numbers never change

    def pick(self, allowed: Sequence[str], place: int) -> str:
        return allowed[int(self._uniform() * len(allowed))]

    def branch(self, node: Branch, place: int) -> int:
        return bisect(node.until, self._uniform())


class _ForeignError(Exception):
    """A text is not in the language."""


class _Reader:
    """Decide as a text does, and add up log p."""

    def __init__(self, words: list[str]) -> None:
        self._words = [*words, END]
        self.logp = 0.0

    def pick(self, allowed: Sequence[str], place: int) -> str:
        word = self._at(place)
        if word not in allowed:
            raise _ForeignError
        self.logp -= math.log(len(allowed))
        return word

    def branch(self, node: Branch, place: int) -> int:
        number = node.select.get(self._at(place))
        if number is None:
            raise _ForeignError
        self.logp += math.log(node.shares[number])
        return number

    def _at(self, place: int) -> str:
        if place >= len(self._words):
            raise _ForeignError
        return self._words[place]


class _Script:
    """Decide by a list of numbers, then always the first; count up to the next list."""

    def __init__(self, script: list[int]) -> None:
        self._script, self._sizes, self.probability = script, list[int](), 1.0

    def pick(self, allowed: Sequence[str], place: int) -> str:
        self.probability /= len(allowed)
        return allowed[self._number(len(allowed))]

    def branch(self, node: Branch, place: int) -> int:
        number = self._number(len(node.parts))
        self.probability *= node.shares[number]
        return number

    def next(self) -> list[int] | None:
        """Return the script that differs last, None after the last."""
        script = self._script[: len(self._sizes)]
        while script and script[-1] + 1 == self._sizes[len(script) - 1]:
            script.pop()
        return [*script[:-1], script[-1] + 1] if script else None

    def _number(self, size: int) -> int:
        if len(self._sizes) == len(self._script):
            self._script.append(0)
        self._sizes.append(size)
        return self._script[len(self._sizes) - 1]
