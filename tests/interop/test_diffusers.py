"""A real LLaDA2Pipeline, driven by this library's schedules and orders."""

import inspect

import pytest
import torch
from diffusers import BlockRefinementScheduler, LLaDA2Pipeline
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demask.errors import GenerateError, SpecError
from demask.interop.diffusers import Unmasking

MASK, END, V = 21, 20, 23
IDS = torch.tensor([[3, 4, 5], [6, 7, 8]])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, is_causal=False, eos_token_id=END, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight *= 8
    return model


class Watched(Unmasking):
    """Remembers how many positions of each row went at each step."""

    def step(self, *args, **options):
        out = super().step(*args, **options)
        if args or int(options["timestep"]) == 0:
            self.__dict__.setdefault("seen", []).append([])
        self.seen[-1].append(out.transfer_index.sum(1).tolist())
        return out


def pipe(model, scheduler, **options):
    pipeline = LLaDA2Pipeline(model=model, scheduler=scheduler, tokenizer=None)
    pipeline.set_progress_bar_config(disable=True)
    asked = {
        "input_ids": IDS, "gen_length": 13, "block_length": 8, "num_inference_steps": 4, "mask_token_id": MASK,
        "eos_token_id": END, "eos_early_stop": False, "output_type": "seq", "editing_threshold": None,
        "temperature": 1.0, "generator": torch.Generator().manual_seed(3),
    }  # fmt: skip
    return pipeline(**{**asked, **options}).sequences


def test_sizes_are_those_of_the_schedule_in_every_block(model):
    watched = Watched("uniform", "Entropy()")
    out = pipe(model, watched)
    assert out.shape == (2, 13)
    assert MASK not in out
    assert watched.seen == [[[2, 2], [1, 1], [1, 1], [1, 1]], [[2, 2]] * 4]  # 5 positions behind the prompt, then 8


def test_random_sizes_are_drawn_when_a_block_begins(model):
    watched = Watched("minimax")
    for seed in range(6):
        pipe(model, watched, generator=torch.Generator().manual_seed(seed))
    blocks = [torch.tensor(block).T for block in watched.seen]
    rows = [tuple(row.tolist()) for block in blocks[1::2] for row in block]
    assert {sum(row) for row in rows} == {8}
    assert max(map(len, rows)) <= 4
    assert len(set(rows)) > 1  # not always the same


