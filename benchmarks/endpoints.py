"""An endpoint under faults: are any requests lost, and does the usage agree with what the server counted?

    python benchmarks/endpoints.py --requests 500

Starts `transformers serve` with the lab model, and in front of it a proxy that answers some requests, chosen by a seed,
with 429, 500, silence, a cut connection, garbage or an empty answer. Tests use the server and the proxy too.
"""

import argparse
import json
import os
import random
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import seal_lightning
from seal_lightning.endpoints import Endpoint
from seal_lightning.grading import Answer, Judge
from seal_lightning.grading.judge import judge_prompt
from seal_lightning.types import Prompt, Usage

LAB = Path(seal_lightning.__file__).parent / "lab" / "weights"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
NAMES = "Ada Bert Cora Dirk Elsa Finn Gerda Hugo Irma Jens Klara Lars Mona Nils Olga Piet".split()
VERDICTS = ("yes", "no", *"12345")
FAULTS = ("busy", "error", "hang", "cut", "garbage", "empty")


@dataclass(frozen=True, slots=True)
class ChatServer:
    """A server that is up: its URL with `/v1`, and the model that it serves."""

    base_url: str
    model: str


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_chat_model(folder: Path) -> None:
    """The lab model in `folder`, with a chat template that consists of the messages alone.

    It also gets a token for each word of `VERDICTS`, with random weights: see `only`.
    """
    import torch  # here: every test process imports this file for its fixtures
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(LAB)
    tokenizer = AutoTokenizer.from_pretrained(LAB)
    tokenizer.add_tokens(list(VERDICTS))
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    _balance(model, tokenizer)
    model.generation_config.do_sample = True  # where a request asks for a temperature above 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class YesOrNo(Judge):
    """A judge whose served model can only say yes or no; a class, since a configuration could not pass these
    options."""

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(endpoint=Endpoint(model, request=only(model, ("yes", "no")), **options))


