"""One client for every endpoint: replies in order, usage, and what is asked once; against a real server."""

import copy
import json
import logging
import pickle
import subprocess
import sys
from contextlib import closing

import pytest
from endpoints import prompts_of

from seal_lightning.cli import main
from seal_lightning.endpoints import Endpoint
from seal_lightning.endpoints.options import host_of
from seal_lightning.endpoints.wire import CHAT
from seal_lightning.errors import ConfigError
from seal_lightning.fit.units import describe
from seal_lightning.types import Prompt, Usage, Written


def total(written):
    return sum((row.usage for row in written), Usage())


def texts(written):
    return [row.text for row in written]


def requests_of(endpoint, prompts, max_tokens):
    return endpoint._requests(CHAT, endpoint._bodies(prompts, max_tokens), 0.0, None, None)


def test_it_writes_and_counts_and_keeps(chat_server, fault_proxy, make):
    proxy = fault_proxy()
    endpoint = make(chat_server, base_url=proxy.base_url)
    prompts, done = prompts_of(5), []
    first = endpoint.write([*prompts, prompts[0]], max_tokens=4, on_done=done.append)
    assert all(text.strip() for text in texts(first))
    assert first[5] == Written(first[0].text, Usage(cached=1), cut=first[0].cut)
    assert sum(done) == 6
    assert total(first) == Usage(cached=1, **proxy.usage)
    assert proxy.attempts == {"passed": 5}
    done.clear()
    second = endpoint.write(prompts, max_tokens=4, on_done=done.append)
    assert (texts(second), total(second), done) == (texts(first)[:5], Usage(cached=5), [5])
    assert proxy.attempts == {"passed": 5}


def test_equal_requests_are_asked_once_without_a_cache_too(chat_server, fault_proxy, make, tmp_path):
    proxy = fault_proxy()
    endpoint = make(chat_server, base_url=proxy.base_url, cache=None)
    written = endpoint.write([Prompt("Question: Who?")] * 3, max_tokens=4)
    assert [row.usage.cached for row in written] == [0, 1, 1]
    assert len({*texts(written)}) == 1
    assert endpoint.write([], max_tokens=4) == []
    assert proxy.attempts == {"passed": 1}
    assert list(tmp_path.iterdir()) == []


def test_seeds_tell_equal_requests_apart(chat_server, make):
    endpoint = make(chat_server)
    prompts = [Prompt("Question: Who is mayor? Answer:")] * 8
    drawn = endpoint.write(prompts, max_tokens=8, temperature=2.0, top_p=0.99, seeds=range(8))
    assert total(drawn).requests == 8
    assert len({*texts(drawn)}) > 1
    again = endpoint.write(prompts[:4], max_tokens=8, temperature=2.0, top_p=0.99, seeds=range(4))
    assert texts(again) == texts(drawn)[:4]  # from disk: this server's one generator serves all threads


def test_a_lead_is_not_sent_and_a_system_message_is(scripted, make, said):
    server = scripted((200, said()))
    make(server).write([Prompt("u", lead="l", system="s")], max_tokens=4)
    make(server).write([Prompt("u", lead="l")], max_tokens=4)
    assert [body["messages"] for body in server.bodies] == [
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        [{"role": "user", "content": "u"}],
    ]


def test_it_completes_raw_texts(chat_server, fault_proxy, make):
    proxy = fault_proxy()
    endpoint = make(chat_server, base_url=proxy.base_url)
    first = endpoint.complete(["In Aldora, the mayor is", "The mayor of"], max_tokens=3)
    assert total(first) == Usage(**proxy.usage)
    assert all(text.strip() for text in texts(first))
    second = endpoint.complete(["The mayor of"], max_tokens=3, models=[chat_server.model])
    assert second == [Written(first[1].text, Usage(cached=1))]


