"""What Ray brings on one machine: `demask batch` on two actors, and a server whose replicas follow the load.

Run as a script; three to six minutes on two cores. `batch` times the same lines in this process's child without Ray, and on
1 and 2 actors of a local Ray, one thread of torch each, and compares the outputs byte for byte. `serve` starts
`demask serve --ray local` with 1 to 3 replicas of 4 rows, keeps 24 clients busy, then lets it rest, and prints how many
replicas there are.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

COMMAND = (sys.executable, "-m", "demask.cli")


def batch(lines: int) -> None:
    """Print seconds per way, the start of Ray and of the actors included, and from the first part to the last."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.jsonl"
        source.write_text("".join(json.dumps(f"dear {name} ,") + "\n" for name in ["anna", "max"] * (lines // 2)))
        print("| how | s, whole | s, first part to last | lines/s between |\n|---|---|---|---|")
        found = []
        for name, options in (
            ("in one process", ()),
            ("Ray, 1 actor", ("--ray", "local", "--actors", "1")),
            ("Ray, 2 actors", ("--ray", "local", "--actors", "2")),
        ):
            out = Path(folder) / name
            began = time.perf_counter()
            quick = ("--schedule", "uniform", "--max-new-tokens", "40", "--shard", "8", "--threads", "1")
            subprocess.run(
                [*COMMAND, "batch", str(source), str(out), *quick, *options], check=True, capture_output=True
            )
            whole = time.perf_counter() - began
            times = sorted(path.stat().st_mtime for path in out.glob("part-*"))
            between = times[-1] - times[0]
            print(f"| {name} | {whole:.1f} | {between:.1f} | {8 * (len(times) - 1) / between:.1f} |", flush=True)
            found.append({path.name: path.read_bytes() for path in sorted(out.glob("part-*"))})
        print("\nall outputs are equal" if found[0] == found[1] == found[2] else "\nOUTPUTS DIFFER")


def serve(busy: float, rest: float, idle: float) -> None:
    """Print the number of replicas, under load and after."""
    options = ("--ray", "local", "--replicas", "1", "--most-replicas", "3", "--rows", "4", "--threads", "1")
    process = subprocess.Popen(
        [*COMMAND, "serve", *options, "--idle", str(idle), "--port", "8321"], stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if found := re.search(r"on (http://\S+);", line):
            break
    url, began = found[1], time.perf_counter()
    threading.Thread(target=process.stderr.read, daemon=True).start()
    answers: list[int] = []

    def client(number: int) -> None:
        while time.perf_counter() < began + busy:
            body = {"prompt": "dear anna ,", "seed": number, "schedule": "uniform", "steps": 40}
            answers.append(httpx2.post(url + "/v1/completions", json=body, timeout=300).status_code)

    def watch() -> None:
        last = 0
        while time.perf_counter() < began + busy + rest:
            now = replicas(process.pid)
            if now != last:
                print(f"{time.perf_counter() - began:.0f} s: {now} replicas", flush=True)
            last = now
            time.sleep(1)

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(client, range(24)))
    good = answers.count(200)
    print(f"{time.perf_counter() - began:.0f} s: the load ends; {good} of {len(answers)} answers were 200", flush=True)
    watching.join()
    process.terminate()
    print(f"the server ends with status {process.wait(120)}")


def replicas(process: int) -> int:
    """Return how many processes below one are replicas: Ray's raylet is its child, and they are the raylet's."""
    lines = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    parents = {int(line.split()[0]): int(line.split()[1]) for line in lines[1:]}
    found = [int(line.split()[0]) for line in lines[1:] if "ray::ServeReplica:demask" in line]
    return sum(process in (parents[one], parents.get(parents[one])) for one in found)


def main() -> None:
    """Do one of them, or both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("batch", "serve"), nargs="*", default=["batch", "serve"])
    parser.add_argument("--lines", type=int, default=128)
    parser.add_argument("--busy", type=float, default=90.0)
    parser.add_argument("--rest", type=float, default=120.0)
    parser.add_argument("--idle", type=float, default=20.0)
    arguments = parser.parse_args()
    if "batch" in arguments.what:
        batch(arguments.lines)
    if "serve" in arguments.what:
        serve(arguments.busy, arguments.rest, arguments.idle)


if __name__ == "__main__":
    main()
