"""A published checkpoint as a denoiser, and what a family of checkpoints has to say of itself."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from demask.canvas import ABSENT, Canvas, Marginals
from demask.denoisers.checkpoints.facts import Configs, Facts
from demask.denoisers.checkpoints.weights import Weights, check
from demask.errors import CheckpointError, DenoiserError

Shapes = dict[str, tuple[int, ...]]
_FLOATS: Final = (torch.float32, torch.bfloat16, torch.float16)


class Backbone(Protocol):
    """A network cut in two: up to the hidden states, and from there to the vocabulary."""

    @property
    def weight(self) -> Tensor:
        """Any of its parameters, for the device and the precision."""
        ...

    def features(self, ids: Tensor, present: Tensor | None) -> Tensor:
        """Return (B, N, D) for ids (B, N), of which the first `present` (B, N) of each row are there; None: all."""
        ...

    def logits(self, features: Tensor) -> Tensor:
        """Return (M, V) for (M, D)."""
        ...


@dataclass(frozen=True)
class Family:
    """What checkpoints of one architecture have in common.

    Parameters:
        name: as it is told to the user.
        kinds: values of model_type in config.json.
        shift: whether the logits at position i predict the token at i + 1.
        config: from config.json to the library's own configuration; raises CheckpointError for what it cannot express.
        network: the class of the library that takes it.
        published: the name in the weights of a parameter of that class.
        alias: the present name of a tensor in the weights, None for one that is not needed.
        backbone: from the network and the facts to its two halves.
        context: how many positions there are, and where that stands.
        framed: whether texts stand between a class and a separator token.
        blocks: whether a position sees its own block and those before it alone.
    """

    name: str
    kinds: tuple[str, ...]
    shift: bool
    config: Callable[[Configs], Any]
    network: Callable[[Any], Any]
    published: Callable[[str], str]
    alias: Callable[[str], str | None]
    backbone: Callable[[Any, Facts], Backbone]
    context: Callable[[Any, Configs], tuple[int, str]]
    framed: bool = False
    blocks: bool = False

    def plan(self, config: Any, weights: Weights) -> dict[str, str]:
        """Return the library's name of every tensor that will be read, after checking names and shapes.

        Raises:
            CheckpointError: a tensor that is missing, unknown or of another shape.
        """
        wanted, tied = self._expected(config)
        names = {self.published(name): name for name in wanted}
        found = {name: alias for name in weights.shapes if (alias := self.alias(name)) is not None}
        shapes = {alias: weights.shapes[name] for name, alias in found.items()}
        copies = {self.published(name) for name in tied}  # a tied tensor may be written out too, or not
        required = {key: wanted[name] for key, name in names.items() if key not in copies or key in shapes}
        check(required, shapes, str(weights.folder))
        return {name: names[alias] for name, alias in found.items()}

    def assemble(
        self, config: Any, weights: Weights, facts: Facts, *, device: torch.device, dtype: torch.dtype
    ) -> Backbone:
        """Return the network with the numbers of the weights.

        Raises:
            CheckpointError: names, shapes or types that do not fit, or a tied tensor written with other numbers.
        """
        names = self.plan(config, weights)
        tensors = {names[name]: value for name, value in weights.read().items() if name in names}
        for name, value in tensors.items():
            if value.dtype not in _FLOATS:
                raise CheckpointError(
                    f"{weights.folder}: {self.published(name)} is {value.dtype}; expected float32, bfloat16 or float16: "
                    "quantised checkpoints are not read"
                )
        _, tied = self._expected(config)
        for copied, original in tied.items():
            if copied in tensors and original in tensors and not torch.equal(tensors.pop(copied), tensors[original]):
                raise CheckpointError(
                    f"{weights.folder}: {self.published(copied)} differs from {self.published(original)}, but config.json "
                    "ties them; the files are of different models"
                )
        with _quiet():
            network, told = self.network(config).from_pretrained(
                None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True
            )
        if left := sorted(told["missing_keys"] | told["unexpected_keys"] | told["mismatched_keys"]):
            raise CheckpointError(f"{weights.folder}: transformers did not take {left[0]} ({len(left)} such)")
        return self.backbone(network.to(device).eval().requires_grad_(False), facts)

    def _expected(self, config: Any) -> tuple[Shapes, dict[str, str]]:
        """Return the shape of every tensor of the network, and which ones are copies of others."""
        with torch.device("meta"):
            network = self.network(config)(config)
        shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        return shapes, dict(network.all_tied_weights_keys)


@dataclass(frozen=True, eq=False)
class Placed:
    """A canvas as a network sees it.

    Parameters:
        ids: (B, L), masks written out, absent positions taken out.
        present: (B, L) bool, of which the first ones of each row are there; None: all.
        rows, places: (M,) each, where the asked positions are.
        shift: whether a law is read one position before its own.
    """

    ids: Tensor
    present: Tensor | None
    rows: Tensor
    places: Tensor
    shift: bool

    @property
    def reads(self) -> Tensor:
        """Where the laws are read, (M,); the first position has none before it, and reads its own."""
        return (self.places - 1).clamp_min(0) if self.shift else self.places


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A denoiser: a published network, asked for the law of masked tokens.

    Hidden states are computed once for the whole canvas; the projection to the vocabulary for the asked positions alone.
    Positions that do not exist (`ABSENT`) are taken out before and the rest moved together, so a padded row gives what
    the row alone would, whatever the network makes of positions. The mask is never written: its logit is -inf.

    Parameters:
        backbone: the network in two halves.
        facts: of the checkpoint.

    Raises:
        DenoiserError: a canvas longer than the context, visible tokens outside 0 .. V - 1, or a visible mask.

    Cost: one pass of the network; M V D more for the logits of M asked positions.

    Example:
        >>> from demask.denoisers.checkpoints import read
        >>> read("no/such/folder")
        Traceback (most recent call last):
        demask.errors.CheckpointError: no/such/folder holds no config.json; expected the folder of a published checkpoint
    """

    backbone: Backbone
    facts: Facts

    @property
    def context(self) -> int:
        """The most positions that a canvas may have."""
        return self.facts.context - len(self.facts.before) - len(self.facts.after)

    @property
    def vocabulary(self) -> int:
        """How many tokens can be written, V."""
        return self.facts.vocabulary

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.backbone.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """In what precision it computes, and answers."""
        return self.backbone.weight.dtype

    @torch.no_grad()
    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer for the positions `where` (B, N) bool, all masked."""
        asked = self.placed(canvas, where)
        features = self.backbone.features(asked.ids, asked.present)  # (B, L, D)
        return self.answer(where, features[asked.rows, asked.reads])

    def placed(self, canvas: Canvas, where: Tensor) -> Placed:
        """Return the canvas as the network sees it, and where the asked positions are there.

        Raises:
            DenoiserError: what cannot be asked.
        """
        facts = self.facts
        visible = canvas.tokens.masked_fill(canvas.masked, 0)  # (B, N)
        gaps = self._checked(visible, canvas)
        ids = visible.masked_fill(canvas.masked, facts.mask)  # (B, N)
        rows, places = where.nonzero(as_tuple=True)  # (M,) each
        present = None
        if gaps:
            ids, present, moved = together(ids, facts.ends[0])  # not the mask: some networks count masks in a row
            places = moved[rows, places]
        if ids.shape[1] > self.context:
            raise DenoiserError(
                f"a canvas of {ids.shape[1]} positions for a context of {self.context}; shorten the text or the gap"
            )
        if facts.before or facts.after:
            ids, present = self._framed(ids, present)
            places = places + len(facts.before)
        return Placed(ids, present, rows, places, facts.shift)

    def answer(self, where: Tensor, features: Tensor) -> Marginals:
        """Return the laws at `where` (B, N) of which these are the hidden states (M, D)."""
        facts = self.facts
        logits = self.backbone.logits(features)[
            :, : facts.vocabulary
        ]  # (M, V), made for this answer and so written over
        return Marginals(where, logits.index_fill_(1, self._barred, -torch.inf))

    @cached_property
    def _barred(self) -> Tensor:
        """Ids that are never written."""
        facts = self.facts
        barred = [token for token in (facts.mask, *facts.unused) if token < facts.vocabulary]
        return torch.tensor(barred, dtype=torch.int64, device=self.device)

    def _checked(self, visible: Tensor, canvas: Canvas) -> bool:
        """Return whether positions are absent, after looking at the visible tokens."""
        if not visible.numel():
            return False
        masks = ((visible == self.facts.mask) & ~canvas.masked).sum()
        least, most, literal = torch.stack((*visible.aminmax(), masks)).tolist()
        if least < ABSENT or (most >= self.vocabulary and not literal):
            raise DenoiserError(
                f"a visible token {least if least < ABSENT else most}; expected 0 .. {self.vocabulary - 1}, or {ABSENT} for "
                "a position that does not exist"
            )
        if literal:
            raise DenoiserError(
                f"{literal} visible tokens are the mask {self.facts.mask}; say what is masked by Canvas(tokens, masked)"
            )
        return bool(least == ABSENT)

    def _framed(self, ids: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the rows between what stands before and after every text."""
        before, after = (
            torch.tensor(frame, device=ids.device, dtype=ids.dtype).expand(len(ids), -1)
            for frame in (self.facts.before, self.facts.after)
        )
        if present is None:
            return torch.cat((before, ids, after), 1), None
        gone = ids.masked_fill(~present, ABSENT)
        ids, present, _ = together(torch.cat((before, gone, after), 1), self.facts.ends[0])
        return ids, present


