"""What serving brings: the same requests through the server, one after another, and in static batches.

Run as a script; about five minutes on two cores. A server process with the model inside, one thread of torch, and 1 to 64
clients in this process. Requests ask for 8 to 80 tokens behind the openings of notes. One after another: each by
`Model.generate`, alone. Static batching: groups of so many as there are clients, each generated to the end of its longest.
One row is of requests with 8 different temperatures, which are as many runs. Of the seconds of the engine's turns, what is
spent in the model's forward passes is not shown; what the samplers' own steps take besides, as they do in `Model.generate`,
and the rest, which is what serving costs, are. `--soak SECONDS` watches the memory of the server under 16 clients instead.
"""

import argparse
import asyncio
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import torch

from demask import load
from demask.oracles import Notes

CLIENTS = (1, 8, 32, 64)


def requests(count: int) -> list[dict]:
    """Return requests of unlike lengths, always the same."""
    openings = [" ".join(text.split()[:3]) for text in Notes().sample(count, key=7)]
    lengths = (8, 16, 24, 40, 80)
    return [
        {"prompt": openings[n % len(openings)], "max_tokens": lengths[n * 7 % 5], "seed": n, "schedule": "uniform"}
        for n in range(count)
    ]


class Server:
    """A server of its own process, on a free port."""

    def __enter__(self) -> "Server":
        began = time.perf_counter()
        command = [sys.executable, "-m", "demask.cli", "serve", "--port", "0", "--threads", "1", "--queue", "4096"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"on (http://\S+);", line):
                break
        self.url, self.start = found[1], time.perf_counter() - began
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def figures(self) -> dict[str, float]:
        """Return the server's own figures."""
        text = httpx2.get(self.url + "/metrics").text
        return {name: float(value) for name, value in re.findall(r"^(demask_\w+) (\S+)$", text, re.MULTILINE)}

    def memory(self) -> float:
        """Return the resident memory, MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * 4096 / 2**20


async def ask(url: str, asked: list[dict], clients: int) -> tuple[float, list[float], list[float]]:
    """Return the seconds of all, of each, and until the first canvas, of the eighth of the requests that stream them."""
    left, seconds, first = list(reversed(list(enumerate(asked)))), [], []
    async with httpx2.AsyncClient(timeout=600, limits=httpx2.Limits(max_connections=clients)) as http:

        async def client() -> None:
            while left:
                began = time.perf_counter()
                number, body = left.pop()
                if number % 8 == 0:
                    body = body | {"stream": True, "stream_mode": "canvas"}
                    async with http.stream("POST", url + "/v1/completions", json=body) as answer:
                        lines = answer.aiter_lines()
                        await anext(lines)
                        first.append(time.perf_counter() - began)
                        async for _ in lines:
                            pass
                else:
                    answer = await http.post(url + "/v1/completions", json=body)
                answer.raise_for_status()
                seconds.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return time.perf_counter() - began, seconds, first


def static(asked: list[dict], size: int) -> tuple[float, list[float]]:
    """Generate in groups; a request of a group ends when its group does, and each client waits for its group to begin."""
    model, seconds = load("demask/notes"), []
    began = time.perf_counter()
    for first in range(0, len(asked), size):
        group = asked[first : first + size]
        start = time.perf_counter()
        longest = max(request["max_tokens"] for request in group)
        model.generate([request["prompt"] for request in group], longest, key=first, schedule="uniform", batch=size)
        seconds += [time.perf_counter() - start] * len(group)
    return time.perf_counter() - began, seconds


def line(name: str, asked: list[dict], total: float, seconds: list[float], extra: str = " | |") -> str:
    """Return a row of the table."""
    ordered = sorted(seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return f"| {name} | {len(asked) / total:.2f} | {p50:.2f} | {p99:.2f} | {extra} |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=192)
    parser.add_argument("--soak", type=float, default=0.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    asked = requests(arguments.requests)
    with Server() as server:
        print(f"ready after {server.start:.1f} s\n")
        if arguments.soak:
            return soak(server, asked, arguments.soak)
        print(
            "| how | requests/s | p50, s | p99, s | turn: samplers' steps | turn: serving | first canvas, s, at most |"
        )
        print("|---|---|---|---|---|---|---|")
        unlike = [body | {"temperature": 1 + number % 8 / 100} for number, body in enumerate(asked)]
        for name, clients, bodies in (
            *((f"server, {clients} clients", clients, asked) for clients in CLIENTS),
            ("server, 32 clients, 8 settings", 32, unlike),
        ):
            before = server.figures()
            total, seconds, first = asyncio.run(ask(server.url, bodies, clients))
            after = server.figures()
            grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
            model, step, engine = (grown[f"demask_{part}_seconds_total"] for part in ("model", "step", "engine"))
            whole = model + step + engine
            extra = f"{step / whole:.1%} | {engine / whole:.1%} | {max(first):.2f}"
            print(line(name, asked, total, seconds, extra), flush=True)
    for size in CLIENTS:
        name = "one after another" if size == 1 else f"static batches of {size}"
        print(line(name, asked, *static(asked, size)), flush=True)
    return None


def soak(server: Server, asked: list[dict], seconds: float) -> None:
    """Print the memory, once a minute."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        minute, done = time.perf_counter() + min(60.0, seconds / 4), 0
        while time.perf_counter() < minute:
            asyncio.run(ask(server.url, asked, 16))
            done += len(asked)
        print(f"{server.memory():.0f} MiB after {done} more requests", flush=True)


if __name__ == "__main__":
    main()
