"""The configuration language: `repr` written down, parsed back, never evaluated.

A specification is a name, or a call of a name with literals and further specifications: `minimax(target="both")`,
`Threshold(Blockwise(Confidence(), 32), 0.9)`. Case and underscores of names do not matter. Strings exist only at the edge:
the command line, a server, a file.
"""

import ast
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

from demask import denoisers, oracles, orders, policies, samplers, schedules, verifiers
from demask.errors import SpecError
from demask.training import federated

Entry = Callable[..., Any]

KINDS: dict[str, dict[str, Entry]] = {
    "schedule": {
        "binomial": schedules.binomial,
        "cosine": schedules.cosine,
        "fixed": schedules.fixed,
        "geometric": schedules.geometric,
        "hedged": schedules.hedged,
        "minimax": schedules.minimax,
        "optimal": schedules.optimal,
        "PerBlock": schedules.PerBlock,
        "Plan": schedules.Plan,
        "self_calibrating": schedules.self_calibrating,
        "sequential": schedules.sequential,
        "Systematic": schedules.Systematic,
        "two_number": schedules.two_number,
        "uniform": schedules.uniform,
        "Unlimited": schedules.Unlimited,
    },
    "order": {
        "Blockwise": orders.Blockwise,
        "Confidence": orders.Confidence,
        "Deferred": orders.Deferred,
        "Dilated": orders.Dilated,
        "Entropy": orders.Entropy,
        "EntropyBudget": orders.EntropyBudget,
        "Factor": orders.Factor,
        "Hierarchical": orders.Hierarchical,
        "Independent": orders.Independent,
        "LeftToRight": orders.LeftToRight,
        "Margin": orders.Margin,
        "Noisy": orders.Noisy,
        "Pooled": orders.Pooled,
        "Random": orders.Random,
        "Threshold": orders.Threshold,
    },
    "verifier": {"AcceptAll": verifiers.AcceptAll},
    "sampler": {
        "Absorbing": samplers.Absorbing,
        "Adaptive": samplers.Adaptive,
        "Credited": samplers.Credited,
        "Beam": samplers.Beam,
        "Editing": samplers.Editing,
        "Ended": samplers.Ended,
        "Learned": policies.Learned,
        "Lookahead": samplers.Lookahead,
        "Parallel": samplers.Parallel,
        "Remasking": samplers.Remasking,
        "SMC": samplers.SMC,
        "Renoising": samplers.Renoising,
        "Speculative": samplers.Speculative,
        "Stable": samplers.Stable,
        "UniformState": samplers.UniformState,
    },
    "grid": {
        "Constant": samplers.Constant,
        "ExponentialThenConstant": samplers.ExponentialThenConstant,
        "Linear": samplers.Linear,
    },
    "strategy": {
        "Cap": samplers.Cap,
        "Confident": samplers.Confident,
        "Loop": samplers.Loop,
        "Rescale": samplers.Rescale,
    },
    "potential": {"Foresight": samplers.Foresight, "SelfReward": samplers.SelfReward},
    "oracle": {
        "copy": oracles.copy,
        "insert": oracles.insert,
        "latin_square": oracles.latin_square,
        "markov": oracles.Chain.random,
        "parity": oracles.parity,
        "reed_solomon": oracles.reed_solomon,
        "remove": oracles.remove,
        "repetition": oracles.repetition,
        "replace": oracles.replace,
        "reverse": oracles.reverse,
        "shuffle": oracles.shuffle,
        "table": oracles.Table.random,
    },
    "coefficients": {"General": samplers.General, "LowDimensional": samplers.LowDimensional},
    "distribution": {"points": oracles.points, "subspaces": oracles.subspaces},
    "denoiser": {
        "Cached": denoisers.Cached,
        "Delayed": denoisers.Delayed,
        "Forbidden": denoisers.Forbidden,
        "Guided": denoisers.Guided,
        "MinP": denoisers.MinP,
        "Nucleus": denoisers.Nucleus,
        "Penalised": denoisers.Penalised,
        "Recomputed": denoisers.Recomputed,
        "Tempered": denoisers.Tempered,
        "TopK": denoisers.TopK,
    },
    "topology": {
        "edges": federated.edges,
        "exponential": federated.exponential,
        "full": federated.full,
        "graph": federated.graph,
        "grid": federated.grid,
        "ring": federated.ring,
        "Topology": federated.Topology,
    },
    "method": {
        "DFedADMM": federated.DFedADMM,
        "dfedadmm_sam": federated.dfedadmm_sam,
        "DFedAvg": federated.DFedAvg,
        "dfedavgm": federated.dfedavgm,
        "dfedsam": federated.dfedsam,
        "DPSGD": federated.DPSGD,
    },
    "descent": {
        "Adam": federated.Adam,
        "SGD": federated.SGD,
    },
}
_PARSING = threading.Lock()
_FAMILY = ("length", "steps")  # what a schedule family takes, and a row or the command line knows


