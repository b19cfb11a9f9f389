"""Secrets are known by name or by value, and what is shown has none."""

import base64
import html
import json
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_lightning.text.redaction import (
    is_reference,
    is_secret,
    known_secrets,
    masked,
    quoted,
    redact,
    remember,
    safe_to_save,
    secrets_in,
    without_secrets,
    without_user,
)

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
    assert [*secrets_in(content)] == ["a[0].b.token", "a[1].password", "api_key"]
    assert [*secrets_in(None), *secrets_in({})] == []
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


def test_secrets_in_any_form_are_left_out():
    content = {
        "api_key": {"value": "sk-1", "from": "env:A"},
        "X-Api-Key": ["sk-2", None],
        "password": 1234,
        "per_token": 0.5,
        "url": "https://host/v1?sig=abc&page=2",
        "headers": {"private-key-pem": "abc", "connection_string": "abc", "webhook_url": "https://host/abc"},
    }
    assert without_secrets(content) == {
        "api_key": {"from": "env:A"},
        "X-Api-Key": [None],
        "per_token": 0.5,
        "url": "https://host/v1?sig=[hidden]&page=2",
        "headers": {},
    }


def test_the_name_of_a_variable_is_no_secret():
    assert [is_reference(value) for value in ("env:MY_KEY", "env:sk-123", "env:", "MY_KEY", 3)] == [True, *[False] * 4]
    assert without_secrets({"key": "env:MY_KEY", "auth": "env:sk-123"}) == {"key": "env:MY_KEY"}


def test_urls():
    assert without_user("http://me:pw@host/v1") == "http://host/v1"


# -- in linear time ----------------------------------------------------------------------------------------------------

MANY = [KEY, *(f"key-{number}-{number * 7919:012d}" for number in range(50))]
LARGE = {
    "no blanks": "a" * 1_000_000,
    "stars": "*" * 1_000_000,
    "words of stars": "*** " * 250_000,
    "addresses": "a://" * 250_000,
    "an address": "a://" + "b" * 1_000_000,
    "users": "a://b:c@" * 125_000,
    "tags": "<" * 1_000_000,
    "keys": KEY * 40_000,
    "keys and blanks": f"{KEY} " * 40_000,
    "pieces": KEY[:9] * 110_000,
    "pieces that overlap": (KEY[:6] + KEY[3:9]) * 80_000,
    "all but pieces": (KEY[:5] + "x") * 170_000,
    "quotes": "'\"" * 500_000,
}


@pytest.mark.parametrize("name", LARGE)
def test_a_megabyte_of_anything_takes_no_longer_than_it_must(name):
    """About 0.2 s each; what is not linear takes minutes, so the bound can be generous."""
    started = time.process_time()
    redact(LARGE[name], MANY)
    quoted(LARGE[name], MANY)
    assert time.process_time() - started < 5


@given(
    st.lists(st.sampled_from([*KEY, KEY, KEY[:6], KEY[4:12], "***", " ", "'", "a://", "@", "/", "<", "x"]), max_size=60)
)
@settings(max_examples=300)
def test_no_text_shows_a_piece_of_a_key(parts):
    shown = redact("".join(parts), [KEY])
    assert not any(KEY[start : start + 6] in shown for start in range(len(KEY) - 5))


@pytest.mark.parametrize(
    "shown",
    [
        quote("a key/with+signs=", safe=""), quote_plus("a key/with+signs="), b"a key/with+signs=".hex(),
        "a key/with+signs=".upper(), "".join(f"%{byte:02x}" for byte in b"a key/with+signs="),
    ],
)  # fmt: skip
def test_a_key_is_hidden_in_other_encodings(shown):
    assert redact(f"see {shown} there", ["a key/with+signs="]) == "see [hidden] there"


def test_a_key_is_hidden_within_json_html_and_base64():
    key = """a"key<with>'quotes'"""
    assert redact(json.dumps([key, "b"]), [key]) == '["[hidden]", "b"]'
    assert redact(f"<p>{html.escape(key)}</p>", [key]) == "<p>[hidden]</p>"
    for user in ("", "u:", "us:", "use:"):
        header = base64.b64encode(f"{user}{KEY}".encode()).decode()
        assert "[hidden]" in redact(f"Basic {header}", [KEY])
        assert not any(header[start : start + 10] in redact(f"Basic {header}", [KEY]) for start in range(4, 20))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" a\n b\t", "a b"),
        ("a" * 301, "a" * 297 + "..."),
        ("a" * 300, "a" * 300),
        ("b " * 100 + KEY + " c" * 100_000, "b " * 100 + "[hidden]" + " c" * 44 + " ..."),
    ],
)
def test_what_is_quoted_is_one_bounded_line(text, line):
    assert quoted(text, [KEY]) == line


# -- the process's own -------------------------------------------------------------------------------------------------


def test_secrets_of_the_process_are_known_by_the_names_of_variables():
    environment = {
        "OPENAI_API_KEY": "sk-planted", "HF_TOKEN": "hf_planted", "PWD": "/home/planted", "OLDPWD": "/planted/too",
        "GOOGLE_APPLICATION_CREDENTIALS": "/planted.json", "SHORT_KEY": "none", "PATH": "/planted/bin",
        "HOME": "planted!",
    }  # fmt: skip
    assert known_secrets(environment) == ("sk-planted", "hf_planted")


def test_passwords_in_urls_and_keys_that_look_like_paths_are_secrets():
    environment = {
        "HTTPS_PROXY": "http://me:planted-pw@proxy:3128", "DATABASE_URL": "postgres://planted-2-pw@db/x",
        "AWS_SECRET_ACCESS_KEY": "/k7MDENGbPxRfiCYEXAMPLEplanted+", "SSH_KEY": "/home/Planted/keys/id_ed25519.pem",
    }  # fmt: skip
    assert known_secrets(environment) == ("planted-pw", "/k7MDENGbPxRfiCYEXAMPLEplanted+")


def test_what_is_saved_holds_no_secret_of_the_process(monkeypatch):
    monkeypatch.setenv("SEAL_TEST_KEY", "planted-value-1234")
    content = {"note": ["is planted-value-1234!", 3], "key": "x", "path": "runs/planted-value"}
    assert safe_to_save(content) == {"note": ["is [hidden]!", 3], "path": "runs/planted-value"}


def test_what_a_configuration_names_is_a_secret_too(monkeypatch):
    monkeypatch.setenv("SEAL_OTHERWISE_NAMED", "planted-value-1234")
    assert masked("it is planted-value-1234") == "it is planted-value-1234"
    remember("SEAL_OTHERWISE_NAMED")
    assert masked("it is planted-value-1234") == "it is [hidden]"
    assert masked("it starts with planted-val...") == "it starts with planted-val..."
    assert masked("it starts with (planted-value...") == "it starts with [hidden]"
