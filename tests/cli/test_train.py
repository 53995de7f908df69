import json
import signal
import subprocess
import sys

import pytest
import torch

from demask.denoisers import Permutation, folder
from demask.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts")
    for i in range(12):
        (path / f"{i}.txt").write_text(f"the {i} cats sat on the mat, and {i + 1} dogs looked on.\n" * 8)
    return path


QUICK = ("--context", 16, "--steps", 2, "--batch", 2, "--vocabulary", 280)


@pytest.fixture
def model(texts, tmp_path, demask):
    demask("train", texts, "--out", tmp_path / "model", *QUICK)
    return tmp_path / "model"


def test_train_then_eval(texts, tmp_path, demask, as_json):
    out = tmp_path / "model"
    result = demask("train", texts, "--out", out, *QUICK)
    assert "bits per byte (95%:" in result.stdout
    assert f"wrote {out}" in result.stdout
    assert "step 2, loss" in result.stderr
    assert "\x1b" not in result.stderr
    assert folder.read(out).about["documents"] == "packed"
    found = as_json("eval", out, texts / "3.txt", texts / "4.txt", "--steps", "2,4", "--passes", 64)
    assert 2 < found["bits_per_byte"]["value"] < 12
    assert found["entropy_nats_per_text"] is None
    assert [(row["schedule"], row["steps"]) for row in found["path_nll_nats_per_window"]][:2] == [
        ("uniform", 2),
        ("uniform", 4),
    ]
    table = demask("eval", out, texts / "3.txt", "--steps", "2,4", "--passes", 64).stdout
    assert "2 steps" in table
    assert "optimal" in table


def test_a_permutation_network_is_trained_and_samples_speculatively(texts, tmp_path, demask, as_json, refused):
    out = tmp_path / "model"
    told = demask("train", texts, "--out", out, *QUICK, "--network", "permutation")
    assert "bits per byte (95%:" in told.stdout
    kept = folder.read(out)
    assert type(kept.denoiser) is Permutation
    size = kept.tokenizer.size
    last = torch.cat((torch.zeros(size, 2), torch.arange(size)[:, None]), 1).long()
    joint = kept.denoiser.log_prob(last, torch.tensor([[0, 0, 1]]).expand(size, 3))
    assert float(joint.logsumexp(0)) == pytest.approx(0, abs=1e-4)  # of the last token, a law
    written = as_json("generate", "the", "--model", out, "--sampler", "Speculative(4)", "--max-new-tokens", 8)
    assert 1 <= written["passes"][-1] <= 8
    assert written["law"] == "EXACT"
    assert "network differ" in refused("train", texts, "--out", out, *QUICK, "--resume")
    assert "'recurrent'; expected one of transformer, permutation" in refused(
        "train", texts, "--out", tmp_path / "other", *QUICK, "--network", "recurrent"
    )


def test_a_known_language(tmp_path, as_json):
    out = tmp_path / "notes"
    found = as_json("train", "--oracle", "notes", "--out", out, "--steps", 1, "--batch", 2)
    assert found["status"] == "finished"
    assert found["texts"] == 256
    model = folder.read(out)
    assert model.about["language"] == "notes"
    assert model.denoiser.context == 100
    scored = as_json("eval", out, "--oracle", "notes", "--texts", 8, "--rounds", 1, "--passes", 64, "--steps", "4")
    assert scored["nats_per_text"]["value"] > scored["entropy_nats_per_text"] > 10


def test_a_trained_model_is_measured_planned_and_used(texts, model, demask, as_json, refused):
    """From the folder to a curve on texts, from the curve to a plan, and `load` finds the curve."""
    curve = model / "curve.json"
    found = as_json("measure", model, texts / "3.txt", texts / "4.txt", "--passes", 64, "--out", curve)
    assert found["length"] == 16
    assert found["data"] == "3.txt and 1 more"
    assert sum(as_json("plan", curve, "--steps", 4)["sizes"]) == 16
    result = as_json("generate", "--model", model, "--steps", 4)
    certificate = result["certificate"]
    assert certificate["fingerprint"] == found["fingerprint"]
    assert len(certificate["sizes"]) == 4
    assert (
        as_json("generate", "the", "--model", model, "--steps", 4)["certificate"] is None
    )  # a prompt was not measured
    assert "needs TEXT" in refused("measure", model)
    assert "a context of 16" in refused("measure", model, texts / "3.txt", "--length", 17)
    assert "neither a folder nor" in refused("measure", "demask/none", texts / "3.txt")


def test_a_known_language_needs_no_text_to_measure_on(tmp_path, demask, as_json):
    out = tmp_path / "notes"
    demask("train", "--oracle", "notes", "--out", out, "--steps", 1, "--batch", 2)
    found = as_json("measure", out, "--passes", 40, "--sequences", 8)
    assert (found["data"], found["length"]) == ("notes", 100)


