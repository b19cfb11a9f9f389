"""Options of an endpoint: those that cannot work, and secrets, which come from the environment and show up nowhere."""

import json
import logging

import pytest

from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError
from seal_lightning.fit.units import describe
from seal_lightning.text.redaction import without_secrets
from seal_lightning.types import Prompt


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": " "}, ["endpoint.model is empty"]),
        ({"concurrency": 0}, ["endpoint.concurrency must be a whole number of at least 1, got 0"]),
        ({"retries": -1}, ["endpoint.retries must be a whole number of at least 0"]),
        ({"timeout": 0}, ["endpoint.timeout must be above 0"]),
        ({"base_url": "localhost:8000/v1"}, ["endpoint.base_url=localhost:8000/v1", "http://localhost:8000/v1"]),
        ({"base_url": "http://me:planted@host/v1"}, ["base_url=http://host/v1", "api_key_env"]),
        ({"base_url": "http://host/v1?api_key=planted"}, ["base_url=http://host/v1:", "no query"]),
        ({"api_key_env": "sk-planted"}, ["endpoint.api_key_env: expected the name"]),
        ({"request": {"api_key": "planted"}}, ["endpoint.request.api_key", "environment"]),
        ({"request": {"extra_headers": {"Authorization": "planted"}}}, ["request.extra_headers.Authorization"]),
        ({"request": {"extra_body": {"a": [{"X-Api-Key": "planted"}]}}}, ["request.extra_body.a[0].X-Api-Key"]),
        ({"request": {"messages": []}}, ["endpoint.request.messages cannot be set here"]),
        ({"request": {"extra_body": {"stream": True}}}, ["endpoint.request.extra_body.stream cannot be set here"]),
        ({"request": {"extra_body": 3}}, ["endpoint.request.extra_body: expected names and their values"]),
        ({"request": {"extra_query": "planted"}}, ["endpoint.request.extra_query: expected names and their values"]),
        ({"request": {"extra_query": {"key": "planted"}}}, ["endpoint.request.extra_query.key: expected env:NAME"]),
        ({"request": {"extra_headers": {"X-Team": "planted"}}}, ["extra_headers.X-Team: expected env:NAME"]),
        ({"request": {"extra_headers": {"X-Team": "env:sk-planted"}}}, ["extra_headers.X-Team: expected env:NAME"]),
        ({"request": {"extra_headers": {"Ocp-Apim-Subscription-Key": "planted"}}}, ["-Key: expected env:NAME"]),
        ({"request": {"extra_headers": {"X-Team": "env:SEAL_NOT_SET"}}}, ["SEAL_NOT_SET is not set"]),
        ({"request": {"extra_query": {"api-version": 3}}}, ["extra_query.api-version: expected text, got 3"]),
        ({"request": {"accessToken": "planted"}}, ["endpoint.request.accessToken", "environment"]),
        ({"request": {"user": "env:SEAL_NOT_SET", "auth": "env:SEAL_NOT_SET"}}, ["endpoint.request.auth"]),
        ({"base_url": "http://[bad/v1"}, ["endpoint.base_url=http://[bad/v1: expected a URL such as"]),
        ({"base_url": "http://127.0.0.1:80a0/v1"}, ["endpoint.base_url=http://127.0.0.1:80a0/v1: expected a URL"]),
        ({"base_url": "http://h:0/v1"}, ["expected a URL"]),
        ({"base_url": "http://h:99999/v1"}, ["expected a URL"]),
        ({"base_url": "http://a b/v1"}, ["expected a URL"]),
        ({"base_url": "http://h/v1\n"}, ["expected a URL"]),
        ({"base_url": "ftp://h/v1"}, ["expected a URL"]),
        ({"base_url": "http:///v1"}, ["expected a URL"]),
        ({"base_url": "http://h/v1#there"}, ["expected a URL"]),
        ({"base_url": "http://me:plan/ted@host/v1"}, ["base_url=http://host/v1", "api_key_env"]),
        ({"base_url": "http://[me:planted@host/v1"}, ["base_url=http://host/v1", "api_key_env"]),
        ({"base_url": "http://host/v1?mail=a@b&key=planted"}, ["base_url=[hidden]", "no query"]),
        ({"request": {"top_k": float("nan")}}, ["endpoint.request: expected JSON values"]),
        ({"request": {"top_k": {1, 2}}}, ["endpoint.request: expected JSON values"]),
        ({"prices": {"other": {"input": 1, "output": 2}}}, ["no price for model m, only for other"]),
        ({"base_url": None}, ["model m at https://api.openai.com/v1: no key", "SEAL_TEST_KEY"]),
        ({"base_url": "https://api.openai.com/v1/"}, ["no key", "SEAL_TEST_KEY"]),
    ],
)
def test_options_that_cannot_work(options, words):
    with pytest.raises(ConfigError) as caught:
        Endpoint(**{"model": "m", "base_url": "http://h/v1", "api_key_env": "SEAL_TEST_KEY", "cache": None, **options})
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "planted" not in message and "\n" not in message


