"""`generate` of a real, tiny DiffusionGemma, with this library's rules in its sampler hook."""

from itertools import pairwise

import pytest
import torch
from transformers import DiffusionGemmaForBlockDiffusion, Gemma4VisionConfig
from transformers.models.diffusion_gemma import DiffusionGemmaConfig, DiffusionGemmaTextConfig
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSampler,
    EntropyBoundSamplerConfig,
)

from demask.errors import GenerateError, SpecError
from demask.interop.diffusion_gemma import Accepting, accepting
from demask.orders import Entropy, EntropyBudget
from demask.schedules import Unlimited

# torch's own inductor, which transformers imports when it marks a step
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
V, LENGTH = 64, 12
IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    text = DiffusionGemmaTextConfig(
        vocab_size=V, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, global_head_dim=16, num_experts=2, top_k_experts=1, moe_intermediate_size=16,
        sliding_window=16, layer_types=["sliding_attention", "full_attention"], max_position_embeddings=256,
    )  # fmt: skip
    vision = Gemma4VisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    tokens = {"image_token_id": 60, "boi_token_id": 61, "eoi_token_id": 62}
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=LENGTH, **tokens)
    return DiffusionGemmaForBlockDiffusion(config).eval()


def written(model, seed=1, **settings):
    torch.manual_seed(seed)
    return model.generate(IDS, max_new_tokens=2 * LENGTH, max_denoising_steps=5, confidence_threshold=1e-6, **settings)


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"schedule": "uniform", "order": "Entropy()"},
        {"schedule": "Unlimited", "order": "EntropyBudget(Entropy(), 0.5)"},
    ],
)
def test_generate_runs_and_torchs_seed_decides(model, rule):
    with accepting(model, **rule):
        one, again, other = written(model), written(model), written(model, seed=2)
    assert one.sequences.shape == (2, 3 + 2 * LENGTH)
    assert torch.equal(one.sequences, again.sequences)
    assert not torch.equal(one.sequences, other.sequences)
    assert (one.tokens_per_forward == 2 * LENGTH / 10).all()
    assert "_prepare_sampler" not in model.__dict__


def test_the_entropy_bound_is_the_releases():
    """Its sampler and ours accept the same positions, canvas for canvas."""
    theirs = EntropyBoundSampler(EntropyBoundSamplerConfig(3.0), LENGTH, V, 5)
    ours = Accepting(Unlimited(), EntropyBudget(Entropy(), 3.0), keep=False, length=LENGTH, vocabulary=V)
    torch.manual_seed(0)
    sizes = set()
    for _ in range(50):
        canvas = ours.initialize_canvas(4, torch.device("cpu"))
        draws, logits = torch.randint(V, (4, LENGTH)), torch.randn(4, LENGTH, V) * torch.rand(4, LENGTH, 1) * 9
        assert torch.equal(ours.accept_canvas(canvas, draws, logits, 3), theirs.accept_canvas(canvas, draws, logits, 3))
        assert torch.equal(ours.accepted_token_mask, theirs.accepted_token_mask)
        sizes |= set(ours.accepted_token_mask.sum(1).tolist())
    assert len(sizes) > 3


def test_minimax_accepts_its_sizes_and_keeps_them(model):
    seen = []

    class Watched(Accepting):
        def accept_canvas(self, *args):
            out = super().accept_canvas(*args)
            seen.append((self.accepted_token_mask.clone(), out))
            return out

    with accepting(model):
        prepared = model._prepare_sampler
        model._prepare_sampler = lambda config: _as(Watched, prepared(config))
        written(model)
    canvases = [seen[at : at + 5] for at in range(0, len(seen), 5)]
    assert len(canvases) == 2
    for steps in canvases:
        for (before, kept), (after, canvas) in pairwise(steps):
            assert not (before & ~after).any()
            assert torch.equal(kept[before], canvas[before])
        assert steps[-1][0].all()  # the last boundary is the whole canvas
        assert 0 < steps[0][0].sum(1).max() < LENGTH


def _as(kind, sampler):
    sampler.__class__ = kind
    return sampler


def test_refusals(model):
    with pytest.raises(GenerateError, match=r"keep=False with schedule='minimax'"), accepting(model, keep=False):
        pass
    with pytest.raises(SpecError, match="sideways"), accepting(model, order="sideways"):
        pass
    with accepting(model), pytest.raises(GenerateError, match="write disable_compile=True"):
        written(model, cache_implementation="static")
    with accepting(model):
        assert written(model, cache_implementation="static", disable_compile=True).sequences.shape[1] == 27
