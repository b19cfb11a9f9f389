"""No request is lost and no token uncounted however an endpoint fails; what is refused is one line without the key."""

import contextlib
import logging
import time
import traceback

import pytest
from endpoints import FAULTS, prompts_of

from seal_lightning.endpoints.asking import Patience
from seal_lightning.endpoints.failures import wait_of
from seal_lightning.errors import ConfigError, EndpointError
from seal_lightning.types import Prompt, Usage

KEY = "sk-planted-0123456789abcdef"


def total(written):
    return sum((row.usage for row in written), Usage())


def texts(written):
    return [row.text for row in written]


@pytest.mark.slow
def test_150_requests_through_all_faults(chat_server, fault_proxy, make):
    """Replies equal to the direct ones, usage equal to what the server counted, and a second run that asks nothing."""
    prompts = prompts_of(150)
    direct = texts(make(chat_server, cache=None).write(prompts, max_tokens=2))
    weights = {**dict.fromkeys(FAULTS, 1.0), "hang": 0.1}
    proxy = fault_proxy(share=0.2, faults=weights, hang=30, seed=1)
    endpoint = make(chat_server, base_url=proxy.base_url, timeout=5, retries=20)
    written = endpoint.write(prompts, max_tokens=2)
    assert texts(written) == direct
    assert all(text.strip() for text in direct)
    assert total(written) == Usage(**proxy.usage)
    assert {*proxy.attempts} == {"passed", *FAULTS}
    attempts = proxy.attempts.total()
    assert total(endpoint.write(prompts, max_tokens=2)) == Usage(cached=150)
    assert proxy.attempts.total() == attempts


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_survived(chat_server, fault_proxy, make, fault):
    proxy = fault_proxy(share=0.4, faults={fault: 1}, hang=30, seed=2)
    endpoint = make(chat_server, base_url=proxy.base_url, timeout=1, retries=20)
    written = endpoint.write(prompts_of(6), max_tokens=2)
    assert all(text.strip() for text in texts(written))
    assert proxy.attempts[fault] > 0
    assert total(written) == Usage(**proxy.usage)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, b"<html><h1>Oh no</h1></html>", {"Content-Type": "text/html"}), "status 500: Oh no"),
        ((408, {}), "status 408"),
        ((409, {"error": {"message": "locked"}}), "status 409: locked"),
        ((425, {}), "status 425"),
        ((429, {"error": {"message": "slow\ndown", "code": "rate_limit_exceeded"}}), "status 429: slow down"),
        ((503, {"detail": "loading"}), "status 503: loading"),
        ((529, {}), "status 529"),
        ((200, b"{not JSON"), "garbage"),
        ((200, b"<html>", {"Content-Type": "text/html"}), "garbage: no JSON: <html>"),
        ((200, b"\xff\xfe"), "garbage"),
        ((200, {"choices": []}), "garbage: no choices"),
        ((200, {"error": {"message": "upstream"}}), "upstream"),
        ((200, [1]), "garbage: no JSON object"),
        ((200, {"choices": [{"message": {"content": 5}}]}), "garbage: no text"),
    ],
)
def test_after_the_last_retry_the_unit_fails(scripted, make, said, answer, reason):
    server = scripted((200, said("first")), answer)
    endpoint = make(server, retries=2, concurrency=1)
    with pytest.raises(EndpointError) as caught:
        endpoint.write([Prompt("a"), Prompt("b")], max_tokens=4)
    message = str(caught.value)
    assert f"model some-model at {server.base_url}: no answer after 3 attempts" in message
    assert reason in message and "answered requests are in the cache" in message and "\n" not in message
    assert caught.value.exit_code == 1
    assert len(server.bodies) == 4
    assert endpoint.write([Prompt("a")], max_tokens=4)[0].usage == Usage(cached=1)


def test_nobody_listens(make, listen):
    server = listen(lambda *request: (200, {}, {}))
    server.base_url = "http://127.0.0.1:9/v1"  # the discard port
    with pytest.raises(EndpointError, match=r"after 2 attempts, the last one: no connection: .+; .*cache is null"):
        make(server, retries=1, cache=None).write([Prompt("a")], max_tokens=4)


