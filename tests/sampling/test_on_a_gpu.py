"""What generation does on a GPU, on a pretended one: one read a token, small copies, attention without plans."""

from collections import Counter
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from pretend_cuda import PretendCuda

from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.inner_loop.isolation import PADDED, AnsweringWay, answering_way
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.models.growing import GrowingLayer
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import LocalSampler, PolicyWriter, SampleRequest, generation
from seal_lightning.sampling.constrained import SchemaMasks
from seal_lightning.sampling.drawing import drawing
from seal_lightning.sampling.generation import generate, most_likely
from seal_lightning.types import Context, Prompt

PROMPTS = [[70] * 5, [71] * 19, [72] * 8, [73] * 19]
LAMP = Context(id="lamp", title="Lamp", passage="A lamp.")
STEPS = 12


@contextmanager
def steps_counted(gpu: PretendCuda, monkeypatch: pytest.MonkeyPatch):
    """How many reads and copies there have been by the moment at which each token is read."""
    marks, read = [], generation.read

    def counting(tokens):
        marks.append((len(gpu.reads), len(gpu.sent)))
        return read(tokens)

    with monkeypatch.context() as patch:
        patch.setattr(generation, "read", counting)
        yield marks


def policy(family: str = "llama", **options) -> Policy:
    model, tokenizer = build_tiny(family, **options)
    return Policy(model, tokenizer, chat=False)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[1::2]], ids=["padded", "of one length"])
@pytest.mark.parametrize("way", [PADDED, AnsweringWay("recomputed")], ids=str)
@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "greedy"])
def test_a_decoding_step_reads_the_device_once(family, prompts, way, drawn, monkeypatch):
    def choose():
        return drawing(range(len(prompts)), temperature=0.7, top_p=0.9) if drawn else most_likely

    one = policy(family)
    expected = generate(one, prompts, max_new_tokens=STEPS, way=way, choose=choose())
    with PretendCuda() as gpu:
        one.model.to("cuda:0")
        gpu.reads.clear()
        with steps_counted(gpu, monkeypatch) as marks:
            found = generate(one, prompts, max_new_tokens=STEPS, way=way, choose=choose())
    assert found == expected
    assert set(map(len, found)) == {STEPS}  # nobody has left
    assert sum(place.startswith("_to_copy at seal_lightning/sampling/generation.py") for place in gpu.reads) == STEPS
    theirs = {place for place in gpu.reads if "seal_lightning" not in place}
    if way == PADDED:  # transformers looks at prompts of one length once: are they packed?
        assert {after - before for (before, _), (after, _) in pairwise(marks)} == {1}
    else:  # and without a cache at each pass
        assert all("masking_utils" in place for place in theirs)
    assert len([place for place in gpu.reads if place not in theirs]) == STEPS
    copies = [after - before for (_, before), (_, after) in pairwise(marks)]
    assert set(copies) == {drawn + (0 if way == PADDED else 3)}


def test_rows_that_leave_cost_no_read(monkeypatch):
    one, left = policy(), []

    def choose(logits, rows, texts):
        tokens = logits.argmax(dim=-1)
        ended = [len(texts[row]) == 3 + 2 * row for row in rows]
        return torch.where(torch.tensor(ended).to(logits.device), 1, tokens)

    expected = generate(one, PROMPTS, max_new_tokens=STEPS, way=PADDED, choose=choose)
    with PretendCuda() as gpu:
        one.model.to("cuda:0")
        gpu.reads.clear()
        with steps_counted(gpu, monkeypatch) as marks:
            found = generate(one, PROMPTS, max_new_tokens=STEPS, way=PADDED, choose=choose, on_keep=left.append)
    assert found == expected and list(map(len, found)) == [3, 5, 7, 9] and left == [[1, 2, 3], [1, 2], [1]]
    assert [reads for reads, _ in marks] == list(range(10))


