"""What a model of the notes can look up: the probability of a word that the rest of the note decides.

Run: python benchmarks/lookups.py MODEL [COUNT]; seconds. One word is masked at a time: the signature, the friend's name in
the farewell, the sign-off that the greeting decides, the sum of the items. Chance is 1/24, 1/24, 1/5, and the commonest
sum's share. Held-out losses say little about these few words; what a model must remember shows here first.
"""

import sys

import torch

from demask import Canvas, load
from demask.oracles import Notes

FROM_THE_END = {"signature": 1, "sign-off": 3, "friend": 5}


def main(name: str = "demask/notes", count: str = "200") -> None:
    """Print a table."""
    model, notes = load(name), Notes().sample(int(count), key=9)
    places = {what: [len(note.split()) - back for note in notes] for what, back in FROM_THE_END.items()}
    places["sum"] = [_sum(note.split()) for note in notes]
    rows = [model.tokenizer.encode(note) for note in notes]
    tokens = torch.tensor([row + [model.tokenizer.end] * (model.context - len(row)) for row in rows])
    print("| word | mean probability |\n|---|---|")
    for what, places_of in places.items():
        where = torch.zeros_like(tokens, dtype=torch.bool)
        where[torch.arange(len(rows)), torch.tensor(places_of)] = True
        answer = model.denoiser(Canvas(tokens.masked_fill(where, 0), where), where)
        print(f"| {what} | {float(answer.logp(tokens[where]).exp().mean()):.3f} |")


def _sum(words: list[str]) -> int:
    """Return the place of the sum: two words before "all" or "total"."""
    return next(i for i, word in enumerate(words) if word in ("all", "total") and words[i - 1] == "in") - 2


if __name__ == "__main__":
    main(*sys.argv[1:])