def test_resume(texts, model, demask, refused):
    assert "--resume" in refused("train", texts, "--out", model, *QUICK)
    again = demask("train", texts, "--out", model, *QUICK, "--resume")
    assert "2 steps" in again.stdout
    assert "batch differ" in refused(
        "train", texts, "--out", model, "--context", 16, "--steps", 2, "--batch", 3, "--vocabulary", 280, "--resume"
    )


def test_a_model_is_trained_further(texts, model, tmp_path, demask, refused):
    options = ("--context", 16, "--steps", 1, "--batch", 2, "--rate", 1e-9, "--optimiser", "adamw")
    further = (texts, "--from", model, *options)  # with its tokenizer, of 280 tokens
    demask("train", *further, "--out", tmp_path / "further")
    before, after = (folder.read(path).denoiser.network.state_dict() for path in (model, tmp_path / "further"))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    words = refused("train", *further, "--out", tmp_path / "other", "--size", "small")
    assert "is a Shape(" in words
    assert "width=256" in words
    assert "leave out --tokenizer" in refused("train", *further, "--tokenizer", model / "tokenizer.json")


def test_a_focus_is_about_a_known_language(texts, tmp_path, demask, refused):
    known = ("--oracle", "notes", "--out", tmp_path / "asked", "--steps", 1, "--batch", 4)
    assert "add --oracle notes" in refused("train", texts, "--out", tmp_path / "none", *QUICK, "--focus", "place")
    assert "no question asks for 'plce'" in refused("train", *known, "--focus", "plce")
    demask("train", *known, "--focus", "place,names")
    assert "--resume" in refused("train", *known, "--focus", "place,names")
    assert "other" in refused("train", *known, "--focus", "names", "--resume")


def test_an_existing_tokenizer(texts, tmp_path, demask):
    Tokenizer.train(["the cat"], size=260).save(tmp_path / "tokenizer.json")
    demask("train", texts, "--out", tmp_path / "m", "--tokenizer", tmp_path / "tokenizer.json", *QUICK)
    assert folder.read(tmp_path / "m").tokenizer == Tokenizer.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["TEXTS/none"], ["no such file or folder"]),
        (["TEXTS/empty.txt"], ["empty.txt is empty"]),
        (["TEXTS/latin1.txt"], ["byte 0xe9 at offset 1", "not UTF-8"]),
        (["TEXTS/short.txt"], ["shorter than one window of 256", "--context"]),
        (["TEXTS", "--glob", "*.rs"], ["*.rs", "--glob"]),
        (["TEXTS/0.txt", "--tokenizer", "TEXTS/0.txt"], ["0.txt", "tokenizer.json"]),
        (["TEXTS/0.txt", "--size", "huge", "--context", "8"], ["'huge'", "tiny, small, base"]),
        (["TEXTS/0.txt", "--optimiser", "sgd"], ["'sgd'", "muon"]),
        (["TEXTS/0.txt", "--steps", "3", "--seconds", "3"], ["exactly one"]),
        (["TEXTS/0.txt", "--held-out", "2"], ["share of 2", "0.05"]),
        (["TEXTS/0.txt", "--documents", "ragged"], ["'ragged'", "packed, windows"]),
        (["TEXTS/0.txt", "--vocabulary", "10"], ["vocabulary of 10", "257"]),
        (["TEXTS/0.txt", "--oracle", "notes"], ["one of them"]),
        ([], ["FILES", "--oracle notes"]),
        (["--oracle", "poems"], ["poems", "notes"]),
        (["TEXTS/0.txt", "--out", "TEXTS/no/such/model"], ["no folder", "mkdir -p"]),
        (["TEXTS/0.txt", "--out", "TEXTS/0.txt"], ["is a file"]),
    ],
)
def test_bad_input(tmp_path, refused, args, words):
    line = "the cat sat on the mat\n"
    for name, content in (("0.txt", line * 200), ("empty.txt", ""), ("short.txt", line)):
        (tmp_path / name).write_text(content)
    (tmp_path / "latin1.txt").write_bytes("déjà".encode("latin-1"))
    args = [arg.replace("TEXTS", str(tmp_path)) for arg in args]
    if "TEXTS/latin1.txt" not in args and str(tmp_path) in args:
        (tmp_path / "latin1.txt").unlink()
    out = [] if "--out" in args else ["--out", tmp_path / "model"]
    told = refused("train", *args, *out)
    for word in words:
        assert word in told


def test_eval_refuses(texts, model, refused):
    assert "one of them" in refused("eval", model)
    assert "neither a folder nor one of those inside the package" in refused("eval", model / "none", texts)
    assert "4,8,16,32" in refused("eval", model, texts, "--steps", "many")
    (model / "model.safetensors").write_bytes(b"\x80\x04K\x01.")
    assert "pickle" in refused("eval", model, texts)
    body = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**body, "schema": "x"}))
    assert "'x'" in refused("eval", model, texts)


