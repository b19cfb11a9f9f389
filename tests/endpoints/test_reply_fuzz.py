"""What a server sends is a reply that can be kept or garbage with a reason, never another exception, at once."""

import json
import random
import time

import pytest

from seal_lightning.endpoints.failures import said_by
from seal_lightning.endpoints.wire import Garbled, read_reply
from seal_lightning.text.redaction import quoted

WHOLE = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop", "text": "x"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}},
}
ODD = [
    None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**299, "", "\ud83d", "a\x00b", [], {}, [[]], {"a": 1},
    "x" * 1000, "\u2028",
]  # fmt: skip


def changed(draw, value):
    if draw.random() < 0.12:
        return draw.choice(ODD)
    if isinstance(value, dict):
        return {name: changed(draw, inner) for name, inner in value.items() if draw.random() > 0.05}
    if isinstance(value, list):
        return [changed(draw, inner) for inner in value] * draw.choice([1, 1, 1, 0, 2])
    return value


def broken(draw, body):
    body = bytearray(body)
    for _ in range(draw.randint(1, 6)):
        body[draw.randrange(len(body))] = draw.randrange(256)
    return bytes(body)


@pytest.mark.parametrize("seed", range(4))
def test_5000_bodies(seed):
    draw, kept = random.Random(seed), 0
    for _ in range(5000):
        body = json.dumps(changed(draw, WHOLE)).encode()
        body = broken(draw, body) if draw.random() < 0.4 else body
        started = time.process_time()
        try:
            reply = read_reply(body)
            reply.text.encode()
            reply.finish.encode()
            assert min(reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens) >= 0
            kept += 1
        except Garbled as error:
            assert len(str(error)) < 200
        assert len(quoted(said_by(body), ["sk-planted-key"])) <= 300
        assert time.process_time() - started < 2
    assert 1000 < kept < 4000
