"""The published loops against their spelling here at the shape of an 8B model, on one CUDA device; random weights, bfloat16.

Prints for each side tokens per second, milliseconds per step, the share of time outside the network, and the fraction of
the device's memory bandwidth that reading the weights once per pass amounts to. The bandwidth is that of a large copy,
measured in the same run. Takes under 8 minutes; it stops by itself before. Wants 24 GB; where a side needs more than there
is, its row says so, and the others go on.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --tiny --device cpu     # a small network anywhere, to see that all of it runs
"""

import argparse
import sys
from time import perf_counter

import torch

from pairs import PAIRS, Setting, timed

LARGE = Setting(4096, 32, 32, 12_288, 126_464, 64, 128, 32)
TINY = Setting(64, 2, 4, 96, 1_000, 16, 32, 8)
BYTES = 24e9  # of device memory, for weights and logits
HEADER = (
    "| published loop | batch | temperature | steps | side | tokens / s | ms per step | outside the network "
    "| of the bandwidth | peak, GiB | theirs / here | equal tokens |"
)


def bandwidth(device: torch.device, size: int) -> float:
    """Return bytes per second, read and written, of a copy."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        _wait(device)
        begin = perf_counter()
        target.copy_(source)
        _wait(device)
        best = min(best, perf_counter() - begin)
    return 2 * size / best


def weights(network) -> int:
    """Return the bytes that a pass reads: all parameters but the embedding, of which it reads a few rows."""
    parts = (value.numel() * value.element_size() for value in network.parameters())
    table = network.model.embed_tokens.weight
    return sum(parts) - table.numel() * table.element_size()


def lines(pair, network, setting, device, batch, temperature, steps, speed):
    x = setting.start(batch, device)
    sides, rows = {}, []
    for name, side in (("published", pair.theirs), ("here", pair.ours)):
        try:
            side(network, setting, x, temperature, steps)  # warm
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            one = timed(side, device, network, setting, x, temperature, steps)
        except torch.OutOfMemoryError:
            rows.append([name, "out of memory", "", "", "", ""])
            if device.type == "cuda":
                torch.cuda.empty_cache()
            continue
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
        sides[name] = one
        used = weights(network) * one.calls / one.inside / speed
        rows.append(
            [
                name, f"{batch * setting.new / one.seconds:.1f}", f"{1e3 * one.seconds / one.calls:.2f}",
                f"{1 - one.inside / one.seconds:.1%}", f"{used:.1%}", f"{peak:.1f}",
            ]
        )  # fmt: skip
    tail = ("", "")
    if len(sides) == 2:
        ours, theirs = sides["here"], sides["published"]
        new = x == setting.mask
        equal = float((ours.tokens == theirs.tokens)[new].double().mean())
        tail = (f"{theirs.seconds / ours.seconds:.2f}", f"{equal:.1%}" if temperature == 0 else "")
    for cells, more in zip(rows, (("", ""), tail), strict=True):
        yield "| " + " | ".join([pair.name, str(batch), str(temperature), str(steps), *cells, *more]) + " |"


def main() -> int:
    """Print a table; 2 where there is no device for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small network")
    parser.add_argument("--seconds", type=float, default=400, help="begin nothing after so many")
    given = parser.parse_args()
    begin = perf_counter()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "no CUDA device here; to see that the code runs: python benchmarks/gpu.py --tiny --device cpu",
            file=sys.stderr,
        )
        return 2
    if device.type != "cuda" and not given.tiny:
        print(f"an 8B network on {device} would take hours; write --tiny --device {device}", file=sys.stderr)
        return 2
    if device.type == "cuda" and not given.tiny and torch.cuda.mem_get_info()[0] < BYTES:
        free = torch.cuda.mem_get_info()[0] / 1e9
        print(f"{free:.0f} GB of device memory are free; expected {BYTES / 1e9:.0f}, or write --tiny", file=sys.stderr)
        return 2
    setting = TINY if given.tiny else LARGE
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    network = setting.network(device, dtype)
    speed = bandwidth(device, 1 << (24 if given.tiny else 31))
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    count = sum(value.numel() for value in network.parameters())
    print(f"{name}, torch {torch.__version__}, {dtype}, {count / 1e9:.2f} billion parameters, {setting}")
    print(f"copies at {speed / 1e9:.0f} GB/s; {weights(network) / 1e9:.2f} GB of weights are read per pass")
    print(f"\n{HEADER}\n|{'---|' * 12}", flush=True)
    for batch, steps in ((1, 8), (2, 8)) if given.tiny else ((1, 32), (8, 32)):
        for temperature in (0, 1):
            for pair in PAIRS:
                if perf_counter() - begin > given.seconds:
                    print(f"\nstopped after {perf_counter() - begin:.0f} s, before {pair.name}, batch {batch}")
                    return 0
                for text in lines(pair, network, setting, device, batch, temperature, steps, speed):
                    print(text, flush=True)
    print(f"\n{perf_counter() - begin:.0f} s in all")
    return 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