@dataclass(frozen=True, eq=False)
class Decoder:
    """A decoder of the library without its causal mask: every position sees all others.

    `config.is_causal = False` switches the mask off in the library's own Llama and Qwen2. With a block, a position sees
    its own block and those before it, by a mask of four dimensions, which the library takes as it is.

    Parameters:
        network: for causal language modelling, in the library.
        block: positions per block, counted from the start of the row; None: no blocks.
    """

    network: Any
    block: int | None = None

    @property
    def weight(self) -> Tensor:
        """The embedding."""
        return self.network.model.embed_tokens.weight  # type: ignore[no-any-return]

    def features(self, ids: Tensor, present: Tensor | None) -> Tensor:
        """Return the normalised hidden states."""
        seen = None if present is None else present.long()
        if self.block is not None:
            number = torch.arange(ids.shape[1], device=ids.device) // self.block
            allowed = (number[None, :] <= number[:, None])[None, None]  # (1, 1, N, N)
            if present is not None:
                allowed = allowed & present[:, None, None, :]  # (B, 1, N, N)
            least = torch.finfo(self.weight.dtype).min
            seen = torch.zeros(allowed.shape, dtype=self.weight.dtype, device=ids.device).masked_fill(~allowed, least)
        out = self.network.model(input_ids=ids, attention_mask=seen, use_cache=False)
        return out.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, features: Tensor) -> Tensor:
        """Return the projection."""
        return self.network.lm_head(features)  # type: ignore[no-any-return]

    def through(self, ids: Tensor, places: Tensor, memory: Any, limit: Tensor) -> Tensor:
        """Return the normalised hidden states (B, F, D) of some positions, which see what a memory holds of the others.

        The layers are called one by one, so that the library neither counts positions nor makes a mask of its own.

        Parameters:
            ids, places: (B, F) each.
            memory: its `update(keys, values, layer)` takes those of these positions, and returns those of all.
            limit: (B, F), how many of the positions that it returns each of these sees.
        """
        model, seen = self.network.model, None
        if bool((limit < memory.span).any()):
            hidden = torch.arange(memory.span, device=ids.device) >= limit[:, None, :, None]  # (B, 1, F, span)
            seen = torch.zeros(hidden.shape, dtype=self.weight.dtype, device=ids.device)
            seen.masked_fill_(hidden, torch.finfo(self.weight.dtype).min)
        states = model.embed_tokens(ids)
        turns = model.rotary_emb(states, places)
        for layer in model.layers:
            states = layer(
                states,
                attention_mask=seen,
                position_ids=places,
                position_embeddings=turns,
                past_key_values=memory,
                is_causal=False,
            )
        return model.norm(states)  # type: ignore[no-any-return]


