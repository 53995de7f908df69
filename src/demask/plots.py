"""Pictures of schedules, comparisons and canvases.

Figures are matplotlib's, made without its global state; it is imported when the first one is made.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from math import nan
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

from demask.errors import DemaskError
from demask.files import check_folder, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from demask.information.measurement import Measurement
    from demask.loop import Run
    from demask.schedules import Sizes

SUFFIXES: Final = (".png", ".svg", ".pdf")
_DPI: Final = 160
_INK, _FAINT, _GRID = "#222222", "#b8b8b8", "#e6e6e6"
_BLACK, _ORANGE, _SKY, _GREEN, _BLUE, _RED, _PINK = (  # Okabe and Ito: told apart by every kind of eye
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
_DASHES: Final = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
_MARKERS: Final = "osD^vP*X"
_LINES: Final = {  # a colour per family, a dash and marker per member
    "optimal": (_BLACK, 0),
    "two_number": (_PINK, 0),
    "minimax": (_BLUE, 0),
    "fixed": (_SKY, 0),
    "uniform": (_RED, 0),
    "cosine": (_RED, 1),
    "geometric": (_ORANGE, 0),
    "binomial": (_GREEN, 0),
    "sequential": (_SKY, 1),
}
_WHOLE: Final = 96  # positions up to which a canvas shows every step
_LINE: Final = 64  # characters per line of longer ones


def schedule(sizes: "Sizes") -> "Figure":
    """Draw where the boundaries of the steps lie, and the residual against what it is held to.

    Above: P(i tokens is the end of a step), or the sizes of a plan. Below: R(i), and constant * w_i for TC, DTC and both.

    Parameters:
        sizes: any, of length 2 or more.

    Raises:
        DemaskError: matplotlib is missing, or a length of 1, which has nothing to draw.
    """
    import numpy as np

    from demask.schedules import Plan, Systematic, weights

    if sizes.length < 2:
        raise DemaskError(f"{sizes!r} has one position and nothing to draw; expected a length of 2 or more")
    figure = _figure(7.5, 5.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.35))
    n = sizes.length
    i = np.arange(1, n)
    if isinstance(sizes, Systematic):
        above.fill_between(i, sizes.inclusion, step="mid", color=_BLUE, alpha=0.25, linewidth=0)
        above.step(i, sizes.inclusion, where="mid", color=_BLUE, linewidth=1.4)
        above.set_ylim(0, max(1e-3, float(sizes.inclusion.max())) * 1.08)
        above.set_ylabel("P(a step ends here)")
    else:
        plan = sizes if isinstance(sizes, Plan) else sizes.draw(1, key=0)[0]
        edges = np.array([0, *plan.boundaries])
        above.stairs(plan.sizes, edges, fill=True, color=_BLUE, alpha=0.25)
        above.stairs(plan.sizes, edges, color=_BLUE, linewidth=1.4)
        above.set_ylim(0, max(plan.sizes) * 1.08)
        above.set_ylabel("size of the step" if plan is sizes else "size of the step\n(one draw)")
    residual = sizes.residual()
    top = max(float(residual.max()), 1e-9) * 1.25
    lines = (("tc", "TC", "n - i", _RED, 1), ("dtc", "DTC", "i", _GREEN, 2), ("both", "both", "min(i, n - i)", _INK, 3))
    for target, name, weight, colour, dash in lines:
        constant = sizes.constant(target)  # type: ignore[arg-type]
        line = constant * weights(n, target)  # type: ignore[arg-type]
        label = f"{name}: {constant:.3g} ({weight})"
        below.plot(i, np.where(line <= top, line, np.nan), color=colour, linestyle=_DASHES[dash], lw=1.1, label=label)
    below.plot(i, residual, color=_SKY, linewidth=3.2, alpha=0.8, label="R(i)", zorder=1)
    below.set(xlim=(0, n), ylim=(0, top), xlabel="unmasked tokens i", ylabel="mean distance to\nthe end of the step")
    below.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8.5, labelcolor=_INK)
    above.set_title(_shortened(repr(sizes)), loc="left", fontsize=10.5, color=_INK)
    _quiet(above, below)
    return figure


def compare(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw path KL against steps, a line per schedule, with the guarantee of minimax for both totals as a thin line.

    Parameters:
        rows: with the keys schedule, steps, path_kl_nats and guarantee_nats, as `demask compare --json` has them.

    Raises:
        DemaskError: matplotlib is missing, or no rows.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    if not rows:
        raise DemaskError("no rows to draw; expected one per schedule and number of steps")
    figure = _figure(8.6, 5.4)
    axes = figure.subplots()
    names = list(dict.fromkeys(row["schedule"] for row in rows))
    counts = sorted({row["steps"] for row in rows})
    styles = _styles(names)
    ends: list[tuple[float, str, str, float]] = []
    exact: list[str] = []
    for name in names:
        points = sorted((r["steps"], r["path_kl_nats"]) for r in rows if r["schedule"] == name)
        zeros = [str(k) for k, kl in points if kl <= 1e-12]  # a logarithm has no place for them
        exact += [f"{_label(name)} at {', '.join(zeros)}"] if zeros else []
        shown = [(k, kl) for k, kl in points if kl > 1e-12]
        if not shown:
            continue
        points = [(k, kl if kl > 1e-12 else nan) for k, kl in points]  # the line breaks there
        colour, dash, marker, width = styles[name]
        axes.plot(
            *zip(*points, strict=True), color=colour, linestyle=dash, marker=marker, markersize=4.5, linewidth=width,
            markeredgewidth=0,
        )  # fmt: skip
        ends.append((shown[-1][1], _label(name), colour, shown[-1][0]))
    bound = 'minimax(target="both")'
    points = sorted((r["steps"], r["guarantee_nats"]) for r in rows if r["schedule"] == bound)
    points = [(k, kl) for k, kl in points if kl > 1e-12]
    if points:
        axes.plot(*zip(*points, strict=True), color=_INK, linestyle=(0, (4, 3)), linewidth=0.9)
        ends.append((points[-1][1], "guarantee of minimax both", _INK, points[-1][0]))
    axes.set(xscale="log", yscale="log", xlabel="steps", ylabel="expected path KL, nats")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    if exact:
        note = fill(f"0, below the axis: {'; '.join(exact)}", 104)
        axes.set_title(note, loc="left", fontsize=8.5, color=_INK)
    _quiet(axes)
    _name_ends(axes, ends)
    return figure


def right(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw the share of texts that are right against passes per text, with 95 % intervals, a line per schedule.

    Parameters:
        rows: with the keys schedule, steps, nfe, right, low and high, as `demask compare --model --json` has them; the row
            whose steps are None, one token at each, is drawn as the level that all others try to keep.

    Raises:
        DemaskError: matplotlib is missing, or no rows.
    """
    if not rows:
        raise DemaskError("no rows to draw; expected one per schedule and number of steps")
    figure = _figure(8.6, 4.6)
    axes = figure.subplots()
    axes.set(ylabel="texts that satisfy every constraint")
    _name_ends(axes, draw_right(axes, rows))
    return figure


