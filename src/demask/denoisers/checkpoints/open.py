"""From a folder of files to a denoiser and a tokenizer; step by step, so that each step can be told."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from demask.denoisers.checkpoints import dream, llada, llada2, masked_lm, mdlm, sdar
from demask.denoisers.checkpoints.base import Checkpoint
from demask.denoisers.checkpoints.facts import CONFIG, Configs, Facts, chosen
from demask.denoisers.checkpoints.family import Family, Placement
from demask.denoisers.checkpoints.tokens import PublishedTokenizer, read_source, vocabulary
from demask.denoisers.checkpoints.weights import Weights
from demask.errors import CheckpointError

FAMILIES: Final = (llada.FAMILY, dream.FAMILY, llada2.FAMILY, sdar.FAMILY, mdlm.FAMILY, masked_lm.FAMILY)


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
    device_map: Any = None,
    quantization_config: Any = None,
    family: str | None = None,
    mask: int | None = None,
    ends: tuple[int, ...] | None = None,
    shift: bool | None = None,
    block: int | None = None,
    context: int | None = None,
    before: tuple[int, ...] | None = None,
    after: tuple[int, ...] | None = None,
    pickles: bool = False,
) -> Opened:
    """Read a published checkpoint: LLaDA, Dream, LLaDA2, SDAR, MDLM, or a masked language model.

    The network is the library's own, or ours; no code of the checkpoint ever runs. Every fact is read from the checkpoint's
    files, and given here only where those are wrong or silent.

    Parameters:
        folder: with config.json, safetensors and a tokenizer.
        device: where the network is to lie; the CPU by default.
        dtype: its precision; None: float32 on a CPU, bfloat16 elsewhere.
        device_map, quantization_config: passed on to transformers, where the network is one of its own.
        family: a model_type, in place of that in config.json.
        mask, ends, shift, block, context, before, after: in place of the facts of these names; see `Facts`.
        pickles: whether pytorch_model.bin is read, as plain tensors, where there are no safetensors.

    Raises:
        CheckpointError: an unknown family, files that are missing, damaged or contradict each other, tensors that are
            missing, unknown or of another shape, a device that is not there, or no transformers.
        TokenizerError: a tokenizer of another model.

    Cost: reading and converting the weights, once in memory beside the network.
    """
    placement = Placement.of(device, dtype, device_map, quantization_config)
    configs, found = recognise(folder, family=family)
    config = found.config(configs)
    given = {
        "mask": mask, "ends": ends, "shift": shift, "block": block, "context": context, "before": before, "after": after,
    }  # fmt: skip
    facts, tokenizer = learn(found, config, configs, given)
    weights = Weights.find(configs.folder, pickles=pickles)
    backbone = found.assemble(config, weights, facts, placement)
    return Opened(Checkpoint(backbone, facts), tokenizer, configs.folder)


def recognise(folder: str | Path, *, family: str | None = None) -> tuple[Configs, Family]:
    """Return the configuration and the family that its model_type belongs to.

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
    known = "; ".join(f"{one.name} ({', '.join(one.kinds)})" for one in FAMILIES)
    raise CheckpointError(
        f"{configs.folder / CONFIG}: model_type {configs.kind!r}, architectures {configs.main.get('architectures')!r}; the "
        f"families known are {known}: give one as family=.. if it is of that architecture"
    )


def learn(
    family: Family, config: Any, configs: Configs, given: Mapping[str, Any] | None = None
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
    settle("shift", family.shift, f"the {family.name} family")
    block = configs.main.get("block_size")
    silent = usual.get("block", (None, "nowhere: any block will do"))
    settle("block", *(silent if block is None else (block, f"{CONFIG}: block_size")))
    values["causal"], sources["causal"] = family.blocks, f"the {family.name} family"
    if family.blocks and values["block"] is None:
        raise CheckpointError(
            f"{configs.folder / CONFIG}: no block_size, which {family.name} needs; give it as block=.."
        )
    settle("context", *family.context(config, configs))
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
    tokenizer = PublishedTokenizer(source, facts.vocabulary, facts.ends, facts.mask)
    sources["unused"] = "ids of no token of the tokenizer"
    return replace(facts, unused=tokenizer.unused, sources=sources), tokenizer