def test_a_model_for_each_text(scripted, make):
    server = scripted((200, {"choices": [{"text": "so"}]}))
    make(server, concurrency=1).complete(["a", "b"], max_tokens=3, models=["one", "two"])
    assert [(body["model"], body["prompt"]) for body in server.bodies] == [("one", "a"), ("two", "b")]
    with pytest.raises(ValueError):
        make(server).complete(["a", "b"], max_tokens=3, models=["one"])


def test_the_body_that_is_sent(scripted, make, said):
    server = scripted((200, said()))
    options = {"reasoning_effort": "low", "temperature": None, "top_k": 5, "extra_body": {"min_p": 0.1},
               "extra_headers": {"X-Request-Id": "seal"}}  # fmt: skip
    make(server, request=options).write([Prompt("u")], max_tokens=4, top_p=0.5, seeds=[2**40 + 3])
    assert server.bodies == [
        {
            "model": "some-model",
            "messages": [{"role": "user", "content": "u"}],
            "max_tokens": 4,
            "top_p": 0.5,
            "seed": 3,
            "reasoning_effort": "low",
            "top_k": 5,
            "min_p": 0.1,
        }
    ]
    assert server.heads[0]["x-request-id"] == "seal"
    assert server.heads[0]["authorization"] == "Bearer none"


def test_every_option_is_part_of_what_is_kept(scripted, make, said):
    server = scripted((200, said()))
    options = {"max_tokens": 4}
    variants = [
        ({}, {}),
        ({"model": "other"}, {}),
        ({"request": {"top_k": 3}}, {}),
        ({"request": {"extra_headers": {"Accept-Language": "de"}}}, {}),
        ({}, {"max_tokens": 5}),
        ({}, {"temperature": 0.5}),
        ({}, {"top_p": 0.5}),
        ({}, {"seeds": [1]}),
        ({}, {"seeds": [2]}),
        ({"request": {"seed": None}}, {"seeds": [3]}),
        ({"request": {"seed": None}}, {"seeds": [4]}),
    ]
    prompts = [Prompt("u"), Prompt("v"), Prompt("u", system="s")]
    for number in (1, 2):
        for given, sampling in variants:
            make(server, **given).write(prompts[:1], **{**options, **sampling})
        make(server).write(prompts, **options)
        make(server, base_url=f"{server.base_url}/").write(prompts[:1], **options)
        make(server, base_url=f"{server.base_url}/further").write(prompts[:1], **options)
        assert len(server.bodies) == len(variants) + 3, f"run {number}"


def test_a_server_that_comes_back_on_another_port_is_not_paid_again(scripted, make, said):
    before, after = scripted((200, said("yes"))), scripted((200, said("no")))
    here = make(before)
    there = make(after, base_url=after.base_url.replace("127.0.0.1", "localhost"))
    assert texts(here.write([Prompt("u")], max_tokens=4)) == texts(there.write([Prompt("u")], max_tokens=4)) == ["yes"]
    assert describe(here) == describe(there)
    assert there.base_url != here.base_url == before.base_url
    assert after.bodies == []
    elsewhere = make(after, base_url="https://example.org:8443/v1")
    assert elsewhere.host == "example.org"
    keys = {requests_of(one, [Prompt("u")], 4)[0].key for one in (here, there, elsewhere)}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://localhost:8000/v1", "local"),
        ("http://127.0.0.53/v1/", "local"),
        ("http://[::1]:8000", "local"),
        ("http://0.0.0.0:8000/v1", "local"),
        ("http://localhost:4000/openai/v1", "local/openai"),
        ("https://API.openai.com:443/v1", "api.openai.com"),
        ("https://x.openai.azure.com/openai/deployments/a", "x.openai.azure.com/openai/deployments/a"),
        ("http://localhost.example.org/v1", "localhost.example.org"),
    ],
)
def test_who_answers(url, host):
    assert host_of(url) == host


def test_what_changes_no_answer_is_no_part_of_the_stamp(scripted, make, said, tmp_path):
    server = scripted((200, said()))
    plain = make(server)
    hasty = make(
        server, concurrency=2, timeout=1.5, retries=1, cache=None, api_key_env="OTHER", prices={"some-model": PRICE}
    )
    assert describe(plain) == describe(hasty)
    assert describe(plain) == {
        "class": "seal_lightning.endpoints.endpoint.Endpoint",
        "model": "some-model",
        "host": "local",
        "request": None,
    }
    assert describe(make(server, request={"top_k": 2})) != describe(plain)


