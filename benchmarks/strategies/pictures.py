"""The points as pictures and tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from families import Family
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from demask import plots
from strategies import BLIND, KINDS, MASKED, NOISY, SURE, TESTED, VERIFIED

Row = Mapping[str, str]
COLOURS = {
    BLIND: plots._BLUE, SURE: plots._RED, TESTED: plots._GREEN, MASKED: plots._SKY, NOISY: plots._ORANGE,
    VERIFIED: plots._PINK,
}  # fmt: skip
MARKERS = dict(zip(KINDS, "osD^vP", strict=True))
SHOWN = {"excess": (-0.4, 0.85), "tv": (0.0, 0.32), "loss": (-0.4, 1.2)}  # a point beyond is drawn at the edge
TRUTH = "one token at a time"


def picture(family: Family, rows: Sequence[Row], path: Path) -> None:
    """Draw two measures against passes, a line per strategy, with the best for every number of passes named."""
    shown = list(family.metrics.items())[:2]
    figure = plots._figure(13.5, 5.6)
    both = figure.subplots(1, 2)
    for axes, (metric, (words, best)) in zip(both, shown, strict=True):
        low_edge, high_edge = SHOWN.get(metric, (-0.02, 1.1))

        def clipped(value: float, low: float = low_edge, high: float = high_edge) -> float:
            return min(max(value, low), high)

        for name in dict.fromkeys(row["strategy"] for row in rows):
            mine = sorted((row for row in rows if row["strategy"] == name), key=lambda row: float(row["nfe"]))
            kind, y = mine[0]["kind"], [float(row[metric]) for row in mine]
            low = [clipped(v) - clipped(float(row[f"{metric}_low"])) for v, row in zip(y, mine, strict=True)]
            high = [clipped(float(row[f"{metric}_high"])) - clipped(v) for v, row in zip(y, mine, strict=True)]
            axes.errorbar(
                [float(row["nfe"]) for row in mine], [clipped(v) for v in y], yerr=[low, high],
                color=COLOURS[kind], marker=MARKERS[kind], markersize=4, linewidth=0.9, elinewidth=0.6, alpha=0.75,
                markeredgewidth=0,
            )  # fmt: skip
        front = pareto(rows, metric, best)
        axes.step(
            [float(row["nfe"]) for row in front], [clipped(float(row[metric])) for row in front], where="post",
            color=plots._INK,
            linewidth=1.0, linestyle=(0, (4, 3)), zorder=0,
        )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        room = (high_edge - low_edge) / 50
        axes.set(xlabel="passes per row", ylabel=words, ylim=(low_edge - room, high_edge + room))
        exact = [float(row[metric]) for row in rows if row["strategy"] == TRUTH]
        axes.axhline(exact[0] if exact else best, color=plots._FAINT, linewidth=1.4, zorder=0)
        axes.grid(axis="y", color=plots._GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        plots._quiet(axes)
        ends = {
            row["strategy"]: (clipped(float(row[metric])), row["strategy"], COLOURS[row["kind"]], float(row["nfe"]))
            for row in front
        }
        plots._name_ends(axes, list(ends.values()))
    for kind in [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]:
        both[0].plot([], [], color=COLOURS[kind], marker=MARKERS[kind], markersize=5, linewidth=1.2, label=kind)
    figure.legend(
        *both[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=9,
        labelcolor=plots._INK,
    )  # fmt: skip
    figure.suptitle(
        f"{family.title}; dashed: the best for so many passes; grey: one token at a time",
        x=0.01,
        ha="left",
        fontsize=11,
        color=plots._INK,
    )
    plots.save(figure, path)


def pareto(rows: Sequence[Row], metric: str, best: float) -> list[Row]:
    """Return the points that are nearer to the best value than all that cost no more."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (float(row["nfe"]), abs(float(row[metric]) - best))):
        if not front or abs(float(row[metric]) - best) < abs(float(front[-1][metric]) - best):
            front.append(row)
    return front


def page(families: Mapping[str, Family], rows: Sequence[Row]) -> str:
    """Return all points as a page, a table per family."""
    parts = [
        "<!-- written by benchmarks/strategies/run.py; do not edit -->",
        "# Every point of the comparison",
        "What to make of them: [strategies](strategies.md). Each line is made again by `python benchmarks/strategies/run.py "
        "--again FAMILY 'SPEC'` (key 1). Half-widths of 95 % intervals behind the numbers; passes are means per row.",
    ]
    for name, family in families.items():
        mine = [row for row in rows if row["family"] == name]
        metrics = family.metrics
        fronts = {metric: pareto(mine, metric, best) for metric, (_, best) in metrics.items()}
        parts.append(f"## {name}: {family.title}\n\nBold: nothing as cheap is nearer to the best value.")
        head = ["strategy", "`spec`", "law", "rows", "passes", *(words for words, _ in metrics.values())]
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for row in mine:
            cells = [row["strategy"], f"`{row['spec']}`", row["law"], row["rows"], f"{float(row['nfe']):.1f}"]
            for metric in metrics:
                value, half = float(row[metric]), (float(row[f"{metric}_high"]) - float(row[f"{metric}_low"])) / 2
                text = f"{value:.3f}" + (f" ± {half:.3f}" if half > 0 else "")
                cells.append(f"**{text}**" if row in fronts[metric] else text)
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
