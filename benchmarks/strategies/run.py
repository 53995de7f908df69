"""Every strategy of the registry on laws whose truth is known, at equal cost.

Run: python benchmarks/strategies/run.py [--quick] [FAMILY ...]; an hour and a half on one core, by the points' seconds.
    --quick takes some minutes: an eighth of the rows (a third of the notes), one number of steps, and no hmm256, whose
    passes are the dearest. Fewer rows have a larger TV of neighbours, also where the law is exact: compare it within a run.
    python benchmarks/strategies/run.py --draw draws the pictures and tables again from the points.
    python benchmarks/strategies/run.py --again FAMILY 'SPEC' makes one point again, which is printed.

Writes points.csv beside this file (one line per point, with the specification, the rows and the key that make it again),
docs/guide/strategies-points.md and docs/pictures/strategies-FAMILY.png. --quick writes below out/.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import torch
from families import Family, Value, blank, denoiser_of, families
from pictures import page, picture

from demask import Status, build, sample
from strategies import STRATEGIES, Strategy

HERE, ROOT, KEY = Path(__file__).parent, Path(__file__).parents[2], 1
Row = dict[str, str]


def main(*words: str) -> None:
    """Compare, write and draw."""
    torch.set_num_threads(1)
    quick, names = "--quick" in words, [word for word in words if not word.startswith("--")]
    known = families(quick=quick)
    place = ROOT / "out" / "strategies" if quick else None
    points = (place or HERE) / "points.csv"
    points.parent.mkdir(parents=True, exist_ok=True)
    if "--again" in words:
        family = known[names[0]]()
        listed = [strategy for strategy in STRATEGIES if names[1] in _specs(strategy, family)]
        point(family, *(listed[:1] or [Strategy("", "", names[1])]), names[1])
        return
    if "--draw" not in words:
        for name in names or list(known):
            begin = perf_counter()
            _write(points, [row for row in _read(points) if row["family"] != name])
            for found in compare(known[name]()):
                _write(points, [*_read(points), found])  # so that a run that is stopped keeps what it has
            print(f"{name}: {perf_counter() - begin:.0f} s", flush=True)
    rows = _read(points)
    made = {name: known[name]() for name in known if any(row["family"] == name for row in rows)}
    pictures = place or ROOT / "docs" / "pictures"
    for name, family in made.items():
        picture(family, [row for row in rows if row["family"] == name], pictures / f"strategies-{name}.png")
    (place or ROOT / "docs" / "guide").joinpath("strategies-points.md").write_text(page(made, rows), encoding="utf-8")


def compare(family: Family) -> Iterator[Row]:
    """Measure every strategy that the family's denoisers can serve."""
    for strategy in STRATEGIES:
        able = all(
            strategy.needs in family.context(task)
            if strategy.needs == "curve"
            else hasattr(denoiser_of(task), strategy.needs)
            for task in family.tasks
            if strategy.needs
        )
        if not able:
            continue
        for spec in _specs(strategy, family):
            found = point(family, strategy, spec)
            if found:
                yield found


def point(family: Family, strategy: Strategy, spec: str) -> Row | None:
    """Sample by one specification, and judge it; None where it takes more steps than the family has time for."""
    begin = perf_counter()
    rows = max(2, int(family.rows * strategy.rows))
    judged: list[dict[str, Value]] = []
    for task in family.tasks:
        known = family.context(task)
        if not spec.startswith("Adaptive"):
            known.pop("verifier", None)  # another noun than the verifier of Parallel
        sampler = family.around(build(spec, "sampler", **known))
        run = sample(
            denoiser_of(task), sampler, blank(family, rows), key=KEY, collect=family.collect(), max_steps=family.limit
        )
        if run.status is Status.STOPPED:
            return None
        judged.append({"nfe": Value.of(run.nfe.double()), **family.judge(task, run.tokens, run.collected)})
    out: Row = {
        "family": family.name, "strategy": strategy.name, "kind": strategy.kind, "spec": spec, "key": str(KEY),
        "rows": str(rows), "law": sampler.law.name,
    }  # fmt: skip
    for name in judged[0]:
        values = [one[name] for one in judged]
        count = len(values)
        mean = sum(one.value for one in values) / count
        low = sum((one.value - one.low) ** 2 for one in values) ** 0.5 / count
        high = sum((one.high - one.value) ** 2 for one in values) ** 0.5 / count
        out |= {name: f"{mean:.4g}", f"{name}_low": f"{mean - low:.4g}", f"{name}_high": f"{mean + high:.4g}"}
    out["seconds"] = f"{perf_counter() - begin:.1f}"
    print(family.name, spec, {name: out[name] for name in judged[0]}, out["seconds"], flush=True)
    return out


def _specs(strategy: Strategy, family: Family) -> list[str]:
    n = family.length
    made = []
    for k in family.steps:
        for x in strategy.settings or (0,):
            block = max(1, round(k * min(16, n) / n))
            made.append(strategy.spec.format(k=k, b=block, n=n, x=int(x) if x == int(x) and x > 2 else x))
    return list(dict.fromkeys(made))


def _read(path: Path) -> list[Row]:
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


def _write(path: Path, rows: list[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