def build(text: str, kind: str, **context: Any) -> Any:
    """Return the object that a specification describes.

    Parameters:
        text: such as `minimax(target="both")`.
        kind: "schedule", "order", "verifier", "sampler", "strategy" (of remasking), "grid" (of levels of noise), "potential"
            (of particles), "oracle", "denoiser"; of decentralised training "topology", "method", "descent"; of the
            continuous companion "coefficients" and "distribution".
        context: values for parameters that the specification leaves out, by name (steps=16, length=256, curve=..).

    Returns:
        For a schedule family without a length: that family per row, `PerRow(minimax, steps=16, target="both")`.

    Raises:
        SpecError: text that cannot be parsed, an unknown name or option, a missing one.

    Example:
        >>> build('minimax(target="both")', "schedule", steps=16)
        minimax(steps=16, target='both')
        >>> build("threshold(blockwise(confidence, 32), 0.9)", "order")
        Threshold(Blockwise(Confidence(of='mode'), 32), 0.9)
    """
    try:
        tree = parsed(text).body
    except (SyntaxError, ValueError) as error:
        raise SpecError(
            f"{text!r} is not a specification; write name or name(option=value): {_example(kind)}"
        ) from error
    return _object(tree, kind, context, text)


def parsed(text: str) -> ast.Expression:
    """Return a specification's syntax, one at a time: the parser of Python 3.11 fails where two threads are in it.

    Raises: what `ast.parse` raises.
    """
    with _PARSING:
        return ast.parse(text.strip(), mode="eval")


def names(kind: str) -> list[str]:
    """Return the names that exist, sorted.

    Example:
        >>> names("denoiser")
        ['Cached', 'Delayed', 'Forbidden', 'Guided', 'MinP', 'Nucleus', 'Penalised', 'Recomputed', 'Tempered', 'TopK']
    """
    return sorted(KINDS[kind], key=str.lower)


def cite(thing: object) -> str:
    """Return where a component comes from: the Reference of its docstring.

    Example:
        >>> cite(schedules.cosine)
        'Chang et al., MaskGIT, 2022, arXiv 2202.04200.'
    """
    thing = getattr(thing, "family", thing)
    _, found, reference = (inspect.getdoc(thing) or "").partition("Reference:")
    if not found:
        raise SpecError(f"{thing!r} states no reference")
    return " ".join(reference.split("\n\n")[0].split())


def _object(node: ast.expr, kind: str, context: Mapping[str, Any], text: str) -> Any:
    if isinstance(node, ast.Name):
        return _call(_entry(node.id, kind), [], {}, kind, context)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if any(keyword.arg is None for keyword in node.keywords):
            raise SpecError(f"{text!r} unpacks a mapping; write every option by name")
        if _entry(node.func.id, kind) is schedules.PerBlock:  # the length is that of a block, which the row decides
            context = {name: value for name, value in context.items() if name != "length"}
        positional = [_value(argument, context, text) for argument in node.args]
        options = {keyword.arg: _value(keyword.value, context, text) for keyword in node.keywords if keyword.arg}
        return _call(_entry(node.func.id, kind), positional, options, kind, context)
    raise SpecError(f"{ast.unparse(node)!r} names no {kind}; write name or name(option=value): {_example(kind)}")


def _value(node: ast.expr, context: Mapping[str, Any], text: str) -> Any:
    """Return a literal, or a component of whatever kind has that name."""
    if isinstance(node, ast.Name | ast.Call):
        name = node.id if isinstance(node, ast.Name) else ast.unparse(node.func)
        for kind, entries in KINDS.items():
            if plain(name) in map(plain, entries):
                return _object(node, kind, context, text)
        if name in ("inf", "nan"):
            return float(name)
        known = ", ".join(name for kind in KINDS for name in names(kind))
        raise SpecError(f"{name!r} in {text!r} is unknown; quote it if it is a word, or use one of: {known}")
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise SpecError(f"{ast.unparse(node)!r} in {text!r} is neither a literal nor a specification") from error


def _entry(name: str, kind: str) -> Entry:
    if kind not in KINDS:
        raise SpecError(f"kind {kind!r}; expected one of {', '.join(KINDS)}")
    for known, entry in KINDS[kind].items():
        if plain(known) == plain(name):
            return entry
    raise SpecError(f"no {kind} is called {name!r}; there are: {', '.join(names(kind))}")


def _call(entry: Entry, positional: list[Any], options: dict[str, Any], kind: str, context: Mapping[str, Any]) -> Any:
    signature = inspect.signature(entry)
    accepted = list(signature.parameters)
    unknown = [name for name in options if name not in accepted]
    name = getattr(entry, "__name__", repr(entry))
    if unknown:
        raise SpecError(f"{name} has no option {unknown[0]!r}; it has: {', '.join(accepted) or 'none'}")
    given = set(accepted[: len(positional)]) | set(options)
    options = options | {key: value for key, value in context.items() if key in accepted and key not in given}
    given |= set(options)
    needed = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty and parameter.name not in given
    ]
    if kind == "schedule" and needed == ["length"] and accepted[:2] == list(_FAMILY):
        steps = options.pop("steps")
        return schedules.PerRow(entry, steps, **options)
    if needed:
        raise SpecError(f"{name} needs {' and '.join(needed)}; write {name}({', '.join(f'{n}=..' for n in needed)})")
    try:
        signature.bind(*positional, **options)
    except TypeError as error:
        raise SpecError(f"{name}: {error}; it has: {', '.join(accepted) or 'no options'}") from error
    return entry(*positional, **options)


def plain(name: str) -> str:
    """Return a name as it is compared: without case, underscores and dashes."""
    return name.replace("_", "").replace("-", "").lower()


def _example(kind: str) -> str:
    return {
        "schedule": "minimax(target='both')",
        "order": "Blockwise(Confidence(), 32)",
        "oracle": "latin_square",
        "distribution": "subspaces(count=3)",
    }.get(kind, ", ".join(names(kind)))
