"""Servers that mean harm or are broken: no request hangs, grows without bound, or tells a secret to somebody else."""

import gzip
import json
import logging
import socket
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress

import pytest

from seal_lightning.endpoints import Endpoint
from seal_lightning.endpoints.transport import Connection
from seal_lightning.errors import ConfigError, EndpointError
from seal_lightning.processes.streams import standard_streams
from seal_lightning.types import Prompt, Usage, Written

KEY = "sk-planted-0123456789abcdef"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Raw:
    """A server that answers every connection with the parts of `parts()`, as fast as they come."""

    def __init__(self, parts):
        self.parts, self.heads, self.asked = parts, [], 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.serve)]
        self.threads[0].start()

    def serve(self):
        while not self.stopped.is_set():
            connection, _ = self.listener.accept()
            thread = threading.Thread(target=self.answer, args=(connection,))
            thread.start()
            self.threads.append(thread)

    def answer(self, connection):
        with connection, suppress(OSError):
            request = b""  # all of it, or the connection would be reset
            while not (request.endswith(b"}") or request.startswith(b"GET")):
                if not (part := connection.recv(65536)):
                    return
                request += part
            self.heads.append(request)
            self.asked += 1
            for part in self.parts():
                if self.stopped.is_set():
                    return
                connection.sendall(part)

    def close(self):
        self.stopped.set()
        with socket.create_connection(self.listener.getsockname()):
            pass
        for thread in self.threads:
            thread.join()
        self.listener.close()


@contextmanager
def answering(parts):
    server = Raw(parts)
    try:
        yield server
    finally:
        server.close()


def slowly(first, *further):
    """The first part, then the others over and over, twenty a second, for ever."""

    def parts():
        yield first
        while True:
            for part in further:
                time.sleep(0.05)
                yield part

    return parts


def once(*parts):
    return lambda: iter(parts)


def whole(body, *headers):
    lines = b"".join(header.encode() + b"\r\n" for header in (*headers, f"Content-Length: {len(body)}"))
    return once(HEAD + lines + b"\r\n" + body)


def refused(make, server, **options):
    with pytest.raises(EndpointError) as caught:
        make(server, retries=1, **options).write([Prompt("u")], max_tokens=4)
    message = str(caught.value)
    assert message.startswith(f"model some-model at {server.base_url}: no answer after 2 attempts, the last one: ")
    assert "\n" not in message and len(message) < 700
    assert server.asked == 2
    return message


@pytest.mark.parametrize(
    "parts",
    [
        slowly(CHUNKED, b"1\r\n \r\n"),
        slowly(CHUNKED, b"1", b"\r\n \r\n"),
        slowly(HEAD + b"Content-Length: 1000000\r\n\r\n", b" "),
        slowly(HEAD, *[f"X-{number}: b\r\n".encode() for number in range(1000)]),
        slowly(b"", b"H"),
        slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        slowly(HEAD.replace(b"json", b"event-stream") + b"\r\n", b"data: {}\n\n"),
        slowly(b"HTTP/1.1 500 Oh\r\nContent-Length: 1000000\r\n\r\n", b"no "),
    ],
    ids=["body", "chunk sizes", "length", "headers", "status", "continue", "events", "refusal"],
)
def test_a_reply_that_never_ends_ends_with_the_attempt(make, parts, threads_end):
    with answering(parts) as server:
        message = refused(make, server, timeout=0.5)
        threads_end()
    assert "the last one: no whole answer within 0.5 seconds (endpoint.timeout); run the command again" in message


def test_the_headers_of_a_reply_are_bounded(make):
    with answering(once(HEAD + b"X: " + b"a" * 2_000_000 + b"\r\n\r\n")) as server:
        assert "the last one: no connection: " in refused(make, server)


def flood():
    yield CHUNKED
    for _ in range(1000):
        yield b"10000\r\n" + b" " * 0x10000 + b"\r\n"


