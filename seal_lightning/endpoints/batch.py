"""One job of the OpenAI Batch API: cheaper by half, done within a day, and found again by a run that was interrupted.

The job's id is on disk as soon as there is one, under a digest of all requests of the call. Requests that fail within a
job are left to the caller.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from seal_lightning.endpoints.asking import Insistence
from seal_lightning.endpoints.cache import Cache
from seal_lightning.endpoints.failures import said_by
from seal_lightning.endpoints.wire import Garbled, Reply, Request, parsed
from seal_lightning.errors import ConfigError, EndpointError
from seal_lightning.files.saving import SavingError
from seal_lightning.text.masking import known_secrets
from seal_lightning.text.redaction import quoted

if TYPE_CHECKING:
    from seal_lightning.endpoints.connection import Connection

log = logging.getLogger(__name__)

_ENDED = ("completed", "failed", "expired", "cancelled")
_NO_ROUTE = (404, 405, 501)
_PREFIX = "/v1"  # before routes within a job, whatever the base URL is
_ID = re.compile(r"(?!\.)[\w.:@=-]{1,200}", re.ASCII)  # of a job or a file: it becomes part of a path
_SHORT = 100  # characters of what a server says of a job
_LONGEST = 26 * 3600.0  # seconds that a job is waited for; it has a day


class BatchJob:
    """A job for the requests of one call.

    Args:
        client: For this call.
        once: Makes a call with it, and turns what it raises into `Again` or one line.
        read: The reply in a body.
        insist: Repeats such calls.
        cache: Where the job's id is kept.
        where: The model and its endpoint, for messages.
    """

    def __init__(
        self,
        client: Connection,
        *,
        once: Callable[[Callable[[], Any]], Any],
        read: Callable[[Any], Reply],
        insist: Insistence,
        cache: Cache,
        where: str,
    ) -> None:
        self._client = client
        self._once = once
        self._read = read
        self._insist = insist
        self._cache = cache
        self._where = where

    def run(
        self, requests: Sequence[Request], *, key: str, poll_seconds: float, keep: Callable[[Request, Reply], None]
    ) -> list[tuple[Request, Reply]]:
        """Requests with their replies once the job has ended, without those that failed in it.

        Args:
            requests: What to ask, each one different.
            key: Names the job on disk; see `job_key`.
            poll_seconds: How often to ask whether the job has ended.
            keep: Told of every reply at once, also if the job did not complete.

        Raises:
            ConfigError: The endpoint has no batch routes.
            EndpointError: The job ended otherwise than by being completed; what it answered is kept.
            Stopped: Nobody waits any more; the job stays on disk.
        """
        with self._cache.alone(key, pause=self._insist.pause):  # two that ask for the same would get two bills
            name = self._job(requests, key)
        job = self._wait(name, poll_seconds)
        asked = {request.key: request for request in requests}
        replies = dict(self._replies(job, asked))
        for name, reply in replies.items():
            keep(asked[name], reply)
        if job["status"] != "completed":
            self._cache.drop(key)
            raise EndpointError(
                f"{self._where}: batch job {job['id']} ended as {job['status']}{_errors_of(job)}; {len(replies)} of "
                f"{len(asked)} requests are answered and kept, run the command again to submit the others"
            )
        self._cache.drop(key)
        return [(asked[name], reply) for name, reply in replies.items()]

    def _job(self, requests: Sequence[Request], key: str) -> str:
        """The id of the job on disk, or of a new one."""
        if (found := self._cache.read(key)) is not None and _is_id(found.get("job")):
            log.info("%s: going on with batch job %s", self._where, found["job"])
            return found["job"]
        lines = "".join(json.dumps(_line(request)) + "\n" for request in requests)
        file = self._call(lambda: self._upload(lines))
        body = {
            "input_file_id": file,
            "endpoint": _PREFIX + requests[0].route,
            "completion_window": "24h",
            "metadata": {"seal_lightning": key},
        }
        # Not after a time-out or an error of the server: there might be two jobs then, and two bills
        job = self._call(lambda: self._post(body), repeat=lambda failure: failure.kind == "429")
        try:
            self._cache.write(key, {"job": job})
        except SavingError as error:
            log.warning("%s: batch job %s is under way, but not found again after a stop: %s", self._where, job, error)
        log.info("%s: submitted batch job %s with %d requests", self._where, job, len(requests))
        return job

    def _upload(self, lines: str) -> str | None:
        return self._route(lambda: self._client.upload(lines.encode()))

    def _post(self, body: Mapping[str, Any]) -> str | None:
        return self._route(lambda: self._client.post("/batches", body))

    def _route(self, call: Callable[[], Any]) -> str | None:
        """The id in a reply, None where there is no such route."""
        import openai

        try:
            reply = parsed(call())
        except openai.APIStatusError as error:
            if error.status_code in _NO_ROUTE:
                return None
            raise
        if not _is_id(reply.get("id")):
            raise Garbled(f"no id in {reply!r:.200}")
        return reply["id"]

    def _call(self, call: Callable[[], str | None], **options: Any) -> str:
        found = self._insist(lambda: self._once(call), **options)
        if found is None:
            raise ConfigError(f"{self._where}: the endpoint has no batch routes; leave batch mode off")
        return found

    def _wait(self, job: str, poll_seconds: float) -> Mapping[str, Any]:
        """The job once it has ended; one that the endpoint does not know (any more) has the status `gone`."""
        end = time.monotonic() + _LONGEST
        while True:
            state = self._insist(lambda: self._once(lambda: self._state(job)))
            if state["status"] in (*_ENDED, "gone"):
                return state
            if time.monotonic() > end:
                raise EndpointError(
                    f"{self._where}: batch job {job} is still {quoted(state['status'], longest=_SHORT)} after "
                    f"{_LONGEST / 3600:.0f} hours; run the command again to go on waiting, or without batch mode"
                )
            counts = quoted(repr(state.get("request_counts", "")), longest=_SHORT)
            log.info("%s: batch job %s is %s, %s", self._where, job, quoted(state["status"], longest=_SHORT), counts)
            self._insist.pause(poll_seconds)

    def _state(self, job: str) -> Mapping[str, Any]:
        import openai

        try:
            state = parsed(self._client.get(f"/batches/{job}"))
        except openai.NotFoundError:
            return {"id": job, "status": "gone"}
        if not isinstance(state.get("status"), str):
            raise Garbled(f"no status in {state!r:.200}")
        return {**state, "id": job}

    def _replies(self, job: Mapping[str, Any], asked: Mapping[str, Request]) -> Iterator[tuple[str, Reply]]:
        """Of the requests that succeeded, the first of each."""
        file = job.get("output_file_id")
        if not _is_id(file):
            if file:
                log.warning("%s: batch job %s names no file of results, but %r", self._where, job["id"], str(file)[:80])
            return
        content = self._insist(lambda: self._once(lambda: self._client.download(str(file))))
        left = dict(asked)
        for line in content.split(b"\n"):  # no other ends a line: a text may hold any
            try:
                name, body = _answered(parsed(line))
                if name in left:
                    yield name, self._read(body)
                    del left[name]
            except Garbled:
                continue  # as if it had failed: the caller asks again


def _is_id(name: Any) -> bool:
    return isinstance(name, str) and bool(_ID.fullmatch(name))


def _answered(row: Mapping[str, Any]) -> tuple[str, Any]:
    """Which request a row of results answers, and the body of the reply. Raises `Garbled` where it answers none."""
    name, response = row.get("custom_id"), row.get("response")
    if not isinstance(name, str) or not isinstance(response, Mapping) or response.get("status_code") != 200:
        raise Garbled("no answer")
    return name, response.get("body")


def job_key(requests: Sequence[Request]) -> str:
    """A digest of all requests of a call, those answered from disk included: it stays while their number grows."""
    text = "".join(sorted({request.key for request in requests}))
    return blake2b(f"job {text}".encode(), digest_size=20).hexdigest()


def _line(request: Request) -> dict[str, Any]:
    return {"custom_id": request.key, "method": "POST", "url": _PREFIX + request.route, "body": dict(request.body)}


def _errors_of(job: Mapping[str, Any]) -> str:
    errors = job.get("errors")
    rows = errors.get("data") if isinstance(errors, Mapping) else None
    told = [said_by(row.get("message")) for row in (rows if isinstance(rows, list) else []) if isinstance(row, Mapping)]
    said = quoted("; ".join(told), known_secrets())
    return f" ({said})" if said else ""
