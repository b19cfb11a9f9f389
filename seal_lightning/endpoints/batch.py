"""One job of the OpenAI Batch API: cheaper by half, done within a day, and found again by a run that was interrupted.

The job's id is on disk as soon as there is one, under a digest of all requests of the call. Requests that fail within a
job are left to the caller.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from seal_lightning.endpoints.asking import Insistence
from seal_lightning.endpoints.cache import Cache
from seal_lightning.endpoints.wire import Garbled, Reply, Request, parsed, read_reply
from seal_lightning.errors import ConfigError, EndpointError

log = logging.getLogger(__name__)

_ENDED = ("completed", "failed", "expired", "cancelled")
_NO_ROUTE = (404, 405, 501)
_PREFIX = "/v1"  # before routes within a job, whatever the base URL is


class BatchJob:
    """A job for the requests of one call.

    Args:
        client: Of the openai package.
        once: Makes a call with it, and turns what it raises into `Again` or one line.
        insist: Repeats such calls.
        cache: Where the job's id is kept.
        where: The model and its endpoint, for messages.
    """

    def __init__(
        self, client: Any, *, once: Callable[[Callable[[], Any]], Any], insist: Insistence, cache: Cache, where: str
    ) -> None:
        self._client = client
        self._once = once
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
        if (found := self._cache.read(key)) is not None:
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
        self._cache.write(key, {"job": job})
        log.info("%s: submitted batch job %s with %d requests", self._where, job, len(requests))
        return job

    def _upload(self, lines: str) -> str | None:
        return self._route(
            lambda: self._client.files.create(
                file=("requests.jsonl", lines.encode(), "application/jsonl"), purpose="batch"
            ).model_dump()
        )

    def _post(self, body: Mapping[str, Any]) -> str | None:
        return self._route(lambda: self._client.post("/batches", body=dict(body), cast_to=object))

    def _route(self, call: Callable[[], Any]) -> str | None:
        """The id in a reply, None where there is no such route."""
        import openai

        try:
            reply = parsed(call())
        except openai.APIStatusError as error:
            if error.status_code in _NO_ROUTE:
                return None
            raise
        if not isinstance(reply.get("id"), str):
            raise Garbled(f"no id in {reply!r}")
        return reply["id"]

    def _call(self, call: Callable[[], str | None], **options: Any) -> str:
        found = self._insist(lambda: self._once(call), **options)
        if found is None:
            raise ConfigError(f"{self._where}: the endpoint has no batch routes; leave batch mode off")
        return found

    def _wait(self, job: str, poll_seconds: float) -> Mapping[str, Any]:
        """The job once it has ended; one that the endpoint does not know (any more) has the status `gone`."""
        while True:
            state = self._insist(lambda: self._once(lambda: self._state(job)))
            if state["status"] in (*_ENDED, "gone"):
                return state
            log.info("%s: batch job %s is %s, %s", self._where, job, state["status"], state.get("request_counts", ""))
            self._insist.pause(poll_seconds)

    def _state(self, job: str) -> Mapping[str, Any]:
        import openai

        try:
            state = parsed(self._client.get(f"/batches/{job}", cast_to=object))
        except openai.NotFoundError:
            return {"id": job, "status": "gone"}
        if not isinstance(state.get("status"), str):
            raise Garbled(f"no status in {state!r}")
        return {**state, "id": job}

    def _replies(self, job: Mapping[str, Any], asked: Mapping[str, Request]) -> Iterator[tuple[str, Reply]]:
        """Of the requests that succeeded."""
        if not (file := job.get("output_file_id")):
            return
        text = self._insist(lambda: self._once(lambda: self._client.files.content(file).text))
        for line in text.splitlines():
            try:
                row = parsed(line)
                response = row.get("response") or {}
                if row.get("custom_id") in asked and response.get("status_code") == 200:
                    yield str(row["custom_id"]), read_reply(response.get("body"))
            except Garbled:
                continue  # as if it had failed: the caller asks again


def job_key(requests: Sequence[Request]) -> str:
    """A digest of all requests of a call, those answered from disk included: it stays while their number grows."""
    text = "".join(sorted({request.key for request in requests}))
    return blake2b(f"job {text}".encode(), digest_size=20).hexdigest()


def _line(request: Request) -> dict[str, Any]:
    return {"custom_id": request.key, "method": "POST", "url": _PREFIX + request.route, "body": dict(request.body)}


def _errors_of(job: Mapping[str, Any], longest: int = 200) -> str:
    errors = job.get("errors")
    rows = errors.get("data") if isinstance(errors, Mapping) else None
    said = "; ".join(str(row.get("message")) for row in rows or [] if isinstance(row, Mapping))
    return f" ({' '.join(said.split())[:longest]})" if said else ""
