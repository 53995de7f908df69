"""What is particular to LLaDA2 and MDLM, and where a network is placed."""

import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file

import demask
from demask.canvas import Canvas
from demask.denoisers.checkpoints import read
from demask.errors import CheckpointError, GenerateError, TokenizerError

from .published import DREAM, FAMILIES, LLADA, MASK, WORDS, drawn, write
from .published_more import FAMILIES as MORE
from .published_more import LLADA2, MDLM


def folder_of(tmp_path, config, edit=lambda tensors: None, **files):
    _, shapes, _ = next(entry for entry in (FAMILIES | MORE).values() if entry[0]["model_type"] == config["model_type"])
    tensors = drawn(shapes(config), key=7)
    edit(tensors)
    return write(tmp_path / "model", config, tensors, **files)


def ask(opened, length=8):
    tokens = torch.randint(20, (1, length), generator=torch.Generator().manual_seed(0))
    masked = torch.arange(length)[None] % 2 == 0
    return opened.denoiser(Canvas(tokens, masked), masked).logits


def without(config, *names):
    return {name: value for name, value in config.items() if name not in names}


# ---- LLaDA2


def test_llada2_where_its_files_are_silent(tmp_path):
    folder = folder_of(tmp_path, without(LLADA2, "block_size"), tokenizer_config={"eos_token": "<|endoftext|>"})
    facts = read(folder).facts
    assert (facts.block, facts.mask, facts.ends, facts.causal, facts.shift) == (32, 21, (20,), True, False)
    assert (facts.sources["block"], facts.sources["mask"]) == ("the LLaDA2 family", "the tokenizer's <|mask|>")
    assert read(folder, block=8).denoiser.backbone.block == 8
    assert demask.load(folder).recipe.block == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_group": 3}, "3 of 8 experts from 2 of 3 groups"),
        ({"n_group": 8}, "from 2 of 8 groups"),
        ({"topk_group": 1}, "3 of 8 experts from 1 of 4 groups"),
        ({"score_function": "softmax"}, "score_function = 'softmax'; the LLaDA2 family is read with 'sigmoid' only"),
        ({"num_shared_experts": 0}, "num_shared_experts = 0"),
        ({"use_qkv_bias": True}, "use_qkv_bias = True"),
        ({"use_sliding_window": True}, "use_sliding_window = True"),
        ({"num_experts": None}, "num_experts = None; expected a positive int"),
        ({"head_dim": None, "hidden_size": 18}, "hidden_size = 18 for num_attention_heads = 4"),
    ],
)
def test_llada2_configurations_that_are_refused(tmp_path, change, message):
    folder = folder_of(tmp_path, LLADA2)
    (folder / "config.json").write_text(json.dumps(LLADA2 | change))
    with pytest.raises(CheckpointError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda t: t.pop("model.layers.2.mlp.experts.5.up_proj.weight"),
            r"no tensor model.layers.2.mlp.experts.5.up_proj.weight, expected of shape \(16, 16\) \(1 missing\)",
        ),
        (
            lambda t: t.update({"model.layers.1.attention.query_key_value.weight": torch.zeros(48, 16)}),
            r"layers.1.attention.query_key_value.weight has shape \(48, 16\), expected \(64, 16\)",
        ),
        (
            lambda t: t.update({"model.layers.1.mlp.experts.8.up_proj.weight": torch.zeros(16, 16)}),
            r"unknown tensor model.layers.1.mlp.experts.8.up_proj.weight of shape \(16, 16\)",
        ),
    ],
)
def test_llada2_tensors_that_do_not_fit_are_named(tmp_path, edit, message):
    with pytest.raises(CheckpointError, match=message):
        read(folder_of(tmp_path, LLADA2, edit))


def test_llada2_written_by_a_newer_library(tmp_path):
    old = ask(read(folder_of(tmp_path / "old", LLADA2)))
    newer = without(LLADA2, "rope_theta", "rope_scaling", "partial_rotary_factor") | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 600000, "partial_rotary_factor": 0.5},
        "model_type": "llada2_moe",
    }
    folder = folder_of(tmp_path / "new", LLADA2)
    (folder / "config.json").write_text(json.dumps(newer))
    assert torch.equal(ask(read(folder)), old)


