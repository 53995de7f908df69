"""`demask report`: one self-contained page about measured curves."""

from pathlib import Path
from typing import TYPE_CHECKING

from demask import files, plots, report
from demask.cli.compare import parse_steps
from demask.cli.output import console, say_json, working
from demask.information.measurement import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(paths: list[Path], *, steps: str, hedge: float, out: Path, pictures: Path | None, as_json: bool) -> None:
    """Write the page, and its pictures as files if a folder is given, and say where they are."""
    counts = parse_steps(steps)
    files.check_folder(out)
    if pictures is not None:
        files.check_folder(pictures / "curve.png")
    measurements = [Measurement.load(path) for path in paths]
    with working("planning and drawing"):
        page = report.page(measurements, steps=counts, hedge=hedge)
        drawn = [] if pictures is None else _draw(pictures, report.figures(measurements, steps=counts))
    files.write(out, page.encode())
    if as_json:
        wrote = {"pictures": [str(path) for path in drawn]} if drawn else {}
        say_json({"report": str(out), "measurements": [str(path) for path in paths], **wrote})
        return
    for path in (out, *drawn):
        console().print(f"wrote {path}", soft_wrap=True, markup=False)


def _draw(folder: Path, figures: "dict[str, Figure]") -> list[Path]:
    """Write every figure as PNG and as SVG."""
    paths = [folder / f"{name}{suffix}" for name in figures for suffix in (".png", ".svg")]
    for path in paths:
        plots.save(figures[path.stem], path)
    return paths