def draw_right(axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> "list[tuple[float, str, str, float]]":
    """Draw what `right` draws, without names, and return what names the ends of its lines."""
    from matplotlib.ticker import PercentFormatter

    planned = [row for row in rows if row["steps"] is not None]
    names = list(dict.fromkeys(row["schedule"] for row in planned))
    styles = _styles(names)
    ends: list[tuple[float, str, str, float]] = []
    for name in names:
        mine = sorted((row for row in planned if row["schedule"] == name), key=lambda row: row["nfe"])
        colour, dash, marker, width = styles[name]
        below = [row["right"] - row["low"] for row in mine]
        above = [row["high"] - row["right"] for row in mine]
        axes.errorbar(
            [row["nfe"] for row in mine], [row["right"] for row in mine], yerr=[below, above], color=colour,
            linestyle=dash, marker=marker, markersize=4.5, linewidth=width, elinewidth=0.7, markeredgewidth=0,
        )  # fmt: skip
        ends.append((mine[-1]["right"], _label(name), colour, mine[-1]["nfe"]))
    for row in rows:
        if row["steps"] is None:
            axes.axhline(row["right"], color=_INK, linestyle=(0, (4, 3)), linewidth=0.9)
            axes.annotate(
                f"one token each, {row['nfe']:.0f} passes", (0, row["right"]), xycoords=("axes fraction", "data"),
                xytext=(4, 3), textcoords="offset points", fontsize=8.5, color=_INK,
            )  # fmt: skip
    axes.set(xlabel="passes per text", ylim=(-0.02, 1.06))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    _quiet(axes)
    return ends


def curve(measurements: "Sequence[Measurement]") -> "Figure":
    """Draw measured loss curves: the grid with its standard errors, the rigorous band, and the line between.

    Parameters:
        measurements: of any models and lengths; the axis is the share of visible tokens if the lengths differ.

    Raises:
        DemaskError: matplotlib is missing, or nothing to draw.
    """
    if not measurements:
        raise DemaskError("no measurements to draw; expected one or more, as demask measure writes them")
    import numpy as np

    figure = _figure(8.6, 4.4)
    axes = figure.subplots()
    share = len({m.length for m in measurements}) > 1
    colours = (_BLUE, _RED, _GREEN, _ORANGE, _PINK, _SKY, _BLACK)
    for turn, one in enumerate(measurements):
        colour, scale = colours[turn % len(colours)], one.length if share else 1
        j = np.arange(one.length) / scale
        low, high = one.bracket()
        axes.fill_between(j, low.values, high.values, step="mid", color=colour, alpha=0.16, linewidth=0)
        axes.plot(j, one.curve().values, color=colour, linestyle=_DASHES[turn % len(_DASHES)], linewidth=1.5)
        axes.errorbar(
            one.grid / scale, one.loss, yerr=1.96 * one.error, color=colour, fmt=_MARKERS[turn % len(_MARKERS)],
            markersize=4, elinewidth=1, capsize=2, label=f"{one.data}, n = {one.length}",
        )  # fmt: skip
    axes.set(xlabel="share of visible tokens" if share else "visible tokens j", ylabel="loss of a masked token, nats")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right", frameon=False, fontsize=8.5, labelcolor=_INK)
    _quiet(axes)
    return figure


def svg(figure: "Figure") -> str:
    """Return a figure as an SVG element for a page: transparent, and its ink is the page's own text colour.

    Raises:
        DemaskError: matplotlib is missing.
    """
    from io import StringIO

    from matplotlib import rc_context

    buffer = StringIO()
    with rc_context({"svg.hashsalt": "demask"}):  # equal figures give equal text
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = (
        text[text.index("<svg") :]
        .replace(_INK, "currentColor")
        .replace("#000000", "currentColor")
        .replace(_GRID, "#8884")
    )
    return text.replace("<svg ", '<svg role="img" ', 1)


def canvas(run: "Run", text: Sequence[str], *, row: int = 0) -> "Figure":
    """Draw how one row was unmasked, every token in the colour of its step.

    Up to 96 positions: a line per step, unmasked tokens as they stand, the new ones in full colour. Longer rows: the final
    text, in lines of 64 characters.

    Parameters:
        run: what `sample` returned.
        text: what to write into the cell of each position of that row, a character each.
        row: of the batch.

    Raises:
        DemaskError: matplotlib is missing, or another number of cells than positions.
    """
    when = run.when[row].tolist()
    if len(when) != len(text):
        raise DemaskError(f"{len(text)} cells of text for {len(when)} positions; expected one each")
    steps = max([*when, 0]) + 1
    return _steps(when, text, steps) if len(when) <= _WHOLE else _page(when, text, steps)


def save(figure: "Figure", path: str | Path) -> None:
    """Write a figure to a .png, .svg or .pdf file, whole or not at all.

    Raises:
        DemaskError: another suffix, or no such folder.
        OSError: the device refuses.
    """
    path = Path(path)
    check(path)
    buffer = BytesIO()
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
    figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=_DPI, facecolor="white", metadata=undated)
    write(path, buffer.getvalue())