def test_the_choice_of_experts_is_kept_in_full_precision(tmp_path):
    opened = read(folder_of(tmp_path, LLADA2), dtype=torch.bfloat16)
    gate = opened.denoiser.backbone.network.model.layers[1].mlp.gate
    assert gate.e_score_correction_bias.dtype == torch.float32
    assert ask(opened).dtype == torch.bfloat16


# ---- MDLM


def gpt2(folder, size=23):
    """Write the pieces of a small GPT-2 tokenizer, and the sizes that go with it; return the id of the end."""
    from tokenizers import pre_tokenizers

    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the", "<|endoftext|>"]
    folder.mkdir(parents=True)
    config = MDLM | {"vocab_size": len(pieces) + 1}
    save_file(drawn(MORE["mdlm"][1](config), key=7), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    return len(pieces) - 1


def test_mdlm_with_the_pieces_of_gpt2(tmp_path):
    end = gpt2(tmp_path / "mdlm")
    opened = read(tmp_path / "mdlm")
    facts = opened.facts
    assert (facts.mask, facts.ends, facts.block, facts.context) == (end + 1, (end,), None, 32)
    assert facts.sources["mask"] == "config.json: vocab_size, the last id"
    assert facts.sources["ends"] == "the tokenizer's <|endoftext|>"
    tokenizer = opened.tokenizer
    assert tokenizer.encode(" the 12")[-2:] == tokenizer.encode(
        "12"
    )  # two digits that follow one another, as GPT-2 has it
    assert tokenizer.decode(tokenizer.encode("the café, 12\n\n")) == "the café, 12\n\n"
    text = demask.load(tmp_path / "mdlm").generate("the", 6, key=2).text
    assert text.startswith("the")
    (tmp_path / "mdlm" / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"AutoTokenizer.from_pretrained\('gpt2'\).save_pretrained"):
        read(tmp_path / "mdlm")


def test_mdlm_without_what_is_no_parameter(tmp_path):
    whole = ask(read(folder_of(tmp_path / "one", MDLM)))
    other = folder_of(tmp_path / "two", MDLM, lambda tensors: tensors.pop("backbone.rotary_emb.inv_freq"))
    rest = [token for token in range(23) if token != 21]
    assert torch.allclose(ask(read(other))[:, rest], whole[:, rest], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_conditioning": True}, "time_conditioning = True; the MDLM family is read with False only"),
        ({"n_heads": 5}, "hidden_dim = 16 for n_heads = 5; expected a multiple of twice the heads"),
        ({"cond_dim": 0}, "cond_dim = 0; expected a positive int"),
        ({"model_length": None}, "model_length = None"),
    ],
)
def test_mdlm_configurations_that_are_refused(tmp_path, change, message):
    folder = folder_of(tmp_path, MDLM)
    (folder / "config.json").write_text(json.dumps(MDLM | change))
    with pytest.raises(CheckpointError, match=message):
        read(folder)


# ---- placement


@pytest.mark.parametrize("config", [LLADA, LLADA2], ids=["llada", "llada2"])
def test_a_map_of_devices(tmp_path, config):
    folder = folder_of(tmp_path, config)
    whole = read(folder)
    mapped = read(folder, device_map={"": "cpu"}, dtype=torch.float32)
    assert torch.equal(ask(mapped), ask(whole))
    assert torch.equal(ask(read(folder, device_map="auto", dtype=torch.float32)).cpu(), ask(whole))
    with pytest.raises(CheckpointError, match="device = 'cpu' and device_map = 'auto': give one of them"):
        read(folder, device="cpu", device_map="auto")
    with pytest.raises(CheckpointError, match="transformers refuses it"):
        read(folder, device_map="nowhere")
    with pytest.raises(CheckpointError, match="device = 'warp'"):
        read(folder, device="warp")


def test_networks_of_ours_have_no_map(tmp_path):
    folder = folder_of(tmp_path, MDLM)
    with pytest.raises(CheckpointError, match="device_map is for networks of transformers"):
        read(folder, device_map={"": "cpu"})