def _balance(model: Any, tokenizer: Any) -> None:
    """Make yes and no about equally likely across prompts, so that verdicts differ."""
    import torch

    prompts = [judge_prompt(Answer("Who?", ("Ada",), f"{name} of Tarn")).user + "\n" for name in NAMES]
    with torch.no_grad():
        states = torch.stack([model.model(**tokenizer(text, return_tensors="pt"))[0][0, -1] for text in prompts])
        yes, no = (model.lm_head.weight[tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no"))
        mean = states.mean(dim=0)
        yes -= mean * ((yes - no) @ mean) / (mean @ mean)


def only(model: str, words: Sequence[str]) -> dict[str, Any]:
    """Request options with which the served model can say nothing but one of these words of `VERDICTS`.

    It says the likelier one, so a verdict differs from prompt to prompt and is always the same for one prompt.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    allowed = {tokenizer.convert_tokens_to_ids(word) for word in words}
    others = [token for token in range(len(tokenizer)) if token not in allowed]
    config = {"suppress_tokens": others, "max_new_tokens": 1, "do_sample": False, "pad_token_id": 1, "eos_token_id": 0}
    return {"generation_config": json.dumps(config), "max_tokens": 1}


@contextmanager
def serving(model: Path, *, pinned: bool = True, patience: float = 120.0) -> Iterator[ChatServer]:
    """Run `transformers serve` on the CPU until the block is left; its log is beside the model.

    Args:
        model: The model's folder.
        pinned: Serve it alone; otherwise the server loads whatever folder a request names.
        patience: Seconds within which it has to be up.
    """
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        "--device",
        "cpu",
        *([str(model)] if pinned else []),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    path = model.with_suffix(".log")
    with path.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, until=time.monotonic() + patience, log=path)
            yield ChatServer(f"http://127.0.0.1:{port}/v1", str(model))
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(url: str, process: subprocess.Popen, *, until: float, log: Path) -> None:
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server did not come up: {log.read_text()[-2000:]}") from error
            time.sleep(0.1)


class FaultProxy:
    """A context manager that passes requests on to a server, or answers with a fault, by a seeded plan.

    The faults of a request depend only on the seed and its body, not on the order of requests: each body has its own
    list of faults, one for each attempt, before it is passed on.

    Args:
        target: The server's URL with `/v1`.
        share: Share of the attempts that go wrong.
        faults: Kinds of faults, with weights.
        seed: Seed of the plan.
        hang: Seconds of silence in a `hang`, longer than a client waits.

    Attributes:
        base_url: URL for clients.
        attempts: Outcome of each attempt: `passed`, or the name of a fault.
        usage: Tokens counted by the server in complete replies, and their number as `requests`.
        authorizations: `Authorization` headers that clients sent.
        most_at_once: Largest number of requests under way at one time.
    """

    def __init__(
        self,
        target: str,
        *,
        share: float = 0.0,
        faults: Mapping[str, float] | None = None,
        seed: int = 0,
        hang: float = 3,
    ) -> None:
        self.target = target
        self.share = share
        self.faults = dict.fromkeys(FAULTS, 1.0) if faults is None else faults
        self.seed = seed
        self.hang = hang
        self.attempts: Counter[str] = Counter()
        self.authorizations: set[str] = set()
        self.usage: Counter[str] = Counter()
        self.most_at_once = 0
        self._under_way = 0
        self._seen: Counter[bytes] = Counter()
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def __enter__(self) -> "FaultProxy":
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                proxy.handle(self)

            def do_GET(self) -> None:
                proxy.list_models(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()  # whoever hangs
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one attempt."""
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        with self._lock:
            self.authorizations.add(handler.headers.get("authorization", ""))
            fault = self._fault(body, self._seen[body])
            self._seen[body] += 1
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
            self.attempts[fault or "passed"] += 1
        try:
            getattr(self, f"_{fault or 'pass'}")(handler, body)
        except OSError:  # the client has gone
            handler.close_connection = True
        finally:
            with self._lock:
                self._under_way -= 1

    def list_models(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer `GET /v1/models`, which never goes wrong."""
        with urllib.request.urlopen(self.target.removesuffix("/v1") + handler.path, timeout=60) as response:
            self._send(handler, response.status, response.read())

    def _fault(self, body: bytes, attempt: int) -> str:
        content = {**json.loads(body), "model": None}  # a folder with another name in every run
        draw = random.Random(f"{self.seed} {attempt} {json.dumps(content, sort_keys=True)}")
        return draw.choices([*self.faults], [*self.faults.values()])[0] if draw.random() < self.share else ""

    # -- what it answers with ----------------------------------------------------------------------------------------

    def _pass(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        status, reply = self._forward(handler, body)
        if _has_gone(handler.connection):  # it lost patience with the server: the reply reaches nobody
            handler.close_connection = True
            return
        if status == 200:
            self._count(json.loads(reply))
        self._send(handler, status, reply)

    def _busy(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self._send(handler, 429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0"})

    def _error(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self._send(handler, 500, b"<html><h1>Internal error</h1></html>", {"Content-Type": "text/html"})

    def _hang(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self._stop.wait(self.hang)
        handler.close_connection = True

    def _cut(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Send half of a reply that the server has computed, and close the connection."""
        _, reply = self._forward(handler, body)
        self._head(handler, 200, len(reply), {})
        handler.wfile.write(reply[: len(reply) // 2])
        handler.close_connection = True

    def _garbage(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        wrong = [b"{'not': json", b"null", b'{"choices": []}', b"<html></html>", b"\xff\xfe"]
        self._send(handler, 200, wrong[len(body) % len(wrong)])

    def _empty(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Send a reply without a text; the server counts its tokens all the same."""
        status, reply = self._forward(handler, body)
        if status != 200:
            self._send(handler, status, reply)
            return
        content = json.loads(reply)
        for choice in content.get("choices", []):
            choice.update({"text": ""} if "text" in choice else {"message": {"role": "assistant", "content": None}})
        self._count(content)
        self._send(handler, status, json.dumps(content).encode())

    def _count(self, content: Mapping[str, Any]) -> None:
        with self._lock:
            self.usage["requests"] += 1
            self.usage.update({name: content["usage"][name] for name in ("prompt_tokens", "completion_tokens")})

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        url = self.target.removesuffix("/v1") + handler.path
        request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self._head(handler, status, len(body), headers or {})
        handler.wfile.write(body)

    def _head(self, handler: BaseHTTPRequestHandler, status: int, length: int, headers: Mapping[str, str]) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(length), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()


def _has_gone(connection: socket.socket) -> bool:
    """Whether the other side has closed the connection."""
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable) and not connection.recv(1, socket.MSG_PEEK)


def prompts_of(count: int) -> list[Prompt]:
    """Different requests that the lab model can answer."""
    return [Prompt(user=f"Question: Who is mayor number {number}? Answer:") for number in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--max_tokens", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--share", type=float, default=0.2, help="of the attempts go wrong")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        make_chat_model(model)
        with serving(model) as server, FaultProxy(server.base_url, share=args.share, hang=2) as proxy:
            print(json.dumps(measure(server, proxy, Path(folder), args), indent=1))


def measure(server: ChatServer, proxy: FaultProxy, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Make the same requests directly, through the faults, and once more from the cache."""
    prompts = prompts_of(args.requests)

    def ask(url: str, cache: str | None) -> tuple[list[str], Usage, float]:
        endpoint = Endpoint(server.model, base_url=url, concurrency=args.concurrency, timeout=1, cache=cache)
        started = time.perf_counter()
        written = endpoint.write(prompts, max_tokens=args.max_tokens)
        return (
            [row.text for row in written],
            sum((row.usage for row in written), Usage()),
            time.perf_counter() - started,
        )

    direct, _, direct_seconds = ask(server.base_url, None)
    texts, usage, seconds = ask(proxy.base_url, str(folder / "cache"))
    again, cached, cached_seconds = ask(proxy.base_url, str(folder / "cache"))
    return {
        "requests": len(prompts),
        "lost": sum(not text for text in texts),
        "different from the direct replies": sum(a != b for a, b in zip(direct, texts, strict=True)),
        "attempts": dict(proxy.attempts),
        "usage": usage.as_dict(),
        "the server's own count": dict(proxy.usage),
        "second run": {"usage": cached.as_dict(), "different": sum(a != b for a, b in zip(texts, again, strict=True))},
        "seconds": {"direct": direct_seconds, "through faults": seconds, "from the cache": cached_seconds},
    }


if __name__ == "__main__":
    main()
