"""One client for every endpoint: replies, usage, cache and options, against a real server."""

from endpoints import prompts_of

from seal_lightning.endpoints import Endpoint
from seal_lightning.types import Prompt, Usage


def make(server, tmp_path, **options):
    return Endpoint(server.model, **{"base_url": server.base_url, "cache": str(tmp_path / "cache"), **options})


def total(written):
    return sum((row.usage for row in written), Usage())


def test_it_writes_and_counts_and_keeps(chat_server, fault_proxy, tmp_path):
    proxy = fault_proxy()
    endpoint = make(chat_server, tmp_path, base_url=proxy.base_url)
    prompts, done = prompts_of(5), []
    first = endpoint.write([*prompts, prompts[0]], max_tokens=4, on_done=done.append)
    assert all(row.text.strip() for row in first)
    assert first[5] == type(first[0])(first[0].text, Usage(cached=1))
    assert sum(done) == 6
    assert total(first) == Usage(cached=1, **proxy.usage)
    assert proxy.attempts == {"passed": 5}
    second = endpoint.write(prompts, max_tokens=4)
    assert [row.text for row in second] == [row.text for row in first[:5]]
    assert total(second) == Usage(cached=5)
    assert proxy.attempts == {"passed": 5}


def test_a_lead_is_not_sent_and_a_system_message_is(chat_server, tmp_path):
    endpoint = make(chat_server, tmp_path)
    plain, led, system = endpoint.write(
        [Prompt("Question: Who?"), Prompt("Question: Who?", lead="Answer:"), Prompt("Question: Who?", system="Be so.")],
        max_tokens=4,
    )
    assert led.usage == Usage(cached=1)
    assert system.usage.prompt_tokens > plain.usage.prompt_tokens
