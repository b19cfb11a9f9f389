"""How a request reaches its endpoint: at its own address and no other, within a deadline, for a reply of bounded size.

The openai client makes single attempts, whose replies are handed back as bytes. It knows the routes and the errors; it
does not parse, because its parsers are not made for hostile servers.

A server is not trusted: it may send a byte a second for ever, gigabytes, or a gigabyte packed into a megabyte; it may
redirect to another host, set cookies, and name any character set. So redirects are answers like any other, replies are
read here to their end, and only the headers that somebody reads are handed on. Nothing is sent that was not set for
this endpoint, whatever the environment has for the client's library: httpx's own time-outs are for single reads, and
its client follows the environment. This module is imported only where an endpoint is asked, as its libraries are
optional.
"""

from __future__ import annotations

import ssl
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpcore2
import httpx2
import openai

from seal_lightning.endpoints.options import is_local
from seal_lightning.endpoints.wire import Garbled
from seal_lightning.errors import ConfigError

_SENT = (
    "host",
    "content-type",
    "content-length",
    "transfer-encoding",
    "accept",
    "user-agent",
)  # of the client's own headers
_READ = ("content-type", "retry-after", "retry-after-ms", "location")  # of the server's headers
_REFUSAL = 1 << 20  # bytes of an error that are read: nobody is shown more
_CHUNK = 1 << 16
_LONG = 10  # times the time-out for a file of many requests or replies
_CONNECT = 30.0  # seconds at most for an address to answer at all
_FAILURES = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
)


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


class Transport(httpx2.BaseTransport):
    """Connections to one endpoint. The time-out that comes with a request is for all of it, to the last byte.

    Args:
        url: The endpoint's address; only its scheme, host and port are ever asked.
        headers: What is sent beside the body, such as the key.
        largest: Most bytes of a reply, packed and unpacked.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str], largest: int) -> None:
        self._origin = _origin(httpx2.URL(url))
        self._headers = headers
        self._largest = largest
        self._clock = _Clock()
        self._pool = _pool(url, _Backend(self._clock))

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises `Garbled` for a reply that is too large or has an unknown encoding, and errors of httpx2."""
        if _origin(request.url) != self._origin:
            raise ConfigError(f"expected requests to {'://'.join(self._origin[:2])} only: check endpoint.base_url")
        sent = httpx2.Headers([(name, value) for name, value in request.headers.items() if name.lower() in _SENT])
        sent.update({"Accept-Encoding": "gzip", **self._headers})
        self._clock.start(request.extensions["timeout"]["read"])
        try:
            return self._answer(request, sent)
        except httpcore2.ConnectTimeout as error:
            raise httpx2.NetworkError(f"none within {_CONNECT:g} seconds", request=request) from error
        except httpcore2.TimeoutException as error:
            raise httpx2.ReadTimeout(str(error), request=request) from error
        except _FAILURES as error:
            raise httpx2.NetworkError(str(error), request=request) from error

    def _answer(self, request: httpx2.Request, headers: httpx2.Headers) -> httpx2.Response:
        url = request.url
        address = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        answer = self._pool.handle_request(
            httpcore2.Request(
                request.method, address, headers=headers.raw, content=request.stream, extensions=request.extensions
            )
        )
        try:
            given = httpx2.Headers(answer.headers)
            body = self._body(answer, given)
        finally:
            answer.close()
        kept = {name: given[name] for name in _READ if name in given}
        if "content-type" in kept:  # without a character set: it might name one that unpacks
            kept["content-type"] = kept["content-type"].partition(";")[0].strip()
        raw = [(name.encode(), value.encode()) for name, value in kept.items()]  # as bytes: they may be outside ASCII
        return httpx2.Response(answer.status, headers=raw, content=body)

    def _body(self, answer: httpcore2.Response, headers: httpx2.Headers) -> bytes:
        refused = answer.status >= 300
        body, largest = bytearray(), _REFUSAL if refused else self._largest
        for part in _unpacked(answer.iter_stream(), headers.get("content-encoding", ""), largest):
            body += part
            if len(body) > largest and refused:
                break
            if len(body) > largest:
                raise _too_large(largest)
        return bytes(body)

    def close(self) -> None:
        self._pool.close()


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme, 0)


