"""What every strategy costs: passes, wall-clock, and the share of it that is spent outside the denoiser.

Run: python benchmarks/strategies/bookkeeping.py [--rounds R] [--inside] [--profile] [STRATEGY ...]; some 25 minutes.
    --inside measures the model inside alone, which takes a fraction of that.
    --profile prints the functions in which the named strategies spend their own time, instead of the table.

Two networks, batches of 1 and 16, one thread of torch: the model inside the package, all of its 100 positions; and a
network of random weights of the size "base" with 32,000 tokens, 64 positions, of which only the first steps are taken, so
that its passes say nothing and only its shares are shown. The outside is all that is not a call of the denoiser (or of a
verifier), both in the same run. Times are those of the processor, so that other programs on the machine do not count; on an
idle core they are wall-clock. Rounds go over all strategies, and the median over rounds is shown.

The last lines name what takes more than a tenth: of all that is outside, and of what is a strategy's own, which is all but
what `uniform` with random positions pays in the same run for the loop, the marginals and the draws.

Some strategies ask what neither network was trained for: noisy tokens, or laws along an order. They are asked all the
same (the same weights as `Permutation`), at the right cost; what comes out means nothing, and passes that hang on it are in
brackets.
"""

import cProfile
import pstats
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from time import process_time
from typing import Any

import torch
from families import notes_model
from torch import Tensor

from demask import Canvas, Chain, build, sample
from demask.canvas import Marginals
from demask.denoisers import Permutation, Shape, Transformer
from demask.denoisers.transformer import Network
from strategies import STRATEGIES, Strategy

STEPS, LENGTH, WORDS = 16, 64, 32_000
ENOUGH = {1: 8, 16: 3}  # steps of the larger network, by rows
WANTED = 0.1


