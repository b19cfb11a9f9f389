"""How many rows are generated together where no option says so."""

from types import SimpleNamespace

import pytest
import torch

from seal_lightning.models.random_models import FAMILIES, _config, build_tiny, byte_tokenizer
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import Asked, LocalAnswerer, LocalSampler, PolicyWriter, SampleRequest, sizes
from seal_lightning.sampling.sizes import STEPS, RowMemory, rows_together
from seal_lightning.types import Context, Prompt

QWEN_7B = SimpleNamespace(
    hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, head_dim=128,
    intermediate_size=18944, vocab_size=152_064,
)  # fmt: skip
GIB = 1 << 30
LAMP = Context(id="lamp", title="Lamp", passage="A lamp.")


class OnGPU(SimpleNamespace):
    """A policy of Qwen2.5-7B's size in bfloat16 that says that it is on a GPU."""

    device = torch.device("cuda:0")
    window = 32_768
    model = SimpleNamespace(dtype=torch.bfloat16, config=SimpleNamespace(get_text_config=lambda: QWEN_7B))


def on_gpu(monkeypatch, free: float, *, prompt: int = 300, new: int = 1024, rows: int = 3) -> int:
    monkeypatch.setattr(sizes, "free_memory", lambda device: int(free))
    return rows_together(OnGPU(), [[7] * prompt] * rows, max_new_tokens=new, given=None, on_cpu=5)


def test_the_memory_of_a_row_is_that_of_its_cache_and_of_its_choice():
    memory = RowMemory.of(OnGPU.model)
    assert memory.kept == 2 * 28 * 4 * 128 * 2  # keys and values, 57 kB a token
    assert memory.row(prompt=100, new=50) - memory.row(prompt=100, new=0) == 50 * memory.kept
    assert memory.row(prompt=100, new=50) > 150 * memory.kept + 30 * 152_064


def test_a_gpu_takes_as_many_as_its_memory_holds_in_steps(monkeypatch):
    assert on_gpu(monkeypatch, 120 * GIB) == 512  # an H200 beside the weights
    assert on_gpu(monkeypatch, 60 * GIB) == 256  # an H100
    assert on_gpu(monkeypatch, 20 * GIB) == 64
    assert on_gpu(monkeypatch, 1 * GIB) == 32  # and less, where that is too much: `in_parts`
    assert on_gpu(monkeypatch, 60 * GIB, new=64) == 512  # answers are short
    found = [on_gpu(monkeypatch, free * GIB / 4) for free in range(4, 800)]
    assert found == sorted(found) and set(found) == set(STEPS)


def test_a_little_more_or_less_memory_changes_nothing(monkeypatch):
    assert len({on_gpu(monkeypatch, free * GIB) for free in (55, 57, 60, 63, 65)}) == 1


def test_no_row_needs_more_than_the_window(monkeypatch):
    monkeypatch.setattr(OnGPU, "window", 2048)
    assert on_gpu(monkeypatch, 60 * GIB, prompt=1800, new=100_000) == on_gpu(
        monkeypatch, 60 * GIB, prompt=1800, new=248
    )


def test_a_cpu_and_an_option_are_taken_at_their_word(monkeypatch):
    monkeypatch.setattr(sizes, "free_memory", lambda device: pytest.fail("nobody asks"))
    here = SimpleNamespace(device=torch.device("cpu"))
    assert rows_together(here, [[1]], max_new_tokens=9, given=None, on_cpu=32) == 32
    assert rows_together(here, [[1]], max_new_tokens=9, given=7, on_cpu=32) == 7
    assert rows_together(OnGPU(), [[1]], max_new_tokens=9, given=7, on_cpu=32) == 7


@pytest.mark.parametrize("family", FAMILIES)
def test_configurations_of_all_kinds_have_a_size(family):
    tokenizer = byte_tokenizer()
    memory = RowMemory.of(SimpleNamespace(dtype=torch.float32, config=_config(FAMILIES[family], tokenizer, 2048)))
    assert 0 < memory.kept < memory.row(prompt=1, new=1)


def test_what_is_generated_together_goes_by_the_device(monkeypatch):
    """On a CPU 32 edits, 64 answers and 32 questions of a grader; elsewhere what the memory takes."""
    model, tokenizer = build_tiny("llama")
    one, seen = Policy(model, tokenizer, chat=False), []
    model.register_forward_pre_hook(
        lambda module, args, options: seen.append(len(options["input_ids"])), with_kwargs=True
    )
    requests = [SampleRequest(f"Lamp {index}:", LAMP, index, index) for index in range(10, 80)]

    def largest(work) -> int:
        work()
        seen.clear()  # the first has probed the model
        work()
        return max(seen)

    asked = tuple(Prompt(f"Lit {number}?") for number in range(10, 80))
    works = [
        lambda: LocalSampler(max_new_tokens=1).sample(one, requests),
        lambda: LocalAnswerer().answer(one, [Asked(None, asked)], None, max_new_tokens=1),
        lambda: PolicyWriter(one).write(asked, max_tokens=1),
        lambda: PolicyWriter(one).choose(asked, ["a", "b"]),
    ]
    assert list(map(largest, works)) == [32, 64, 32, 32]
    for module in ("sampler", "answering"):
        monkeypatch.setattr(f"seal_lightning.sampling.{module}.rows_together", lambda *args, given, on_cpu, **_: 70)
    assert list(map(largest, works)) == [70, 70, 70, 70]
