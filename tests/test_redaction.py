"""Secrets are known by name or by value, and what is shown has none."""

import pytest

from seal_lightning.redaction import is_reference, is_secret, redact, secrets_in, without_secrets, without_user

KEY = "sk-proj-0123456789abcdef"


@pytest.mark.parametrize(
    "name",
    "api_key apikey API-KEY x-api-key hf_token X-Auth-Token secret client_secret password Authorization key secret_key "
    "private_key subscription_key Ocp-Apim-Subscription-Key accessToken clientSecret cookie auth passwd pwd bearer sig "
    "signature X-Goog-Signature accessSig AWSSecretKey api_keys oauth db_pass Set-Cookie".split(),
)
def test_names_of_secrets(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    "max_tokens maxOutputTokens tokenizer eos_token_id api_key_env prompt_cache_key promptCacheKey keyword key_value "
    "logit_bias top_k stop_token_ids eos_token image_token author signal design bypass compass tokens".split(),
)
def test_names_of_others(name):
    assert not is_secret(name)


def test_secrets_anywhere_inside():
    content = {"a": [{"b": {"token": 1}}, {"password": None}], "api_key": "x", "max_tokens": 3}
    assert secrets_in(content) == ["a[0].b.token", "a[1].password", "api_key"]
    assert secrets_in(None) == secrets_in({}) == []
    assert without_secrets({"a": [{"token": "x", "b": "http://u:p@h"}]}) == {"a": [{"b": "http://h"}]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"wrong key {KEY}", "wrong key [hidden]"),
        (f"wrong key '{KEY}'.", "wrong key '[hidden]'."),
        (f"Bearer={KEY[:12]}... is wrong", "[hidden] is wrong"),
        (f"wrong: sk-p{'*' * 20}cdef", "wrong: [hidden]"),
        (f"ends in {KEY[-7:]}", "ends in [hidden]"),
        ("see https://me:pw@host/v1", "see https://host/v1"),
        ("the model does **not** exist", "the model does **not** exist"),
        ("status 404: no such model", "status 404: no such model"),
    ],
)
def test_what_is_shown_of_a_text(text, shown):
    assert redact(text, [KEY]) == shown


def test_short_and_missing_secrets():
    assert redact("key abc", ["abc", ""]) == "key [hidden]"
    assert redact("key abc") == "key abc"


def test_the_name_of_a_variable_is_no_secret():
    assert [is_reference(value) for value in ("env:MY_KEY", "env:sk-123", "env:", "MY_KEY", 3)] == [True, *[False] * 4]
    assert without_secrets({"key": "env:MY_KEY", "auth": "env:sk-123"}) == {"key": "env:MY_KEY"}


def test_urls():
    assert without_user("http://me:pw@host/v1") == "http://host/v1"
