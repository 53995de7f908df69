"""A server in a thread of this process."""

import socket
import threading
import time

from uvicorn import Config

from demask.serve import Engine
from demask.serve.application import application
from demask.serve.metrics import Metrics
from demask.serve.server import Server


class Running:
    def __init__(self, model, limits=None, keys=()):
        self.metrics = Metrics()
        self.engine = Engine(model, limits, self.metrics)
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.app = application(self.engine, self.metrics, keys=keys, hosts=frozenset(("127.0.0.1",)))
        self.server = Server(Config(self.app, log_level="error", lifespan="off"), self.engine)

    def __enter__(self):
        import httpx2
        import openai

        self.engine.__enter__()
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()
        wait_until(lambda: self.server.started)
        self.http = httpx2.Client(base_url=self.url, timeout=60)
        self.client = openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0)
        return self

    def __exit__(self, *_):
        self.http.close()
        self.client.close()
        self.server.should_exit = True
        self.thread.join()
        self.engine.__exit__()
        self.socket.close()


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
