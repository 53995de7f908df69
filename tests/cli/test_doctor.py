import json
import re
from pathlib import Path

import pytest
import torch
import typer

from demask.cli.doctor import run
from demask.errors import GenerateError, SpecError
from tests.denoisers.checkpoints.published import BERT, FAMILIES, LLADA, drawn, write
from tests.denoisers.checkpoints.published_more import FAMILIES as MORE
from tests.denoisers.checkpoints.published_more import LLADA2


def look(folder, capsys, code=0, said=None):
    with pytest.raises(typer.Exit) if code else nothing() as told:
        run(folder, said, as_json=True)
    if code:
        assert told.value.exit_code == code
    return json.loads(capsys.readouterr().out)


class nothing:  # noqa: N801
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return False


@pytest.fixture
def llada(tmp_path):
    return write(tmp_path / "llada", LLADA, drawn(FAMILIES["llada"][1](LLADA)))


def test_what_would_be_used(llada, capsys):
    found = look(llada, capsys)
    assert (found["kind"], found["family"], found["loads"]) == ("published checkpoint", "LLaDA", True)
    assert found["facts"]["mask"] == {
        "value": 21, "source": "config.json: mask_token_id, tokenizer_config.json: mask_token",
    }  # fmt: skip
    assert found["facts"]["shift"] == {"value": False, "source": "the LLaDA family"}
    assert found["weights"] == {"files": ["model.safetensors"], "tensors": 21, "parameters": 4688}
    assert found["files"] == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    run(llada, as_json=False)
    text = capsys.readouterr().out
    assert "published checkpoint of the LLaDA family" in text
    assert "loads: demask.load(" in text
    assert "its own code is not run" in text
    assert found["facts"]["chat"] == {"value": False, "source": "nowhere"}
    config = llada / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": "{{ messages }}"}))
    assert look(llada, capsys)["facts"]["chat"] == {"value": True, "source": "tokenizer_config.json: chat_template"}


def test_blocks_are_told(tmp_path, capsys):
    found = look(write(tmp_path / "llada2", LLADA2, drawn(MORE["llada2"][1](LLADA2))), capsys)
    assert (found["family"], found["loads"]) == ("LLaDA2", True)
    assert found["facts"]["block"] == {"value": 4, "source": "config.json: block_size"}
    assert found["facts"]["causal"] == {"value": True, "source": "the LLaDA2 family"}


def test_what_is_missing(llada, capsys):
    (llada / "model.safetensors").unlink()
    (llada / "tokenizer.json").unlink()
    found = look(llada, capsys, code=1)
    assert len(found["problems"]) == 2
    assert "holds no model.safetensors" in found["problems"][0]
    assert "holds no tokenizer.json" in found["problems"][1]
    with pytest.raises(typer.Exit):
        run(llada, as_json=False)
    assert capsys.readouterr().out.count("cannot be loaded: ") == 2


def test_a_tensor_is_missing(tmp_path, capsys):
    tensors = drawn(FAMILIES["bert"][1](BERT))
    del tensors["bert.encoder.layer.1.output.dense.bias"]
    found = look(write(tmp_path / "bert", BERT, tensors), capsys, code=1)
    assert "no tensor bert.encoder.layer.1.output.dense.bias, expected of shape (16,)" in found["problems"][0]


def test_what_is_left_out_is_told(tmp_path, capsys):
    tensors = drawn(FAMILIES["bert"][1](BERT) | {"bert.pooler.dense.bias": (16,)})
    found = look(write(tmp_path / "bert", BERT, tensors), capsys)
    assert found["weights"]["left_out"] == ["bert.pooler.dense.bias"]


def test_what_is_said_takes_the_place_of_the_files(llada, capsys):
    config = llada / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"mask_token": "w3"}))
    [problem] = look(llada, capsys, code=1)["problems"]
    assert "contradict each other on the mask: 21 in config.json" in problem
    assert "give the right one as mask=.." in problem
    found = look(llada, capsys, said=["mask=21", "ends=20,19", "shift=yes", "block=8"])
    assert found["loads"]
    assert found["facts"]["mask"] == {"value": 21, "source": "given as mask="}
    assert [found["facts"][name]["value"] for name in ("ends", "shift", "block")] == [[20, 19], True, 8]
    run(llada, ["mask=21"], as_json=False)
    assert capsys.readouterr().out.endswith(f"loads: demask.load({str(llada)!r}) with mask=21\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_a_problem(llada, capsys):
    [problem] = look(llada, capsys, code=1, said=["device=cuda"])["problems"]
    assert "torch sees 0 CUDA devices; write device='cpu'" in problem


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["masks=3"], "--load 'masks=3': expected NAME=VALUE, with NAME one of device, dtype, family, mask"),
        (["mask"], "--load 'mask': expected NAME=VALUE"),
        (["mask=x"], "--load mask=x: expected a token id"),
        (["shift=perhaps"], "expected yes or no"),
        (["dtype=float99"], "expected float32, bfloat16 or float16"),
        (["chat=no/such/file"], "no such file or directory; expected a file that holds a Jinja template"),
        (["mask=1", "mask=2"], "--load mask is given twice"),
        (["trust_remote_code=yes"], "doctor runs no code of a checkpoint"),
    ],
)
def test_what_cannot_be_said(llada, said, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        run(llada, said, as_json=True)


def test_other_folders(tmp_path, capsys):
    found = look(tmp_path, capsys, code=1)
    assert found["kind"] == "unknown"
    assert "config.json: no such file" in found["problems"][0]
    (tmp_path / "config.json").write_text('{"model_type": "sedd"}')
    problem = look(tmp_path, capsys, code=1)["problems"][0]
    assert "the families known are LLaDA" in problem
    assert "trust_remote_code=True if you trust it" in problem
    with pytest.raises(GenerateError, match="no model"):
        run(Path(tmp_path / "none"), as_json=True)


def test_our_own_model(tmp_path, capsys):
    from demask.denoisers import folder
    from demask.denoisers.transformer import Network, Shape, Transformer
    from demask.tokenizer import Tokenizer

    shape = Shape(vocabulary=3, context=8, width=16, layers=1, heads=2, hidden=24)
    folder.write(tmp_path / "own", Transformer(Network(shape)), Tokenizer.words(["a", "b"]), card="", about={})
    found = look(tmp_path / "own", capsys)
    assert found["kind"] == "demask model"
    assert found["facts"]["context"]["value"] == 8
