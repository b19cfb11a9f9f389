"""Batch jobs: submitted once, picked up after an interruption, results kept, failures asked again or said in a line.

The batch routes are a fake on disk of a few lines; every request in a job is answered by the real server.
"""

import json
import logging
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from email import message_from_bytes

import pytest
from endpoints import prompts_of

from seal_lightning.endpoints import Endpoint
from seal_lightning.endpoints.asking import Insistence
from seal_lightning.endpoints.batch import job_key
from seal_lightning.endpoints.cache import Cache
from seal_lightning.endpoints.wire import CHAT
from seal_lightning.errors import ConfigError, EndpointError
from seal_lightning.types import Prompt, Usage


class Interrupted(BaseException):
    """In place of Ctrl-C, which pytest would take for its own."""


class BatchRoutes:
    """Files and batches of the OpenAI API, in front of a server without them.

    Args:
        target: The server's URL with `/v1`.
        ends: The status in which jobs end.
        fails: Which lines of a job fail in it.
        states: How many times a job is found unfinished.
    """

    def __init__(self, target, *, ends="completed", fails=(), states=1):
        self.target, self.ends, self.fails, self.states = target, ends, fails, states
        self.files, self.jobs, self.polls, self.singly, self.broken = {}, {}, 0, 0, {}

    def answer(self, method, path, body, headers):
        route = (method, path.removeprefix("/v1").strip("/").split("/"))
        if self.broken.get(route[1][0]):
            return self.broken[route[1][0]].pop(0)
        match route:
            case "POST", ["files"]:
                return self.add_file(body, headers)
            case "GET", ["files", name, "content"]:
                return 200, self.files[name], {"Content-Type": "application/octet-stream"}
            case "POST", ["batches"]:
                return self.submit(json.loads(body))
            case "GET", ["batches", job]:
                return self.poll(job)
            case "POST", ["chat", "completions"]:
                self.singly += 1
                return *self.forward("/v1/chat/completions", json.loads(body)), {}
        return 404, {}, {}

    def add_file(self, body, headers):
        form = message_from_bytes(f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
        assert parts["purpose"].get_payload() == "batch"
        name = f"file-{len(self.files)}"
        self.files[name] = parts["file"].get_payload(decode=True)
        return 200, {"id": name, "object": "file", "purpose": "batch"}, {}

    def submit(self, body):
        assert (body["endpoint"], body["completion_window"]) == ("/v1/chat/completions", "24h")
        job = f"batch_{len(self.jobs)}"
        self.jobs[job] = body
        return 200, {"id": job, "status": "validating"}, {}

    def poll(self, job):
        self.polls += 1
        if job not in self.jobs:
            return 404, {"error": {"message": "no such batch"}}, {}
        if self.polls <= self.states:
            return 200, {"id": job, "status": "in_progress", "request_counts": {"total": 3, "completed": 1}}, {}
        return 200, self.result(job), {}

    def result(self, job):
        if self.ends == "failed":
            return {"id": job, "status": "failed", "errors": {"data": [{"message": "line 1:\nno such model"}]}}
        lines = [json.loads(line) for line in self.files[self.jobs[job]["input_file_id"]].splitlines()]
        done, wrong = [], []
        for number, line in enumerate(lines):
            assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
            if number in self.fails:
                wrong.append({"custom_id": line["custom_id"], "response": {"status_code": 500, "body": {}}})
                continue
            status, reply = self.forward(line["url"], line["body"])
            row = {"id": "x", "custom_id": line["custom_id"], "error": None}
            done.append({**row, "response": {"status_code": status, "body": reply}})
        self.files["out"], self.files["wrong"] = (
            "".join(json.dumps(row) + "\n" for row in reversed(rows)).encode() for rows in (done, wrong)
        )
        return {"id": job, "status": self.ends, "output_file_id": "out", "error_file_id": "wrong"}

    def forward(self, path, body):
        url = self.target.removesuffix("/v1") + path
        request = urllib.request.Request(
            url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def submitted(self):
        """How many requests each job had."""
        return [len(self.files[job["input_file_id"]].splitlines()) for job in self.jobs.values()]


@pytest.fixture
def batches(chat_server, listen, make):
    """Batch routes before the real server, and an endpoint that asks them."""

    def start(**plan):
        options = plan.pop("options", {})
        routes = BatchRoutes(chat_server.base_url, **plan)
        return routes, make(chat_server, base_url=listen(routes.answer).base_url, **options)

    return start


def total(written):
    return sum((row.usage for row in written), Usage())


def texts(written):
    return [row.text for row in written]


def jobs_on_disk(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*.json") if "batch_" in path.read_text()]


PRICES = {"input": 2.0, "output": 8.0, "batch": 0.5}


def requests_of(endpoint, prompts, max_tokens):
    return endpoint._requests(CHAT, endpoint._bodies(prompts, max_tokens), 0.0, None, None)


def test_a_job_gives_what_single_requests_give(batches, chat_server, make, tmp_path):
    prompts, done = prompts_of(6), []
    routes, endpoint = batches(options={"prices": {chat_server.model: PRICES}})
    single = make(chat_server, cache=None, prices={chat_server.model: PRICES}).write(prompts, max_tokens=4)
    assert endpoint.write(prompts[:2], max_tokens=4)[0].text == single[0].text
    written = endpoint.write([*prompts, prompts[5]], batch=True, max_tokens=4, poll_seconds=0.01, on_done=done.append)
    assert texts(written) == [*texts(single), single[5].text]
    assert (routes.submitted(), routes.singly, routes.polls) == ([4], 2, 2)
    assert sum(done) == 7
    assert (total(written).requests, total(written).cached) == (4, 3)
    assert [row.usage.dollars for row in written[2:6]] == [row.usage.dollars / 2 for row in single[2:]]
    assert jobs_on_disk(tmp_path) == []
    assert total(endpoint.write(prompts, max_tokens=4)) == Usage(cached=6)
    assert total(endpoint.write(prompts, batch=True, max_tokens=4)) == Usage(cached=6)
    assert len(routes.jobs) == 1


def test_a_long_wait_between_polls_is_cut_short(batches, threads_end, tmp_path):
    routes, endpoint = batches(states=10**9)

    def stop(count):
        if routes.polls:
            raise Interrupted

    with pytest.raises(Interrupted):
        endpoint.write(prompts_of(1), batch=True, max_tokens=4, poll_seconds=10**6, on_done=stop)
    threads_end()
    assert len(jobs_on_disk(tmp_path)) == routes.polls == 1


def test_a_stop_during_the_upload_submits_no_job(batches, threads_end, tmp_path):
    routes, endpoint = batches()
    uploading, go_on = threading.Event(), threading.Event()
    add_file = routes.add_file

    def slow(body, headers):
        uploading.set()
        go_on.wait()
        return add_file(body, headers)

    def stop(count):
        if uploading.is_set():
            raise Interrupted

    routes.add_file = slow
    with pytest.raises(Interrupted):
        endpoint.write(prompts_of(1), batch=True, max_tokens=4, on_done=stop)
    go_on.set()
    threads_end()
    assert (len(routes.files), routes.jobs, jobs_on_disk(tmp_path)) == (1, {}, [])


def test_what_a_job_cost_that_ended_early_is_logged(batches, chat_server, caplog):
    _, endpoint = batches(ends="expired", fails=(1,), options={"prices": {chat_server.model: PRICES}})
    direct = batches()[1].write(prompts_of(1), max_tokens=4)[0].usage
    with pytest.raises(EndpointError):
        endpoint.write(prompts_of(2), batch=True, max_tokens=4, poll_seconds=0.01)
    dollars = (2 * direct.prompt_tokens + 8 * direct.completion_tokens) / 2e6
    (line,) = [record.getMessage() for record in caplog.records if "call failed" in record.getMessage()]
    assert f"no total includes its cost: 1 requests and 0 from the cache, {direct.prompt_tokens} prompt" in line
    assert f"${dollars:.6f}; answered requests are in the cache" in line


def test_an_interrupted_run_picks_its_job_up(batches, threads_end, tmp_path, caplog):
    caplog.set_level(logging.INFO, "seal_lightning")
    routes, endpoint = batches(states=10**9)
    prompts = prompts_of(3)

    def interrupt(count):
        assert (count, threading.current_thread()) == (0, threading.main_thread())
        if routes.polls >= 2:
            raise Interrupted

    with pytest.raises(Interrupted) as caught:
        endpoint.write(prompts, batch=True, max_tokens=4, poll_seconds=0.01, on_done=interrupt)
    assert caught.value.__context__ is None
    assert len(jobs_on_disk(tmp_path)) == 1
    threads_end()
    routes.states = 0
    twin = Endpoint(endpoint.model, base_url=endpoint.base_url, cache=str(tmp_path / "cache"))
    written = twin.write(prompts, batch=True, max_tokens=4, poll_seconds=0.01)
    assert total(written).requests == 3
    assert routes.submitted() == [3]
    assert "going on with batch job batch_0" in caplog.text
    assert jobs_on_disk(tmp_path) == []


def test_a_job_is_found_though_some_of_it_is_answered_by_now(batches, monkeypatch, tmp_path):
    routes, endpoint = batches()
    prompts = prompts_of(3)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Insistence, "_attempt", interrupted_after(Insistence._attempt, calls=2))
        endpoint.write(prompts, batch=True, max_tokens=4)
    endpoint.write(prompts[:1], max_tokens=4)
    written = endpoint.write(prompts, batch=True, max_tokens=4, poll_seconds=0.01)
    assert (total(written).requests, total(written).cached) == (2, 1)
    assert routes.submitted() == [3]


def interrupted_after(method, *, calls):
    left = [None] * calls

    def call(self, *args):
        if not left:
            raise Interrupted
        left.pop()
        return method(self, *args)

    return call


def test_other_requests_are_another_job(batches):
    _, endpoint = batches()
    requests = requests_of(endpoint, prompts_of(3), 4)
    assert job_key(requests) == job_key([*reversed(requests), requests[0]])
    assert job_key(requests) != job_key(requests[:2])
    assert job_key(requests) != job_key(requests_of(endpoint, prompts_of(3), 5))


def test_what_failed_within_a_job_is_asked_singly(batches):
    routes, endpoint = batches(fails=(0, 2))
    written = endpoint.write(prompts_of(4), batch=True, max_tokens=4, poll_seconds=0.01)
    assert total(written).requests == 4 and all(texts(written))
    assert (routes.submitted(), routes.singly) == ([4], 2)


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_a_job_that_ended_early_keeps_what_it_answered(batches, tmp_path, status):
    routes, endpoint = batches(ends=status, fails=(1,))
    with pytest.raises(EndpointError) as caught:
        endpoint.write(prompts_of(3), batch=True, max_tokens=4, poll_seconds=0.01)
    words = f"batch job batch_0 ended as {status}; 2 of 3 requests are answered and kept, run the command again"
    assert words in str(caught.value)
    assert jobs_on_disk(tmp_path) == []
    routes.ends, routes.fails = "completed", ()
    written = endpoint.write(prompts_of(3), batch=True, max_tokens=4, poll_seconds=0.01)
    assert (total(written).requests, total(written).cached) == (1, 2)
    assert routes.submitted() == [3, 1]


def test_a_job_that_failed_says_why(batches):
    _, endpoint = batches(ends="failed")
    with pytest.raises(EndpointError, match=r"ended as failed \(line 1: no such model\); 0 of 2 requests"):
        endpoint.write(prompts_of(2), batch=True, max_tokens=4, poll_seconds=0.01)


def test_a_job_that_is_gone_is_submitted_anew(batches, tmp_path):
    routes, endpoint = batches()
    requests = requests_of(endpoint, prompts_of(2), 4)
    endpoint._open_cache().write(job_key(requests), {"job": "batch_99"})
    with pytest.raises(EndpointError, match=r"batch_99 ended as gone; 0 of 2 requests .* run the command again"):
        endpoint.write(prompts_of(2), batch=True, max_tokens=4, poll_seconds=0.01)
    assert total(endpoint.write(prompts_of(2), batch=True, max_tokens=4, poll_seconds=0.01)).requests == 2
    assert routes.submitted() == [2]


def test_faults_on_the_way(batches):
    routes, endpoint = batches()
    busy, down, garbage = (429, {}, {"Retry-After": "0"}), (503, {}, {}), (200, b"{", {})
    routes.broken = {"files": [busy, down], "batches": [busy]}
    with pytest.raises(EndpointError, match="after 2 attempts, the last one: status 503"):
        routes.broken["batches"] += [down]  # after that nobody knows whether there is a job
        endpoint.write(prompts_of(2), batch=True, max_tokens=4, poll_seconds=0.01)
    assert routes.jobs == {}
    written = endpoint.write(prompts_of(2), batch=True, max_tokens=4, poll_seconds=0.01)
    assert total(written).requests == 2
    routes.polls, routes.states = 0, 2

    def poll(job, poll=routes.poll):
        if routes.polls == 0:
            routes.broken["batches"] = [down, garbage, (200, {"status": None}, {})]
        return poll(job)

    routes.poll = poll
    assert total(endpoint.write(prompts_of(3), batch=True, max_tokens=4, poll_seconds=0.01)).requests == 1


def test_an_endpoint_without_batch_routes(chat_server, make):
    with pytest.raises(
        ConfigError, match=r"^model \S+ at http://127\S+: the endpoint has no batch routes; leave .*off$"
    ):
        make(chat_server).write([Prompt("u")], batch=True, max_tokens=4)


def test_a_wrong_key_is_no_missing_route(scripted_status, make):
    with pytest.raises(ConfigError, match=r"status 401: no; name the environment variable .* in endpoint\.api_key_env"):
        make(scripted_status(401)).write([Prompt("u")], batch=True, max_tokens=4)


@pytest.fixture
def scripted_status(listen):
    return lambda status: listen(lambda *request: (status, {"error": {"message": "no"}}, {}))


def test_batch_mode_needs_a_cache(chat_server, make):
    with pytest.raises(ConfigError, match="cache=null: batch mode keeps its job there"):
        make(chat_server, cache=None).write([Prompt("u")], batch=True, max_tokens=4)


def test_what_is_not_accepted_is_not_kept(batches):
    routes, endpoint = batches()
    options = {"max_tokens": 4, "poll_seconds": 0.01, "accept": lambda text: False}
    assert total(endpoint.write(prompts_of(1), batch=True, **options)).requests == 1
    assert total(endpoint.write(prompts_of(1), batch=True, **options)).requests == 1
    assert routes.submitted() == [1, 1]


class Scripted:
    """Batch routes that say what they are told to; `asked` notes the routes."""

    def __init__(self, said, *, results=b"", job="batch_1", file="file-1", output="file-2", status="completed", **more):
        self.said, self.results, self.job, self.file = said, results, job, file
        self.state = {"status": status, "output_file_id": output, **more}
        self.asked = []

    def answer(self, method, path, body, headers):
        self.asked.append(f"{method} {path}")
        if path.endswith("/content"):
            return 200, self.results(self.keys) if callable(self.results) else self.results, {}
        if path == "/v1/files":
            form = message_from_bytes(f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + body)
            parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
            lines = parts["file"].get_payload(decode=True).splitlines()
            self.keys = [json.loads(line)["custom_id"] for line in lines]
            return 200, {"id": self.file}, {}
        if path == "/v1/chat/completions":
            return 200, self.said("singly"), {}
        return 200, {"id": self.job} if method == "POST" else self.state, {}


def row(key, text="in the job", **more):
    answer = {"choices": [{"message": {"content": text}}]}
    return {"custom_id": key, "response": {"status_code": 200, "body": answer}, **more}


def test_results_of_every_wrong_kind_are_asked_for_again(listen, make, said):
    """Line separators within texts end no line, the first of two answers counts, and what is no answer is none."""

    def results(keys):
        rows = [
            row(keys[0], "a\u2028b\x85c"), row(keys[0], "again"), row([keys[1]]), row({"a": 1}), row(None), 5, None, [],
            row(keys[1], response=[]), row(keys[1], response={"status_code": "200"}), row("../../etc/passwd"),
            row(keys[1], response={"status_code": 200, "body": [1]}), row(keys[2], ["so"]), row(keys[3], "d \ud83d"),
        ]  # fmt: skip
        text = "\n".join(json.dumps(each, ensure_ascii=False) for each in rows)
        deep = b"[" * 100_000
        return b"\n".join([b"\xff\xfe", deep, text.encode("utf-8", "surrogatepass"), b'{"custom_id": "cut'])

    routes = Scripted(said, results=results)
    written = make(listen(routes.answer)).write(prompts_of(4), batch=True, max_tokens=4, poll_seconds=0.01)
    assert texts(written) == ["a\u2028b\x85c", "singly", "singly", "d \ufffd\ufffd\ufffd"]
    assert routes.asked.count("POST /v1/chat/completions") == 2


@pytest.mark.parametrize(
    "name",
    ["../../admin", "http://elsewhere/x", "//elsewhere/x", "a b", "a\r\nX: 1", "a?key=1", "..", "", "a" * 300, 5],
)
def test_ids_of_a_server_that_are_no_names_are_put_into_no_path(listen, make, said, name):
    for which in ("job", "file"):
        routes = Scripted(said, **{which: name})
        with pytest.raises(
            EndpointError, match=r"no answer after [12] attempts, the last one: garbage: no id in \{'id': "
        ):
            make(listen(routes.answer), retries=1).write([Prompt("u")], batch=True, max_tokens=4, poll_seconds=0.01)
        assert {*routes.asked} <= {"POST /v1/files", "POST /v1/batches"}
    routes = Scripted(said, output=name)
    written = make(listen(routes.answer)).write([Prompt("u")], batch=True, max_tokens=4, poll_seconds=0.01)
    assert texts(written) == ["singly"]
    assert not any(path.endswith("/content") for path in routes.asked)


def test_a_job_in_somebody_elses_cache_is_no_path_either(listen, make, said, tmp_path):
    routes = Scripted(said)
    endpoint = make(listen(routes.answer))
    key = job_key(requests_of(endpoint, [Prompt("u")], 4))
    endpoint._open_cache().write(key, {"job": "../files"})
    endpoint.write([Prompt("u")], batch=True, max_tokens=4, poll_seconds=0.01)
    assert "GET /v1/batches/batch_1" in routes.asked and not any(".." in path for path in routes.asked)


def test_a_job_that_never_ends_is_given_up(listen, make, said, monkeypatch):
    monkeypatch.setattr("seal_lightning.endpoints.batch._LONGEST", 0.0)
    routes = Scripted(said, status="in_progress " * 100)
    with pytest.raises(EndpointError, match=r"batch job batch_1 is still in_progress .{80,100} after 0 hours; run the"):
        make(listen(routes.answer)).write([Prompt("u")], batch=True, max_tokens=4, poll_seconds=0.01)


@pytest.mark.parametrize("errors", [5, [], {"data": 5}, {"data": [5, {"message": ["no"] * 1000}]}])
def test_why_a_job_failed_may_be_anything(listen, make, said, errors):
    routes = Scripted(said, status="failed", errors=errors, output=None)
    with pytest.raises(EndpointError, match=r"batch job batch_1 ended as failed") as caught:
        make(listen(routes.answer)).write([Prompt("u")], batch=True, max_tokens=4, poll_seconds=0.01)
    assert len(str(caught.value)) < 600


def test_two_processes_that_ask_for_the_same_submit_one_job(tmp_path):
    """While one submits, the other waits; it finds the job on disk then."""
    code = (
        "import sys, time; from pathlib import Path; from seal_lightning.endpoints.cache import Cache\n"
        "cache = Cache(Path(sys.argv[1]))\n"
        "with cache.alone('ab12', pause=time.sleep):\n"
        "    if cache.read('ab12') is None:\n"
        "        time.sleep(1)\n"  # the upload
        "        cache.write('ab12', {'job': sys.argv[2]})\n"
        "    print(cache.read('ab12')['job'])\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    jobs = [process.communicate()[0].strip() for process in both]
    assert jobs[0] == jobs[1] and jobs[0] in ("one", "two")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["ab12.json"]


def test_a_job_is_submitted_by_one_at_a_time(scripted, tmp_path, monkeypatch):
    """The call waits while another holds the job's lock, and may be ended meanwhile."""
    entered = []

    @contextmanager
    def alone(self, key, *, pause):
        entered.append(key)
        pause(0.0)
        raise Interrupted
        yield

    monkeypatch.setattr(Cache, "alone", alone)
    endpoint = Endpoint(model="m", base_url=scripted().base_url, cache=str(tmp_path))
    with pytest.raises(Interrupted):
        endpoint.write([Prompt("u")], batch=True, max_tokens=2)
    assert len(entered) == 1