def together(ids: Tensor, filler: int) -> tuple[Tensor, Tensor, Tensor]:
    """Move the present ids of each row to its left.

    Returns:
        ids: (B, L), as long as the longest row, `filler` behind the shorter ones.
        present: (B, L) bool.
        places: (B, N), where each position went; meaningless for absent ones.

    Example:
        >>> together(torch.tensor([[-1, 5, -1, 6], [7, 8, 9, -1]]), 0)[0]
        tensor([[5, 6, 0],
                [7, 8, 9]])
    """
    here = ids != ABSENT
    places = here.cumsum(1) - 1  # (B, N)
    count = here.sum(1)
    present = torch.arange(max(1, int(count.amax())), device=ids.device) < count[:, None]  # (B, L)
    out = torch.full(present.shape, filler, dtype=ids.dtype, device=ids.device)
    out[present] = ids[here]  # both in row-major order
    return out, present, places


def native(module: str = "transformers") -> Any:
    """Return a module of transformers.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] != "transformers":
            raise
        raise CheckpointError(
            "published checkpoints need transformers; install it with pip install 'demask[checkpoints]'"
        ) from None


def configured(kind: str, **values: Any) -> Any:
    """Return the library's configuration of that model_type.

    Raises:
        CheckpointError: values that it refuses.
    """
    cls = native("transformers.models.auto.configuration_auto").CONFIG_MAPPING[kind]
    try:
        return cls(**values)
    except Exception as error:  # whatever a foreign config provokes
        raise CheckpointError(
            f"config.json: transformers refuses it as {kind} ({type(error).__name__}: {error})"
        ) from None


def accepts(function: Callable[..., Any], *names: str) -> bool:
    """Return whether a function has parameters of these names."""
    return set(names) <= set(inspect.signature(function).parameters)


def same(name: str) -> str:
    """Return the name: it is published as the library has it."""
    return name


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library from drawing a bar and a table: what it has to say becomes an error here."""
    logging = native("transformers.utils.logging")
    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def switches(configs: Configs, expected: Mapping[str, Any], family: str) -> None:
    """Raise a CheckpointError for a setting of config.json that the family's network cannot express."""
    for key, wanted in expected.items():
        found = configs.main.get(key)
        if found is not None and found != wanted:
            raise CheckpointError(
                f"{configs.folder}/config.json: {key} = {found!r}; the {family} family is read with {wanted!r} only"
            )
