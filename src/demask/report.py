"""One self-contained page about measured models: curve, cost against steps, recommended sizes, certificate."""

from collections.abc import Sequence
from html import escape
from math import log
from typing import TYPE_CHECKING, Any

from demask import plots
from demask.curve import Estimate
from demask.information.measurement import Measurement
from demask.information.plan import Candidate, best_of, plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS = (4, 8, 16, 32, 64, 128)
_STYLE = """
:root { color-scheme: light dark; --ink: #222; --page: #fff; --faint: #6b6b6b; --line: #d8d8d8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --page: #16181a; --faint: #a0a0a0; --line: #3a3d40; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 56rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
figure { margin: 1rem 0; overflow-x: auto; } svg { width: 100%; min-width: 36rem; height: auto; fill: currentColor; }
figcaption, .faint { color: var(--faint); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th.text, td.text { text-align: left; white-space: normal; }
td.best { font-weight: 700; } td.best::after { content: " *"; }
pre { background: color-mix(in srgb, var(--ink) 6%, transparent); padding: .8rem; overflow-x: auto; font-size: .85rem; }
"""


def page(measurements: Sequence[Measurement], *, steps: Sequence[int] = _STEPS, hedge: float = 0.1) -> str:
    """Return an HTML page without any outside resource; light or dark as the reader's system is.

    Parameters:
        measurements: one section each; they may differ in length and model.
        steps: numbers of steps to compare; those beyond a model's length are left out.
        hedge: share of the minimax schedule in the recommended sizes.

    Raises:
        DemaskError: matplotlib is missing, or there is nothing to report.

    Cost: a plan per schedule and number of steps, seconds at n = 1024.
    """
    sections = "\n".join(_section(one, [k for k in steps if k <= one.length], hedge) for one in measurements)
    curve = plots.svg(plots.curve(measurements))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>demask: what parallel decoding costs</title><style>{_STYLE}</style></head><body>
<h1>What parallel decoding costs</h1>
<p>Loss of a masked token, given j visible ones in random places; the steps of a schedule cost nothing where this curve is
flat. Bars: 95% of the sampling error. Band: what any falling curve through the measured points can be.</p>
<figure>{curve}</figure>
{sections}
</body></html>
"""


def figures(measurements: Sequence[Measurement], *, steps: Sequence[int] = _STEPS) -> "dict[str, Figure]":
    """Return the pictures of the page by name: "curve", and "cost-1", "cost-2", .. of the measurements in turn.

    Raises, Cost: as `page`.
    """
    costs = [plots.compare(_rows(one, [k for k in steps if k <= one.length])) for one in measurements]
    return {"curve": plots.curve(measurements)} | {f"cost-{turn}": cost for turn, cost in enumerate(costs, 1)}


def _rows(one: Measurement, steps: Sequence[int]) -> list[dict[str, Any]]:
    return [_row(candidate, k, one) for k in steps for candidate in best_of(one.curve(), k)]


def _section(one: Measurement, steps: Sequence[int], hedge: float) -> str:
    rows = _rows(one, steps)
    figure = plots.svg(plots.compare(rows))
    recommended = "\n".join(_recommended(one, k) for k in steps)
    facts = [
        ("positions", str(one.length)),
        ("NELBO", _nats(one.nelbo, one.length)),
        ("total correlation", _nats(one.tc, one.length)),
        ("dual total correlation", _nats(one.dtc, one.length)),
        ("sequences", str(int(one.passes[0]))),
        ("model", one.fingerprint),
        ("key", str(one.key)),
    ]
    table = "".join(f'<tr><th>{escape(name)}</th><td class="text">{escape(value)}</td></tr>' for name, value in facts)
    middle = steps[len(steps) // 2]
    certificate = plan(one, steps=middle, hedge=hedge).certificate.text()
    return f"""<h2>{escape(one.data)}, {one.length} positions</h2>
<div class="wide"><table>{table}</table></div>
<h3>Cost against steps</h3>
<figure>{figure}<figcaption>Expected path negative log-likelihood above the NELBO, nats per sequence, at the point
estimate of the curve.</figcaption></figure>
<div class="wide">{_costs(rows, steps)}</div>
<p class="faint">* the least of its column. <code>optimal</code> is fitted to this curve; <code>hedged</code> keeps a share
of the minimax schedule in case the curve is wrong.</p>
<h3>Recommended sizes</h3>
<div class="wide"><table><tr><th>steps</th><th class="text">sizes</th><th>cost, nats, 95%</th></tr>
{recommended}</table></div>
<h3>Certificate for {middle} steps</h3>
<pre>{escape(certificate)}</pre>"""


def _row(candidate: Candidate, steps: int, one: Measurement) -> dict[str, Any]:
    worst = candidate.constant * max(0.0, min(one.tc, one.dtc)) if candidate.name == "minimax" else 0.0
    name = 'minimax(target="both")' if candidate.name == "minimax" else candidate.name
    return {"schedule": name, "steps": steps, "path_kl_nats": candidate.cost, "guarantee_nats": worst}


def _costs(rows: Sequence[dict[str, Any]], steps: Sequence[int]) -> str:
    names = list(dict.fromkeys(str(row["schedule"]) for row in rows))
    cost = {(row["schedule"], row["steps"]): float(row["path_kl_nats"]) for row in rows}
    head = "".join(f"<th>{k} steps</th>" for k in steps)
    lines = []
    for name in names:
        cells = []
        for k in steps:
            least = min(value for (_, count), value in cost.items() if count == k)
            value = cost.get((name, k))
            best = ' class="best"' if value is not None and value <= least * (1 + 1e-9) else ""
            cells.append(f"<td{best}>{'' if value is None else f'{value:.4g}'}</td>")
        lines.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}</tr>")
    return f"<table><tr><th>schedule, nats</th>{head}</tr>{''.join(lines)}</table>"


def _recommended(one: Measurement, steps: int) -> str:
    planned = plan(one, steps=steps)
    low, high = planned.certificate.interval
    sizes = ", ".join(map(str, getattr(planned.schedule, "sizes", ())))
    return f'<tr><td>{steps}</td><td class="text">{escape(sizes)}</td><td>{low:.4g} to {high:.4g}</td></tr>'


def _nats(value: Estimate, length: int) -> str:
    low, high = value.interval()
    exact = "" if value.exact else f" (95%: {low:.4g} to {high:.4g})"
    return f"{float(value):.4g} nats{exact}, {float(value) / log(2) / length:.4g} bits per token"