def _too_large(largest: int) -> Garbled:
    return Garbled(f"a reply of more than {largest / 1e6:g} MB (endpoint.max_reply_mb)")


def _unpacked(chunks: Iterable[bytes], encoding: str, largest: int) -> Iterator[bytes]:
    """A body in small parts, unpacked; `largest` bounds what comes over the wire."""
    encoding = encoding.strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise Garbled(f"a reply packed as {encoding[:40]!r}, where gzip or nothing was asked for")
    packed = zlib.decompressobj(zlib.MAX_WBITS | 16) if "gzip" in encoding else None
    received = 0
    for chunk in chunks:
        received += len(chunk)
        yield from _parts(packed, chunk) if packed else (chunk,)
        if received > largest:
            raise _too_large(largest)


def _parts(packed: zlib._Decompress, chunk: bytes) -> Iterator[bytes]:
    part = b"" if packed.eof else chunk  # more may come out than went in, so it is asked until it is short
    while part:
        try:
            part = packed.decompress(chunk, _CHUNK)
        except zlib.error as error:
            raise Garbled(f"a reply that is not the gzip it claims to be: {error}") from None
        yield part
        chunk = packed.unconsumed_tail


def _pool(url: str, backend: httpcore2.NetworkBackend) -> httpcore2.ConnectionPool:
    """Connections straight to a host, or through the proxy that the environment names for it."""
    shared: dict[str, Any] = {
        "ssl_context": httpx2.create_ssl_context(trust_env=True),  # SSL_CERT_FILE
        "network_backend": backend,
        "max_connections": None,  # the threads are counted already
        "keepalive_expiry": 5.0,
    }
    parts = urlsplit(url)
    proxies = {} if is_local(url) or urllib.request.proxy_bypass(parts.netloc) else urllib.request.getproxies()
    named = proxies.get(parts.scheme) or proxies.get("all")
    if not named:
        return httpcore2.ConnectionPool(**shared)
    try:
        proxy = httpx2.Proxy(named if "://" in named else f"http://{named}")
        kind = httpcore2.SOCKSProxy if proxy.url.scheme.startswith("socks") else httpcore2.HTTPProxy
        return kind(str(proxy.url), proxy_auth=proxy.raw_auth, **shared)
    except (ValueError, httpx2.InvalidURL, RuntimeError):  # not shown: it may hold a password
        raise ConfigError(
            "the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY): expected a URL such as "
            "http://proxy:3128; socks5://... needs pip install socksio"
        ) from None


class _Clock(threading.local):
    """Tells when the request of this thread has to be over."""

    end = 0.0

    def start(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self, at_most: float = float("inf")) -> float:
        """Seconds left; raises `httpcore2.ReadTimeout` where there are none."""
        left = min(self.end - time.monotonic(), at_most)
        if left <= 0:
            raise httpcore2.ReadTimeout("the time is up")
        return min(left, threading.TIMEOUT_MAX)


class _Backend(httpcore2.NetworkBackend):
    """Sockets that wait for no single byte longer than the request has left."""

    def __init__(self, clock: _Clock) -> None:
        self._inner = httpcore2.SyncBackend()
        self._clock = clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        left = self._clock.left(_CONNECT)
        return _Stream(self._inner.connect_tcp(host, port, left, local_address, socket_options), self._clock)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, inner: httpcore2.NetworkStream, clock: _Clock) -> None:
        self._inner = inner
        self._clock = clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._clock.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _CHUNK):
            self._inner.write(buffer[start : start + _CHUNK], self._clock.left())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, self._clock.left(_CONNECT)), self._clock)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)
