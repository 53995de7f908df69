import json
import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file

import demask
from demask.canvas import ABSENT, Canvas
from demask.denoisers.checkpoints import Facts, PublishedTokenizer, read
from demask.denoisers.checkpoints.base import Checkpoint
from demask.denoisers.checkpoints.family import configured
from demask.denoisers.checkpoints.masked_lm import KINDS, MaskedLanguageModel, first, network
from demask.errors import CheckpointError, GenerateError, TokenizerError

from .published import BERT, DREAM, FAMILIES, LLADA, SDAR, drawn, write

WTE = "model.transformer.wte.weight"
GATE = "model.transformer.blocks.1.ff_proj.weight"


@pytest.fixture(scope="module")
def tensors():
    return drawn(FAMILIES["llada"][1](LLADA))


@pytest.fixture
def folder(tmp_path, tensors):
    return write(tmp_path / "llada", LLADA, tensors)


def change(folder, name="config.json", **values):
    path = folder / name
    body = (json.loads(path.read_text()) if path.exists() else {}) | values
    path.write_text(json.dumps({key: value for key, value in body.items() if value is not ...}))


def shard(folder, tensors, parts=2):
    names = sorted(tensors)
    places = {name: f"model-{1 + index % parts:05}-of-{parts:05}.safetensors" for index, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "model.safetensors").unlink()


def ask(opened):
    given = Canvas.blank(1, 4)
    return opened.denoiser(given, given.masked).logits


def test_facts_and_their_sources(folder):
    facts = read(folder).facts
    assert facts == Facts("LLaDA", 23, 32, 21, (20,), False, None)
    assert facts.sources["mask"] == "config.json: mask_token_id, tokenizer_config.json: mask_token"
    assert facts.sources["ends"] == "config.json: eos_token_id, tokenizer_config.json: eos_token"
    assert facts.sources["context"] == "config.json: max_sequence_length"


def test_facts_given_take_the_place_of_those_read(folder):
    facts = read(folder, mask=22, ends=(19, 20), shift=True, context=16, block=4, before=(1,), after=()).facts
    assert facts == Facts("LLaDA", 23, 16, 22, (19, 20), True, 4, (1,))
    assert {facts.sources[name] for name in ("mask", "ends", "shift", "context", "block", "before", "after")} == {
        f"given as {name}=" for name in ("mask", "ends", "shift", "context", "block", "before", "after")
    }


def test_several_ends_are_no_contradiction(folder):
    change(folder, "generation_config.json", eos_token_id=[5, 20])
    assert read(folder).facts.ends == (20, 5)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "generation_config.json",
            {"mask_token_id": 5},
            r"on the mask: 21 in config.json: mask_token_id, 5 in generation_",
        ),
        (
            "tokenizer_config.json",
            {"mask_token": "w3"},
            r"21 in config.json: mask_token_id, 3 in tokenizer_config.json: mask_",
        ),
        (
            "special_tokens_map.json",
            {"mask_token": {"content": "w4"}},
            r"4 in special_tokens_map.json: mask_token; give .*mask=",
        ),
        (
            "generation_config.json",
            {"eos_token_id": [4, 5]},
            r"end of a text: 20 in config.json: eos_token_id, 4 5 in gen",
        ),
        (
            "tokenizer_config.json",
            {"mask_token": "[NONE]"},
            r"mask_token is '\[NONE\]', which the tokenizer does not have",
        ),
        ("config.json", {"eos_token_id": "20"}, r"eos_token_id = '20'; expected token ids"),
        ("config.json", {"d_model": None}, r"config.json: d_model = None; expected a positive int"),
        ("config.json", {"rope_theta": -1.0}, r"rope_theta = -1.0; expected a positive float"),
        ("config.json", {"n_heads": 5}, r"d_model = 16 for n_heads = 5; expected a multiple"),
        ("config.json", {"embedding_size": 20}, r"embedding_size = 20 below vocab_size = 23"),
        ("config.json", {"alibi": True}, r"alibi = True; the LLaDA family is read with False only"),
        (
            "config.json",
            {"layer_norm_type": "default"},
            r"layer_norm_type = 'default'; the LLaDA family is read with 'rms'",
        ),
        ("config.json", {"vocab_size": 20}, r"the token '<\|endoftext\|>' has the id 20|ends holds 20"),
    ],
)
def test_contradictions_and_bad_configurations_are_named(folder, name, values, message):
    change(folder, name, **values)
    with pytest.raises((CheckpointError, TokenizerError), match=message):
        read(folder)


