"""A published checkpoint as a denoiser: its network in two halves, and the facts of its files."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from demask.canvas import ABSENT, Canvas, Marginals
from demask.denoisers.checkpoints.facts import Facts
from demask.errors import DenoiserError


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

    Cost: one pass of the network; M V D more for the logits of M asked positions. Of a network that sees its own block and
    those before it alone, the blocks behind the last asked position are left out.

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
        if facts.causal and facts.block is not None and len(places):  # later blocks are not seen by those asked
            seen = (int(places.amax()) // facts.block + 1) * facts.block
            ids, present = ids[:, :seen], None if present is None else present[:, :seen]
        return Placed(ids, present, rows, places, facts.shift)

    def answer(self, where: Tensor, features: Tensor) -> Marginals:
        """Return the laws at `where` (B, N) of which these are the hidden states (M, D)."""
        facts = self.facts
        logits = self.backbone.logits(features)[:, : facts.vocabulary]  # (M, V), of this answer alone: written over
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
    its own block and those before it, by a mask of four dimensions, which the library takes as it is. Its parts may lie on
    several devices; what is asked and answered lies where the embedding does.

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
        return out.last_hidden_state.to(ids.device)  # type: ignore[no-any-return]

    def logits(self, features: Tensor) -> Tensor:
        """Return the projection."""
        return self.network.lm_head(features).to(features.device)  # type: ignore[no-any-return]

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
        return model.norm(states).to(ids.device)  # type: ignore[no-any-return]


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
