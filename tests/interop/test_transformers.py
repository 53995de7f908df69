"""`generate` of a real transformers model, driven by this library's loop."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from demask.canvas import Canvas
from demask.denoisers import Tempered
from demask.denoisers.checkpoints.base import Checkpoint, Decoder
from demask.denoisers.checkpoints.facts import Facts
from demask.errors import GenerateError
from demask.interop.transformers import decoding
from demask.loop import sample
from demask.orders import Confidence
from demask.samplers import Parallel
from demask.schedules import PerRow, uniform

MASK, END, V = 21, 20, 23


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


def ours(model, ids, new, sampler, temperature=0.0, key=0):
    facts = Facts("Llama", V, 64, MASK, (END,))
    canvas = Canvas(
        torch.cat((ids, torch.zeros(len(ids), new).long()), 1),
        torch.arange(ids.shape[1] + new).expand(len(ids), -1) >= ids.shape[1],
    )
    return sample(Tempered(Checkpoint(Decoder(model), facts), temperature), sampler, canvas, key=key).tokens


def padded(tokens, start):
    out = tokens.clone()
    for row in out:
        found = (row[start:] == END).nonzero()
        if len(found):
            row[start + int(found[0]) + 1 :] = 0
    return out


@pytest.mark.parametrize("sampled", [False, True])
def test_generate_is_the_loop(model, sampled):
    ids = torch.tensor([[3, 4, 5], [6, 7, 8], [3, 4, 5]])
    way = decoding(mask=MASK, schedule="uniform", order="Confidence()", steps=6, key=4)
    options = {"do_sample": True, "temperature": 0.8, "top_k": 0} if sampled else {"do_sample": False}
    out = model.generate(ids, custom_generate=way, max_new_tokens=12, eos_token_id=None, **options)
    assert out.shape == (3, 15)
    assert MASK not in out[:, 3:]
    sampler = Parallel(PerRow(uniform, steps=6), Confidence())
    assert torch.equal(out, ours(model, ids, 12, sampler, 0.8 if sampled else 0.0, key=4))
    assert torch.equal(out[0], out[2]) is not sampled  # rows draw apart


def test_what_stands_behind_an_end_is_padding(model):
    ids = torch.tensor([[3, 4, 5]])
    for key in range(20):
        way = decoding(mask=MASK, order="LeftToRight()", schedule="uniform", steps=24, key=key)
        out = model.generate(ids, custom_generate=way, max_new_tokens=24, do_sample=True, temperature=3.0)
        row = out[0, 3:].tolist()
        if END in row[:-1]:
            assert set(row[row.index(END) + 1 :]) == {0}
            return
    raise AssertionError("no text of twenty ended")


def test_padding_changes_nothing(model):
    way = decoding(mask=MASK, steps=5)
    ids, seen = torch.tensor([[0, 3, 4], [5, 6, 7]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    both = model.generate(
        ids, attention_mask=seen, custom_generate=way, max_new_tokens=8, do_sample=True, num_return_sequences=2
    )
    assert both.shape == (4, 11)
    assert not torch.equal(both[0], both[1])
    confident = decoding(mask=MASK, steps=8, schedule="uniform", order="LeftToRight()")  # the same order in every row
    alone = model.generate(torch.tensor([[3, 4]]), custom_generate=confident, max_new_tokens=8, do_sample=False)
    both = model.generate(ids, attention_mask=seen, custom_generate=confident, max_new_tokens=8, do_sample=False)
    assert torch.equal(both[0, 1:], alone[0])


def test_as_a_dictionary(model):
    out = model.generate(
        torch.tensor([[3, 4]]), custom_generate=decoding(mask=MASK), max_new_tokens=4, return_dict_in_generate=True
    )
    assert out.sequences.shape == (1, 6)


def test_what_it_refuses(model):
    ids = torch.tensor([[3, 4]])
    with pytest.raises(GenerateError, match=r"no mask_token_id; say which id is the mask: decoding\(mask=\.\.\)"):
        model.generate(ids, custom_generate=decoding(), max_new_tokens=4)
    with pytest.raises(GenerateError, match="the processor NoBadWordsLogitsProcessor reads texts"):
        model.generate(ids, custom_generate=decoding(mask=MASK), max_new_tokens=4, bad_words_ids=[[3]])
    with pytest.raises(GenerateError, match="no setting is called 'stepss'"):
        decoding(stepss=3)
    with pytest.raises(GenerateError, match=r"top_p = 0\.9 belongs to generate"):
        decoding(top_p=0.9)