def check(path: str | Path) -> None:
    """Raise DemaskError now if `save` would later: a wrong suffix, a missing folder, no matplotlib."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DemaskError(f"{path} ends in {path.suffix or 'nothing'!r}; pictures end in {', '.join(SUFFIXES)}")
    check_folder(path)
    _matplotlib()


def _matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DemaskError("pictures need matplotlib; install it: pip install 'demask[plot]'") from error


def _figure(width: float, height: float) -> "Figure":
    _matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _quiet(*axes: "Axes") -> None:
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(_FAINT)
        one.tick_params(colors=_INK, labelsize=9, color=_FAINT)
        one.xaxis.label.set(color=_INK, size=10)
        one.yaxis.label.set(color=_INK, size=10)


def _shortened(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _family(name: str) -> str:
    return name.split("(")[0].strip()


def _label(name: str) -> str:
    """Return a specification in words: `minimax(target="tc")` is minimax tc."""
    inside = name.partition("(")[2].rpartition(")")[0]
    values = [part.rpartition("=")[2].strip(" \"'") for part in inside.split(",") if part.strip()]
    return _shortened(" ".join([_family(name).replace("_", "-"), *values]), 32)


def _styles(names: Sequence[str]) -> dict[str, tuple[str, Any, str, float]]:
    """Return colour, dash, marker and width of every schedule."""
    others = [_BLUE, _RED, _GREEN, _ORANGE, _PINK, _SKY, _BLACK]
    members: dict[str, int] = {}
    styles: dict[str, tuple[str, Any, str, float]] = {}
    for turn, name in enumerate(names):
        family = _family(name)
        colour, first = _LINES.get(family, (others[turn % len(others)], 0))
        member = first + members.get(family, 0)
        members[family] = members.get(family, 0) + 1
        main = family in ("optimal", "minimax")
        styles[name] = (
            colour, _DASHES[member % len(_DASHES)], _MARKERS[turn % len(_MARKERS)], 1.9 if main else 1.3,
        )  # fmt: skip
    return styles


def _name_ends(axes: "Axes", ends: Sequence[tuple[float, str, str, float]]) -> None:
    """Write names to the right of the lines, moved apart, each tied to the end of its line."""
    if not ends:
        return
    gap = 0.0465
    ranked = sorted(ends)
    within = axes.transData + axes.transAxes.inverted()  # whatever the scales are
    wanted = [float(within.transform((steps, value))[1]) for value, _, _, steps in ranked]
    places = _apart(wanted, gap)
    right = axes.get_xlim()[1]
    for (value, name, colour, steps), place in zip(ranked, places, strict=True):
        axes.annotate(
            name, xy=(steps, value), xycoords="data", xytext=(1.055, place), textcoords="axes fraction", va="center",
            ha="left", fontsize=8.8, color=colour if colour not in (_SKY, _ORANGE) else _INK, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.7, "shrinkA": 1, "shrinkB": 4,
                "relpos": (0, 0.5)},
        )  # fmt: skip
    axes.set_xlim(right=right)


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Return places, in the same order, at least `gap` apart and as near to the wanted ones as that allows, from 0 up."""
    groups: list[list[float]] = []

    def centre(group: list[float]) -> float:
        half = (len(group) - 1) * gap / 2
        return min(max(sum(group) / len(group), half), max(1 - half, half))

    for place in wanted:
        groups.append([place])
        while len(groups) > 1:
            before, last = groups[-2:]
            if centre(last) - centre(before) >= (len(before) + len(last)) * gap / 2 - 1e-12:
                break
            groups[-2:] = [before + last]
    return [centre(group) + (k - (len(group) - 1) / 2) * gap for group in groups for k in range(len(group))]


