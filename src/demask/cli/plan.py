"""`demask plan`: from a measured curve to sizes and a certificate."""

import json
from pathlib import Path

from demask import files, plots
from demask.cli.output import console, listed, say_json
from demask.errors import SpecError
from demask.information.measurement import Measurement
from demask.information.plan import Unit, plan
from demask.schedules import Plan


def run(
    path: Path,
    *,
    steps: int | None,
    excess: float | None,
    unit: Unit,
    hedge: float,
    out: Path | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Plan and tell."""
    if plot is not None:
        plots.check(plot)
    if (steps is None) == (excess is None):
        raise SpecError("demask plan needs --steps or --excess, one of them: --steps 16, or --excess 0.05")
    if out is not None:
        files.check_folder(out)
    planned = plan(Measurement.load(path), steps=steps, excess=excess, unit=unit, hedge=hedge)
    certificate = planned.certificate
    if out is not None:
        files.write(out, (json.dumps(certificate.to_json(), indent=1) + "\n").encode())
    if plot is not None:
        plots.save(plots.schedule(planned.schedule), plot)
    if as_json:
        say_json(certificate.to_json())
        return
    screen = console()
    if isinstance(planned.schedule, Plan):
        screen.print(f"sizes  {listed(planned.schedule.sizes, most=64)}\n", soft_wrap=True)
    else:
        share, sizes = planned.schedule.mixture()[0]
        screen.print(f"sizes  {listed(sizes.sizes, most=64)} (the most probable, {share:.1%})\n", soft_wrap=True)
    screen.print(certificate.text(), markup=False, soft_wrap=True)
    for written in (out, plot):
        if written is not None:
            screen.print(f"wrote {written}", soft_wrap=True, markup=False)
