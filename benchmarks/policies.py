"""What a learned policy gains over rules made by hand, where the truth is known.

Run: python benchmarks/policies.py groups [ITERATIONS [ROLLOUTS [KEY]]]; two groups of identical bits by both laws, and the
    guide's picture.
Run: python benchmarks/policies.py table SPEC [SECONDS] [SHOWN]; a table of rules and of policies trained for so long each,
    on an oracle (latin_square) or a model of a known language (demask/notes).
Run: python benchmarks/policies.py notes [SECONDS]; the model inside the package against thresholds.
"""

import sys
from itertools import product
from pathlib import Path
from time import process_time

import torch
from matplotlib.figure import Figure

from demask.cli.policy import EVALUATION_KEY, task
from demask.oracles import Table
from demask.orders import Confidence, Random, Threshold
from demask.policies import Learned
from demask.samplers import Parallel
from demask.schedules import PerRow, Unlimited, uniform
from demask.training import PolicyRecipe, possible, train_policy

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "policies.png"
LAWS = ("bernoulli", "plackett_luce")
CASES = (("plackett_luce", 1.0, 0), ("plackett_luce", 3.0, 0), ("bernoulli", 1.0, 0), ("bernoulli", 1.0, 2))
RUNS = 1024


def groups(iterations: str = "400", rollouts: str = "8", key: str = "0") -> None:
    """Train on two groups of two identical bits behind a visible mark, and draw what runs are worth."""
    bits = Table.uniform(torch.tensor([[0, a, b, a, b] for a, b in product((0, 1), repeat=2)]), 2)
    two = possible(bits, shown=1)
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for law in LAWS:
        recipe = PolicyRecipe(iterations=int(iterations), law=law, prompts=4, rollouts=int(rollouts), key=int(key))
        begin = process_time()
        trained = train_policy(two, recipe)
        seconds = process_time() - begin
        right, steps = two.score(Learned(trained.policy), RUNS, key=EVALUATION_KEY)
        worth = [each.worth for each in trained.rounds]
        first = next((i for i in range(len(worth) - 10) if min(worth[i : i + 10]) >= 0.74), None)
        print(
            f"{law}: {right:.1%} right in {steps:.2f} steps of {RUNS} runs; {seconds:.0f} s of one core, worth 0.74 "
            f"or more ten times in a row from iteration {first}",
            flush=True,
        )
        axes.plot(range(1, len(worth) + 1), worth, label=law, linewidth=1)
    for height, name in ((0.25, "one at each step"), (0.75, "the optimum: one of each group, then the rest")):
        axes.axhline(height, color="0.5", linewidth=0.8, linestyle=":")
        axes.annotate(name, (0, height), xytext=(2, 3), textcoords="offset points", fontsize=8, color="0.35")
    axes.set(xlabel="iteration", ylabel="correct x speed", ylim=(0, 0.9))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    figure.savefig(PICTURE, dpi=150)
    print(f"wrote {PICTURE}")


def table(spec: str = "latin_square", seconds: str = "180", shown: str | None = None, runs: str = str(RUNS)) -> None:
    """Print right answers and steps of rules and of policies."""
    known = task(spec, shown=None if shown is None else int(shown))
    print("| sampler | right | steps | iterations |\n|---|---|---|---|")

    def line(name, sampler, iterations=""):
        right, steps = known.score(sampler, int(runs), key=EVALUATION_KEY)
        print(f"| {name} | {right:.1%} | {steps:.2f} | {iterations} |", flush=True)

    for count in (2, 3, 4, 6, 8):
        line(f"`uniform(steps={count})`, `Random()`", Parallel(PerRow(uniform, steps=count), Random()))
    for count in (2, 3, 4, 6, 8):
        line(f"`uniform(steps={count})`, `Confidence()`", Parallel(PerRow(uniform, steps=count), Confidence()))
    for least in (0.3, 0.5, 0.7, 0.9):
        line(f"`Threshold(Confidence(), {least})`", Parallel(Unlimited(), Threshold(Confidence(), least)))
    expert = Parallel(Unlimited(), Threshold(Confidence(), 0.9))
    for law, alpha, experts in CASES:
        recipe = PolicyRecipe(
            seconds=float(seconds), law=law, alpha=alpha, prompts=1, rollouts=16 - experts, experts=experts,
            clip=0.2 if experts else 0.5,
        )  # fmt: skip
        trained = train_policy(known, recipe, expert=expert if experts else None)
        name = f"learned, {law}, alpha {alpha:g}{', with an expert' if experts else ''}"
        line(name, Learned(trained.policy), len(trained.rounds))


def notes(seconds: str = "300") -> None:
    """Print right notes and steps of thresholds, and of a policy that learns from one, behind the first 30 tokens."""
    known = task("demask/notes", shown=30)
    rules = {least: Parallel(Unlimited(), Threshold(Confidence(), least)) for least in (0.5, 0.7, 0.9)}
    for least, rule in rules.items():
        print(f"threshold {least}: {known.score(rule, 64, key=EVALUATION_KEY)}", flush=True)
    recipe = PolicyRecipe(seconds=float(seconds), law="plackett_luce", prompts=2, rollouts=6, experts=2, clip=0.2)
    trained = train_policy(known, recipe, expert=rules[0.9])
    found = known.score(Learned(trained.policy), 64, key=EVALUATION_KEY)
    print(f"learned in {len(trained.rounds)} iterations: {found}")


if __name__ == "__main__":
    {"groups": groups, "table": table, "notes": notes}[sys.argv[1]](*sys.argv[2:])
