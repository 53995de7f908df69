"""Side by side: the published loops, transcribed, against their spelling here, end to end on one network of random weights.

A LLaDA-shaped network (width 512, 8 layers, V = 126,464), prompt 64, 128 new tokens, blocks of 32, equal steps, float32 on
the CPU. Every pair is timed in turn, so that a busy machine slows both, and the ratio is what counts: a median over rounds.

    python benchmarks/peers.py             # batch 1 and 8, temperatures 0 and 1; an hour and more on one slow core
    python benchmarks/peers.py --quick     # a small network: seconds, to see that all of it runs
    python benchmarks/peers.py --batch 1 --temperature 1 --rounds 5

Peak memory is what a run adds to the process, read from /proc (Linux); elsewhere it is left out.
"""

import argparse
from pathlib import Path
from statistics import median

import torch

from pairs import PAIRS, Setting, timed

FULL = Setting(512, 8, 8, 1536, 126_464, 64, 128, 32)
QUICK = Setting(64, 2, 4, 96, 1_000, 16, 32, 8)
STEPS = {1: 32, 8: 8}  # in all; fewer where a step takes long
ROUNDS = {1: 3, 8: 1}
HEADER = (
    "| published loop | batch | temperature | steps | theirs, s | here, s | theirs / here | outside the network, here "
    "| theirs | peak, here, MiB | theirs | equal tokens |"
)


def resident(key: str) -> int:
    """Return bytes of this process, VmRSS or VmHWM (the peak); 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(key)), 0)


def forget_peak() -> int:
    """Let the peak begin anew, and return what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return resident("VmRSS")


def measured(*arguments):
    """Return a timing, and the MiB that the run added at most."""
    base = forget_peak()
    timing = timed(*arguments)
    return timing, (resident("VmHWM") - base) / 2**20 if base else float("nan")


def line(pair, network, setting, batch, temperature, steps, rounds):
    device = torch.device("cpu")
    x = setting.start(batch, device)
    arguments = (device, network, setting, x, temperature, steps)
    theirs, ours, memory = [], [], []
    for number in range(rounds):
        sides = [(pair.theirs, theirs), (pair.ours, ours)]
        found = {}
        for side, out in sides if number % 2 == 0 else sides[::-1]:
            timing, most = measured(side, *arguments)
            out.append(timing)
            found[id(out)] = most
        memory.append((found[id(ours)], found[id(theirs)]))
    ratio = median(slow.seconds / fast.seconds for slow, fast in zip(theirs, ours, strict=True))
    outside = [median(1 - one.inside / one.seconds for one in side) for side in (ours, theirs)]
    assert ours[0].calls == theirs[0].calls == steps
    new = x == setting.mask
    equal = float((ours[0].tokens == theirs[0].tokens)[new].double().mean())
    peak = [max(column) for column in zip(*memory, strict=True)]
    return (
        f"| {pair.name} | {batch} | {temperature} | {steps} | {median(t.seconds for t in theirs):.2f} "
        f"| {median(t.seconds for t in ours):.2f} | {ratio:.2f} | {outside[0]:.1%} | {outside[1]:.1%} "
        f"| {peak[0]:.0f} | {peak[1]:.0f} | {f'{equal:.1%}' if temperature == 0 else ''} |"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small network, one round")
    parser.add_argument("--batch", type=int, nargs="+", default=None)
    parser.add_argument("--temperature", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None, help="a multiple of the number of blocks")
    parser.add_argument("--only", default="", help="pairs with this in their name")
    given = parser.parse_args()
    setting = QUICK if given.quick else FULL
    network = setting.network(torch.device("cpu"), torch.float32)
    pairs = [pair for pair in PAIRS if given.only.lower() in pair.name.lower()]
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {setting}\n\n{HEADER}\n|{'---|' * 12}")
    for batch in given.batch or ([1, 2] if given.quick else [1, 8]):
        steps = given.steps or (8 if given.quick else STEPS.get(batch, 8))
        for temperature in given.temperature:
            for pair in pairs:
                rounds = given.rounds or (1 if given.quick else ROUNDS.get(batch, 1))
                print(line(pair, network, setting, batch, temperature, steps, rounds), flush=True)


if __name__ == "__main__":
    main()