PACKED = "Content-Encoding: gzip"
BOMB = gzip.compress(b" " * 50_000_000)
TOO_LARGE = "garbage: a reply of more than 2 MB (endpoint.max_reply_mb)"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (flood, TOO_LARGE),
        (whole(BOMB, PACKED), TOO_LARGE),
        (whole(gzip.compress(BOMB), PACKED), "garbage: no JSON: "),
        (whole(BOMB, "Content-Encoding: gzip, gzip"), "garbage: a reply packed as 'gzip, gzip', where gzip or nothing"),
        (whole(b"\x1b\x00", "Content-Encoding: br"), "garbage: a reply packed as 'br', where gzip or nothing was"),
        (whole(b"{}", PACKED), "garbage: a reply that is not the gzip it claims to be: "),
        (whole(BOMB[:20], PACKED), "garbage: no JSON: "),
        (whole(b"[" * 1_000_000), "garbage: no JSON: [[["),
        (whole(b'{"a":' * 300_000), 'garbage: no JSON: {"a":{"a":'),
        (whole(b'{"choices": [' + b"9" * 100_000 + b"]}"), 'garbage: no JSON: {"choices": [999'),
        (whole(b'{"choices": "' + b"a" * 1_000_000 + b'"}'), "garbage: no choices in {'choices': 'aaa"),
        (whole(b"PK\x03\x04", "Content-Type: application/json; charset=zlib"), "garbage: no JSON: PK"),
    ],
    ids=["flood", "bomb", "bomb in a bomb", "packed twice", "brotli", "no gzip", "cut gzip", "deep", "deep objects",
         "digits", "long", "charset"],
)  # fmt: skip
def test_a_reply_beyond_bounds_is_garbage(make, parts, reason):
    with answering(parts) as server:
        message = refused(make, server, max_reply_mb=2)
    assert reason in message


def test_a_refusal_of_any_size_is_one_line(make):
    with (
        answering(once(b"HTTP/1.1 400 No\r\n\r\n", *[b"<a b='" * 100_000] * 100)) as server,
        pytest.raises(EndpointError, match=r"refused with status 400: <a b='<a .{280,310}; check request") as caught,
    ):
        make(server).write([Prompt("u")], max_tokens=4)
    assert len(str(caught.value)) < 500


def test_packed_replies_are_unpacked(make, said):
    body = gzip.compress(json.dumps(said("so" * 50_000)).encode())
    with answering(whole(body, PACKED)) as server:
        (row,) = make(server).write([Prompt("u")], max_tokens=4)
    assert row.text == "so" * 50_000
    assert b"accept-encoding: gzip\r\n" in server.heads[0].lower()


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_said_in_one_line(listen, make, said, monkeypatch, status):
    monkeypatch.setenv("SEAL_TEST_KEY", KEY)
    seen = []

    def other(*request):
        seen.append(request)
        return 200, said("stolen"), {}

    target = listen(other).base_url.replace("127.0.0.1", "127.0.0.2") + f"/chat?key={KEY}#{KEY}"
    server = listen(lambda *request: (status, b"", {"Location": target}))
    request = {"extra_headers": {"api-key": "env:SEAL_TEST_KEY"}}
    with pytest.raises(ConfigError) as caught:
        make(server, api_key_env="SEAL_TEST_KEY", request=request).write([Prompt("u")], max_tokens=4)
    assert str(caught.value) == (
        f"model some-model at {server.base_url}: redirects to {target.split('?')[0]} (status {status}), where neither "
        "key nor prompt was sent; set endpoint.base_url to that address if you trust it"
    )
    assert seen == []


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/v2/chat", r"redirects to http://127\.0\.0\.1:\d+/v2/chat \(status 307\)"),
        ("http://[::", r"redirects to http://\[:: \(status 307\)"),
        ("//me:pw@elsewhere/v1", r"redirects to http://elsewhere/v1 \(status 307\)"),
        ("http://elsewhere/" + "a" * 5000, r"redirects to http://elsewhere/a{280}\.\.\. \(status 307\)"),
        (f"http://elsewhere/{KEY}", r"redirects to (http://elsewhere/)?\[hidden\] \(status 307\)"),
    ],
)
def test_where_a_redirect_leads_is_shown_without_secrets(listen, make, monkeypatch, location, shown):
    monkeypatch.setenv("SEAL_TEST_KEY", KEY)
    server = listen(lambda *request: (307, b"", {"Location": location}))
    with pytest.raises(ConfigError, match=shown):
        make(server, api_key_env="SEAL_TEST_KEY").write([Prompt("u")], max_tokens=4)