def test_silent_files_ask_for_the_fact(folder):
    change(folder, mask_token_id=...)
    change(folder, "tokenizer_config.json", mask_token=...)
    with pytest.raises(CheckpointError, match=r"no mask_token_id in config.json and no mask_token .* give mask="):
        read(folder)
    assert read(folder, mask=21).facts.mask == 21
    for wrong, message in ((24, "outside the 24 rows"), (20, "ends = .20,. with the mask 20")):
        with pytest.raises(CheckpointError, match=message):
            read(folder, mask=wrong)
    change(folder, eos_token_id=...)
    change(folder, "tokenizer_config.json", eos_token=...)
    with pytest.raises(CheckpointError, match=r"no eos_token_id, eos_token or sep_token anywhere; give ends="):
        read(folder, mask=21)
    assert read(folder, mask=21, ends=(20,)).facts.ends == (20,)


def test_unknown_families_list_those_known(folder):
    change(folder, model_type="sedd")
    with pytest.raises(CheckpointError, match=r"model_type 'sedd', .* LLaDA \(llada\); Dream \(Dream, dream\); LLaDA2"):
        read(folder)
    assert read(folder, family="llada").facts.family == "LLaDA"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(GATE), rf"no tensor {GATE}, expected of shape \(24, 16\) \(1 missing\)"),
        (lambda t: t.update({"model.odd": torch.zeros(3)}), r"unknown tensor model.odd of shape \(3,\) \(1 unknown\)"),
        (
            lambda t: t.update({WTE: torch.zeros(23, 16)}),
            rf"{WTE} has shape \(23, 16\), expected \(24, 16\) by config.json",
        ),
        (lambda t: t.update({GATE: torch.zeros(24, 16).char()}), rf"{GATE} is torch.int8; expected float32"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, tensors, edit, message):
    changed = dict(tensors)
    edit(changed)
    save_file(changed, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read(folder)


def test_tied_tensors_must_agree(folder, tensors):
    change(folder, weight_tying=True)
    with pytest.raises(CheckpointError, match=r"ff_out.weight differs from model.transformer.wte.weight"):
        read(folder)
    save_file(tensors | {"model.transformer.ff_out.weight": tensors[WTE].clone()}, folder / "model.safetensors")
    assert ask(read(folder)).shape == (4, 23)


def test_shards(folder, tensors):
    whole = ask(read(folder))
    shard(folder, tensors, parts=3)
    assert torch.equal(ask(read(folder)), whole)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"the shards model-00002-of-00003.safetensors are not there"):
        read(folder)