def test_a_quantisation_is_passed_on(tmp_path, monkeypatch):
    """To the library's own loading; here without its numbers, which need a GPU."""
    from transformers import LlamaForCausalLM

    folder, told = folder_of(tmp_path, LLADA), []
    inner = LlamaForCausalLM.from_pretrained.__func__

    def spy(cls, *arguments, **options):
        told.append(options.pop("quantization_config", None))
        return inner(cls, *arguments, **options)

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", classmethod(spy))
    wanted = object()
    assert ask(read(folder, quantization_config=wanted)).shape == (4, 23)
    assert told == [wanted]


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="there it is")
def test_a_quantisation_whose_package_is_missing(tmp_path):
    from transformers import BitsAndBytesConfig

    with pytest.raises(CheckpointError, match=r"transformers refuses it .ImportError: .*pip install -U bitsandbytes"):
        read(folder_of(tmp_path, LLADA), quantization_config=BitsAndBytesConfig(load_in_8bit=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there(tmp_path):
    from demask.denoisers import folder as own
    from demask.denoisers.transformer import Network, Shape, Transformer
    from demask.tokenizer import Tokenizer

    shape = Shape(vocabulary=3, context=8, width=16, layers=1, heads=2, hidden=24)
    own.write(tmp_path / "own", Transformer(Network(shape)), Tokenizer.words(["a", "b"]), card="", about={})
    for folder in (folder_of(tmp_path, DREAM), tmp_path / "own"):
        with pytest.raises(CheckpointError, match="device = 'cuda', but torch sees 0 CUDA devices; write device='cpu'"):
            demask.load(folder, device="cuda")


# ---- batches


@pytest.mark.parametrize("name", FAMILIES | MORE)
def test_what_is_drawn_does_not_hang_on_the_other_rows(tmp_path, name):
    """In float32, at temperature 1, prompts of different lengths: tokens and steps are those of the row alone."""
    config, shapes, _ = (FAMILIES | MORE)[name]
    model = demask.load(write(tmp_path, config, drawn(shapes(config), key=7)))
    prompts = ["w1", "w1 w2 w3 w4", "w5 w6", "w7"]
    together = model.generate(prompts, 9, n=2, key=3)
    for place, result in enumerate(together):
        index, sample = divmod(place, 2)
        alone = model.generate(prompts[index], 9, key=3, row=(index, sample))
        assert (alone.tokens, alone.when) == (result.tokens, result.when)
    assert together[0].tokens != together[1].tokens
    assert model.generate(prompts, 9, n=2, key=3, batch=3) == together


# ---- what a user may get wrong


def test_bad_input_of_a_whole_model(tmp_path):
    config = DREAM | {"eos_token_id": [20, 19]}
    model = demask.load(folder_of(tmp_path, config, tokenizer_config={"mask_token": MASK["Dream"]}))
    assert (
        model.generate("w1", 3, key=1, steps=99, schedule="uniform").nfe <= 3
    )  # one token per step is the most there is
    literal = MASK["Dream"]
    with pytest.raises(TokenizerError, match="holds the mask token"):
        model.generate(f"w1 {literal} w2", 3)
    for shown, meant in [
        (f"w1 {literal} w3", "w1 [MASK] w3"),
        (f"{literal} w1 {literal} {literal}", "[MASK] w1 [MASK] [MASK]"),
        (f"w1 [MASK:3] w4 {literal} [END]", "w1 [MASK:3] w4 [MASK] [END]"),
    ]:
        assert model.fill(shown, key=4) == model.fill(meant, key=4)  # in a fill it is what it says
    with pytest.raises(GenerateError, match="no setting is called 'steps_per_block'; there are: schedule"):
        model.generate("w1", 3, steps_per_block=3)
    with pytest.raises(GenerateError, match="block of 0 positions"):
        model.generate("w1", 3, block=0)
    with pytest.raises(GenerateError, match="context of 32"):
        model.generate(" ".join(WORDS[:17] * 2), 3)
    for reading in (read, demask.load):
        with pytest.raises(CheckpointError, match="no option is called 'masks'; there are: family, mask, ends"):
            reading(tmp_path / "model", masks=3)
    with pytest.raises(GenerateError, match="mask is for published checkpoints, but demask/notes is a model of demask"):
        demask.load("demask/notes", mask=3)