@pytest.mark.parametrize("status", [200, 307])
def test_headers_outside_ascii_are_read(make, said, status):
    """Browsers take them, so servers send them."""
    body = json.dumps(said("so")).encode()
    head = "Content-Type: application/json; ä\r\nLocation: http://exämple/v1\r\n"
    reply = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body
    with answering(once(reply)) as server:
        if status == 200:
            assert [row.text for row in make(server).write([Prompt("u")], max_tokens=4)] == ["so"]
        else:
            with pytest.raises(ConfigError, match=r"redirects to http://exämple/v1 \(status 307\)"):
                make(server).write([Prompt("u")], max_tokens=4)


def test_nothing_is_sent_that_was_not_set_for_this_endpoint(listen, make, said, monkeypatch, tmp_path):
    """OpenAI's variables, the passwords of ~/.netrc, and cookies of an earlier reply."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password planted\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "sk-planted-of-openai")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Custom: planted\nAuthorization: planted")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/planted")
    heads = []

    def answer(method, path, body, headers):
        heads.append({name.lower(): value for name, value in headers.items()})
        return 200, said(), {"Set-Cookie": "session=planted; Path=/"}

    endpoint = make(listen(answer), concurrency=1)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-of-openai")
    endpoint.write([Prompt("u"), Prompt("v")], max_tokens=4)
    assert len(heads) == 2
    for head in heads:
        assert {*head} == {
            "host", "authorization", "accept", "accept-encoding", "content-type", "content-length", "user-agent",
            "connection",
        } - ({"connection"} - {*head})  # fmt: skip
        assert head["authorization"] == "Bearer none"
        assert "planted" not in str(head)


def test_the_key_of_openai_goes_elsewhere_where_it_is_named(scripted, make, said, monkeypatch):
    server = scripted((200, said()))
    endpoint = make(server, api_key_env="OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint.write([Prompt("u")], max_tokens=4)
    assert server.heads[0]["authorization"] == f"Bearer {KEY}"


def test_a_connection_asks_no_other_host(listen):
    seen = []
    other = listen(lambda *request: seen.append(request) or (200, {}, {}))
    made = Connection("http://127.0.0.1:9/v1", key=KEY, headers={}, query={}, timeout=1, largest=100)
    with closing(made) as connection:
        for ask in (connection.get, lambda url: connection.post(url, {})):
            with pytest.raises(ConfigError, match=r"expected requests to http://127\.0\.0\.1 only"):
                ask(f"{other.base_url}/models")
    assert seen == []


def test_a_proxy_is_the_users_choice_and_its_password_is_not_shown(monkeypatch, listen, said):
    """A host elsewhere is asked through the proxy; a proxy that is no URL is one line."""
    seen = []

    def answer(method, path, body, headers):
        seen.append((path, headers["proxy-authorization"]))
        return 200, said("by proxy"), {}

    proxy = listen(answer).base_url.removesuffix("/v1").replace("http://", "http://me:planted@")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    endpoint = Endpoint("m", base_url="http://elsewhere.invalid/v1", cache=None)
    assert endpoint.write([Prompt("u")], max_tokens=4)[0].text == "by proxy"
    assert seen == [("http://elsewhere.invalid/v1/chat/completions", "Basic bWU6cGxhbnRlZA==")]
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "ftp://me:planted@proxy")
    with pytest.raises(ConfigError, match=r"^the proxy that the environment names .*: expected a URL") as caught:
        endpoint.write([Prompt("u")], max_tokens=4)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    "echo",
    [KEY, f"Bearer {KEY}.", "c2stcGxhbnRlZC0wMTIzNDU2Nzg5YWJjZGVm", "sk-planted-01 and 23456789abcdef", KEY.upper()],
    ids=["plain", "header", "base64", "parts", "upper case"],
)
def test_a_key_in_a_models_answer_comes_into_no_file(scripted, make, said, monkeypatch, tmp_path, echo):
    monkeypatch.setenv("SEAL_TEST_KEY", KEY)
    endpoint = make(scripted((200, said(f"The key is {echo}"))), api_key_env="SEAL_TEST_KEY")
    (row,) = endpoint.write([Prompt("u")], max_tokens=4)
    assert row.text.startswith("The key is ") and "[hidden]" in row.text
    kept = "".join(path.read_text() for path in (tmp_path / "cache").rglob("*.json"))
    assert "[hidden]" in kept
    assert not any(KEY[start : start + 12].lower() in (row.text + kept).lower() for start in range(len(KEY) - 11))


# -- foreign text ------------------------------------------------------------------------------------------------------


def test_what_no_file_can_hold_is_replaced_and_said(scripted, make, caplog):
    server = scripted((200, rb'{"choices": [{"message": {"content": "a \ud83d b \ude00\u0000 c \ud83d\ude00"}}]}'))
    endpoint = make(server)
    (row,) = endpoint.write([Prompt("u")], max_tokens=4)
    assert row.text == "a \ufffd b \ufffd\ufffd c \U0001f600"
    assert "1 answers held halves of surrogate pairs or NUL characters, now U+FFFD" in caplog.text
    assert endpoint.write([Prompt("u")], max_tokens=4) == [Written(row.text, Usage(cached=1))]


def test_prompts_with_halves_of_pairs_are_sent(scripted, make, said):
    server = scripted((200, said()))
    make(server).write([Prompt("a \ud83d", system="\udc00")], max_tokens=4)
    make(server).complete(["b \ud83d"], max_tokens=4)
    assert [message["content"] for message in server.bodies[0]["messages"]] == ["\ufffd", "a \ufffd"]
    assert server.bodies[1]["prompt"] == "b \ufffd"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'\xef\xbb\xbf{"choices": [{"message": {"content": "so"}}]}', "so"),
        (b'{"choices": [{"message": {"content": "s\xff"}}]}', "s\ufffd"),
        ('{"choices": [{"message": {"content": "a\u2028b\x85"}}]}'.encode(), "a\u2028b\x85"),
        (b'{"choices": [{"text": "so", "message": 5}]}', "so"),
        (b'{"choices": [{"message": {"content": "so"}, "finish_reason": {"a": [1]}}]}', "so"),
        (b'{"choices": [{"message": {"content": "so"}}, 5, null, {"index": 0}]}', "so"),
        (b'{"choices": [{"message": {"content": "so"}, "logprobs": [NaN, Infinity, -1e999]}]}', "so"),
    ],
)
def test_odd_replies_are_read(scripted, make, body, text):
    assert make(scripted((200, body))).write([Prompt("u")], max_tokens=4)[0].text == text


@pytest.mark.parametrize("kind", ["application/json", "text/html", "text/plain; charset=utf-16", "", "a; charset=no"])
def test_the_content_type_decides_nothing(scripted, make, said, kind):
    body = json.dumps(said("so é"), ensure_ascii=False).encode()
    assert make(scripted((200, body, {"Content-Type": kind}))).write([Prompt("u")], max_tokens=4)[0].text == "so é"


@pytest.mark.parametrize(
    "usage",
    [
        5, "many", [], {"prompt_tokens": -3, "completion_tokens": 2}, {"prompt_tokens": "9", "completion_tokens": 2},
        {"prompt_tokens": True, "completion_tokens": 2}, {"prompt_tokens": 2.5, "completion_tokens": 2},
        {"prompt_tokens": 10**290, "completion_tokens": 2}, {"prompt_tokens": float("nan"), "completion_tokens": 2},
        {"prompt_tokens": float("inf"), "completion_tokens": 2}, {"prompt_tokens": {}, "completion_tokens": 2},
    ],
)  # fmt: skip
def test_tokens_that_are_no_count_are_none(scripted, make, caplog, usage):
    body = {"choices": [{"message": {"content": "so"}}], "usage": usage}
    prices = {"some-model": {"input": 1, "output": 1}}
    (row,) = make(scripted((200, body)), prices=prices).write([Prompt("u")], max_tokens=4)
    assert row.usage.prompt_tokens == 0
    assert "1 replies without a usage block, counted as 0 tokens" in caplog.text


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"5", b'"so"', b"[]", b"{}", b'{"choices": null}', b'{"choices": {}}', b'{"choices": [null]}',
     b'{"choices": [[]]}', b'{"choices": [{}]}', b'{"choices": [{"message": {}}]}', b'{"choices": [{"message": null}]}',
     b'{"choices": [{"message": {"content": ["so"]}}]}', b'{"choices": [{"message": {"content": {"a": 1}}}]}',
     b'{"choices": [{"text": 1e999}]}', b"\x00\x00\x00", b"<html>" * 1000, b"\xff\xfe{\x00}\x00"],
)  # fmt: skip
def test_what_is_no_reply_is_asked_again_and_never_kept(scripted, make, said, tmp_path, body):
    server = scripted((200, body), (200, said("so")))
    assert make(server).write([Prompt("u")], max_tokens=4)[0].text == "so"
    assert len(server.bodies) == 2
    assert len([*(tmp_path / "cache").rglob("*.json")]) == 1


@pytest.mark.parametrize(
    "wait", ["31536000", "1e400", "inf", "nan", "-5", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001"]
)
def test_a_server_is_left_alone_ten_minutes_at_most(scripted, make, said, monkeypatch, caplog, wait):
    slept = []
    monkeypatch.setattr("seal_lightning.endpoints.asking.Insistence._sleep", lambda self, wait: slept.append(wait))
    make(scripted((429, {}, {"Retry-After": wait}), (200, said()))).write([Prompt("u")], max_tokens=4)
    assert len(slept) == 1 and 0 <= slept[0] <= 600
    assert ("attempt 1 failed, trying again: status 429: {}; the next one in 600 seconds" in caplog.text) == (
        slept[0] == 600
    )


# -- waiting -----------------------------------------------------------------------------------------------------------


class Halt(BaseException):
    """As SystemExit and KeyboardInterrupt, which pytest would take for its own."""


@pytest.mark.parametrize("ask", ["models", "command"])
def test_a_wait_for_a_command_can_be_ended(listen, make, threads_end, ask):
    endpoint = make(listen(lambda *request: (503, {}, {"Retry-After": "600"})))

    def halt():
        raise Halt

    with pytest.raises(Halt):
        endpoint.models(on_wait=halt) if ask == "models" else endpoint.command("/v1/load", {}, on_wait=halt)
    threads_end()


def test_models_of_a_server_are_named_by_texts(listen, make):
    listed = {"data": [{"id": ["a"]}, {"id": {}}, {"id": None}, 5, {"id": "m", "max_model_len": -1}, {}]}
    assert make(listen(lambda *request: (200, listed, {}))).models() == [{"id": "m", "max_model_len": -1}]
    for odd in ({"data": {}}, {"data": None}, {}):
        assert make(listen(lambda *request, odd=odd: (200, odd, {}))).models() == []


def test_the_client_logs_no_key(listen, make, said, monkeypatch, capfd):
    """Whatever its libraries log, what a command prints passes one place that masks keys."""
    monkeypatch.setenv("SEAL_QUERY", "planted/query+key==")
    request = {"extra_query": {"key": "env:SEAL_QUERY"}, "extra_headers": {"X-Team": "env:SEAL_QUERY"}}
    endpoint = make(listen(lambda *request: (200, said(), {})), request=request)
    with standard_streams():
        handler = logging.StreamHandler(sys.stderr)
        logging.getLogger().addHandler(handler)
        names = ["openai", "httpx2", "httpcore2"]
        for name in names:
            logging.getLogger(name).setLevel(logging.DEBUG)
        try:
            endpoint.write([Prompt("u")], max_tokens=4)
            try:
                raise RuntimeError("no planted/query+key==")
            except RuntimeError:
                logging.getLogger("openai").exception("headers: %r", {"X-Team": "planted/query+key=="})
        finally:
            logging.getLogger().removeHandler(handler)
            for name in names:
                logging.getLogger(name).setLevel(logging.NOTSET)
    printed = capfd.readouterr().err
    assert "POST" in printed and "Traceback" in printed and "[hidden]" in printed
    assert "planted" not in printed