def test_adapters_answer_with_one_read_a_token(monkeypatch):
    one = policy()
    with PretendCuda() as gpu:
        one.model.to("cuda:0")
        bank = AdapterBank(one.model, slots=3, rank=2, alpha=4.0, target_modules=["q_proj"], trainable=False)
        trained = TrainedBank(bank, ())
        with trained.answering([2, None, 0, 0]):
            gpu.reads.clear()
            with steps_counted(gpu, monkeypatch) as marks:
                generate(one, PROMPTS, max_new_tokens=STEPS, way=PADDED)
    assert [reads for reads, _ in marks] == list(range(STEPS))


def test_a_schema_costs_no_read_either(monkeypatch):
    one = policy()
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    free = drawing([1, 2])
    expected = generate(one, PROMPTS[:2], max_new_tokens=8, choose=SchemaMasks(one).keep_to([schema] * 2, free))
    with PretendCuda() as gpu:
        one.model.to("cuda:0")
        gpu.reads.clear()
        choose = SchemaMasks(one).keep_to([schema] * 2, drawing([1, 2]))
        with steps_counted(gpu, monkeypatch) as marks:
            assert generate(one, PROMPTS[:2], max_new_tokens=8, choose=choose, way=PADDED) == expected
    assert [reads for reads, _ in marks] == list(range(8))


def test_the_cache_is_not_copied_for_every_token():
    one = policy()
    with PretendCuda():
        one.model.to("cuda:0")
        rows = PADDED.start(one.model, PROMPTS)
        with torch.no_grad():
            rows.logits()
            (cache,) = rows.cache.values()
            assert all(type(layer) is GrowingLayer for layer in cache.layers)
            before = None
            for _ in range(4):
                rows.append(torch.full((4,), 70, device="cuda:0"))
                rows.logits()
                place = cache.layers[0].keys.inner.data_ptr()
                assert before in (None, place)
                before = place


# -- which kernels -----------------------------------------------------------------------------------------------------


@pytest.fixture
def watched():
    """A policy on a pretended GPU, and for each of its passes whether cuDNN's attention was allowed."""
    one, allowed = policy(), Counter()
    one.model.register_forward_pre_hook(
        lambda *_: allowed.update([(torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled())])
    )
    with PretendCuda():
        one.model.to("cuda:0")
        yield one, allowed
    assert torch.backends.cuda.cudnn_sdp_enabled()


PLANLESS = (False, True)


def test_texts_are_generated_without_plans(watched):
    one, allowed = watched
    LocalSampler(max_new_tokens=3).sample(one, [SampleRequest("Lamp:", LAMP, 0, 0), SampleRequest("x", LAMP, 1, 1)])
    assert set(allowed) == {PLANLESS} and allowed.total() > 3


def test_likelihoods_are_read_without_plans(watched):
    one, allowed = watched
    PolicyWriter(one).choose([Prompt("Is it lit?"), Prompt("Lit?")], ["yes", "no"])
    assert set(allowed) == {PLANLESS}


def test_models_are_probed_without_plans(watched):
    one, allowed = watched
    answering_way(one.model, ["model.layers.0.self_attn.q_proj"], longest=9)
    assert set(allowed) == {PLANLESS}


def test_on_a_cpu_nothing_is_changed():
    one, allowed = policy(), set()
    one.model.register_forward_pre_hook(lambda *_: allowed.add(torch.backends.cuda.cudnn_sdp_enabled()))
    generate(one, PROMPTS, max_new_tokens=2)
    assert allowed == {torch.backends.cuda.cudnn_sdp_enabled()}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")  # torch, at its first use
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_real_gpu_is_asked_for_nothing_but_its_tokens(family, monkeypatch):
    one = policy(family)
    one.model.to("cuda:0")
    read, modes = generation.read, []

    def reading(tokens):
        torch.cuda.set_sync_debug_mode("default")
        modes.append(read(tokens))
        torch.cuda.set_sync_debug_mode("error")  # from the first token on, what waits for the device raises
        return modes[-1]

    def choose():
        return drawing(range(4), temperature=0.7, top_p=0.9)

    expected = generate(one, PROMPTS, max_new_tokens=STEPS, way=PADDED, choose=choose())
    monkeypatch.setattr(generation, "read", reading)
    try:
        assert generate(one, PROMPTS, max_new_tokens=STEPS, way=PADDED, choose=choose()) == expected
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(modes) == STEPS