def test_an_index_that_is_wrong(folder, tensors):
    save_file(tensors, folder / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {WTE: "model.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"holds both model.safetensors and model.safetensors.index.json"):
        read(folder)
    index.unlink()
    shard(folder, tensors)
    body = json.loads(index.read_text())
    other = next(name for name, file in body["weight_map"].items() if file.startswith("model-00002"))
    for name, value, message in [
        (other, "model-00001-of-00002.safetensors", rf"{other} is to be in model-00001.*, but is in model-00002"),
        (other, "../model.safetensors", r"expected the name of a file in the same folder"),
        ("odd", "model-00001-of-00002.safetensors", r"odd is to be in model-00001.*, but is in none of them"),
    ]:
        index.write_text(json.dumps({"weight_map": body["weight_map"] | {name: value}}))
        with pytest.raises(CheckpointError, match=message):
            read(folder)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="no index of shards"):
        read(folder)


class Evil:
    def __reduce__(self):
        return (exec, ("import demask; demask._evil = True",))


def test_pickles_only_where_asked_and_only_plain_tensors(folder, tensors):
    whole = ask(read(folder))
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is a pickle, read only with pickles=True"):
        read(folder)
    assert torch.equal(ask(read(folder, pickles=True)), whole)
    torch.save({WTE: Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no pickle of plain tensors"):
        read(folder, pickles=True)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="no pickle of plain tensors"):
        read(folder, pickles=True)
    assert not hasattr(demask, "_evil")


def test_code_of_the_checkpoint_never_runs(folder):
    for name in ("modeling_llada.py", "configuration_llada.py", "tokenization_dream.py"):
        (folder / name).write_text("raise SystemExit('remote code')")
    assert ask(read(folder)).shape == (4, 23)


def test_damaged_files_are_named(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"model.safetensors: truncated, corrupt"):
        read(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="the tokenizers library refuses"):
        read(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no tokenizer.json, and not both vocab.json and merges.txt"):
        read(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="list; expected one JSON object"):
        read(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not whole JSON"):
        read(folder)


def test_without_transformers(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in [name for name in sys.modules if name.startswith("transformers.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CheckpointError, match=r"pip install 'demask\[checkpoints\]'"):
        read(folder)


def test_blocks_must_be_known(tmp_path):
    folder = write(tmp_path, SDAR, drawn(FAMILIES["sdar"][1](SDAR)))
    assert read(folder).facts.block == 4
    change(folder, block_size=...)
    with pytest.raises(CheckpointError, match=r"no block_size, which SDAR needs; give it as block="):
        read(folder)
    with pytest.raises(CheckpointError, match=r"before = \(1,\).* counted over the text alone"):
        read(folder, block=8, before=(1,))
    wide = read(folder, block=8)
    assert (wide.facts.block, wide.denoiser.backbone.block) == (8, 8)


def test_a_loaded_model_is_decoded_in_its_blocks(tmp_path):
    model = demask.load(write(tmp_path, SDAR, drawn(FAMILIES["sdar"][1](SDAR))))
    assert (model.recipe.block, model.recipe.over) == (4, "row")
    when = model.generate("w1 w2 w3", 13, key=1, end="never").when
    latest = -1
    for start in (3, 4, 8, 12):  # the prompt is the beginning of the first block
        block = when[start : 4 * (start // 4) + 4]
        assert min(block) == latest + 1
        latest = max(block)
    assert demask.load(write(tmp_path / "llada", LLADA, drawn(FAMILIES["llada"][1](LLADA)))).recipe.block is None


def test_ids_of_no_token_are_never_written(tmp_path):
    config = DREAM | {"vocab_size": 26}
    opened = read(write(tmp_path, config, drawn(FAMILIES["dream"][1](config))))
    assert opened.facts.unused == (23, 24, 25)
    assert bool((ask(opened)[:, [21, 23, 24, 25]] == -torch.inf).all())
    assert opened.tokenizer.size == 26


def test_dreams_tokenizer_is_made_of_its_pieces(tmp_path):
    from tokenizers import pre_tokenizers

    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the"]
    extra = ["<|endoftext|>", "<|im_start|>", "<|mask|>"]
    config = DREAM | {"vocab_size": 261, "eos_token_id": 258, "mask_token_id": 260}
    folder = write(tmp_path, config, drawn(FAMILIES["dream"][1](config)))
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    added = {str(258 + index): {"content": name, "special": True} for index, name in enumerate(extra)}
    change(folder, "tokenizer_config.json", added_tokens_decoder=added, tokenizer_class="DreamTokenizer")
    tokenizer = read(folder).tokenizer
    assert tokenizer.encode("the<|im_start|>")[-2:] == [257, 259]
    assert tokenizer.decode(tokenizer.encode("<|im_start|>the café, 12\n\n")) == "<|im_start|>the café, 12\n\n"
    with pytest.raises(TokenizerError, match="holds the mask token"):
        tokenizer.encode("the <|mask|>")
    change(folder, "tokenizer_config.json", added_tokens_decoder={"900": {"content": "<|far|>"}})
    with pytest.raises(TokenizerError, match=r"'<\|far\|>' is to be 900"):
        read(folder)


def test_a_model_generates_and_refuses_the_mask(folder):
    model = demask.load(folder)
    assert isinstance(model.tokenizer, PublishedTokenizer)
    assert (model.context, model.tokenizer.end, model.about) == (32, 20, {"family": "LLaDA"})
    result = model.generate("w1 w2", 6, key=1, temperature=0.0)
    assert result.text.startswith("w1 w2")
    assert "mdm_mask" not in result.text
    filled = model.fill("w1 [MASK:2] w3", key=1)
    assert filled.text.split(" ")[0] == "w1"
    assert filled.text.split(" ")[-1] == "w3"
    assert len(filled.gaps[0].split(" ")) == 2
    with pytest.raises(TokenizerError, match=r"holds the mask token '<\|mdm_mask\|>'"):
        model.generate("w1 <|mdm_mask|> w2", 2)
    with pytest.raises(GenerateError, match="leave room"):
        model.generate("w1", 32)
    two = model.generate(["w1", "w1 w2 w3 w4"], 5, key=3)
    assert two[0].text == model.generate("w1", 5, key=3).text  # padding changes nothing


def test_our_own_folders_are_still_read(tmp_path):
    from demask.denoisers import folder as own
    from demask.denoisers.transformer import Network, Shape, Transformer
    from demask.tokenizer import Tokenizer

    words = Tokenizer.words(["a", "b"])
    shape = Shape(vocabulary=3, context=8, width=16, layers=1, heads=2, hidden=24)
    own.write(tmp_path / "own", Transformer(Network(shape)), words, card="", about={})
    assert demask.load(tmp_path / "own").tokenizer == words
    (tmp_path / "own" / "config.json").write_text('{"schema": "demask.model/9"}')
    with pytest.raises(CheckpointError, match=r"the schema is 'demask.model/9'"):
        demask.load(tmp_path / "own")


def test_what_tokens_stand_for(folder):
    tokenizer = read(folder).tokenizer
    assert tokenizer.decode([3, 20, 4, 20, 20]) == "w3 <|endoftext|> w4"
    with pytest.raises(TokenizerError, match=r"token id 23; expected 0 .. 22"):
        tokenizer.decode([23])
    with pytest.raises(TokenizerError, match="not Unicode"):
        tokenizer.encode("\ud800")


def test_older_names_and_other_heads(tmp_path):
    shapes = FAMILIES["bert"][1](BERT)
    tensors = drawn(shapes)
    whole = ask(read(write(tmp_path / "new", BERT, tensors)))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    } | {
        "bert.pooler.dense.weight": torch.zeros(16, 16),
        "cls.seq_relationship.bias": torch.zeros(2),
        "bert.embeddings.position_ids": torch.arange(32)[None],
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].clone(),
    }
    assert torch.equal(ask(read(write(tmp_path / "old", BERT, old))), whole)
    with pytest.raises(CheckpointError, match="is_decoder = True"):
        read(write(tmp_path / "decoder", BERT | {"is_decoder": True}, tensors))
    with pytest.raises(CheckpointError, match="quantised weights are not read"):
        read(write(tmp_path / "eight", BERT | {"quantization_config": {"load_in_8bit": True}}, tensors))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_masked_language_model_can_be_cut(kind):
    """The head on gathered rows is the whole model on them, and padding changes nothing."""
    sizes = {
        "vocab_size": 23, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24,
        "max_position_embeddings": 34, "pad_token_id": 1,
    }  # fmt: skip
    more = {
        "albert": {"embedding_size": 8},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
        "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 3, "n_heads": 2},
        "electra": {"embedding_size": 8},
        "esm": {"mask_token_id": 21, "token_dropout": True},
        "eurobert": {"num_key_value_heads": 2, "head_dim": 8},
        "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 3, "bos_token_id": 2, "eos_token_id": 3,
                       "cls_token_id": 2, "sep_token_id": 3},
    }.get(kind, {})  # fmt: skip
    config = configured(kind, **sizes, **more)
    torch.manual_seed(3)
    model = network(config)(config).eval()
    for value in model.parameters():
        value.data.normal_(0, 0.3)
    cut = MaskedLanguageModel(model)
    facts = Facts(kind, 23, 34 - first(model), 21, (20,))
    denoiser = Checkpoint(cut, facts)
    chance = torch.Generator().manual_seed(1)
    tokens = torch.randint(20, (2, 12), generator=chance)  # the padding id 1 among them: here it is a token
    masked = torch.rand((2, 12), generator=chance) < 0.4
    tokens[0, 3] = 1
    ids = tokens.masked_fill(masked, 21)
    places = {"position_ids": (torch.arange(12) + first(model)).expand(2, 12)} if first(model) else {}
    whole = model(input_ids=ids, attention_mask=torch.ones_like(ids), **places).logits[masked]
    answer = denoiser(Canvas(tokens, masked), masked).logits
    rest = [token for token in range(23) if token != 21]
    assert whole.std() > 0.05
    assert torch.allclose(answer[:, rest], whole[:, rest], atol=1e-4)
    spread = torch.full((2, 20), ABSENT)
    wide = torch.zeros(2, 20).bool()
    at = torch.tensor([0, 2, 3, 4, 7, 8, 9, 12, 13, 14, 15, 19])
    spread[:, at], wide[:, at] = tokens, masked
    spread[1, 19], wide[1, 19] = ABSENT, False  # a shorter row
    padded = denoiser(Canvas(spread, wide), wide)
    assert torch.allclose(padded.logits[: masked[0].sum()][:, rest], whole[: masked[0].sum()][:, rest], atol=1e-4)
    alone = denoiser(Canvas(tokens[1:, :11], masked[1:, :11]), masked[1:, :11]).logits
    assert torch.allclose(padded.logits[masked[0].sum() :][:, rest], alone[:, rest], atol=1e-4)
