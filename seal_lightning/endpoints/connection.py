"""The openai client over our own transport: single attempts, whose replies are handed back as bytes.

The client knows the routes and the errors. It does not parse: its parsers are not made for hostile servers. This module
is imported only where an endpoint is asked, as its libraries are optional.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx2
import openai

from seal_lightning.endpoints.transport import Transport

_LONG = 10  # times the time-out for a file of many requests or replies


class Connection:
    """Connections to one endpoint, to be closed; it holds the key, so it lives no longer than a call.

    Every method makes a single attempt, and raises errors of the openai client and `wire.Garbled`.

    Args:
        url: Address, ending in `/v1`.
        key: The key, or "" where there is none.
        headers: Sent along; one called Authorization replaces the key.
        query: Sent along.
        timeout: Seconds for a request, from its first byte to the last one of the reply.
        largest: Most bytes of a reply.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        timeout: float,
        largest: int,
    ) -> None:
        sent = httpx2.Headers({"Authorization": f"Bearer {key or 'none'}"})
        sent.update(headers)
        self._timeout = timeout
        self._client = openai.OpenAI(
            api_key=key or "none",
            base_url=url,
            timeout=timeout,
            max_retries=0,
            default_query=query,
            http_client=httpx2.Client(
                transport=Transport(url, headers=dict(sent), largest=largest), trust_env=False, follow_redirects=False
            ),
        )

    @property
    def base_url(self) -> str:
        return str(self._client.base_url)

    def post(self, path: str, body: Mapping[str, object]) -> bytes:
        """The answer of a route, or of a whole URL at the endpoint's address."""
        return self._client.post(path, body=dict(body), cast_to=httpx2.Response).content

    def get(self, path: str) -> bytes:
        return self._client.get(path, cast_to=httpx2.Response).content

    def upload(self, content: bytes) -> bytes:
        """Upload a file of requests for a batch job."""
        files = self._client.files.with_raw_response
        file = ("requests.jsonl", content, "application/jsonl")
        return files.create(file=file, purpose="batch", timeout=_LONG * self._timeout).content

    def download(self, file: str) -> bytes:
        """The content of a file."""
        patient = self._client.with_options(timeout=_LONG * self._timeout)
        return patient.get(f"/files/{file}/content", cast_to=httpx2.Response).content

    def close(self) -> None:
        self._client.close()
