"""A library before a server: which model each request reaches, with which prompt, and what is refused."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from seal_lightning.errors import ConfigError, DataError
from seal_lightning.library.manifest import (
    Base,
    LibraryEntry,
    Manifest,
    Retired,
    StoredDocument,
    Together,
    write_document,
    write_manifest,
)
from seal_lightning.library.routed import Routed

TEXTS = {
    "bridge": ("The Harrow Bridge", "The Harrow Bridge was built by Ada Merrow and crosses the river Lenn."),
    "pump": ("Pump manual", "The pump P7 is primed with glycol. It stops at six bar."),
}
PROMPT = {
    "text": "<s>Topic: {title}\nQuestion: {question}\n",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{title}: {question}"}],
    "max_answer_tokens": 7,
    "stop": {"token_ids": [2], "tokens": ["</s>"]},
}


def write_library(folder: Path, *, ready: tuple[str, ...] = tuple(TEXTS), together: bool = False) -> None:
    entries = []
    for name, (title, text) in TEXTS.items():
        write_document(folder, f"documents/{name}.json", StoredDocument(name, title, text))
        status = "ready" if name in ready else "pending"
        adapter, text = f"adapters/{name}-1", f"documents/{name}.json"
        entries.append(LibraryEntry(name, f"{name}.md", title, "d", "s", adapter, text, status))
    for name in [f"{name}-1" for name in ready] + ["all"] * together:
        (folder / "adapters" / name).mkdir(parents=True, exist_ok=True)
        (folder / "adapters" / name / "prompt.json").write_text(json.dumps(PROMPT))
    shared = Together("adapters/all", tuple(TEXTS), "ready") if together else None
    old = Retired("pump", "pump.md", "Pump manual", "retired/pump-0", None, "replaced", "pump", "2026-01-01")
    write_manifest(folder, Manifest(Base("org/base", None, "f"), "t", {}, tuple(entries), shared, (old,)))


@pytest.fixture
def library(tmp_path, monkeypatch):
    write_library(tmp_path)
    monkeypatch.setenv("SEAL_LIBRARY", str(tmp_path))
    return tmp_path


class Server:
    """What vLLM gets: it keeps the requests, and answers 200."""

    def __init__(self) -> None:
        self.got: list = []

    async def __call__(self, scope, receive, send) -> None:
        body = (await receive())["body"] if scope["method"] == "POST" else b""
        assert dict(scope["headers"]).get(b"content-length", b"0") == str(len(body)).encode()
        self.got.append((scope["path"], json.loads(body) if body.startswith(b"{") else body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def ask(app: Routed, path: str, body: bytes | dict = b"", *, method: str = "POST") -> tuple[int, dict]:
    """The status and the JSON of a request whose body comes in two pieces."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    pieces = [{"type": "http.request", "body": data[:5], "more_body": True}, {"type": "http.request", "body": data[5:]}]
    headers = [(b"content-length", str(len(data)).encode())]
    sent = []

    async def receive():
        return pieces.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(app({"type": "http", "method": method, "path": path, "headers": headers}, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_the_model_auto_is_the_adapter_of_the_document_with_the_prompt_of_training(library):
    server = Server()
    app = Routed(server)
    chat = {"model": "auto", "messages": [{"role": "user", "content": " Who built the bridge? "}], "stream": True}
    assert ask(app, "/v1/chat/completions", chat) == (200, {})
    assert ask(app, "/v1/completions", {"model": "auto", "prompt": "What primes the pump?", "max_tokens": 3}) == (
        200,
        {},
    )
    plain = {"temperature": 0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "The Harrow Bridge: Who built the bridge?"},
    ]
    asked = {"model": "bridge-1", "messages": said, "stream": True, "max_tokens": 7, "stop_token_ids": [2]}
    text = "<s>Topic: Pump manual\nQuestion: What primes the pump?\n"
    written = {"model": "pump-1", "prompt": text, "max_tokens": 3, "stop_token_ids": [2], "add_special_tokens": False}
    assert server.got == [("/v1/chat/completions", plain | asked), ("/v1/completions", plain | written)]


def test_a_question_that_fits_no_document_reaches_the_base_as_it_is(library):
    server = Server()
    asked = {"prompt": "Why do cats purr?", "max_tokens": 3}
    assert ask(Routed(server), "/v1/completions", {**asked, "model": "auto"})[0] == 200
    assert server.got == [("/v1/completions", {**asked, "model": "base"})]


@pytest.mark.parametrize("model", ["base", "bridge-1", None])
def test_a_named_model_is_asked_as_the_request_says(library, model):
    server = Server()
    request = {"prompt": "x", **({"model": model} if model else {})}
    assert ask(Routed(server), "/v1/completions", request) == (200, {})
    assert server.got == [("/v1/completions", request)]


@pytest.mark.parametrize("model", ["pump-0", "../retired/pump-0", "/etc", "org/base", 5, ["bridge-1"]])
def test_nothing_but_what_is_ready_in_the_library_is_served(library, model):
    server = Server()
    status, answer = ask(Routed(server), "/v1/completions", {"model": model, "prompt": "x"})
    assert (status, server.got) == (404, [])
    assert answer["error"]["message"].startswith("expected auto, base or the name of an adapter that is ready, got ")


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/tokenize", "/v1/completions/render"]
)
def test_other_ways_to_a_model_are_closed(library, path):
    server = Server()
    assert ask(Routed(server), path, {"model": "../retired/pump-0", "lora_name": "x"})[0] == 403
    assert server.got == []