class Timed:
    """A network asked in every way there is, and the seconds spent in it."""

    def __init__(self, network: Network) -> None:
        self.masked, self.ranked = Transformer(network), Permutation(network)
        self.seconds = 0.0

    @property
    def vocabulary(self) -> int:
        """How many tokens can be written."""
        return self.masked.vocabulary

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer for masked tokens."""
        return self._timed(self.masked, canvas, where)

    def along(self, canvas: Canvas, where: Tensor, ranks: Tensor) -> Marginals:
        """Answer along an order."""
        return self._timed(self.ranked.along, canvas, where, ranks)

    def noised(self, canvas: Canvas, where: Tensor, level: Tensor) -> Marginals:
        """Answer for tokens that may be noise, as a network that guesses the level."""
        return self._timed(self.masked, canvas, where)

    def _timed(self, ask: Callable[..., Marginals], *question: Any) -> Marginals:
        begin = process_time()
        answer = ask(*question)
        self.seconds += process_time() - begin
        return answer


@dataclass
class Setting:
    """A network, a number of rows, and what a specification is filled in with.

    Parameters:
        network: asked.
        known: length, curve, TC and DTC.
        rows: of a batch.
        steps: taken at most.
        runs: by strategy, of each run: passes per row, seconds, seconds outside over those inside, steps.
    """

    network: Network
    known: dict[str, Any]
    rows: int
    steps: int = 4096
    runs: dict[str, list[tuple[float, float, float, int]]] = field(default_factory=dict)

    def take(self, strategy: Strategy, key: int) -> None:
        """Sample once, and remember what it took."""
        timed = Timed(self.network)
        sampler = self.sampler(strategy, timed)
        canvas = Canvas.blank(self.rows, self.known["length"])
        begin = process_time()
        run = sample(timed, sampler, canvas, key=key, max_steps=self.steps)
        seconds = process_time() - begin
        share = (seconds - timed.seconds) / timed.seconds
        found = (float(run.nfe.double().mean()), seconds, share, int(run.steps.max()))
        self.runs.setdefault(strategy.name, []).append(found)

    def sampler(self, strategy: Strategy, timed: Timed) -> Any:
        """Return the sampler of a strategy, with its last setting."""
        n, x = self.known["length"], (strategy.settings or (0,))[-1]
        block = max(1, round(STEPS * 16 / n))
        spec = strategy.spec.format(k=STEPS, b=block, n=n, x=int(x) if x == int(x) and x > 2 else x)
        verifier = {"verifier": timed} if spec.startswith("Adaptive") else {}
        return build(spec, "sampler", **self.known, **verifier)

    def share(self, strategy: Strategy) -> float:
        """Return the median share."""
        return median(run[2] for run in self.runs[strategy.name])

    def outside(self, strategy: Strategy) -> float:
        """Return the median milliseconds outside the denoiser, per step of the batch."""
        return median(
            seconds * share / (1 + share) / steps * 1e3 for _, seconds, share, steps in self.runs[strategy.name]
        )


def settings(*, inside: bool) -> list[Setting]:
    """Return the model inside and, unless it is asked for alone, the larger network; each alone and in a batch."""
    model = notes_model()
    own = _known(model.context, model.curve.curve())
    made = [Setting(model.denoiser.network, own, rows) for rows in ENOUGH]
    if inside:
        return made
    base = Network(Shape.of("base", WORDS, LENGTH))
    chain = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=LENGTH)
    other = _known(LENGTH, chain.curve(samples=64))
    return made + [Setting(base, other, rows, steps) for rows, steps in ENOUGH.items()]


def _known(length: int, curve: Any) -> dict[str, Any]:
    curve = curve.projected()
    return {"length": length, "curve": curve, "tc": float(curve.tc), "dtc": float(curve.dtc)}


def main(*words: str) -> None:
    """Print a table, or where the time goes."""
    torch.set_num_threads(1)
    rounds = int(words[words.index("--rounds") + 1]) if "--rounds" in words else 3
    names = [word for word in words if not word.startswith("--") and not word.isdigit()]
    unknown = set(names) - {strategy.name for strategy in STRATEGIES}
    if unknown:
        sys.exit(f"no strategies: {', '.join(sorted(unknown))}; there are: {', '.join(one.name for one in STRATEGIES)}")
    strategies = [strategy for strategy in STRATEGIES if not names or strategy.name in names]
    made = settings(inside="--inside" in words)
    with torch.inference_mode():
        for setting in made:
            setting.take(STRATEGIES[0], 0)  # what is prepared once
            setting.runs.clear()
        if "--profile" in words:
            for strategy in strategies:
                for setting in (made[0], made[-1]):
                    _profile(setting, strategy)
            return
        for key in range(rounds):
            for strategy in strategies:
                for setting in made:
                    setting.take(strategy, key)
            print(f"\nAfter {key + 1} of {rounds} rounds\n\n{table(strategies, made)}", flush=True)


def table(strategies: list[Strategy], made: list[Setting]) -> str:
    """Return the table, and what misses the mark."""
    columns = [
        "strategy", "passes", "ms per token, batch 1", "16", "ms outside per step, 1", "16", "outside / model inside, 1",
        "16", "outside / base, 1", "16",
    ][: 6 + len(made)]  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for strategy in strategies:
        one, many = made[0].runs[strategy.name], made[1].runs[strategy.name]
        passes = f"{sum(run[0] for run in one + many) / len(one + many):.1f}"
        cells = [f"({passes})" if strategy.needs in ("along", "noised") else passes]
        for setting in made[:2]:
            tokens = setting.rows * setting.known["length"]
            cells.append(f"{median(run[1] for run in setting.runs[strategy.name]) / tokens * 1e3:.2f}")
        cells += [f"{setting.outside(strategy):.2f}" for setting in made[:2]]
        cells += [f"{setting.share(strategy):.1%}" for setting in made]
        lines.append(f"| {strategy.name} | {' | '.join(cells)} |")
    for name, setting in zip(("model inside, 1", "model inside, 16", "base, 1", "base, 16"), made, strict=False):
        plain = setting.share(STRATEGIES[0]) if STRATEGIES[0].name in setting.runs else None
        for what, less in (("", 0.0), (" beyond what uniform pays", plain)):
            if less is not None:
                missed = [one.name for one in strategies if setting.share(one) - less > WANTED]
                told = f"{len(missed)} of {len(strategies)}: {', '.join(missed) or 'none'}"
                lines.append(f"\nAbove {WANTED:.0%}{what}, {name}: {told}")
    return "\n".join(lines)


def _profile(setting: Setting, strategy: Strategy) -> None:
    print(f"\n{strategy.name}, {setting.rows} rows of {setting.known['length']}", flush=True)
    with cProfile.Profile() as profile:
        setting.take(strategy, 0)
    pstats.Stats(profile).sort_stats("tottime").print_stats(16)


if __name__ == "__main__":
    main(*sys.argv[1:])
