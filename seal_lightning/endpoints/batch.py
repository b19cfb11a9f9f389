"""One job of the OpenAI Batch API: half the price, done within a day, and found again by a run that was interrupted.

The job's id is on disk as soon as there is one, under a digest of all requests of the call. Requests that fail within a
job are left to the caller.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from seal_lightning.endpoints.address import Address
from seal_lightning.endpoints.asking import Insistence
from seal_lightning.endpoints.cache import Cache
from seal_lightning.endpoints.failures import said_by
from seal_lightning.endpoints.wire import Garbled, Reply, Request, parsed
from seal_lightning.errors import ConfigError, EndpointError
from seal_lightning.files.saving import SavingError
from seal_lightning.text.redaction import known_secrets, quoted
from seal_lightning.types import Json, JsonObject

if TYPE_CHECKING:
    from seal_lightning.endpoints.transport import Connection

log = logging.getLogger(__name__)

_ENDED = ("completed", "failed", "expired", "cancelled", "gone")
_NO_ROUTE = (404, 405, 501)
_PREFIX = "/v1"  # before routes within a job, whatever the base URL is
_ID = re.compile(r"(?!\.)[\w.:@=-]{1,200}", re.ASCII)  # of a job or a file: it becomes part of a path
_SHORT = 100  # characters shown of what a server says about a job
_LONGEST = 26 * 3600.0  # seconds to wait for a job; it has a day


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job for the requests of one call.

    Attributes:
        address: Where the endpoint is.
        client: The call's connections.
        insist: Repeats attempts.
        cache: Where the job's id is kept.
    """

    address: Address
    client: Connection
    insist: Insistence
    cache: Cache

    def run(
        self, requests: Sequence[Request], *, key: str, poll_seconds: float, keep: Callable[[Request, Reply], None]
    ) -> list[tuple[Request, Reply]]:
        """Requests with their replies once the job has ended, without those that failed in it.

        Args:
            requests: What to ask, each one different.
            key: Name of the job on disk; see `job_key`.
            poll_seconds: How often to ask whether the job has ended.
            keep: Told of every reply at once, even if the job did not complete.

        Raises:
            ConfigError: The endpoint has no batch routes.
            EndpointError: The job ended without completing; what it answered is kept.
            Abandoned: Nobody waits any more; the job stays on disk.
        """
        with self.cache.alone(key, pause=self.insist.pause):  # two that ask for the same would get two bills
            name = self._job(requests, key)
        job = self._wait(name, poll_seconds)
        asked = {request.key: request for request in requests}
        replies = [(asked[name], reply) for name, reply in self._replies(name, job, {*asked})]
        for request, reply in replies:
            keep(request, reply)
        self.cache.drop(key)
        if job["status"] != "completed":
            raise EndpointError(
                f"{self.address.where}: batch job {name} ended as {job['status']}{_errors_of(job)}; {len(replies)} of "
                f"{len(asked)} requests are answered and kept, run the command again to submit the others"
            )
        return replies

    def _job(self, requests: Sequence[Request], key: str) -> str:
        """The id of the job on disk, or of a new one."""
        if job := _id((self.cache.read(key) or {}).get("job")):
            log.info("%s: going on with batch job %s", self.address.where, job)
            return job
        route = _PREFIX + requests[0].route
        rows = ({"custom_id": r.key, "method": "POST", "url": route, "body": dict(r.body)} for r in requests)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        file = self._created(lambda: self.client.upload(lines.encode()))
        body = {
            "input_file_id": file,
            "endpoint": route,
            "completion_window": "24h",
            "metadata": {"seal_lightning": key},
        }
        # not after a time-out or an error of the server: there might be two jobs then, and two bills
        job = self._created(lambda: self.client.post("/batches", body), repeated=("429",))
        try:
            self.cache.write(key, {"job": job})
        except SavingError as error:
            log.warning(
                "%s: batch job %s has begun, but will not be found after a stop: %s", self.address.where, job, error
            )
        log.info("%s: submitted batch job %s with %d requests", self.address.where, job, len(requests))
        return job

    def _created(self, call: Callable[[], bytes], *, repeated: Sequence[str] = ()) -> str:
        """The id of what a call creates; if `repeated` is given, only failures of these kinds are repeated."""
        import openai

        def attempt() -> str | None:
            try:
                reply = parsed(call())
            except openai.APIStatusError as error:
                if error.status_code in _NO_ROUTE:
                    return None
                raise
            if (name := _id(reply.get("id"))) is None:
                raise Garbled(f"no id in {reply!r:.200}")
            return name

        created = self.insist(attempt, repeat=lambda failure: not repeated or failure.kind in repeated)
        if created is None:
            raise ConfigError(f"{self.address.where}: the endpoint has no batch routes; leave batch mode off")
        return created

    def _wait(self, job: str, poll_seconds: float) -> JsonObject:
        """The job once it has ended; one that the endpoint does not know (any more) has the status `gone`."""
        where = self.address.where
        end = time.monotonic() + _LONGEST
        while True:
            state = self.insist(lambda: self._state(job))
            if state["status"] in _ENDED:
                return state
            status = quoted(str(state["status"]), longest=_SHORT)
            if time.monotonic() > end:
                raise EndpointError(
                    f"{where}: batch job {job} is still {status} after {_LONGEST / 3600:.0f} hours; run the "
                    "command again to go on waiting, or without batch mode"
                )
            counts = quoted(repr(state.get("request_counts", "")), longest=_SHORT)
            log.info("%s: batch job %s is %s, %s", where, job, status, counts)
            self.insist.pause(poll_seconds)

    def _state(self, job: str) -> JsonObject:
        import openai

        try:
            state = parsed(self.client.get(f"/batches/{job}"))
        except openai.NotFoundError:
            return {"status": "gone"}
        if not isinstance(state.get("status"), str):
            raise Garbled(f"no status in {state!r:.200}")
        return state

    def _replies(self, name: str, job: JsonObject, left: set[str]) -> Iterator[tuple[str, Reply]]:
        """The first reply to each request that succeeded, by the request's key."""
        given = job.get("output_file_id")
        if (file := _id(given)) is None:
            if given:
                log.warning(
                    "%s: batch job %s names no file of results, but %r", self.address.where, name, str(given)[:80]
                )
            return
        for line in self.insist(lambda: self.client.download(file)).split(b"\n"):  # a text may hold other line ends
            try:
                key, body = _answer(parsed(line))
                if key in left:
                    yield key, self.address.read(body)
                    left.remove(key)
            except Garbled:
                continue  # as if it had failed: the caller asks again


def _id(name: Json) -> str | None:
    return name if isinstance(name, str) and _ID.fullmatch(name) else None


def _answer(row: JsonObject) -> tuple[str, Json]:
    """Which request a row of results answers, and the body of the reply. Raises `Garbled` where it answers none."""
    name, response = row.get("custom_id"), row.get("response")
    if not isinstance(name, str) or not isinstance(response, dict) or response.get("status_code") != 200:
        raise Garbled("no answer")
    return name, response.get("body")


def job_key(requests: Sequence[Request]) -> str:
    """A digest of all requests of a call, those answered from disk included: it stays while their number grows."""
    text = "".join(sorted({request.key for request in requests}))
    return blake2b(f"job {text}".encode(), digest_size=20).hexdigest()


def _errors_of(job: Mapping[str, Json]) -> str:
    errors = job.get("errors")
    rows = errors.get("data") if isinstance(errors, dict) else None
    told = [said_by(row.get("message")) for row in (rows if isinstance(rows, list) else []) if isinstance(row, dict)]
    said = quoted("; ".join(told), known_secrets())
    return f" ({said})" if said else ""
