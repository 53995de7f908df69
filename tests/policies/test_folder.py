"""A policy on disk: what is written is read, and what is damaged or foreign is refused by name."""

import json

import pytest
import torch

from demask.denoisers.folder import write_tensors
from demask.errors import CheckpointError, DemaskError
from demask.generate.load import find
from demask.policies import Learned, Network, Policy, check, read, write
from demask.policies.folder import SCHEMA


@pytest.fixture
def kept(tmp_path):
    write(tmp_path / "policy", Policy(Network(key=7), "plackett_luce", {"task": "parity(4)"}))
    return tmp_path / "policy"


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_is_written_is_read(kept):
    policy, network = read(kept), Network(key=7)
    assert (policy.law, policy.about) == ("plackett_luce", {"task": "parity(4)"})
    for name, value in network.state_dict().items():
        assert torch.equal(value, policy.network.state_dict()[name])
    assert sorted(path.name for path in kept.iterdir()) == ["config.json", "policy.safetensors"]
    write(kept, policy)  # over itself


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"mask": "0 where masked"},
            "trained for another mask convention: mask '0 where masked'; expected '1 where masked'",
        ),
        (
            {"features": ["entropy", "masked", "time"]},
            "trained to see other things: features .'entropy', 'masked', 'time'",
        ),
        ({"law": "dice"}, "the law is 'dice'; expected one of bernoulli, plackett_luce"),
        ({"schema": "demask.policy/2"}, "the schema is 'demask.policy/2'; expected 'demask.policy/1'"),
        ({"shape": {"width": 3}}, "no shape of a policy"),
        ({"shape": None}, "no shape of a policy"),
        ({"about": 3}, "and about"),
    ],
)
def test_foreign_policies_are_refused(kept, values, message):
    change(kept, **values)
    with pytest.raises(CheckpointError, match=message):
        read(kept)


def test_a_model_is_no_policy():
    with pytest.raises(CheckpointError, match=r"the schema is 'demask.model/1'; expected 'demask.policy/1'"):
        Learned(find("demask/notes"))
    with pytest.raises(CheckpointError, match="holds something else than a policy"):
        check(find("demask/notes"))


def test_damage_is_noticed(kept, tmp_path):
    weights = kept / "policy.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    with pytest.raises(CheckpointError, match="truncated, corrupt"):
        read(kept)
    weights.write_bytes(whole[:-2] + b"\x01\x02")
    with pytest.raises(CheckpointError, match="do not match their digest"):
        read(kept)
    tensors = Network().state_dict()
    tensors["out.bias"] = torch.tensor([float("nan")])
    write_tensors(weights, tensors, {"schema": SCHEMA})
    with pytest.raises(CheckpointError, match=r"out.bias holds numbers that are not finite"):
        read(kept)
    tensors["out.bias"] = torch.zeros(2)
    write_tensors(weights, tensors, {"schema": SCHEMA})
    with pytest.raises(CheckpointError, match=r"out.bias is missing, unknown or of another shape"):
        read(kept)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        read(kept)
    (kept / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not whole JSON"):
        read(kept)
    (kept / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="a list; expected the config"):
        read(kept)
    (tmp_path / "file").write_text("")
    with pytest.raises(DemaskError, match="is a file; name a folder"):
        check(tmp_path / "file")
    with pytest.raises(DemaskError, match="there is no folder"):
        check(tmp_path / "no" / "where")
