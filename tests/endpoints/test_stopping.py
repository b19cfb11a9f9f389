"""A call to an endpoint that does not go through, ended while it waits or failed: what had come is kept and counted."""

import json
import subprocess
import sys
import threading

import pytest
from endpoints import prompts_of

from seal_lightning.errors import EndpointError
from seal_lightning.types import Prompt, Usage, Written


class Halt(BaseException):
    """As SystemExit and KeyboardInterrupt, which pytest would take for its own."""


@pytest.mark.parametrize("waiting_for", ["an answer", "the next attempt"])
def test_whoever_is_told_of_progress_can_end_a_wait(listen, make, said, threads_end, waiting_for):
    """The first request is answered, the others get no answer, or one that says to come back in ten minutes."""
    release, asked, answered = threading.Event(), [], []

    def answer(method, path, body, headers):
        asked.append(json.loads(body)["messages"][0]["content"])
        if len(asked) == 1:
            return 200, said("so"), {}
        if waiting_for == "an answer":
            release.wait()
        return 503, {}, {"Retry-After": "600"}

    def on_done(count):
        assert threading.current_thread() is threading.main_thread()
        answered.append(count)
        if count == 0 and len(asked) == 2 and sum(answered) == 1:
            raise Halt

    endpoint = make(listen(answer), concurrency=1)
    try:
        with pytest.raises(Halt) as caught:
            endpoint.write(prompts_of(5), max_tokens=4, on_done=on_done)
        assert caught.value.__context__ is None
    finally:
        release.set()
    threads_end()
    assert (len(asked), sum(answered)) == (2, 1)  # nothing was sent afterwards
    assert endpoint.write([Prompt(asked[0])], max_tokens=4) == [Written("so", Usage(cached=1))]


def test_what_is_under_way_at_a_stop_is_kept_when_it_comes(listen, make, said, threads_end):
    release, asked = threading.Event(), threading.Event()

    def answer(*request):
        asked.set()
        release.wait()
        return 200, said("late"), {}

    def on_done(count):
        if asked.is_set():
            raise Halt

    endpoint = make(listen(answer))
    try:
        with pytest.raises(Halt):
            endpoint.write([Prompt("u")], max_tokens=4, on_done=on_done)
    finally:
        release.set()
    threads_end()
    assert endpoint.write([Prompt("u")], max_tokens=4) == [Written("late", Usage(cached=1))]


def test_a_silent_server_keeps_no_process_alive(listen, tmp_path):
    release, asked = threading.Event(), []

    def answer(*request):
        asked.append(request)
        release.wait()
        return 503, {}, {}

    code = """
import sys
from seal_lightning.endpoints import Endpoint
from seal_lightning.types import Prompt
def stop(count):
    if count == 0:
        sys.exit(7)
Endpoint("m", base_url=sys.argv[1], cache=None, timeout=1e6).write([Prompt("u")], max_tokens=4, on_done=stop)
"""
    try:
        done = subprocess.run([sys.executable, "-c", code, listen(answer).base_url], timeout=300, capture_output=True)
    finally:
        release.set()
    assert (done.returncode, done.stdout, done.stderr) == (7, b"", b"")


@pytest.mark.parametrize(
    ("options", "kept"), [({}, "answered requests are in the cache"), ({"cache": None}, "nothing is kept, since cache")]
)
def test_what_a_failed_call_cost_is_logged(scripted, make, said, caplog, options, kept):
    server = scripted((200, said("so")), (200, said("")), (400, {"error": {"message": "no"}}))
    endpoint = make(server, concurrency=1, prices={"some-model": {"input": 1, "output": 10}}, **options)
    with pytest.raises(EndpointError, match="status 400"):
        endpoint.write(prompts_of(3), max_tokens=4)
    (line,) = [record.getMessage() for record in caplog.records]
    assert (
        "no total includes its cost: 2 requests and 0 from the cache, 20 prompt and 4 completion tokens, $0.000060; "
        + kept
        in line
    )


def test_a_failed_call_that_cost_nothing_says_so_by_its_error_alone(scripted, make, caplog):
    with pytest.raises(EndpointError):
        make(scripted((400, {}))).write([Prompt("u")], max_tokens=4)
    assert caplog.records == []