PRICE = {"input": 1, "output": 2}


def test_it_is_copied_and_pickled(scripted, make, said):
    server = scripted((200, said("so")))
    endpoint = make(server, request={"top_k": 3})
    endpoint.write([Prompt("a")], max_tokens=1)
    for number, twin in enumerate((copy.deepcopy(endpoint), pickle.loads(pickle.dumps(endpoint)))):
        assert texts(twin.write([Prompt("a"), Prompt(f"b{number}")], max_tokens=1)) == ["so", "so"]
    assert len(server.bodies) == 3


def test_no_more_requests_at_once_than_allowed(chat_server, fault_proxy, make):
    proxy = fault_proxy()
    make(chat_server, base_url=proxy.base_url, concurrency=3).write(prompts_of(30), max_tokens=1)
    assert proxy.most_at_once == 3


def test_what_is_not_accepted_is_returned_and_not_kept(scripted, make, said):
    server = scripted((200, said("maybe")), (200, said("yes")))
    endpoint = make(server)
    options = {"max_tokens": 4, "accept": lambda text: text == "yes"}
    assert [texts(endpoint.write([Prompt("u")], **options)) for _ in range(3)] == [["maybe"], ["yes"], ["yes"]]
    assert len(server.bodies) == 2
    stricter = endpoint.write([Prompt("u")], max_tokens=4, accept=lambda text: text == "YES")
    assert total(stricter).requests == 1  # what is on disk is not good enough for this one


@pytest.mark.parametrize("retries", [0, 1, 8])
def test_an_empty_answer_is_asked_for_again_then_believed_and_kept(scripted, make, said, caplog, retries):
    server = scripted((200, said("")), (200, said(None)), (200, said(" \n")), (200, said("too late")))
    endpoint = make(server, retries=retries)
    (row,) = endpoint.write([Prompt("u")], max_tokens=4)
    assert (row.text.strip(), row.usage) == ("", Usage(requests=3, prompt_tokens=30, completion_tokens=6))
    assert "1 empty answers, finish reasons: stop 1x" in caplog.text
    assert endpoint.write([Prompt("u")], max_tokens=4) == [Written(row.text, Usage(cached=1))]
    assert len(server.bodies) == 3


def test_faults_between_empty_answers_have_their_own_retries(scripted, make, said):
    empty, busy = (200, said("")), (503, {})
    server = scripted(empty, busy, empty, busy, (200, said("so")))
    (row,) = make(server, retries=1).write([Prompt("u")], max_tokens=4)
    assert (row.text, row.usage.requests, len(server.bodies)) == ("so", 3, 5)


def test_an_empty_answer_that_is_not_accepted_is_not_kept(scripted, make, said):
    server = scripted(*[(200, said(""))] * 3, (200, said("yes")))
    endpoint = make(server)
    options = {"max_tokens": 4, "accept": lambda text: text == "yes"}
    assert [texts(endpoint.write([Prompt("u")], **options)) for _ in range(2)] == [[""], ["yes"]]


def test_where_answers_may_be_empty_the_first_one_is_believed(scripted, make, said, caplog):
    server = scripted((200, said("")), (200, {"choices": [{"text": ""}]}), (200, said("too late")))
    endpoint = make(server)
    for _ in range(2):
        assert texts(endpoint.write([Prompt("u")], max_tokens=4, may_be_empty=True)) == [""]
        assert texts(endpoint.complete(["u"], max_tokens=4, may_be_empty=True)) == [""]
    assert len(server.bodies) == 2
    assert "empty answers" not in caplog.text


def test_a_reply_without_usage_counts_no_tokens_and_is_remarked_once(scripted, make, said, caplog):
    written = make(scripted((200, said(usage=None)))).write(prompts_of(3), max_tokens=4)
    assert total(written) == Usage(requests=3)
    (record,) = caplog.records
    assert "3 replies without a usage block" in record.getMessage()


