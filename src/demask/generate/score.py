"""How probable a denoiser finds tokens, given those before them: the NELBO, exactly or by random masks."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb, log

import torch
from torch import Tensor

from demask.canvas import Canvas
from demask.chance import Keyed
from demask.contracts import Denoiser
from demask.curve import Estimate
from demask.errors import GenerateError
from demask.generate.template import Tokens
from demask.training.masked import draw


@dataclass(frozen=True)
class Score:
    """How probable a model finds a text: an upper bound on -log p(text), the mean over random orders.

    Parameters:
        nelbo: nats, with the standard error of the masks drawn; exact where all of them were walked through.
        tokens: that were scored, end tokens among them.
        bytes: of the text in UTF-8.
    """

    nelbo: Estimate
    tokens: int
    bytes: int

    @property
    def bits_per_byte(self) -> Estimate:
        """The same in bits per byte of the text."""
        scale = 1 / (log(2) * self.bytes)
        return Estimate(self.nelbo * scale, self.nelbo.error * scale)


def nelbo(
    denoiser: Denoiser, tokens: Tensor, given: int = 0, *, block: int | None = None, passes: int, key: int, batch: int
) -> Estimate:
    """Return the NELBO of tokens[given:], n of them, given those before.

    NELBO = n E_m E_S[mean over i in S of -log p(x_i | all but S)], m uniform on 1 .. n, S uniform of size m: the mean over
    random orders of -log p along the order. The sizes m are stratified, so the standard error, which takes the draws as
    independent, is too large rather than too small. Where `passes` pay for all 2^n - 1 sets, they are walked through.

    With blocks, the sum over blocks of the same, each given those before it and without those behind: the bound of a model
    that generates block after block.

    Parameters:
        denoiser: any.
        tokens: (N,) int64, on the denoiser's device.
        given: how many from the left are given.
        block: positions of a block, counted from the first token; None for one block.
        passes: forward passes to spend at most, two or more per block.
        key: of the masks; equal keys mask texts of equal length alike.
        batch: rows at a time.

    Raises:
        GenerateError: nothing to score, or too few passes for an interval.

    Example:
        >>> from demask.oracles import parity
        >>> nelbo(parity(3), torch.tensor([1, 0, 1]), 1, passes=16, key=0, batch=4).exact
        True

    Reference: Uria, Murray and Larochelle, 2014, arXiv 1310.1757; Ou et al., 2024, arXiv 2406.03736.
    """
    length = len(tokens)
    if not 0 <= given < length:
        raise GenerateError(f"{length} tokens of which {given} are given; expected one or more to score")
    size = length if block is None else block
    starts = range(given // size * size, length, size)
    if passes < 2 * len(starts):
        raise GenerateError(
            f"{passes} passes for {len(starts)} blocks are too few for an interval; write passes={max(64, 8 * len(starts))}"
        )
    total, variance = 0.0, 0.0
    for start in starts:
        part = tokens[: start + size]
        scored = torch.arange(len(part), device=tokens.device) >= max(start, given)
        one = _block(denoiser, part, scored, passes // len(starts), key, batch)
        total, variance = total + one, variance + one.error**2
    return Estimate(total, variance**0.5)


def _block(denoiser: Denoiser, tokens: Tensor, scored: Tensor, passes: int, key: int, batch: int) -> Estimate:
    n = int(scored.sum())
    if 2**n - 1 <= passes:
        sets = torch.arange(1, 2**n, device=tokens.device)[:, None] >> torch.arange(n, device=tokens.device) & 1
        masks = torch.zeros(len(sets), len(tokens), dtype=torch.bool, device=tokens.device)
        masks[:, scored] = sets.bool()
        shares = torch.tensor([1 / comb(n, size) for size in sets.sum(1).tolist()], device=tokens.device)
        return Estimate(
            float((shares * torch.cat(list(_losses(denoiser, tokens, masks, batch)))).sum(dtype=torch.float64))
        )
    names = torch.arange(passes, device=tokens.device)
    masks = draw(scored.expand(passes, -1), Keyed.of(key, names).fork("nelbo", len(tokens))).where
    losses = n * torch.cat(list(_losses(denoiser, tokens, masks, batch))).double()
    return Estimate(float(losses.mean()), float(losses.std()) / passes**0.5)


def _losses(denoiser: Denoiser, tokens: Tensor, masks: Tensor, batch: int) -> Iterator[Tensor]:
    """Return the mean loss of the masked tokens of every row, nats, (batch,) at a time."""
    for start in range(0, len(masks), batch):
        masked = masks[start : start + batch]
        truth = tokens.expand(len(masked), -1)
        answer = denoiser(Canvas(truth.masked_fill(masked, 0), masked), masked)
        yield answer.spread(-answer.logp(truth[masked])).sum(1) / masked.sum(1)


def behind(tokenizer: Tokens, given: str, text: str) -> tuple[list[int], int]:
    """Return the tokens of both texts as one, and how many of the first ones are given.

    Those are given that do not depend on what is behind: where the last token of `given` would be another one with the text
    behind it, it belongs to the text, and so do spaces at the end.

    Example:
        >>> from demask.tokenizer import Tokenizer
        >>> behind(Tokenizer.words(["tick", "tock"]), "tick tock ", "tick")
        ([0, 1, 0], 2)
    """
    tokens = tokenizer.encode(given + text)
    known = given.rstrip()
    before = tokenizer.encode(known) if known else []
    differ = (at for at, (one, other) in enumerate(zip(before, tokens, strict=False)) if one != other)
    return tokens, next(differ, min(len(before), len(tokens)))
