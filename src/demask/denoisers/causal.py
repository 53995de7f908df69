"""Causal language models: the law of each token, given those to its left."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demask.canvas import ABSENT, Canvas, Marginals
from demask.errors import DenoiserError


@dataclass(frozen=True, eq=False)
class Causal:
    """An autoregressive model, asked along the order from the left, for a whole filling in one pass.

    It cannot look to the right, so it is no denoiser of its own; `Adaptive` takes it as its verifier.

    Parameters:
        model: called as model(input_ids=.., attention_mask=.., position_ids=..), answers with .logits (B, N, W); a causal
            language model of transformers does.
        vocabulary: tokens that can be written, V; logits from V on, where a model has padded its embedding, are cut off.
        begin: a token that stands before every row, which the law of a first token needs; None: there is none.

    Raises:
        DenoiserError: a vocabulary larger than the model's; while asked, another order, a position with something masked
            to its left, the first token of a model without `begin`.

    Cost: one pass of the model over the canvas up to the last asked position; nothing is cached between passes.

    Example:
        >>> class Fair:
        ...     def __call__(self, input_ids, attention_mask, position_ids):
        ...         return type("", (), {"logits": torch.zeros(*input_ids.shape, 2)})
        >>> shown = Canvas(torch.tensor([[1, 0]]), torch.zeros(1, 2, dtype=torch.bool))
        >>> left = torch.tensor([[0, 1]])
        >>> Causal(Fair(), 2, begin=1).along(shown, ~shown.masked, left).logits.softmax(-1).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """

    model: Any
    vocabulary: int
    begin: int | None = None

    def __post_init__(self) -> None:
        width = getattr(getattr(self.model, "config", None), "vocab_size", self.vocabulary)
        if not 1 <= self.vocabulary <= width:
            raise DenoiserError(
                f"a vocabulary of {self.vocabulary} tokens for a model of {width}; expected 1 .. {width}, the tokenizer's"
            )

    @classmethod
    def load(
        cls, path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> "Causal":
        """Load a causal language model from a folder, or by its name on the hub, by transformers.

        Raises:
            DenoiserError: transformers is not installed.
        """
        try:
            from transformers import AutoModelForCausalLM
        except ImportError as error:
            raise DenoiserError("a causal model needs transformers; pip install transformers") from error
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype or torch.float32, use_safetensors=True)
        model = model.to(device).eval().requires_grad_(False)
        return cls(model, model.config.vocab_size, model.config.bos_token_id)

    @torch.no_grad()
    def along(self, canvas: Canvas, where: Tensor, ranks: Tensor) -> Marginals:
        """Answer for the positions `where` (B, N), each given the visible tokens to its left; `ranks` grow from the left."""
        if bool((ranks[:, 1:] <= ranks[:, :-1]).any()):
            raise DenoiserError(
                "a causal model answers from the left only; expected ranks that grow along the row, such as "
                "torch.arange(length).expand(rows, length)"
            )
        left = (canvas.masked.cumsum(1) - canvas.masked.long()) > 0
        if bool((where & left).any()):
            row, position = (where & left).nonzero()[0].tolist()
            raise DenoiserError(
                f"position {position} of row {row} is asked for, but something to its left is masked; fill it first, or ask "
                "from the left"
            )
        present = (canvas.tokens != ABSENT) | canvas.masked
        first = present & (present.cumsum(1) == 1)
        if self.begin is None and bool((where & first).any()):
            raise DenoiserError(
                "this model has no token to begin with, which the law of a first token needs; pass begin=.."
            )
        end = int(where.any(0).nonzero()[-1]) + 1 if where.numel() and bool(where.any()) else 1
        ids = canvas.tokens.masked_fill(canvas.masked | ~present, 0)[:, :end]
        # Everything moves one to the right: what is read at i was written before i.
        ids = torch.cat((torch.full_like(ids[:, :1], self.begin or 0), ids[:, :-1]), 1)
        begun = torch.full_like(present[:, :1], self.begin is not None)
        seen = torch.cat((begun, present[:, : end - 1]), 1)
        places = (seen.cumsum(1) - 1).clamp(min=0)
        logits = self.model(input_ids=ids, attention_mask=seen.long(), position_ids=places).logits
        last = (
            torch.where(seen, torch.arange(end, device=seen.device), 0).cummax(1).values
        )  # not one that does not exist
        row, position = where[:, :end].nonzero(as_tuple=True)
        return Marginals(where, logits[row, last[row, position], : self.vocabulary])