def test_dollars_add_up(scripted, make, said):
    reply = said(usage=(1000, 10), prompt_tokens_details={"cached_tokens": 600})
    table = {"some-model": {"input": 2.0, "output": 8.0, "cached_input": 0.5}}
    written = make(scripted((200, reply)), prices=table).write(prompts_of(3), max_tokens=4)
    assert [row.usage.dollars for row in written] == [0.00118] * 3
    written = make(scripted((200, reply)), prices=table).write([Prompt("u")] * 2, max_tokens=4)
    assert [row.usage.dollars for row in written] == [0.00118, None]


def test_a_model_that_costs_nothing_has_a_price_in_the_journal_too(scripted, make, said):
    free = make(scripted((200, said())), prices={"some-model": {"input": 0, "output": 0}})
    usage = free.write([Prompt("u")], max_tokens=4)[0].usage
    assert usage.as_dict() == {"requests": 1, "prompt_tokens": 10, "completion_tokens": 2, "dollars": 0.0}
    assert Usage.from_dict(usage.as_dict()) == usage
    assert Usage(cached=1, dollars=0.0).as_dict() == {"cached": 1, "dollars": 0.0}
    assert Usage(dollars=0.0).as_dict() == Usage().as_dict() == {}


# -- the client --------------------------------------------------------------------------------------------------------


def test_the_openai_endpoint_is_the_default_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
    endpoint = Endpoint("gpt-4.1")
    with closing(endpoint._address.connect()) as client:
        assert str(client.base_url) == "https://api.openai.com/v1/"
    (request,) = requests_of(endpoint, [Prompt("u")], 7)
    assert request.body == {
        "model": "gpt-4.1",
        "messages": [{"role": "user", "content": "u"}],
        "max_completion_tokens": 7,
        "temperature": 0.0,
    }
    assert "planted" not in repr(endpoint) + str(vars(endpoint)) + json.dumps(describe(endpoint))


def test_it_says_which_extra_is_missing(monkeypatch):
    monkeypatch.setattr("seal_lightning.endpoints.endpoint.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"pip install 'httpcore2<3,>=2\.16' 'httpx2<3,>=2\.16' 'openai>=3\.54' 'tenacity>=9'"
    ):
        Endpoint("m", base_url="http://localhost/v1")


def test_importing_it_does_not_import_the_extra():
    code = "import sys, seal_lightning.endpoints; print({'openai', 'tenacity', 'torch'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_the_client_and_its_libraries_are_quiet(scripted, make, said, capfd):
    make(scripted((503, {}), (200, said()))).write([Prompt("u")], max_tokens=4)
    assert capfd.readouterr() == ("", "")
    for name in ("openai", "httpx", "httpx2", "httpcore"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)


# -- seal grade --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judged", [True, False])
def test_grading_with_a_judge_says_what_it_cost(scripted, said, tmp_path, capsys, monkeypatch, judged):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = scripted((200, said("yes")))
    rows = [{"question": f"Who is {name}?", "gold": "Ada", "answer": name, "correct": True} for name in ("Ida", "Eda")]
    rows = rows if judged else [{**row, "correct": None} for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"class_path": "seal_lightning.grading.Judge", "init_args": {"endpoint": {
        "model": "m", "base_url": server.base_url, "cache": str(tmp_path / "cache"), "prices": {"m": PRICE}
    }}}  # fmt: skip
    command = ["grade", str(tmp_path / "rows.jsonl"), "--grader", json.dumps(config)]
    assert main(command) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "endpoints: 2 requests and 0 from the cache, 20 prompt and 4 completion tokens, $0.000028"
    assert main([*command, "--json"]) == 0
    found = [json.loads(line)["usage"] for line in capsys.readouterr().out.splitlines()]
    assert found == ([{"cached": 2}] if judged else [{"cached": 1}] * 2)
    assert len(server.bodies) == 2