def test_secrets_in_headers_and_query_come_from_the_environment(listen, make, said, monkeypatch, caplog, tmp_path):
    caplog.set_level(logging.DEBUG, "seal_lightning")
    monkeypatch.setenv("SEAL_SUBSCRIPTION", "planted-subscription")
    monkeypatch.setenv("SEAL_QUERY_KEY", "planted&query")
    monkeypatch.setenv("SEAL_BEARER", "Bearer planted=bearer")
    seen = []

    def answer(method, path, body, headers):
        seen.append((path, headers["ocp-apim-subscription-key"], headers["authorization"]))
        echo = {
            "error": {"message": f"{headers['ocp-apim-subscription-key']}, planted&query, {headers['authorization']}"}
        }
        return (200, said(), {}) if len(seen) == 5 else (503, echo, {})

    request = {
        "extra_headers": {"Ocp-Apim-Subscription-Key": "env:SEAL_SUBSCRIPTION", "Authorization": "env:SEAL_BEARER"},
        "extra_query": {"key": "env:SEAL_QUERY_KEY", "api-version": "2024-10-21"},
    }
    endpoint = make(listen(answer), request=request)
    endpoint.write([Prompt("u")], max_tokens=4)
    path = "/v1/chat/completions?key=planted%26query&api-version=2024-10-21"
    assert seen == [(path, "planted-subscription", "Bearer planted=bearer")] * 5
    assert "attempt 4 failed" in caplog.text
    kept = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert kept and "planted" not in caplog.text + kept + json.dumps(describe(endpoint)) + str(vars(endpoint))
    assert without_secrets({"request": request}) == {"request": request}  # so config.yaml can be run again


@pytest.mark.parametrize("value", ["sk-planted\n", " sk-planted", "sk planted", "sk-plantéd", "sk-planted\u200b"])
def test_a_key_that_cannot_be_sent_is_refused_at_the_start(monkeypatch, value):
    monkeypatch.setenv("SEAL_TEST_KEY", value)
    with pytest.raises(ConfigError, match=r"^the key in \$SEAL_TEST_KEY has white space or .* ASCII: copy it again$"):
        Endpoint("m", base_url="http://h/v1", api_key_env="SEAL_TEST_KEY")


@pytest.mark.parametrize("value", ["planted\nX-Other: 1", "planted ", "plantéd"])
def test_a_header_that_cannot_be_sent_is_refused_at_the_start(monkeypatch, value):
    monkeypatch.setenv("SEAL_HEADER", value)
    with pytest.raises(ConfigError, match=r"request\.extra_headers\.X-Team: \$SEAL_HEADER has white space") as caught:
        Endpoint("m", base_url="http://h/v1", request={"extra_headers": {"X-Team": "env:SEAL_HEADER"}})
    assert "plant" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"request": {"user": "it is sk-planted-key"}}, "endpoint.request.user"),
        ({"request": {"extra_headers": {"User-Agent": "sk-planted-key"}}}, "endpoint.request.extra_headers.User-Agent"),
        ({"request": {"stop": ["a", {"b": "sk-planted-key"}]}}, "endpoint.request.stop.b"),
        ({"request": {"extra_body": {"sk-planted-key": 1}}}, "endpoint.request.extra_body"),
        ({"base_url": "http://h/sk-planted-key/v1"}, "endpoint.base_url"),
    ],
)
def test_the_key_itself_is_refused_wherever_it_stands(monkeypatch, options, where):
    monkeypatch.setenv("SEAL_TEST_KEY", "sk-planted-key")
    with pytest.raises(ConfigError) as caught:
        Endpoint("m", **{"base_url": "http://h/v1", "api_key_env": "SEAL_TEST_KEY", **options})
    assert str(caught.value).startswith(f"{where} holds the key in $SEAL_TEST_KEY")
    assert "planted" not in str(caught.value)


def test_harmless_options_are_none_of_these(monkeypatch):
    monkeypatch.setenv("SEAL_TEST_KEY", "none")  # as for a server that wants no key
    body = {"max_tokens": 3, "logit_bias": {"50256": -100}, "top_k": 5, "prompt_cache_key": "none", "stop": ["none"],
            "extra_body": {"min_p": 0.1, "eos_token": "</s>", "stop_token_ids": [1]}, "max_completion_tokens": 2,
            "extra_headers": {"OpenAI-Organization": "org-1", "Accept-Language": "de"}}  # fmt: skip
    assert Endpoint("m", base_url="http://h/v1", api_key_env="SEAL_TEST_KEY", request=body).request == body
