"""lm-evaluation-harness itself, on a task file and a model of this library."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from demask.errors import GenerateError
from demask.generate import Model
from demask.interop import lm_eval
from demask.interop.lm_eval import Demask
from demask.oracles import Chain
from demask.tokenizer import Tokenizer

WORDS = Tokenizer.words(["tick", "tock", "."])
P = [[0.1, 0.8, 0.1, 0.0], [0.6, 0.1, 0.2, 0.1], [0.3, 0.1, 0.0, 0.6], [0.0, 0.0, 0.0, 1.0]]
CLOCK = Model(Chain.markov([0.5, 0.5, 0.0, 0.0], P, length=12), WORDS, context=12, name="clock", window=12)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(lm_eval, "load", lambda *_, **__: CLOCK)

    def made(**options):
        return Demask(**options)

    return made


def asked(*args):
    return SimpleNamespace(args=args)


def test_loglikelihood_is_exact_for_short_continuations(clock):
    requests = [asked("tick tock", " tick tock"), asked("tick ", "tick"), asked("", "tock .")]
    found = clock(passes=8, greedy=True).loglikelihood(requests, disable_tqdm=True)
    expected = torch.tensor([0.6 * 0.8, 0.1, 0.5 * 0.2]).log().tolist()
    assert [value for value, _ in found] == pytest.approx(expected, abs=1e-5)
    assert [greedy for _, greedy in found] == [True, False, False]
    assert clock(passes=8).loglikelihood(requests[:1], disable_tqdm=True)[0][1] is False


def test_longer_ones_are_masked_alike(clock):
    lm = clock(passes=16)
    ask = asked("tick", " tock tick tock tick tock .")
    assert lm.loglikelihood([ask], disable_tqdm=True) == lm.loglikelihood([ask], disable_tqdm=True)
    assert lm.loglikelihood([ask], disable_tqdm=True) != clock(passes=16, key=1).loglikelihood([ask], disable_tqdm=True)


def test_a_context_that_is_too_long_is_cut_from_its_left(clock, caplog):
    lm = clock(passes=8)
    [(value, _)] = lm.loglikelihood([asked("tock tick " * 9 + "tock", " tick")], disable_tqdm=True)
    assert value == pytest.approx(torch.tensor(0.6).log().item(), abs=1e-5)
    assert "cut by 8 tokens" in caplog.text
    with pytest.raises(GenerateError, match="a continuation of 13 tokens for a context of 12"):
        lm.loglikelihood([asked("tick", " tock" * 13)], disable_tqdm=True)


def test_rolling_scores_every_token_once(clock):
    text = " ".join(["tick tock"] * 10)  # 20 tokens: 12, then the last 8 behind 4 of them
    [found] = clock(passes=512).loglikelihood_rolling([asked(text)], disable_tqdm=True)
    step = torch.tensor([0.8, 0.6]).log()
    first = torch.tensor(0.5).log() + 6 * step[0] + 5 * step[1]
    rest = 4 * step[0] + 4 * step[1]
    assert found == pytest.approx(float(first + rest), abs=0.4)


def test_generate_until(clock):
    lm = clock()
    requests = [
        asked("tick", {"until": ["."], "max_gen_toks": 6}),
        asked("tick tock tick", {"until": ["."], "max_gen_toks": 6}),
        asked("tick", {"max_gen_toks": 3, "do_sample": True, "temperature": 1.0}),
    ]
    found = lm.generate_until(requests, disable_tqdm=True)
    assert found[0].split() == CLOCK.generate("tick", 6, temperature=0.0, stop=["."]).gaps[0].split()
    assert len(found[2].split()) <= 3
    assert lm.generate_until(requests[1:2], disable_tqdm=True) == found[1:2]
    with pytest.raises(GenerateError, match="no setting is called 'num_beams'"):
        lm.generate_until([asked("tick", {"num_beams": 4})], disable_tqdm=True)


def test_facts_of_a_published_checkpoint_are_passed_on(monkeypatch):
    told = []
    monkeypatch.setattr(lm_eval, "load", lambda *names, **given: told.append((names, given)) or CLOCK)
    Demask.create_from_arg_string("model=dir,mask=21,ends=20,shift=True,block=8,steps=3", {"batch_size": 2})
    Demask(model="dir", ends=[20, 19], family="llada", dtype="bfloat16")
    nothing = {"device": None, "dtype": None}
    assert told == [
        (("dir",), nothing | {"mask": 21, "ends": (20,), "shift": True, "block": 8}),
        (("dir",), nothing | {"dtype": torch.bfloat16, "ends": (20, 19), "family": "llada"}),
    ]


def test_refusals(clock, monkeypatch):
    with pytest.raises(GenerateError, match="no setting is called 'stepss'"):
        clock(stepss=3)
    with pytest.raises(GenerateError, match="batch_size = 'auto'"):
        clock(batch_size="auto")
    with pytest.raises(GenerateError, match="dtype = 'float99'"):
        clock(dtype="float99")
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: clock(passses=3))
    with pytest.raises(SystemExit, match="error: no setting is called 'passses'"):
        lm_eval.main()
    with pytest.raises(GenerateError, match="no chat template"):
        clock().apply_chat_template([{"role": "user", "content": "tick"}])


TASKS = {
    "mine_choice": """
output_type: multiple_choice
doc_to_text: "{{ask}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
""",
    "mine_written": """
output_type: generate_until
doc_to_text: "{{ask}}"
doc_to_target: "{{gold}}"
generation_kwargs:
  until: ["."]
  max_gen_toks: 4
metric_list:
  - metric: exact_match
""",
    "mine_text": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{ask}}"
metric_list:
  - metric: byte_perplexity
""",
}


LAUNCHER = "demask.interop.lm_eval"
LEAN = f"""
import runpy
from lm_eval.tasks import TaskManager

whole = TaskManager.__init__
TaskManager.__init__ = lambda self, **options: whole(self, include_defaults=False, **options)
runpy.run_module("{LAUNCHER}", run_name="__main__", alter_sys=True)
"""  # without the harness's own tasks: it reads all their files at each start, which takes longer than everything else


@pytest.mark.parametrize(
    "launched", [("-c", LEAN), pytest.param(("-m", LAUNCHER), marks=pytest.mark.slow)], ids=["lean", "whole"]
)
def test_the_harness_runs_a_task_file(tmp_path, launched):
    """Its own command line, through the one-line launcher, with no network."""
    rows = [
        {"ask": "dear anna , it is carl", "choices": [".", "dear"], "answer": 0, "gold": "x"},
        {"ask": "dear tom , it is anna", "choices": ["dear", "."], "answer": 1, "gold": "x"},
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, body in TASKS.items():
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {data}}}\ntest_split: test\n"
        (tmp_path / f"{name}.yaml").write_text(head + body.strip() + "\n")
    command = [
        sys.executable, *launched, "--model", "demask", "--model_args",
        "model=demask/notes,passes=16,steps=8,schedule=uniform", "--tasks", ",".join(TASKS), "--include_path",
        str(tmp_path), "--output_path", str(tmp_path / "out"), "--batch_size", "4",
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    [report] = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(report.read_text())["results"]
    assert results["mine_choice"]["acc,none"] == 1.0
    assert results["mine_written"]["exact_match,none"] == 0.0
    assert results["mine_text"]["byte_perplexity,none"] > 1
