"""`demask train-policy`: from a model and what is right to a policy folder."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
import typer

from demask import policies
from demask.cli.output import console, say_json, working
from demask.cli.train import language
from demask.contracts import Sampler
from demask.errors import SpecError
from demask.generate import load
from demask.policies import Learned
from demask.registry import build
from demask.samplers import Parallel
from demask.schedules import Unlimited
from demask.tokenizer import Tokenizer
from demask.training.policy import PolicyRecipe, Round, TrainedPolicy, train_policy
from demask.training.task import Task, possible, texts
from demask.training.train import Status

EVALUATED: Final = 64  # runs after the training, of canvases that it did not begin with
EVALUATION_KEY: Final = 1 << 40  # no iteration of a training has it
_LINE_EVERY: Final = 10.0  # seconds


def task(model: str, *, shown: int | None = None, temperature: float | None = None) -> Task:
    """Return the task of a model whose language can be checked, or of an oracle.

    Parameters:
        model: `demask/notes`, a folder trained on a known language, or an oracle's specification.
        shown: tokens given at the beginning; None: three of a text, none of an oracle.
        temperature: at which tokens are drawn; None: the model's own, 1 for an oracle.

    Raises:
        SpecError: a model of no known language, or no such oracle.
        TrainingError: nothing left to unmask.
    """
    if not (model.startswith("demask/") or Path(model).is_dir()):
        oracle = build(model, "oracle")
        return possible(oracle, shown=shown or 0, temperature=1.0 if temperature is None else temperature)
    loaded = load(model)
    known = loaded.about.get("language")
    if known is None or not isinstance(loaded.tokenizer, Tokenizer):
        raise SpecError(f"{model}: its texts cannot be checked; expected a model of a known language: demask/notes")
    return texts(
        loaded.denoiser, loaded.tokenizer, language(str(known)), context=loaded.context, name=model,
        shown=3 if shown is None else shown,
        temperature=loaded.recipe.temperature if temperature is None else temperature,
    )  # fmt: skip


def run(
    model: str,
    *,
    out: Path,
    recipe: PolicyRecipe,
    shown: int | None = None,
    temperature: float | None = None,
    expert: str | None = None,
    resume: bool = False,
    threads: int | None = None,
    as_json: bool = False,
) -> TrainedPolicy:
    """Train and tell.

    Raises:
        typer.Exit: with 130, after a clean stop by Ctrl-C.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    policies.check(out)
    with working("loading"):
        known = task(model, shown=shown, temperature=temperature)
        teacher: Sampler[Any] | None = None
        if expert is not None:
            teacher = Parallel(Unlimited(), build(expert, "order"))
    about = {"model": model, "shown": shown, "temperature": temperature, "expert": expert}
    trained = train_policy(
        known, recipe, out=out, expert=teacher, resume=resume, about=about, watch=_watching(quiet=as_json)
    )  # fmt: skip
    with working("evaluating"):
        correct, steps = known.score(Learned(trained.policy, recipe.size), EVALUATED, key=EVALUATION_KEY)
    facts = {
        "out": str(out), "status": trained.status.name.lower(), "iterations": len(trained.rounds), "right": correct,
        "steps": steps, "texts": EVALUATED,
    }  # fmt: skip
    if as_json:
        say_json({**facts, "rounds": [asdict(each) for each in trained.rounds]})
    else:
        screen = console()
        screen.print(
            f"{len(trained.rounds)} iterations: {correct:.0%} right in {steps:.1f} steps, of {EVALUATED} new runs",
            soft_wrap=True, markup=False,
        )  # fmt: skip
        screen.print(f"wrote {out}; sample by Learned({str(out)!r})", soft_wrap=True, markup=False)
    if trained.status is Status.INTERRUPTED:
        raise typer.Exit(130)
    return trained


def _watching(*, quiet: bool) -> Callable[[Round], None]:
    last = -_LINE_EVERY

    def line(moment: Round) -> None:
        nonlocal last
        if quiet or moment.seconds - last < _LINE_EVERY:
            return
        last = moment.seconds
        sys.stderr.write(
            f"{moment.seconds:.0f} s, iteration {moment.iteration}, worth {moment.worth:.3f}, right {moment.correct:.0%}, "
            f"{moment.steps:.1f} steps\n"
        )
        sys.stderr.flush()

    return line