@pytest.mark.parametrize(
    ("status", "reply", "kind", "words"),
    [
        (400, {"error": {"message": "too long"}}, EndpointError, ["status 400: too long", "check request"]),
        (401, {"error": {"message": f"Incorrect API key {KEY}."}}, ConfigError, ["status 401", "$SEAL_TEST_KEY"]),
        (401, {"error": {"message": f"wrong: {KEY[:9]}****cdef"}}, ConfigError, ["status 401", "[hidden]"]),
        (401, {"error": {"message": "wrong: ***********cdef"}}, ConfigError, ["status 401", "[hidden]"]),
        (403, {"detail": f"Bearer {KEY} may not"}, ConfigError, ["status 403", "$SEAL_TEST_KEY"]),
        (404, {"error": {"message": "no model some-model"}}, ConfigError, ["status 404", "check base_url and model"]),
        (405, b"", EndpointError, ["status 405"]),
        (422, {"detail": [{"msg": "extra field"}]}, EndpointError, ["status 422", "extra field"]),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, EndpointError, ["quota is used up: pay"]),
    ],
)
def test_a_refusal_is_final_and_one_line(scripted, make, monkeypatch, caplog, tmp_path, status, reply, kind, words):
    monkeypatch.setenv("SEAL_TEST_KEY", KEY)
    caplog.set_level(logging.DEBUG, "seal_lightning")
    server = scripted((status, reply))
    endpoint = make(server, api_key_env="SEAL_TEST_KEY", concurrency=1)
    with pytest.raises(kind) as caught:
        endpoint.write(prompts_of(5), max_tokens=4)
    message = str(caught.value)
    assert [word for word in [f"model some-model at {server.base_url}", *words] if word not in message] == []
    assert "\n" not in message and len(message) < 400
    assert caught.value.exit_code == (2 if kind is ConfigError else 1)
    assert len(server.bodies) == 1
    assert server.heads[0]["authorization"] == f"Bearer {KEY}"
    everything = "".join(traceback.format_exception(caught.value)) + repr(endpoint) + caplog.text
    assert_hidden(everything)
    assert caught.value.__context__ is None


def assert_hidden(text):
    assert not any(KEY[start : start + 6] in text for start in range(len(KEY) - 5))
    assert "cdef" not in text


def test_the_key_is_on_no_disk_and_in_no_log(scripted, make, said, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("SEAL_TEST_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    echo = {"error": {"message": f"slow down, {KEY}"}}
    server = scripted((429, echo), (200, {"oops": KEY}), *[(500, {"detail": KEY})] * 3, (200, said()))
    make(server, api_key_env="SEAL_TEST_KEY").write([Prompt("a")], max_tokens=4)
    assert "attempt 4 failed" in caplog.text
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == 1
    assert_hidden("".join(path.read_text() for path in files))
    assert_hidden(caplog.text)


def test_many_failures_are_two_lines(scripted, make, said, caplog):
    caplog.set_level(logging.INFO, "seal_lightning")
    server = scripted(*[(503, {})] * 5, (429, {}), (200, said()))
    make(server, concurrency=1).write(prompts_of(4), max_tokens=4)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("seal_lightning")]
    assert len(lines) == 2
    assert "attempt 4 failed, trying again: status 503" in lines[0]
    assert "4 requests answered, failed attempts: 503 5x, 429 1x" in lines[1]


def test_the_first_failure_stops_the_others(scripted, make):
    """A request that waits for its next attempt does not hold the refusal up."""
    server = scripted((503, {}, {"Retry-After": "500"}), (401, {}))
    endpoint = make(server, concurrency=2)
    started = time.monotonic()
    with pytest.raises(ConfigError, match="status 401"):
        endpoint.write(prompts_of(20), max_tokens=4)
    assert time.monotonic() - started < 400
    assert len(server.bodies) < 20


def test_retry_after_is_honoured(scripted, make, said, monkeypatch):
    slept = []
    monkeypatch.setattr("seal_lightning.endpoints.asking.Insistence._sleep", lambda self, wait: slept.append(wait))
    server = scripted((429, {}, {"Retry-After": "7"}), (503, {}, {"Retry-After": "9999"}), (503, {}), (200, said()))
    endpoint = make(server)
    endpoint.write([Prompt("a")], max_tokens=4)
    assert slept[:2] == [7.0, 600.0]
    assert 0 < slept[2] < 1


def test_waits_grow_and_are_random(scripted, make, monkeypatch):
    slept = []
    monkeypatch.setattr("seal_lightning.endpoints.asking.Insistence._sleep", lambda self, wait: slept.append(wait))
    endpoint = make(scripted((500, {})))
    for _ in range(4):
        endpoint._patience = Patience(10, shortest=0.5, longest=60)
        with contextlib.suppress(EndpointError):
            endpoint.write([Prompt("a")], max_tokens=4)
    assert len(slept) == 40 and len({*slept}) > 30
    assert all(0.5 <= wait <= 60 for wait in slept)
    assert max(slept[0::10]) <= 1.5 < max(slept)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "-1"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_retry_after_headers(headers, seconds):
    assert wait_of(headers) == seconds


def test_retry_after_a_date():
    assert wait_of({"retry-after": "Wed, 21 Oct 2125 07:28:00 GMT"}) > 1e9