@pytest.mark.slow
def test_ctrl_c_is_a_clean_stop(tmp_path):
    out = tmp_path / "model"
    command = [sys.executable, "-m", "demask.cli", "train", "--oracle", "notes", "--out", str(out), "--batch", "2"]
    with subprocess.Popen(
        [*command, "--seconds", "300"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert "step 1," in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "the same command with --resume goes on" in stdout
    assert "Traceback" not in stderr
    assert folder.read(out).about["steps"] >= 1
    assert (out / "training.safetensors").exists()


TOGETHER = ("--context", 16, "--rounds", 2, "--batch", 2, "--vocabulary", 280, "--peers", 3)


def test_peers_train_together(texts, tmp_path, demask, as_json, refused):
    out = tmp_path / "model"
    told = demask("train", texts, "--out", out, *TOGETHER, "--method", "dfedadmm(2)", "--topology", "grid(rows=1)")
    assert "2 rounds, 12 gradients: the mean model has" in told.stdout
    assert "characters of each peer: " in told.stdout
    assert "round 2, 3 peers, loss" in told.stderr
    assert folder.read(out).about["method"].startswith("DFedADMM(steps=2")
    assert "--resume" in refused("train", texts, "--out", out, *TOGETHER)
    assert "method, topology differ" in refused("train", texts, "--out", out, *TOGETHER, "--resume")
    found = as_json(
        "train", "--oracle", "notes", "--out", tmp_path / "notes", "--peers", 2, "--rounds", 1, "--batch", 2
    )
    assert (found["status"], found["gradients"], found["characters"]) == ("finished", 10, [0, 0])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--peers", 3, "--steps", 4], ["--steps: --peers has rounds and a method"]),
        (["--peers", 3, "--optimiser", "adamw", "--compile"], ["--compile, --optimiser: --peers"]),
        (["--method", "dpsgd"], ["--method: for --peers only"]),
        (["--peers", 13], ["texts for 13 peers", "fewer peers"]),
        (["--peers", 3, "--topology", "star"], ["no topology is called 'star'"]),
        (["--peers", 3, "--topology", "edges(((0, 1), (2, 3)))"], ["the edge (2, 3) among 3 peers"]),
        (["--peers", 4, "--topology", "edges(((0, 1), (2, 3)))"], ["2 parts that never hear of each other"]),
        (["--peers", 3, "--method", "dfedprox"], ["no method is called 'dfedprox'; there are: DFedADMM, "]),
        (["--peers", 3, "--method", "dfedadmm(reach=0)"], ["reach = 0; expected a finite number > 0"]),
        (["--peers", 3, "--transport", "pigeons"], ["pigeons; expected one of here, processes, ray"]),
        (["--peers", 3, "--meet", "a:1"], ["add --transport processes"]),
        (["--peers", 3, "--transport", "processes", "--here", "2-1", "--meet", "a:1"], ["--here 2-1: expected"]),
        (["--peers", 3, "--transport", "processes", "--here", "1", "--meet", "a"], ["expected HOST:PORT"]),
        (["--peers", 3, "--transport", "processes", "--here", "1", "--meet", "a:1"], ["one tokenizer"]),
        (["--peers", 3, "--transport", "ray", "--here", "1"], ["spreads peers by itself"]),
        (["--here", "1"], ["--here: for --peers only"]),
        (["--peers", 3, "--concentration", "0"], ["concentration of 0"]),
        (
            ["--peers", 9, "--context", "200", "--concentration", "0.1"],
            ["peer ", "has too little data", "fewer --peers"],
        ),
        (["--peers", 2, "--rounds", "9", "--method", "dfedavg(2, sgd(1e30))"], ["peer ", "lower the rate"]),
    ],
)
def test_peers_that_cannot_train(texts, tmp_path, refused, args, words):
    options = () if "--context" in args else ("--context", 16)
    told = refused("train", texts, "--out", tmp_path / "m", "--vocabulary", 280, "--batch", 2, *options, *args)
    for word in words:
        assert word in told


@pytest.mark.slow
def test_machines_that_meet(texts, model, tmp_path):
    """Two launchers, each with files of its own, one tokenizer, and a place where they meet."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = (
        "--peers",
        3,
        "--context",
        16,
        "--rounds",
        4,
        "--batch",
        2,
        "--transport",
        "processes",
        "--method",
        "dfedadmm(2)",
    )
    shared += ("--meet", f"127.0.0.1:{port}", "--tokenizer", model / "tokenizer.json")
    running = []
    for name, here, files in (("a", "0-1", range(6)), ("b", "2", range(6, 12))):
        args = [*(texts / f"{i}.txt" for i in files), "--out", tmp_path / name, "--here", here, *shared]
        command = [sys.executable, "-m", "demask.cli", "train", *map(str, args), "--json"]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    told = [process.communicate(timeout=240) for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    first, second = (json.loads(out) for out, _ in told)
    assert (first["rounds"], second["rounds"], len(first["characters"]), len(second["characters"])) == (4, 4, 2, 1)
    assert (first["gradients"], second["gradients"]) == (16, 8)
    assert first["sent"] == 2 * second["sent"] > 0
    assert sorted(path.name for path in (tmp_path / "b" / "peers").iterdir()) == ["2-4.safetensors"]
