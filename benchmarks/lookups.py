"""What a model of the notes can look up: the probability of a word that the rest of the note decides.

Run: python benchmarks/lookups.py MODEL [COUNT]; seconds. First the probability of the right word, where it alone is masked:
the signature, the friend's name in the farewell, the sign-off that the greeting decides, the sum of the items, and an item,
the occasion and the place where they are recalled. Chance is 1/24, 1/5, 1/24, the commonest sum's share, 1/32, 1/16, 1/20.
Then the probability of a word that must not come twice, where all that would give the right one away is masked: the friend's
name as the sender's, the first item as the second; chance is 1/24 and 1/32, and a model that knows says 0. Held-out losses
say little about these few words; what a model must remember shows here first.
"""

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from demask import Canvas, Model, load
from demask.oracles import Notes
from demask.oracles.notes import _ITEM, _OCCASIONS, _PLACES


class Question(NamedTuple):
    """A note, the places to mask, and the word whose probability is asked at the first of them."""

    words: list[str]
    masked: list[int]
    word: str


def main(name: str = "demask/notes", count: str = "200") -> None:
    """Print a table."""
    model, notes = load(name), [note.split() for note in Notes().sample(int(count), key=9)]
    for title, asked in (("right", RIGHT), ("forbidden", FORBIDDEN)):
        print(f"| {title} word | notes | mean probability |\n|---|---|---|")
        for what, questions in asked.items():
            found = list(questions(notes))
            print(f"| {what} | {len(found)} | {probability(model, found):.3f} |")
        print()


def probability(model: Model, questions: list[Question]) -> float:
    """Return the mean probability of the words that are asked for."""
    rows = [model.tokenizer.encode(" ".join(one.words)) for one in questions]
    tokens = torch.tensor([row + [model.tokenizer.end] * (model.context - len(row)) for row in rows])
    masked, where = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros_like(tokens, dtype=torch.bool)
    for row, one in enumerate(questions):
        masked[row, one.masked] = True
        where[row, one.masked[0]] = True
    answer = model.denoiser(Canvas(tokens.masked_fill(masked, 0), masked), where)
    asked = torch.tensor([model.tokenizer.encode(one.word)[0] for one in questions])
    return float(answer.logp(asked).exp().mean())


def _alone(place: Callable[[list[str]], int | None]) -> Callable[[list[list[str]]], Iterator[Question]]:
    """Ask for a word of each note that has it, by its place."""

    def questions(notes: list[list[str]]) -> Iterator[Question]:
        for words in notes:
            at = place(words)
            if at is not None:
                yield Question(words, [at % len(words)], words[at])

    return questions


def _recalled(kind: frozenset[str]) -> Callable[[list[str]], int | None]:
    """The last of several words of a kind."""

    def last(words: list[str]) -> int | None:
        found = [place for place, word in enumerate(words) if word in kind]
        return found[-1] if len(found) > 1 else None

    return last


def _sum(words: list[str]) -> int:
    """Two words before "all" or "total"."""
    return next(i for i, word in enumerate(words) if word in ("all", "total") and words[i - 1] == "in") - 2


def _sender(notes: list[list[str]]) -> Iterator[Question]:
    for words in notes:
        yield Question(words, [5, len(words) - 1], words[1])


def _second_item(notes: list[list[str]]) -> Iterator[Question]:
    for words in notes:
        items = [place for place, word in enumerate(words) if word in _ITEM]
        yield Question(words, [items[1], items[len(items) // 2 + 1]], words[items[0]])


RIGHT = {
    "signature": _alone(lambda words: -1),
    "sign-off": _alone(lambda words: -3),
    "friend": _alone(lambda words: -5),
    "sum": _alone(_sum),
    "item": _alone(_recalled(_ITEM)),
    "occasion": _alone(_recalled(frozenset(_OCCASIONS))),
    "place": _alone(_recalled(frozenset(_PLACES))),
}
FORBIDDEN = {"sender, as the friend": _sender, "second item, as the first": _second_item}


if __name__ == "__main__":
    main(*sys.argv[1:])
