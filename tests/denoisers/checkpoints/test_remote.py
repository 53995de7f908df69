"""Families that are not known: their own code runs where it is trusted by name, and nowhere else."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import embedding

import demask
from demask.canvas import ABSENT, Canvas
from demask.denoisers.checkpoints import read
from demask.errors import CheckpointError

from .published import DREAM, FAMILIES, drawn, write

CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel

class OddConfig(PretrainedConfig):
    model_type = "odd"
    def __init__(self, vocab_size=23, width=8, **more):
        super().__init__(**more)
        self.vocab_size, self.width = vocab_size, width

class OddModel(PreTrainedModel):
    config_class = OddConfig
    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Embedding(config.vocab_size, config.width)
        self.out = torch.nn.Linear(config.width, config.vocab_size)
        self.post_init()
    def forward(self, input_ids):
        x = self.table(input_ids)
        return (self.out(x.cumsum(1) + x.mean(1, keepdim=True)),)
"""
CONFIG = {
    "model_type": "odd", "vocab_size": 23, "width": 8, "mask_token_id": 21, "eos_token_id": 20,
    "max_position_embeddings": 16,
    "auto_map": {"AutoConfig": "modeling_odd.OddConfig", "AutoModel": "modeling_odd.OddModel"},
}  # fmt: skip
TENSORS = drawn({"table.weight": (23, 8), "out.weight": (23, 8), "out.bias": (23,)}, key=3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    from transformers import dynamic_module_utils

    modules = tmp_path / "modules"
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", [*sys.path])
    made = write(tmp_path / "odd", CONFIG, TENSORS, mask="<|mask|>", tokenizer_config={"eos_token": "<|endoftext|>"})
    tokenizer = json.loads((made / "tokenizer.json").read_text().replace("[SEP]", "<|endoftext|>"))
    (made / "tokenizer.json").write_text(json.dumps(tokenizer))
    (made / "modeling_odd.py").write_text(CODE)
    yield made
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def law(ids):
    x = embedding(ids, TENSORS["table.weight"])
    logits = (x.cumsum(0) + x.mean(0)) @ TENSORS["out.weight"].T + TENSORS["out.bias"]
    logits[:, 21] = -torch.inf
    return logits


def test_never_by_default(folder, monkeypatch):
    (folder / "modeling_odd.py").write_text("raise SystemExit('remote code')")
    for options in ({}, {"trust_remote_code": False}):
        with pytest.raises(
            CheckpointError, match=r"model_type 'odd'.*let its own code run by trust_remote_code=True if you"
        ):
            demask.load(folder, **options)


def test_known_families_never_need_it(tmp_path):
    made = write(tmp_path, DREAM, drawn(FAMILIES["dream"][1](DREAM)))
    (tmp_path / "modeling_dream.py").write_text("raise SystemExit('remote code')")
    (tmp_path / "configuration_dream.py").write_text("raise SystemExit('remote code')")
    assert read(made, trust_remote_code=True).facts.family == "Dream"


def test_where_it_is_trusted(folder):
    opened = read(folder, trust_remote_code=True, shift=False)
    facts = opened.facts
    assert (facts.family, facts.mask, facts.ends, facts.context, facts.block) == ("own code", 21, (20,), 16, None)
    tokens = torch.tensor([[1, 0, 5, 0, 9], [ABSENT, 4, 0, 0, ABSENT], [3, 0, ABSENT, ABSENT, ABSENT]])
    masked = (tokens == 0) & (tokens != ABSENT)
    answer = opened.denoiser(Canvas(tokens, masked), masked).logits
    expected = []
    for row, hidden in zip(tokens, masked, strict=True):
        here = row != ABSENT
        expected.append(law(row.masked_fill(hidden, 21)[here])[hidden[here]])
    rest = [token for token in range(23) if token != 21]
    assert torch.allclose(answer[:, rest], torch.cat(expected)[:, rest], atol=1e-5)
    model = demask.load(folder, trust_remote_code=True, shift=False)
    assert model.generate("w1 w2", 5, key=1).text.startswith("w1 w2")


def test_what_has_to_be_said(folder):
    with pytest.raises(
        CheckpointError, match="cannot be known of its own code; give shift=False, or shift=True as Dream"
    ):
        read(folder, trust_remote_code=True)
    config = {name: value for name, value in CONFIG.items() if name != "max_position_embeddings"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"none of max_position_embeddings, .*give the most positions as context="
    ):
        read(folder, trust_remote_code=True, shift=False)
    assert read(folder, trust_remote_code=True, shift=False, context=12).facts.context == 12
    (folder / "config.json").write_text(json.dumps(CONFIG | {"auto_map": {}}))
    with pytest.raises(CheckpointError, match="no auto_map with AutoModelForMaskedLM"):
        read(folder, trust_remote_code=True, shift=False)


def test_code_that_fails(folder):
    (folder / "modeling_odd.py").write_text(CODE.replace("return (self", "return (self.out(x[:, 0]),) + (self"))
    with pytest.raises(CheckpointError, match=r"the checkpoint's own code answered .* expected logits"):
        demask.load(folder, trust_remote_code=True, shift=False).generate("w1", 2)


def test_code_of_another_version(folder):
    (folder / "modeling_odd.py").write_text("from transformers import Nothing\n" + CODE)
    with pytest.raises(CheckpointError, match=r"odd: its own code fails with this transformers \(ImportError"):
        read(folder, trust_remote_code=True, shift=False)


def test_pickles_are_not_read_by_it(folder):
    (folder / "model.safetensors").unlink()
    torch.save(TENSORS, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is a pickle, read only with pickles=True"):
        read(folder, trust_remote_code=True, shift=False)
    save_file(TENSORS, folder / "model.safetensors", metadata={"format": "pt"})
    assert read(folder, trust_remote_code=True, shift=False).facts.family == "own code"
