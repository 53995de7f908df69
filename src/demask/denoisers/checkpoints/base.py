"""A published checkpoint as a denoiser: its network in two halves, and the facts of its files."""

from dataclasses import dataclass
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
        features = self.backbone.features(ids, present)  # (B, N, D)
        if facts.shift:
            places = (places - 1).clamp_min(0)  # the first position has none before it, and reads its own
        logits = self.backbone.logits(features[rows, places])[:, : facts.vocabulary].clone()  # (M, V)
        barred = [token for token in (facts.mask, *facts.unused) if token < facts.vocabulary]
        return Marginals(where, logits.index_fill_(1, torch.tensor(barred, device=logits.device), -torch.inf))

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
