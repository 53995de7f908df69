"""What can be typed about models: the commands and their options.

Nothing heavy is imported until a command runs, so that help comes at once.
"""

from pathlib import Path
from typing import Annotated, Final

import typer

from demask.cli import options as o
from demask.cli.group import app
from demask.cli.output import working

_ALONE: Final = ("seconds", "steps", "accumulate", "optimiser", "rate", "compile")
_TOGETHER: Final = ("topology", "method", "rounds", "concentration", "transport", "meet", "here")


@app.command()
def train(
    asked: typer.Context,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILES]", help="Texts, or folders that hold them.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The model folder.")] = Path("model"),
    oracle: Annotated[str | None, typer.Option("--oracle", help="A known language instead of files: notes.")] = None,
    size: Annotated[str, typer.Option("--size", help="tiny, small or base.")] = "tiny",
    network: Annotated[
        str, typer.Option("--network", help="transformer; or permutation, for speculative decoding.")
    ] = "transformer",
    seconds: Annotated[float | None, typer.Option("--seconds", help="Time to spend.  [default: 600]")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", callback=o.at_least(1), help="Instead: steps, which resume bit for bit.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", callback=o.at_least(1), help="Windows per step.")] = 16,
    accumulate: Annotated[
        int, typer.Option("--accumulate", callback=o.at_least(1), help="Parts that a batch is cut into.")
    ] = 1,
    context: Annotated[
        int | None, typer.Option("--context", callback=o.at_least(2), help="Tokens of a window.")
    ] = None,
    documents: Annotated[
        str | None, typer.Option("--documents", help="packed, or windows: one text each, filled up with end tokens.")
    ] = None,
    vocabulary: Annotated[int, typer.Option("--vocabulary", help="Tokens to learn.")] = 2048,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="FILE", help="A tokenizer.json instead.")
    ] = None,
    glob: Annotated[str, typer.Option("--glob", help="Which files of a folder.")] = "*",
    held_out: Annotated[float, typer.Option("--held-out", help="Share of the texts to evaluate on.")] = 0.05,
    optimiser: Annotated[str, typer.Option("--optimiser", help="muon or adamw.")] = "muon",
    rate: Annotated[float, typer.Option("--rate", help="Peak learning rate of AdamW.")] = 1e-3,
    early: Annotated[
        float, typer.Option("--early", help="Part of the training in which at most 30 % of a row is masked.")
    ] = 0.1,
    focus: Annotated[
        str, typer.Option("--focus", metavar="LIST", help="Constraints of the oracle that rows ask for: place,names.")
    ] = "",
    share: Annotated[float, typer.Option("--focus-share", help="Of the rows.")] = 0.75,
    precision: Annotated[str, typer.Option("--precision", help="fp32 or bf16.")] = "fp32",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network first.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", callback=o.at_least(1), help="CPU threads.")] = None,
    key: o.Key = 0,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Begin with the weights of this model folder.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --out.")] = False,
    peers: Annotated[
        int | None, typer.Option("--peers", callback=o.at_least(1), help="Train so many peers that share no data.")
    ] = None,
    topology: Annotated[
        str, typer.Option("--topology", metavar="SPEC", help="Who talks to whom: ring, grid, 'graph(\"peers.gml\")'.")
    ] = "ring",
    method: Annotated[
        str, typer.Option("--method", metavar="SPEC", help="dfedadmm, 'dfedavg(5, adam(0.001))', dfedsam, dpsgd.")
    ] = "dfedadmm",
    rounds: Annotated[int, typer.Option("--rounds", callback=o.at_least(1), help="Exchanges of the peers.")] = 200,
    concentration: Annotated[
        float, typer.Option("--concentration", help="Of the peers' shares of the files; small is uneven.")
    ] = 0.6,
    transport: Annotated[
        str, typer.Option("--transport", help="here: all in this process; processes: one each; ray: actors.")
    ] = "here",
    meet: Annotated[
        str | None,
        typer.Option("--meet", metavar="HOST:PORT", help="Where machines meet: that of peer 0; a Ray address."),
    ] = None,
    here: Annotated[
        str | None, typer.Option("--here", metavar="LIST", help="Peers on this machine, 4-7; FILES are theirs.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Train a masked diffusion model on texts; Ctrl-C stops it, --resume goes on."""
    with working("loading"):
        from demask.cli.train import Material, run
        from demask.training import Masks, Recipe
    material = Material(tuple(files or ()), oracle, glob, held_out, documents, context, tokenizer, vocabulary,
                        tuple(filter(None, focus.split(","))), share)  # fmt: skip
    given = o.given(asked)
    if peers is not None:
        from demask.cli import federated

        o.refuse(given & {*_ALONE}, "--peers has rounds and a method")
        way = federated.spread_by(transport, meet=meet, here=here, threads=threads)
        federated.run(
            material, peers, topology, method, out=out, rounds=rounds, batch=batch, early=early, network=network,
            precision=precision, key=key, size=size, concentration=concentration, spread=way,
            cluster=meet or "local", resume=resume, start=start, threads=threads, as_json=json,
        )  # fmt: skip
        return
    o.refuse(given & {*_TOGETHER}, "for --peers only")
    recipe = Recipe(
        steps, 600.0 if seconds is None and steps is None else seconds, batch, optimiser, rate, accumulate=accumulate,
        precision=precision, compiled=compiled, masks=Masks(early=early), network=network, key=key,
    )  # fmt: skip
    run(material, out=out, recipe=recipe, size=size, resume=resume, start=start, threads=threads, as_json=json)


@app.command(name="train-policy")
def train_policy(
    model: Annotated[
        str, typer.Argument(help="demask/notes, a folder of a known language, or an oracle: latin_square.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The policy folder.")] = Path("policy"),
    seconds: Annotated[float | None, typer.Option("--seconds", help="Time to spend.  [default: 600]")] = None,
    iterations: Annotated[int | None, typer.Option("--iterations", help="Instead: batches of runs.")] = None,
    law: Annotated[str, typer.Option("--law", help="bernoulli or plackett_luce.")] = "bernoulli",
    alpha: Annotated[float, typer.Option("--alpha", help="Weight of speed; 0: only right counts.")] = 1.0,
    prompts: Annotated[int, typer.Option("--prompts", help="Canvases per batch.")] = 16,
    rollouts: Annotated[int, typer.Option("--rollouts", help="Runs per canvas.")] = 8,
    expert: Annotated[
        str | None, typer.Option("--expert", metavar="ORDER", help="Learn from it too: 'threshold(confidence, 0.9)'.")
    ] = None,
    block: Annotated[int | None, typer.Option("--block", help="Positions to finish before the next.")] = None,
    rate: Annotated[float, typer.Option("--rate", help="Peak learning rate.")] = 1e-3,
    shown: Annotated[int | None, typer.Option("--shown", help="Tokens given; 3 of a text, 0 of an oracle.")] = None,
    temperature: o.Temperature = None,
    threads: Annotated[int | None, typer.Option("--threads", callback=o.at_least(1), help="CPU threads.")] = None,
    key: o.Key = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Begin with the policy in --out.")] = False,
    json: o.Json = False,
) -> None:
    """Train a policy that chooses which tokens are unmasked together: right answers, in few steps."""
    with working("loading"):
        from demask.cli.policy import run
        from demask.training.policy import PolicyRecipe
    recipe = PolicyRecipe(
        iterations, 600.0 if seconds is None and iterations is None else seconds, law, alpha, prompts, rollouts,
        experts=int(expert is not None), rate=rate, size=block, key=key, clip=0.5 if expert is None else 0.2,
    )  # fmt: skip
    run(
        model, out=out, recipe=recipe, shown=shown, temperature=temperature, expert=expert, resume=resume,
        threads=threads, as_json=json,
    )  # fmt: skip


@app.command()
def sparsify(
    model: Annotated[str, typer.Argument(help="demask/notes, or a folder that demask train wrote.")],
    files: Annotated[list[Path] | None, typer.Argument(metavar="[DATA]", help="Texts, or folders of them.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The sparse model's folder.")] = Path("sparse"),
    oracle: Annotated[str | None, typer.Option("--oracle", help="A known language instead of files: notes.")] = None,
    pattern: Annotated[str, typer.Option("--pattern", metavar="N:M", help="Keep N of every M weights.")] = "2:4",
    method: Annotated[str, typer.Option("--method", help="learned, wanda or magnitude.")] = "learned",
    start: Annotated[
        str, typer.Option("--start", help="What learning begins with: wanda, magnitude, or the best.")
    ] = "best",
    seconds: Annotated[float | None, typer.Option("--seconds", help="Time to learn.  [default: 600]")] = None,
    steps: Annotated[int | None, typer.Option("--steps", callback=o.at_least(1), help="Instead: steps.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Of the logits.  [default: fitted to the noise]")] = None,
    scale: Annotated[float, typer.Option("--scale", help="Logits of what is kept at first.")] = 3.0,
    batch: Annotated[int, typer.Option("--batch", callback=o.at_least(1), help="Windows of a minibatch.")] = 8,
    samples: Annotated[int, typer.Option("--samples", callback=o.at_least(1), help="Windows to learn from.")] = 512,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="GLOB", help="Layers to take, such as 'blocks.0.*'.")
    ] = None,
    leave: Annotated[list[str] | None, typer.Option("--leave", metavar="GLOB", help="Layers to leave dense.")] = None,
    skip_uneven: Annotated[
        bool, typer.Option("--skip-uneven", help="Leave layers dense whose inputs are no multiple of M.")
    ] = False,
    glob: Annotated[str, typer.Option("--glob", help="Which files of a folder.")] = "*",
    held_out: Annotated[float, typer.Option("--held-out", help="Share of the texts to evaluate on.")] = 0.05,
    threads: Annotated[int | None, typer.Option("--threads", callback=o.at_least(1), help="CPU threads.")] = None,
    key: o.Key = 0,
    json: o.Json = False,
) -> None:
    """Keep N of every M weights of a model, learned by forward passes; Ctrl-C keeps the masks so far."""
    with working("loading"):
        from demask.cli.sparsify import Texts, run
        from demask.denoisers.sparse import Pattern
        from demask.training import SparsityRecipe
    recipe = SparsityRecipe(
        steps, 600.0 if seconds is None and steps is None else seconds, Pattern.parse(pattern), rate, scale, key=key
    )
    run(
        model, Texts(tuple(files or ()), oracle, glob, held_out, samples, batch), out=out, recipe=recipe, method=method,
        start=start, only=tuple(only or ("*",)), leave=tuple(leave or ()), skip_uneven=skip_uneven, threads=threads,
        as_json=json,
    )  # fmt: skip


