"""Pictures of several panels: errors against steps, a line per size of the problem, thick ones below thin ones.

Lines that lie on each other show as rings around the thinnest, so that "no difference" can be seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from demask.errors import DemaskError
from demask.plots import _GRID, _INK, _MARKERS, _figure, _name_ends, _quiet, draw_right

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """Errors against steps.

    Parameters:
        title: above it.
        lines: name of a line, and its steps and errors; errors of 0 have no place on a logarithmic axis and are left out.
    """

    title: str
    lines: Mapping[str, Sequence[tuple[int, float]]]


def grid(rows: Sequence[tuple[str, Sequence[Panel]]]) -> "Figure":
    """Draw rows of panels, each row with the name of its error; panels of the same error share its axis.

    Raises:
        DemaskError: matplotlib is missing, or nothing to draw.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if not rows or not all(panels for _, panels in rows):
        raise DemaskError("no rows to draw; expected one per rule, dimension and number of steps")
    from matplotlib import colormaps

    wide = max(len(panels) for _, panels in rows)
    one_error = len({label for label, _ in rows}) == 1
    figure = _figure(4.3 * wide + 0.4, 3.0 * len(rows) + 0.6)
    axes = figure.subplots(len(rows), wide, sharey="all" if one_error else "row", squeeze=False)
    for row, (label, panels) in enumerate(rows):
        axes[row, 0].set_ylabel(label)
        for one, panel in zip(axes[row], panels, strict=True):
            last = max(1, len(panel.lines) - 1)
            for turn, (name, points) in enumerate(panel.lines.items()):
                shown = [(steps, error) for steps, error in points if error > 1e-12]
                if shown:
                    one.plot(
                        *zip(*shown, strict=True), color=colormaps["viridis"](0.9 - 0.85 * turn / last), label=name,
                        linewidth=1.1 + 1.7 * (last - turn), marker=_MARKERS[turn % len(_MARKERS)],
                        markersize=4 + 1.6 * (last - turn), markeredgewidth=0,
                    )  # fmt: skip
            one.set(xscale="log", yscale="log", xlabel="steps")
            one.set_title(panel.title, loc="left", fontsize=9.5, color=_INK)
            one.xaxis.set_major_locator(FixedLocator(sorted({s for points in panel.lines.values() for s, _ in points})))
            one.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            one.xaxis.set_minor_locator(NullLocator())
            one.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            one.yaxis.set_minor_locator(NullLocator())
            one.grid(axis="y", color=_GRID, linewidth=0.7)
            one.set_axisbelow(True)
            _quiet(one)
            if row == len(rows) - 1:
                one.legend(
                    loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, frameon=False, fontsize=8, labelcolor=_INK,
                    columnspacing=1.2, handlelength=2.4,
                )  # fmt: skip
    return figure


def continuous(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw path KL, and total variation where it is known, against steps: a panel per rule, a line per dimension.

    Parameters:
        rows: as `demask compare --continuous --json` has them.

    Raises:
        DemaskError: matplotlib is missing, or no rows.
    """
    rules = list(dict.fromkeys(row["coefficients"] for row in rows))

    def panel(rule: str, error: str) -> Panel:
        mine = [row for row in rows if row["coefficients"] == rule]
        lines: dict[str, list[tuple[int, float]]] = {}
        for row in mine:
            lines.setdefault(f"d = {row['dimension']}", []).append((row["steps"], row[error]))
        return Panel(f"{rule}, k = {mine[0]['rank']}", lines)

    errors = {"path KL, nats": "path_kl_nats"}
    if rows and all(row["tv"] is not None for row in rows):
        errors["total variation"] = "tv"
    return grid([(label, [panel(rule, error) for rule in rules]) for label, error in errors.items()])


def right(settings: Mapping[str, Sequence[Mapping[str, Any]]]) -> "Figure":
    """Draw the share of texts that are right against passes per text, a panel per setting, all on one scale.

    Parameters:
        settings: the title of a panel, and its rows as `plots.right` takes them.

    Raises:
        DemaskError: matplotlib is missing, or no rows.
    """
    if not settings or not all(settings.values()):
        raise DemaskError("no rows to draw; expected one per schedule and number of steps in every panel")
    figure = _figure(5.4 * len(settings) + 0.6, 4.4)
    axes = figure.subplots(1, len(settings), sharex=True, sharey=True, squeeze=False)[0]
    axes[0].set_ylabel("texts that satisfy every constraint")
    ends = [draw_right(one, rows) for one, rows in zip(axes, settings.values(), strict=True)]
    axes[0].set_xlim(left=0)
    for one, title, names in zip(axes, settings, ends, strict=True):
        one.set_title(title, loc="left", fontsize=9.5, color=_INK)
        _name_ends(one, names)
    return figure