def _shade(step: int, steps: int) -> tuple[float, float, float, float]:
    """Return a light colour for a step, from viridis less its darkest fifth, so that dark text stays readable."""
    from matplotlib import colormaps

    share = step / max(1, steps - 1)
    red, green, blue, _ = colormaps["viridis"](0.22 + 0.76 * share)
    lift = 0.42
    return (red + (1 - red) * lift, green + (1 - green) * lift, blue + (1 - blue) * lift, 1.0)


def _steps(when: Sequence[int], text: Sequence[str], steps: int) -> "Figure":
    """Draw a line per step."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    n = len(when)
    cell = 7.5 / max(n, 24)  # inches
    tall = max(1.75 * cell, 0.17)
    figure = _figure(0.75 + cell * n, 0.75 + tall * steps)
    axes = figure.subplots()
    patches: list[Rectangle] = []
    colours: list[tuple[float, float, float, float]] = []
    for step in range(steps):
        for place, (turn, symbol) in enumerate(zip(when, text, strict=True)):
            shown, fresh = -1 <= turn <= step and turn != -2, turn == step
            patches.append(Rectangle((place, step), 1, 1))
            colours.append(_shade(step, steps) if fresh else (1, 1, 1, 1) if shown else (0.945, 0.945, 0.945, 1))
            if shown:
                axes.text(
                    place + 0.5, step + 0.52, symbol.replace("$", r"\$"), ha="center", va="center_baseline",
                    family="monospace", fontsize=min(11, cell * 72 * 1.25), color=_INK if fresh else "#555555",
                    weight="bold" if fresh else "normal",
                )  # fmt: skip
    axes.add_collection(PatchCollection(patches, facecolor=colours, edgecolor="white", linewidth=0.5))
    axes.set(xlim=(0, n), ylim=(steps, 0), xlabel="position", ylabel="step")
    axes.set_yticks([step + 0.5 for step in range(steps)], [str(step + 1) for step in range(steps)])
    axes.set_xticks([place + 0.5 for place in range(0, n, 8)], [str(place) for place in range(0, n, 8)])
    _quiet(axes)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _page(when: Sequence[int], text: Sequence[str], steps: int) -> "Figure":
    """Draw the final text in lines, every cell in the colour of its step."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Rectangle

    lines = -(-len(when) // _LINE)
    figure = _figure(8.4, 0.9 + 0.215 * lines)
    axes = figure.subplots()
    axes.add_collection(
        PatchCollection(
            [Rectangle((place % _LINE, place // _LINE), 1, 1) for place in range(len(when))],
            facecolor=[_shade(turn, steps) if turn >= 0 else (0.945, 0.945, 0.945, 1) for turn in when],
            edgecolor="white", linewidth=0.5,
        )
    )  # fmt: skip
    for place, (turn, symbol) in enumerate(zip(when, text, strict=True)):
        if turn != -2:
            axes.text(
                place % _LINE + 0.5, place // _LINE + 0.52, symbol.replace("$", r"\$"), ha="center",
                va="center_baseline", family="monospace", fontsize=9, color=_INK,
            )  # fmt: skip
    axes.set(xlim=(0, _LINE), ylim=(lines, 0), yticks=[], xticks=[])
    axes.spines[:].set_visible(False)
    colours = ListedColormap([_shade(step, steps) for step in range(steps)])
    scale = ScalarMappable(BoundaryNorm([step + 0.5 for step in range(steps + 1)], steps), colours)
    bar = figure.colorbar(scale, ax=axes, orientation="horizontal", aspect=70, pad=0.02, shrink=0.6)
    ticks = range(1, steps + 1, max(1, -(-steps // 16)))
    bar.set_ticks(list(ticks), labels=[str(tick) for tick in ticks])
    bar.set_label("unmasked at step", color=_INK, size=9)
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    bar.ax.tick_params(length=0, labelsize=8.5, colors=_INK)
    return figure