@app.command(name="eval")
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder, as demask train writes it.")],
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILES]", help="Texts not trained on.")] = None,
    oracle: Annotated[str | None, typer.Option("--oracle", help="A known language instead of files: notes.")] = None,
    texts: Annotated[int, typer.Option("--texts", callback=o.at_least(2), help="New texts of the language.")] = 256,
    glob: Annotated[str, typer.Option("--glob", help="Which files of a folder.")] = "*",
    rounds: Annotated[int, typer.Option("--rounds", callback=o.at_least(1), help="Masks per window.")] = 4,
    steps: Annotated[str, typer.Option("--steps", metavar="LIST", help="Numbers of steps.")] = "4,8,16,32",
    passes: Annotated[
        int, typer.Option("--passes", callback=o.at_least(1), help="Forward passes for the path NLLs.")
    ] = 1024,
    key: o.Key = 0,
    json: o.Json = False,
) -> None:
    """Score a model on texts: bits per byte by the NELBO, and the path NLL of each schedule."""
    with working("loading"):
        from demask.cli.eval import run
    run(
        model, files or [], oracle=oracle, texts=texts, glob=glob, rounds=rounds, steps=steps, passes=passes, key=key,
        as_json=json,
    )  # fmt: skip


@app.command()
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue; - reads stdin. Nothing: from the start.")
    ] = None,
    model: o.ModelOption = o.MODEL,
    load: o.Loading = None,
    n: Annotated[int, typer.Option("--n", callback=o.at_least(1), help="Samples.")] = 1,
    key: o.Seed = 0,
    schedule: o.Sizes = None,
    order: o.Ranking = None,
    steps: o.StepsAsked = None,
    excess: o.Excess = None,
    block: o.Block = None,
    over: o.Counted = None,
    sampler: o.SamplerOption = None,
    temperature: o.Temperature = None,
    top_k: o.TopK = None,
    top_p: o.TopP = None,
    min_p: o.MinP = None,
    repetition_penalty: o.Penalty = None,
    forbid: o.Forbid = None,
    guidance: o.Guidance = None,
    end: o.EndOption = None,
    stop: o.Stop = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="The prompt is a message, written by the model's chat template; print the answer."),
    ] = False,
    most: Annotated[
        int | None,
        typer.Option("--max-new-tokens", callback=o.at_least(1), help="At most so many.  [default: all that fit]"),
    ] = None,
    save: o.Save = None,
    json: o.Json = False,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Prompts from stdin, a JSON string per line; a result per line.")
    ] = False,
    replay: Annotated[Path | None, typer.Option("--replay", metavar="RUN.json", help="Play a saved run.")] = None,
    step: Annotated[int | None, typer.Option("--step", help="With --replay: print the canvas after this step.")] = None,
) -> None:
    """Continue a prompt with a model; on a terminal, see the canvas being unmasked. In a pipe: the text alone."""
    with working("loading"):
        from demask.cli.generate import run
    settings = o.settings(
        schedule=schedule, order=order, steps=steps, excess=excess, block=block, over=over, sampler=sampler,
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
        forbid=forbid, guidance=guidance,
        end=end, stop=stop,
    )  # fmt: skip
    run(
        prompt, model, load, settings, n=n, key=key, max_new_tokens=most, chat=chat, save=save, as_json=json, jsonl=jsonl,
        replayed=replay, step=step,
    )  # fmt: skip