def test_the_generator_decides(model):
    one, again, other = (pipe(model, Unmasking(), generator=torch.Generator().manual_seed(key)) for key in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    torch.manual_seed(5)
    plain = pipe(model, Unmasking(), generator=None)
    torch.manual_seed(5)
    assert torch.equal(plain, pipe(model, Unmasking(), generator=None))


def test_the_mode_from_the_left_is_what_a_plain_loop_writes(model):
    out = pipe(model, Unmasking("uniform", "LeftToRight()"), temperature=0.0, num_inference_steps=8)
    for row, written in zip(IDS, out, strict=True):
        text = row.tolist()
        for place in range(3, 16):
            block = torch.tensor([text + [MASK] * (-len(text) % 8 or 8)])
            with torch.no_grad():
                logits = model(block, attention_mask=torch.ones_like(block)).logits[0, place]
            logits[MASK] = -torch.inf
            text.append(int(logits.argmax()))
        assert written.tolist() == text[3:]


def test_what_a_rule_leaves_goes_at_the_last_step(model):
    watched = Watched("Unlimited", "Threshold(Confidence(), 0.999999)")
    out = pipe(model, watched, num_inference_steps=3)
    assert MASK not in out
    assert [len(block) for block in watched.seen] == [3, 3]
    assert watched.seen[1][:2] == [[1, 1], [1, 1]]


def test_no_pass_is_spent_on_a_full_block(model):
    passes = []
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    try:
        pipe(model, Unmasking("uniform"), gen_length=5, num_inference_steps=2)
        assert len(passes) == 2
        passes.clear()
        pipe(model, Unmasking("uniform"), gen_length=5, num_inference_steps=2, editing_threshold=2.0)  # edits nothing
        assert len(passes) == 3
    finally:
        hook.remove()


def test_editing_replaces_visible_tokens_and_never_the_prompt():
    scheduler = Unmasking("uniform", "LeftToRight()")
    scheduler.set_timesteps(2, block_length=4)
    logits = torch.eye(V)[None, [9, 9, 9, 9]] * 50
    block = torch.tensor([[1, 2, MASK, MASK]])
    prompt = torch.tensor([True, False, False, False])
    out = scheduler.step(logits, 0, block, mask_token_id=MASK, editing_threshold=0.5, prompt_mask=prompt)
    assert out.prev_sample.tolist() == [[1, 9, 9, MASK]]
    assert out.transfer_index.tolist() == [[False, False, True, False]]
    assert out.editing_transfer_index.tolist() == [[False, True, False, False]]
    assert out.sampled_tokens.tolist() == [[1, 9, 9, MASK]]
    assert torch.allclose(out.sampled_probs, torch.ones(1, 4))
    as_tuple = scheduler.step(logits, 1, out.prev_sample, mask_token_id=MASK, return_dict=False)
    assert as_tuple[0].tolist() == [[1, 9, 9, 9]]


def test_an_end_behind_the_prompt_finishes_a_row():
    scheduler, none = Unmasking(), torch.zeros(3, dtype=torch.bool)
    canvas = torch.tensor([[END, 1, 2, END, MASK], [1, 2, MASK, END, 3], [1, 2, 3, 4, 5]])
    found = scheduler.check_eos_finished(canvas, canvas, none, none, END, MASK, 2)
    assert found.tolist() == [True, False, False]


def test_saved_and_loaded_alone_and_in_a_pipeline(model, tmp_path):
    scheduler = Unmasking("cosine", "Entropy()", block_length=8, num_inference_steps=4)
    scheduler.save_pretrained(tmp_path / "alone")
    again = Unmasking.from_pretrained(tmp_path / "alone")
    names = ("schedule", "order", "block_length", "num_inference_steps")
    assert [again.config[name] for name in names] == ["cosine", "Entropy()", 8, 4]
    assert torch.equal(pipe(model, scheduler), pipe(model, again))
    words = {str(token): token for token in range(V)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="0")),
        eos_token="20",
        mask_token="21",
        pad_token="0",
    )
    LLaDA2Pipeline(model=model, scheduler=scheduler, tokenizer=tokenizer).save_pretrained(tmp_path / "pipeline")
    loaded = LLaDA2Pipeline.from_pretrained(tmp_path / "pipeline", tokenizer=tokenizer)
    assert isinstance(loaded.scheduler, Unmasking)
    assert loaded.scheduler.config["schedule"] == "cosine"


@pytest.mark.parametrize("name", ["set_timesteps", "step", "check_block_should_continue", "check_eos_finished"])
def test_it_takes_what_the_installed_pipeline_tells_a_scheduler(name):
    """A release that tells it more is found here, and not by a user."""
    theirs, ours = (inspect.signature(getattr(kind, name)).parameters for kind in (BlockRefinementScheduler, Unmasking))
    assert set(theirs) - {"self"} == set(ours) - {"self"}
    assert all(ours[each].default == theirs[each].default for each in theirs if each in ours)


def test_a_clock_is_not_taken_for_a_step():
    """Later releases are to tell a time that runs from 1 to 0; rounded down, every step would begin its block anew."""
    scheduler, block = Unmasking("uniform", "LeftToRight()"), torch.full((1, 4), MASK)
    scheduler.set_timesteps(4, block_length=4)
    logits = torch.eye(V)[None, [9, 9, 9, 9]] * 50
    again = scheduler.step(logits, torch.tensor(0), block, mask_token_id=MASK)
    assert torch.equal(again.prev_sample, scheduler.step(logits, 0, block, mask_token_id=MASK).prev_sample)
    for wrong in (0.75, torch.tensor(0.5), -1):
        with pytest.raises(
            GenerateError, match=r"expected the number of the step within its block, .* diffusers==0.42"
        ):
            scheduler.step(logits, wrong, block, mask_token_id=MASK)


def test_bad_input():
    with pytest.raises(SpecError, match="sideways"):
        Unmasking(order="sideways")
    with pytest.raises(GenerateError, match=r"num_inference_steps = 0; expected an integer >= 1"):
        Unmasking().set_timesteps(0)
    with pytest.raises(GenerateError, match=r"block_length = 0"):
        Unmasking(block_length=0)
    block = torch.full((1, 4), MASK)
    with pytest.raises(GenerateError, match="no mask_token_id"):
        Unmasking().step(torch.zeros(1, 4, V), 0, block)
    with pytest.raises(GenerateError, match="sampling_method = 'beam'"):
        Unmasking().step(torch.zeros(1, 4, V), 0, block, mask_token_id=MASK, sampling_method="beam")
