"""From a folder of files to a denoiser and a tokenizer; step by step, so that each step can be told."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack

import torch

from demask.denoisers.checkpoints import chat, dream, llada, llada2, masked_lm, mdlm, sdar
from demask.denoisers.checkpoints.base import Checkpoint
from demask.denoisers.checkpoints.facts import CONFIG, Configs, Facts, chosen
from demask.denoisers.checkpoints.family import Family, Placement
from demask.denoisers.checkpoints.remote import Remote
from demask.denoisers.checkpoints.tokens import PublishedTokenizer, read_source, vocabulary
from demask.denoisers.checkpoints.weights import Weights
from demask.errors import CheckpointError

FAMILIES: Final = (llada.FAMILY, dream.FAMILY, llada2.FAMILY, sdar.FAMILY, mdlm.FAMILY, masked_lm.FAMILY)


class Given(TypedDict, total=False):
    """What a caller may say of a checkpoint in place of its files; None leaves it to them.

    family: a model_type. mask, ends, shift, block, context, before, after: the facts of these names; see `Facts`. chat: a
    Jinja template of conversations. pickles: whether pytorch_model.bin is read, as plain tensors, where there are no
    safetensors. trust_remote_code: whether the checkpoint's own code may make a network of a family that is not known.
    device_map, quantization_config: passed on to transformers, where the network is one of its own.
    """

    family: str | None
    mask: int | None
    ends: tuple[int, ...] | None
    shift: bool | None
    block: int | None
    context: int | None
    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    chat: str | None
    pickles: bool
    trust_remote_code: bool
    device_map: Any
    quantization_config: Any


@dataclass(frozen=True, eq=False)
class Opened:
    """What the folder of a published checkpoint holds.

    Parameters:
        denoiser: ready to be asked.
        tokenizer: of its tokens.
        path: where it lies.
    """

    denoiser: Checkpoint
    tokenizer: PublishedTokenizer
    path: Path

    @property
    def facts(self) -> Facts:
        """What its files say of it."""
        return self.denoiser.facts


def read(
    folder: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **given: Unpack[Given],
) -> Opened:
    """Read a published checkpoint: LLaDA, Dream, LLaDA2, SDAR, MDLM, or a masked language model.

    The network is the library's own, or ours; no code of the checkpoint ever runs, unless its family is none of these and
    `trust_remote_code=True` is written. Every fact is read from the checkpoint's files, and given here only where those are
    wrong or silent.

    Parameters:
        folder: with config.json, safetensors and a tokenizer.
        device: where the network is to lie; the CPU by default.
        dtype: its precision; None: float32 on a CPU, bfloat16 elsewhere.
        given: family, mask, ends, shift, block, context, before, after, chat, pickles, trust_remote_code, device_map,
            quantization_config; see `Given`.

    Raises:
        CheckpointError: an unknown family, files that are missing, damaged or contradict each other, tensors that are
            missing, unknown or of another shape, a device that is not there, an unknown option, or no transformers.
        TokenizerError: a tokenizer of another model.

    Cost: reading and converting the weights, once in memory beside the network.
    """
    if unknown := sorted(given.keys() - Given.__annotations__.keys()):
        raise CheckpointError(f"no option is called {unknown[0]!r}; there are: {', '.join(Given.__annotations__)}")
    placement = Placement.of(device, dtype, given.get("device_map"), given.get("quantization_config"))
    configs, found = recognise(folder, family=given.get("family"), trusted=given.get("trust_remote_code", False))
    config = found.config(configs)
    facts, tokenizer = learn(found, config, configs, given)
    weights = Weights.find(configs.folder, pickles=given.get("pickles", False))
    return Opened(Checkpoint(found.assemble(config, weights, facts, placement), facts), tokenizer, configs.folder)


def recognise(
    folder: str | Path, *, family: str | None = None, trusted: bool = False
) -> tuple[Configs, Family | Remote]:
    """Return the configuration and the family that its model_type belongs to; one that is not known only if trusted.

    Raises:
        CheckpointError: no configuration, or an unknown family; lists those known.
    """
    configs = Configs.read(folder)
    if family is not None:
        bodies = {**configs.bodies, CONFIG: {**configs.main, "model_type": family}}
        configs = replace(configs, bodies=bodies)
    for one in FAMILIES:
        if configs.kind in one.kinds:
            return configs, one
    if trusted:
        return configs, Remote()
    known = "; ".join(f"{one.name} ({', '.join(one.kinds)})" for one in FAMILIES)
    raise CheckpointError(
        f"{configs.folder / CONFIG}: model_type {configs.kind!r}, architectures {configs.main.get('architectures')!r}; the "
        f"families known are {known}: give one as family=.. if it is of that architecture, or let its own code run by "
        "trust_remote_code=True if you trust it"
    )


def learn(
    family: Family | Remote, config: Any, configs: Configs, given: Mapping[str, Any] | None = None
) -> tuple[Facts, PublishedTokenizer]:
    """Return the facts, and the tokenizer.

    Parameters:
        family, config, configs: as recognised.
        given: facts in place of those in the files; None for each that is not given.

    Raises:
        CheckpointError: a fact that stands nowhere, or on which the files contradict each other.
        TokenizerError: a tokenizer of another model.
    """
    given = given or {}
    source = read_source(configs.folder, family.tokenizer)
    ids = vocabulary(source, configs.folder)
    values: dict[str, Any] = {"family": family.name, "vocabulary": configs.need("vocab_size")}
    sources = {"family": f"{CONFIG}: model_type", "vocabulary": f"{CONFIG}: vocab_size"}

    def settle(name: str, found: Any, source: str) -> None:
        values[name], sources[name] = chosen(given.get(name), found, source, name)

    rows, usual = int(config.vocab_size), family.usual(configs, ids)
    settle("mask", *((None, "") if given.get("mask") is not None else configs.mask(ids, usual.get("mask"))))
    settle("ends", *((None, "") if given.get("ends") is not None else configs.ends(ids, usual.get("ends"))))
    if family.shift is None and given.get("shift") is None:
        raise CheckpointError(
            f"{configs.folder}: whether the logits at a position predict the next token cannot be known of its own code; "
            "give shift=False, or shift=True as Dream has it"
        )
    settle("shift", family.shift, f"the {family.name} family")
    block = configs.main.get("block_size") if family.blocks else None
    silent = usual.get("block", (None, "nowhere: any block will do"))
    settle("block", *(silent if block is None else (block, f"{CONFIG}: block_size")))
    values["causal"], sources["causal"] = family.blocks, f"the {family.name} family"
    if family.blocks and values["block"] is None:
        raise CheckpointError(
            f"{configs.folder / CONFIG}: no block_size, which {family.name} needs; give it as block=.."
        )
    settle("context", *((None, "") if given.get("context") is not None else family.context(config, configs)))
    frame = configs.frame(ids) if family.framed else ((), (), f"the {family.name} family")
    settle("before", frame[0], frame[2])
    settle("after", frame[1], frame[2])
    if family.blocks and (values["before"] or values["after"]):
        raise CheckpointError(
            f"before = {values['before']}, after = {values['after']}, but the blocks of {family.name} are counted over the "
            "text alone; write these tokens into the prompt"
        )
    if not 0 <= values["mask"] < rows:
        raise CheckpointError(
            f"{configs.folder}: the mask {values['mask']} ({sources['mask']}) is outside the {rows} rows of the embedding; "
            "give the right one as mask=.."
        )
    facts = Facts(**values)
    if given.get("chat") is None:
        talk, sources["chat"] = chat.find(configs)
    else:
        talk, sources["chat"] = chat.ChatTemplate(given["chat"], chat.special(configs)), "given as chat="
    tokenizer = PublishedTokenizer(source, facts.vocabulary, facts.ends, facts.mask, talk)
    sources["unused"] = "ids of no token of the tokenizer"
    return replace(facts, unused=tokenizer.unused, sources=sources), tokenizer
