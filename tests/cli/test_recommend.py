"""`demask recommend`, from a log to lists."""

import json

import pytest

from tests.recommend.worlds import EXTRA

SMALL = ("--width", 16, "--layers", 1, "--heads", 2, "--hidden", 16, "--batch", 64)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    from demask.recommend import Known

    folder = tmp_path_factory.mktemp("example")
    world = Known.random(items=40, attributes=3, values=4, key=1)
    world.write(folder, world.sample(60, least=4, most=7, key=2))
    return folder


@pytest.fixture
def data(demask, example, tmp_path):
    pytest.importorskip("faiss", reason=EXTRA)
    pytest.importorskip("sklearn", reason=EXTRA)
    out = tmp_path / "data"
    demask("recommend", "prepare", *files(example), "--out", out, "--digits", 2, "--codes", 8)
    return out


def files(folder):
    return folder / "interactions.jsonl", folder / "items.jsonl"


def test_example(demask, as_json, tmp_path):
    result = demask("recommend", "example", tmp_path / "x", "--users", 20, "--items", 15, "--values", 3)
    assert "no ranker can expect more than Recall@10" in result.stdout
    found = as_json("recommend", "example", tmp_path / "x", "--users", 20, "--items", 15, "--values", 3)
    assert 0 < found["best"]["5"]["ndcg"] < found["best"]["5"]["recall"] <= 1
    assert len((tmp_path / "x" / "items.jsonl").read_text().splitlines()) == 15


def test_the_whole_way(demask, as_json, refused, data, tmp_path):
    model, left = tmp_path / "model", tmp_path / "left"
    result = demask("recommend", "train", data, "--out", model, "--epochs", 2, *SMALL)
    assert "epoch 2, loss" in result.stderr
    assert f"wrote {model}" in result.stdout
    found = as_json("recommend", "train", data, "--out", left, "--epochs", 1, "--noise", "left", *SMALL)
    assert (found["status"], len(found["epochs"])) == ("finished", 1)
    assert "begin with it by --resume" in refused("recommend", "train", data, "--out", model, "--epochs", 1, *SMALL)
    demask("recommend", "train", data, "--out", model, "--epochs", 1, "--resume", *SMALL)

    table = demask("recommend", "eval", data, model, left, "--beam", 16, "--users", 20, "--k", 3).stdout
    for name in ("popularity", "item-kNN", "model, beam 16", "left, beam 16", "NDCG@3"):
        assert name in table
    found = as_json(
        "recommend", "eval", data, model, "--beam", 64, "--merged", "--catalogued", "--users", 20, "--sampler",
        "parallel(uniform(steps=2), left_to_right)", "--draws", 4,
    )  # fmt: skip
    names = [each["name"] for each in found["rankers"]]
    assert names[2] == "model, beam 64, merged, catalogued"
    assert len(names) == 4
    assert found["rankers"][3]["nfe"] == 8
    assert set(found["rankers"][2]["ndcg"]) == {"5", "10"}

    histories = tmp_path / "new.csv"
    histories.write_text("user,item,time\nann,item07,2\nann,item03,1\nann,nothing,3\nbob,unheard,1\n")
    answers = as_json("recommend", "predict", model, histories, "--k", 3, "--beam", 64, "--merged")["answers"]
    assert [(each["user"], each["source"], each["skipped"]) for each in answers] == [
        ("bob", "popularity", ["unheard"]), ("ann", "model", ["nothing"])
    ] or [(each["user"], each["source"], each["skipped"]) for each in answers] == [
        ("ann", "model", ["nothing"]), ("bob", "popularity", ["unheard"])
    ]  # fmt: skip
    assert all(len(each["items"]) == 3 for each in answers)
    one = as_json("recommend", "predict", model, "--history", "item03,item07", "--k", 3, "--beam", 64, "--merged")
    ann = next(each for each in answers if each["user"] == "ann")
    assert one["answers"][0]["items"] == ann["items"]
    text = demask("recommend", "predict", model, "--history", "", "--k", 2).stdout
    assert "by popularity: no known item in the history" in text
    assert "41 items asked for of a catalogue of" in refused("recommend", "predict", model, "--history", "", "--k", 41)
    assert "no history; give a file" in refused("recommend", "predict", model)


def test_bad_input(refused, demask, example, data, tmp_path):
    log, items = files(example)
    lines = log.read_text().splitlines()
    doubled = tmp_path / "doubled.jsonl"
    doubled.write_text("\n".join([*lines, lines[0]]) + "\n")
    out = ("--out", tmp_path / "out", "--codes", 8, "--digits", 2)
    assert "--duplicates drop" in refused("recommend", "prepare", doubled, items, *out)
    dropped = demask("recommend", "prepare", doubled, items, *out, "--duplicates", "drop").stdout
    assert "dropped: duplicates" in dropped
    silent = tmp_path / "silent.jsonl"
    silent.write_text("\n".join(items.read_text().splitlines()[1:]) + "\n")
    assert "--without-text drop" in refused("recommend", "prepare", log, silent, *out)
    assert "items for 256 codes per digit" in refused("recommend", "prepare", log, items, "--out", tmp_path / "o2")
    assert not (tmp_path / "o2").exists()
    assert "give one of them" in refused(
        "recommend", "prepare", log, items, *out, "--sentences", "x", "--embeddings", items
    )
    assert "no such folder; make it" in refused("recommend", "train", tmp_path / "none")
    assert "the schema is 'demask.interactions/1'" in refused("recommend", "predict", data, "--history", "")
    assert "device 'abacus'" in refused("recommend", "train", data, "--out", tmp_path / "m", "--device", "abacus")
    assert "part 'training'" in refused("recommend", "eval", data, "--part", "training")


def test_given_embeddings(demask, as_json, example, tmp_path):
    pytest.importorskip("faiss", reason=EXTRA)
    log, items = files(example)
    names = [json.loads(line)["item"] for line in items.read_text().splitlines()]
    path = tmp_path / "vectors.jsonl"
    path.write_text("".join(
        json.dumps({"item": name, "embedding": [float(i % 7), float(i % 5), float(i % 3), 1.0]}) + "\n"
        for i, name in enumerate(names)
    ))  # fmt: skip
    found = as_json(
        "recommend", "prepare", log, items, "--out", tmp_path / "d", "--digits", 1, "--codes", 4, "--embeddings", path
    )
    assert found["dimensions"] == 4
    assert found["items that share an identifier"] == found["items"] - 4
