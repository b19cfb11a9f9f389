"""Endpoints as tests want them: kept in the test's own folder, impatient; and servers that say what they are told."""

import json
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from seal_lightning.endpoints import Endpoint
from seal_lightning.endpoints.asking import Patience


class Listener(ThreadingHTTPServer):
    """Hands every request to `answer(method, path, body, headers) -> (status, JSON or bytes, headers)`."""

    def __init__(self, answer):
        self.answer = answer
        super().__init__(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        status, reply, headers = self.server.answer(self.command, self.path, body, self.headers)
        reply = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(reply)), **headers}.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # the client has gone
            self.end_headers()
            self.wfile.write(reply)

    do_GET = do_POST

    def log_message(self, format, *args):
        pass


@contextmanager
def listening(answer):
    server = Listener(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def listen():
    """Start a server for the length of the test: `listen(answer).base_url`."""
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(listening(answer))


@pytest.fixture
def scripted(listen):
    """A server that gives these (status, body, headers) one after the other, the last one for ever; it notes bodies."""

    def start(*answers):
        left, bodies, heads = list(answers), [], []

        def answer(method, path, body, headers):
            bodies.append(json.loads(body))
            heads.append({name.lower(): value for name, value in headers.items()})
            status, reply, *rest = left.pop(0) if len(left) > 1 else left[0]
            return status, reply, rest[0] if rest else {}

        server = listen(answer)
        server.bodies, server.heads = bodies, heads
        return server

    return start


@pytest.fixture
def threads_end():
    """Wait until no thread of an endpoint is left; a minute is for ever."""

    def wait():
        end = time.monotonic() + 60
        while names := [thread.name for thread in threading.enumerate() if thread.name == "seal-endpoint"]:
            assert time.monotonic() < end, f"{len(names)} threads of an endpoint go on"
            time.sleep(0.005)

    return wait


@pytest.fixture
def make(tmp_path, monkeypatch):
    """An endpoint with its cache in the test's folder, which waits next to nothing between attempts."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def endpoint(server, model="some-model", **options):
        model = getattr(server, "model", model)
        endpoint = Endpoint(model, **{"base_url": server.base_url, "cache": str(tmp_path / "cache"), **options})
        retries = options.get("retries", 8)
        endpoint._patience = Patience(retries, shortest=0.001, longest=0.002, tick=0.01, grace=0.2)
        return endpoint

    return endpoint


def said(text="yes", usage=(10, 2), **more):
    """A chat completion."""
    counts = {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], **more}} if usage else {}
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": text}}], **counts}


@pytest.fixture(name="said")
def _said():
    """Make a chat completion: `said("yes", usage=(10, 2))`."""
    return said
