"""What a model of the notes has learned of each constraint: its law of a word against the true one, given all others.

Run: python benchmarks/lookups.py [MODEL] [COUNT]; half a minute for 200 notes. Of every note that has a question for a
constraint (`Notes.questions`) one is asked: all places of a name, an item or a task that must not be another one, or the
one place of a word that is decided. The truth is `Notes.law`. Shown are the probability that the model leaves to words that
may not stand there, and its KL from the truth. Held-out losses say little about these few words; what a model must remember
shows here first.
"""

import sys
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from demask import Canvas, Model, load
from demask.oracles import Notes

KEY = 9


def main(name: str = "demask/notes", count: str = "200") -> None:
    """Print a table."""
    model, notes, chance = load(name), Notes(), Random(KEY)
    asked: dict[str, list[tuple[str, Sequence[int]]]] = {}
    for text in notes.sample(int(count), key=KEY):
        for constraint, questions in notes.questions(text).items():
            asked.setdefault(constraint, []).append((text, chance.choice(questions)))
    print("| constraint | notes | probability of words that may not stand there | KL, nats |\n|---|---|---|---|")
    for constraint, questions in asked.items():
        truth, law = laws(model, notes, questions)
        wrong = law.masked_fill(truth > 0, 0.0).sum(1).mean()
        kl = (truth * (truth.clamp(min=1e-30) / law.clamp(min=1e-30)).log()).sum(1).mean()
        print(f"| {constraint} | {len(questions)} | {float(wrong):.4f} | {float(kl):.4f} |", flush=True)


def laws(model: Model, notes: Notes, questions: Sequence[tuple[str, Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """Return the true law of each question's word and the model's at the first of its places: (Q, V) each."""
    rows = [model.tokenizer.encode(text) for text, _ in questions]
    tokens = torch.tensor([row + [model.tokenizer.end] * (model.context - len(row)) for row in rows])
    masked, first = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros_like(tokens, dtype=torch.bool)
    truth = torch.zeros(len(rows), model.tokenizer.size)
    for row, (text, places) in enumerate(questions):
        masked[row, list(places)] = True
        first[row, places[0]] = True
        for word, probability in notes.law(text, places).items():
            truth[row, model.tokenizer.encode(word)[0]] = probability
    answer = model.denoiser(Canvas(tokens.masked_fill(masked, 0), masked), first)
    return truth, answer.logits.softmax(-1)


if __name__ == "__main__":
    main(*sys.argv[1:])
