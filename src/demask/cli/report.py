"""`demask report`: one self-contained page about measured curves."""

from pathlib import Path

from demask import files, report
from demask.cli.compare import parse_steps
from demask.cli.output import console, say_json, working
from demask.information.measurement import Measurement


def run(paths: list[Path], *, steps: str, hedge: float, out: Path, as_json: bool) -> None:
    """Write the page and say where it is."""
    counts = parse_steps(steps)
    files.check_folder(out)
    measurements = [Measurement.load(path) for path in paths]
    with working("planning and drawing"):
        page = report.page(measurements, steps=counts, hedge=hedge)
    files.write(out, page.encode())
    if as_json:
        say_json({"report": str(out), "measurements": [str(path) for path in paths]})
    else:
        console().print(f"wrote {out}", soft_wrap=True, markup=False)