@app.command()
def fill(
    template: Annotated[str, typer.Argument(help="Text with gaps, 'return [MASK:6]'; - reads stdin.")],
    model: o.ModelOption = o.MODEL,
    load: o.Loading = None,
    n: Annotated[int, typer.Option("--n", callback=o.at_least(1), help="Samples.")] = 1,
    key: o.Seed = 0,
    schedule: o.Sizes = None,
    order: o.Ranking = None,
    steps: o.StepsAsked = None,
    excess: o.Excess = None,
    block: o.Block = None,
    over: o.Counted = None,
    sampler: o.SamplerOption = None,
    temperature: o.Temperature = None,
    top_k: o.TopK = None,
    top_p: o.TopP = None,
    min_p: o.MinP = None,
    repetition_penalty: o.Penalty = None,
    forbid: o.Forbid = None,
    guidance: o.Guidance = None,
    save: o.Save = None,
    json: o.Json = False,
) -> None:
    """Fill the gaps of a text: [MASK] is one token, [MASK:6] six; what stands around them never changes."""
    with working("loading"):
        from demask.cli.fill import run
    settings = o.settings(
        schedule=schedule, order=order, steps=steps, excess=excess, block=block, over=over, sampler=sampler,
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
        forbid=forbid, guidance=guidance,
    )  # fmt: skip
    run(template, model, load, settings, n=n, key=key, save=save, as_json=json)


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="A model folder, or the name of a model inside the package.")],
    load: o.Loading = None,
    json: o.Json = False,
) -> None:
    """Say what a model folder is, what would be used of it, and what is missing; exit 1 if it cannot be loaded."""
    with working("loading"):
        from demask.cli.doctor import run
    run(folder, load, as_json=json)


