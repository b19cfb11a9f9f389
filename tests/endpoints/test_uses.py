"""Judge, rubric, query writer and sampler through a real server: what they ask, and that no fault becomes a verdict."""

import re
from dataclasses import replace

import pytest
from endpoints import NAMES, FaultProxy, only

from seal_lightning.e_step.own_queries import QueryWriter
from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError, EndpointError, GradingError
from seal_lightning.grading import Answer, Judge, Rubric
from seal_lightning.lab.data import LabPassages
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import EndpointSampler, SampleRequest
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Usage

ANSWERS = [
    Answer(f"Who is mayor number {number}?", ("Ada",), f"{NAMES[number % len(NAMES)]} number {number}")
    for number in range(500)
]


def endpoint(server, **options) -> Endpoint:
    return Endpoint(server.model, **{"base_url": server.base_url, "cache": None, "timeout": 1.5, **options})


def judge(server, base_url=None, words=("yes", "no"), **options) -> Judge:
    request = only(server.model, words)
    return Judge(endpoint=endpoint(server, base_url=base_url or server.base_url, request=request, **options))


def tiny() -> Policy:
    model, tokenizer = build_tiny("llama")
    return Policy(model.requires_grad_(False), tokenizer, chat=False)


def test_no_verdict_is_lost_or_false_through_500_faulty_requests(listen, make, said):
    """Before a server that says no to every third one; `test_faults.py` has faults before the real server."""

    def answer(method, path, body, headers):
        number = int(re.search(r"mayor number (\d+)", body.decode())[1])
        return 200, said("yes" if number % 3 else "no", usage=(100 + number, 1)), {}

    faults = {"busy": 8, "error": 6, "hang": 1, "cut": 4, "garbage": 6, "empty": 6}
    with FaultProxy(listen(answer).base_url, share=0.2, faults=faults, hang=30) as proxy:
        verdicts = Judge(endpoint=make(proxy, retries=12, cache=None, timeout=2)).verdicts(ANSWERS)
    assert [verdict.score for verdict in verdicts] == [float(number % 3 > 0) for number in range(500)]
    assert sum(count for name, count in proxy.attempts.items() if name != "passed") > 80
    assert len(proxy.attempts) == 7
    assert sum((verdict.usage for verdict in verdicts), Usage()) == Usage(**proxy.usage)


def test_a_reply_that_is_no_verdict_is_asked_for_again_and_then_fails(chat_server, fault_proxy):
    proxy = fault_proxy()
    with pytest.raises(GradingError, match=r"expected no or yes, got '[1-5]' after asking 3 times for 2 of 2 verdicts"):
        judge(chat_server, proxy.base_url, words="12345").verdicts(ANSWERS[:2])
    assert proxy.attempts["passed"] == 6


def test_a_server_that_is_gone_is_no_verdict(chat_server):
    gone = judge(chat_server, "http://127.0.0.1:9/v1", retries=1, timeout=0.5)
    with pytest.raises(EndpointError):
        gone.verdicts(ANSWERS[:2])


def test_empty_answers_are_wrong_without_asking(chat_server, fault_proxy):
    proxy = fault_proxy()
    done: list[int] = []
    empty = replace(ANSWERS[0], text=" \n")
    verdicts = judge(chat_server, proxy.base_url).verdicts([empty, ANSWERS[1], empty], on_done=done.append)
    assert [verdicts[row].score for row in (0, 2)] == [0.0, 0.0]
    assert (proxy.attempts["passed"], sum(done)) == (1, 3)


def test_a_judge_needs_someone_to_ask():
    with pytest.raises(ConfigError, match=r"endpoint must be set where there is no policy to ask: set endpoint\.model"):
        Judge().verdicts(ANSWERS[:1])


def test_a_rubric_marks_every_criterion(chat_server, fault_proxy):
    proxy = fault_proxy()
    context = LabPassages("train", count=1).read()[0]
    asked = endpoint(chat_server, base_url=proxy.base_url, request=only(chat_server.model, "12345"))
    (one, other) = Rubric(endpoint=asked).verdicts([(context, "The mayor is Ada."), (context, "Wax is sold.")])
    assert set(one.reasons) == {"faithful", "complete", "varied", "self-contained"}
    assert set(one.reasons.values()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert one.score == pytest.approx(sum(one.reasons.values()) / 4)
    assert (one.usage.requests, other.usage.requests, proxy.attempts["passed"]) == (4, 4, 8)


def test_edits_of_a_context_differ_by_their_seeds_and_cost_what_the_server_counts(chat_server, fault_proxy, tmp_path):
    proxy, policy, context = fault_proxy(), tiny(), LabPassages("train", count=1).read()[0]
    message = Knowledge().prompt(context)
    requests = [SampleRequest(policy.format(message), context, index, 7 + index, message) for index in range(4)]
    prices = {chat_server.model: {"input": 2.0, "output": 8.0}}
    asked = endpoint(chat_server, base_url=proxy.base_url, cache=str(tmp_path), prices=prices, timeout=20)
    sampler = EndpointSampler(asked, max_new_tokens=24)
    samples = sampler.sample(policy, requests)
    assert len({sample.text for sample in samples}) > 1
    assert all(sample.prompt_tokens == len(policy.encode(requests[0].prompt)) for sample in samples)
    total = sum((sample.usage for sample in samples), Usage())
    assert (total.prompt_tokens, total.completion_tokens) == tuple(
        proxy.usage[name] for name in ("prompt_tokens", "completion_tokens")
    )
    assert total.dollars == pytest.approx((2 * total.prompt_tokens + 8 * total.completion_tokens) / 1e6)
    again = sampler.sample(policy, requests)
    assert [sample.text for sample in again] == [sample.text for sample in samples]
    assert sum((sample.usage for sample in again), Usage()) == Usage(cached=4)
    assert proxy.attempts["passed"] == 4


def test_a_constrained_sampler_sends_the_schema(scripted, make, said):
    server, policy, context = scripted((200, said('{"a":1}'))), tiny(), LabPassages("train", count=1).read()[0]
    message, schema = Knowledge().prompt(context), {"type": "object", "properties": {"a": {"type": "integer"}}}
    requests = [SampleRequest(policy.format(message), context, 0, 7, message, schema)]
    asked = make(server, request={"seed": 1})
    assert [sample.text for sample in EndpointSampler(asked, constrained=True).sample(policy, requests)] == ['{"a":1}']
    assert server.bodies[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "self_edit", "strict": True, "schema": schema},
    }
    EndpointSampler(asked).sample(policy, requests)  # another request, so that the cache does not answer it
    assert "response_format" not in server.bodies[1]
    assert asked.request == {"seed": 1}


def test_a_query_writer_writes_through_the_endpoint(chat_server):
    contexts = LabPassages("train", count=2).read()
    query_writer = QueryWriter(endpoint=endpoint(chat_server, timeout=20), max_tokens=48, check=False)
    made = query_writer.write(contexts, policy=None, grader=None)
    assert [one.usage.requests for one in made] == [1, 1]
