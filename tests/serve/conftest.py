"""The packages of the server and of its clients, the model inside, and one server for a module."""

import pytest
import torch

from demask import load

for package in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(package, reason="the server is an extra: pip install 'demask[serve]'")


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return load("demask/notes")


@pytest.fixture(scope="module")
def running(model):
    for package in ("openai", "httpx2"):
        pytest.importorskip(package, reason="the clients are for development: pip install -e '.[dev]'")
    from tests.serve.running import Running

    with Running(model) as server:
        yield server