@app.command(name="list")
def list_(
    what: Annotated[str | None, typer.Argument(metavar="[KIND|NAME]", help="order, sampler, .., or a name.")] = None,
    json: o.Json = False,
) -> None:
    """Show families of checkpoints, schedules, orders, verifiers, samplers and the rest, with law, cost and reference."""
    from demask.cli.listing import run

    run(what, as_json=json)


@app.command()
def batch(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="A JSON string, or an object, per line.")],
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Where the results go; an unfinished run goes on.")],
    model: o.ModelOption = o.MODEL,
    key: o.Seed = 0,
    schedule: o.Sizes = None,
    order: o.Ranking = None,
    steps: o.StepsAsked = None,
    excess: o.Excess = None,
    temperature: o.Temperature = None,
    top_p: o.TopP = None,
    most: Annotated[
        int | None, typer.Option("--max-new-tokens", callback=o.at_least(1), help="At most so many per line.")
    ] = None,
    rows: Annotated[int, typer.Option("--batch", callback=o.at_least(1), help="Lines at a time.")] = 16,
    shard: Annotated[int, typer.Option("--shard", callback=o.at_least(1), help="Lines per file of results.")] = 256,
    full: Annotated[bool, typer.Option("--full", help="Keep tokens and steps too, as --save does.")] = False,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="[ADDRESS]", help="Share the work: local, auto, or a Ray cluster.")
    ] = None,
    actors: Annotated[int | None, typer.Option("--actors", callback=o.at_least(1), help="Models at work.")] = None,
    gpus: Annotated[float, typer.Option("--gpus", callback=o.at_least(0), help="GPUs of each actor.")] = 0.0,
    threads: Annotated[int | None, typer.Option("--threads", callback=o.at_least(1), help="CPU threads.")] = None,
    json: o.Json = False,
) -> None:
    """Generate for every line of a file; restarted with the same command, it goes on and does nothing twice."""
    with working("loading"):
        from demask.batch import Work
        from demask.cli.batch import go
    asked = o.settings(schedule=schedule, order=order, steps=steps, excess=excess, temperature=temperature, top_p=top_p)
    settings = {name: value for name, value in asked.items() if value is not None}
    work = Work(model, key, most, settings, rows, full)
    go(source, out, work, shard=shard, ray=ray, actors=actors, gpus=gpus, threads=threads, as_json=json)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="A model folder, or demask/notes.")] = o.MODEL,
    load: o.Loading = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option("--api-keys", metavar="FILE", help="A key per line; or DEMASK_API_KEYS, between commas."),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", callback=o.at_least(1), help="Texts decoded side by side.")] = 64,
    positions: Annotated[
        int, typer.Option("--positions", callback=o.at_least(1), help="Positions of one forward pass: memory.")
    ] = 1 << 16,
    queue: Annotated[int, typer.Option("--queue", callback=o.at_least(1), help="Texts that may wait.")] = 256,
    samples: Annotated[int, typer.Option("--samples", callback=o.at_least(1), help="Texts of one request.")] = 64,
    body: Annotated[int, typer.Option("--body", callback=o.at_least(1), help="Bytes of one request.")] = 1 << 20,
    deadline: Annotated[float, typer.Option("--deadline", help="Seconds a request may take.")] = 300.0,
    threads: Annotated[int | None, typer.Option("--threads", callback=o.at_least(1), help="CPU threads.")] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="[ADDRESS]", help="Serve by Ray: local, auto, or a Ray cluster.")
    ] = None,
    replicas: Annotated[int, typer.Option("--replicas", callback=o.at_least(1), help="Models that stand.")] = 1,
    most: Annotated[
        int | None, typer.Option("--most-replicas", callback=o.at_least(1), help="Models under load.")
    ] = None,
    gpus: Annotated[float, typer.Option("--gpus", callback=o.at_least(0), help="GPUs of each replica.")] = 0.0,
    idle: Annotated[float, typer.Option("--idle", help="Seconds without load that end one of several models.")] = 600.0,
) -> None:
    """Serve a model in the shape of OpenAI's API, with a page to watch it; SIGTERM ends when all is answered."""
    with working("loading"):
        from demask.cli.serve import go
        from demask.serve.limits import Limits
    limits = Limits(rows, positions, queue, samples, body, deadline)
    go(
        model, load, host=host, port=port, keys=keys, limits=limits, threads=threads, ray=ray, replicas=replicas,
        most=most, gpus=gpus, idle=idle,
    )  # fmt: skip
