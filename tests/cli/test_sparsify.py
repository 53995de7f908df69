import signal
import subprocess
import sys

import pytest
import torch

import demask
from demask import files
from demask.denoisers import folder
from demask.denoisers.sparse import Pattern, read_masks
from demask.training import Calibration


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts")
    for i in range(12):
        (path / f"{i}.txt").write_text(f"the {i} cats sat on the mat, and {i + 1} dogs looked on.\n" * 8)
    return path


@pytest.fixture
def model(texts, tmp_path, demask):
    demask(
        "train", texts, "--out", tmp_path / "model", "--context", 16, "--steps", 1, "--batch", 2, "--vocabulary", 280
    )
    return tmp_path / "model"


QUICK = ("--steps", 2, "--samples", 8, "--batch", 4)


def test_from_a_trained_folder_to_a_sparse_one(texts, model, tmp_path, demask):
    out = tmp_path / "sparse"
    result = demask("sparsify", model, texts, "--out", out, *QUICK)
    rows = [line.split()[0] for line in result.stdout.splitlines() if line.strip()]
    first = rows.index("dense")  # a title before it is as long as the paths are
    assert rows[first : first + 4] == ["dense", "magnitude", "wanda", "learned"]
    assert "2 steps in" in result.stdout
    assert f"wrote {out}: 42 layers, 1,204,224 weights" in result.stdout.replace("\n", "")
    assert "step 1, " in result.stderr
    found = folder.read(out)
    assert found.about["sparsity"] == {"pattern": "2:4", "method": "learned", "from": str(model), "layers": 42}
    pattern, masks = read_masks(out, found.denoiser.network)
    assert pattern == Pattern(2, 4)
    dense = folder.read(model).denoiser.network.get_submodule("blocks.3.gate.up").weight
    kept = found.denoiser.network.get_submodule("blocks.3.gate.up").weight
    assert torch.equal(kept, dense * masks["blocks.3.gate.up"])
    demask("eval", out, texts, "--steps", 2, "--passes", 64, "--rounds", 1)


def test_other_patterns_methods_and_layers(texts, model, tmp_path, as_json):
    few = ("--samples", 8, "--only", "blocks.0.*", "--leave", "*.out")
    found = as_json(
        "sparsify", model, texts, "--out", tmp_path / "a", "--method", "magnitude", "--pattern", "3:8", *few
    )
    assert (found["layers"], found["steps"], found["status"], found["pattern"]) == (6, 0, "finished", "3:8")
    assert [*found["scores"]] == ["dense", "magnitude", "wanda"]
    network = demask.load(tmp_path / "a").denoiser.network
    assert read_masks(tmp_path / "a", network)[0] == Pattern(3, 8)
    assert int((network.get_submodule("blocks.0.attention.key").weight == 0).sum()) == 128 * 128 * 5 // 8
    assert bool((network.get_submodule("blocks.0.attention.out").weight != 0).all())
    found = as_json("sparsify", model, texts, "--out", tmp_path / "b", "--start", "magnitude", *few[2:], *QUICK)
    assert (found["steps"], [*found["scores"]][-1]) == (2, "learned")


def test_uneven_layers(texts, model, tmp_path, refused, as_json):
    uneven = (model, texts, "--pattern", "4:24", "--method", "magnitude", "--samples", 8, "--only", "blocks.0.*")
    told = refused("sparsify", *uneven, "--out", tmp_path / "no")
    assert "blocks.0.attention.query (128 inputs)" in told
    assert "--skip-uneven" in told
    assert not (tmp_path / "no").exists()
    assert "no linear layer is left" in refused("sparsify", *uneven, "--out", tmp_path / "no", "--skip-uneven")
    uneven = (*uneven[:2], "--pattern", "2:11", *uneven[4:])
    assert as_json("sparsify", *uneven, "--out", tmp_path / "some", "--skip-uneven")["layers"] == 1  # 352 inputs


def test_failures_are_one_line(texts, model, tmp_path, refused):
    out = ("--out", tmp_path / "sparse")
    assert "give DATA, or --oracle notes" in refused("sparsify", model, *out)
    assert "one of them" in refused("sparsify", model, texts, "--oracle", "notes", *out)
    assert "expected N:M" in refused("sparsify", model, texts, "--pattern", "half", *out)
    assert "--method 'best'; expected one of learned, wanda" in refused(
        "sparsify", model, texts, "--method", "best", *out
    )
    assert "exactly one" in refused("sparsify", model, texts, "--steps", 2, "--seconds", 2, *out)
    assert "holds a model, which would be lost" in refused("sparsify", model, texts, "--out", model)
    assert "there is no folder" in refused("sparsify", model, texts, "--out", tmp_path / "a" / "b")
    assert "neither a folder nor" in refused("sparsify", tmp_path / "none", texts, *out)
    assert "no linear layer is called 'head'" in refused("sparsify", model, texts, "--leave", "head", *out)
    (tmp_path / "llada").mkdir()
    (tmp_path / "llada" / "config.json").write_text('{"model_type": "llada"}')
    assert "is a published checkpoint" in refused("sparsify", tmp_path / "llada", texts, *out)
    assert not (tmp_path / "sparse").exists()