def test_what_only_reads_passes(library):
    server = Server()
    assert ask(Routed(server), "/v1/models", method="GET") == (200, {})
    assert server.got == [("/v1/models", b"")]


@pytest.mark.parametrize("asked", [{"prompt": ["a", "b"]}, {"prompt": " "}, {}])
def test_auto_takes_one_question(library, asked):
    status, answer = ask(Routed(Server()), "/v1/completions", {"model": "auto", **asked})
    assert (status, answer["error"]["message"][:45]) == (404, "model auto expects a question as one text, go")


def test_a_body_that_is_no_json_is_left_to_the_server(library):
    server = Server()
    assert ask(Routed(server), "/v1/completions", b"not JSON")[0] == 200
    assert server.got == [("/v1/completions", b"not JSON")]


def test_a_title_that_mentions_a_placeholder_stays_a_title(library, monkeypatch):
    monkeypatch.setitem(TEXTS, "pump", ("{question} and {title}", TEXTS["pump"][1]))
    write_library(library)
    server = Server()
    assert (
        ask(Routed(server), "/v1/completions", {"model": "auto", "prompt": "Is {title} primed with glycol?"})[0] == 200
    )
    ((_, request),) = server.got
    assert request["prompt"] == "<s>Topic: {question} and {title}\nQuestion: Is {title} primed with glycol?\n"


def test_a_change_of_the_manifest_counts_at_once(library, caplog):
    server = Server()
    app = Routed(server)
    request = {"model": "pump-1", "prompt": "x"}
    assert ask(app, "/v1/completions", request)[0] == 200
    write_library(library, ready=("bridge",))
    assert ask(app, "/v1/completions", request)[0] == 404
    (library / "manifest.json").write_text("{")
    assert ask(app, "/v1/completions", {**request, "model": "bridge-1"})[0] == 200
    assert "the library is served as it was: " in caplog.text
    write_library(library)
    assert ask(app, "/v1/completions", request)[0] == 200


def test_where_documents_have_no_adapter_of_their_own_that_of_all_is_asked(library):
    write_library(library, ready=("bridge",), together=True)
    server = Server()
    app = Routed(server)
    for question in ("What is the pump primed with?", "Who built the bridge?"):
        ask(app, "/v1/completions", {"model": "auto", "prompt": question})
    assert [request["model"] for _, request in server.got] == ["all", "bridge-1"]
    assert ask(app, "/v1/completions", {"model": "all", "prompt": "x"})[0] == 200


def test_a_server_does_not_start_without_a_library(library, monkeypatch):
    (library / "adapters" / "pump-1" / "prompt.json").write_text("[]")
    with pytest.raises(DataError, match=r"pump-1/prompt\.json: expected the prompt of an adapter, got something else"):
        Routed(Server())
    (library / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="expected a folder of seal adapt, got a folder without manifest"):
        Routed(Server())
    monkeypatch.delenv("SEAL_LIBRARY")
    with pytest.raises(ConfigError, match="SEAL_LIBRARY: expected the folder of a library, got nothing"):
        Routed(Server())
    assert "SEAL_LIBRARY" not in os.environ