def test_the_better_rule_begins(texts, model, tmp_path, demask):
    """No step moves a mask at a rate of nearly 0: what is written is the start of least loss."""
    still = ("--rate", 1e-9, "--samples", 8, "--batch", 8, "--steps", 1, "--only", "blocks.0.gate.*")
    kept = {}
    for start in ("best", "wanda", "magnitude"):
        demask("sparsify", model, texts, "--out", tmp_path / start, "--start", start, *still)
        kept[start] = read_masks(tmp_path / start, folder.read(tmp_path / start).denoiser.network)[1]
    same = {start: all(torch.equal(kept[start][name], kept["best"][name]) for name in kept["best"]) for start in kept}
    assert same["wanda"] is not same["magnitude"]


def test_a_loss_that_is_not_finite_keeps_the_masks_before(texts, model, tmp_path, refused, monkeypatch):
    finite, calls = Calibration.__call__, []

    def breaks(self, index):
        calls.append(index)
        return finite(self, index) if len(calls) < 10 else float("nan")

    monkeypatch.setattr(Calibration, "__call__", breaks)
    told = refused(
        "sparsify", model, texts, "--out", tmp_path / "out", "--start", "wanda", "--seconds", 99, *QUICK[2:], "--json"
    )
    assert "the loss of minibatch 1 is nan at step 5; the masks of the steps before are kept" in told
    read_masks(tmp_path / "out", folder.read(tmp_path / "out").denoiser.network)


def test_inputs_that_are_not_finite_are_refused(texts, model, tmp_path, refused):
    found = folder.read(model)
    found.denoiser.network.get_submodule("blocks.0.gate.up").weight.fill_(3e38)
    folder.write(model, found.denoiser, found.tokenizer, card="", about=found.about)
    told = refused("sparsify", model, texts, "--out", tmp_path / "out", *QUICK)
    assert "inputs that are not finite; the dense network is broken" in told
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line_and_the_folder_is_free_again(texts, model, tmp_path, refused, demask, monkeypatch):
    """Full at the weights, before there is anything; then again while learning, where the masks before stay."""
    few = ("--only", "blocks.0.*", "--samples", 8, "--batch", 4, "--start", "wanda", "--scale", 2)
    out, write, left = tmp_path / "out", files.os.fsync, []

    def full(handle):
        if not left:
            raise OSError(28, "No space left on device")
        left.pop()
        write(handle)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        left[:] = [None] * 4
        told = refused("sparsify", model, texts, "--out", out, "--steps", 2, "--json", *few)
        assert "model.safetensors: no space left on device; check the device and the path" in told
        assert [*out.iterdir()] == []
        left[:] = [None] * 9
        told = refused("sparsify", model, texts, "--out", out, "--steps", 2, "--json", *few)
        assert "no space left" in told
    demask("sparsify", model, texts, "--out", tmp_path / "rule", "--method", "wanda", *few)
    kept, rule = (read_masks(path, folder.read(path).denoiser.network)[1] for path in (out, tmp_path / "rule"))
    assert all(torch.equal(kept[name], rule[name]) for name in rule)


@pytest.mark.slow
def test_the_model_inside(tmp_path, as_json):
    found = as_json("sparsify", "demask/notes", "--oracle", "notes", "--out", tmp_path / "notes", *QUICK)
    scores = {method: score["nats_per_text"]["value"] for method, score in found["scores"].items()}
    assert 50 < scores["dense"] < scores["magnitude"] < scores["wanda"] < 100
    assert "dear" in demask.load(tmp_path / "notes").generate("dear anna ,", 8, key=1).text


@pytest.mark.slow
def test_ctrl_c_keeps_the_masks_so_far(tmp_path):
    out = tmp_path / "sparse"
    command = [
        sys.executable, "-m", "demask.cli", "sparsify", "demask/notes", "--oracle", "notes", "--out", str(out),
        "--samples", "8", "--batch", "4", "--seconds", "300",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert "step 1," in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "the masks so far are in the folder" in stdout
    assert "Traceback" not in stderr
    read_masks(out, folder.read(out).denoiser.network)
