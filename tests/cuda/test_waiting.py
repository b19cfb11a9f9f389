"""The host runs ahead of a GPU: nothing in a step reads the device, and a step is as many kernels for many adapters.

Counted on a pretended GPU (benchmarks/pretend_cuda.py); a real one is told to raise where the host would wait.
"""

import warnings
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from pretend_cuda import PretendCuda

from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import generate
from seal_lightning.sampling.sampler import LocalSampler
from seal_lightning.types import AdapterJob, Directives, TrainingSequence

LOOP = InnerLoop(rank=8, alpha=16, target_modules="all-linear", max_adapters=8)
STEPS = 6
# The two places that may read the device: where a training looks at the steps it has queued, and, once a step, where
# tokens become text.
SETTLED, TOKENS = "models/transfer.py", "sampling/generation.py"


def policy_on(device, *, family="qwen2", dtype=torch.bfloat16):
    model, tokenizer = build_tiny(family)
    model.generation_config.eos_token_id = None  # no row ends of itself
    quiet = SimpleNamespace(encode=tokenizer, pad_token_id=0, eos_token_id=None)
    policy = Policy(model.to(device=device, dtype=dtype).requires_grad_(False), tokenizer, chat=False)
    return policy, Policy(policy.model, quiet, chat=False)


def equal_jobs(count):
    """Adapters whose steps are all alike: the same lengths, and none ends before the others."""
    text = "the lamp of the tarn burned until dawn"
    return [
        AdapterJob((TrainingSequence(text),), seed=seed, directives=Directives(epochs=STEPS)) for seed in range(count)
    ]


def mixed_jobs():
    lengths = ((3, 9, 5), (7,), (2, 8), (4, 4, 6, 1))
    return [
        AdapterJob(
            tuple(TrainingSequence("tarn holm " * length) for length in some),
            seed=seed,
            directives=Directives(epochs=3),
        )
        for seed, some in enumerate(lengths)
    ]


def steps_of(jobs, **model):
    """(launches, reads, copies to the device) of each training step but the first, between two optimizer steps."""
    marks, found, step = [], [], AdapterBank.step

    def marked(*args, **options):
        step(*args, **options)
        marks.append((len(gpu.launches), len(gpu.reads), len(gpu.sent)))

    with PretendCuda() as gpu, pytest.MonkeyPatch.context() as patch:
        policy, _ = policy_on("cuda:0", **model)
        patch.setattr(AdapterBank, "step", marked)
        LOOP.adapt(policy, jobs)
        for (launch, read, sent), (launches, reads, copies) in pairwise(marks):
            found.append((gpu.launches[launch:launches], gpu.reads[read:reads], gpu.sent[sent:copies]))
    return found


def tokens_of(adapters):
    """The same of each decoding step of eight rows of some adapters, sampled, from one choice of tokens to the next."""
    marks, found, rows = [], [], 8
    with PretendCuda() as gpu:
        policy, quiet = policy_on("cuda:0")
        trained = LOOP.adapt(policy, equal_jobs(adapters))
        prompts = [list(range(3, 6 + row % 3)) for row in range(rows)]
        sample = LocalSampler()._choose(range(rows))

        def choose(logits, numbers, *texts):
            marks.append((len(gpu.launches), len(gpu.reads), len(gpu.sent)))
            return sample(logits, numbers, *texts)

        with trained.answering([row * adapters // rows for row in range(rows)]) as working:
            generate(quiet, prompts, max_new_tokens=STEPS, choose=choose, on_keep=working.keep)
        for (launch, read, sent), (launches, reads, copies) in pairwise(marks):
            found.append((gpu.launches[launch:launches], gpu.reads[read:reads], gpu.sent[sent:copies]))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("jobs", [equal_jobs(4), mixed_jobs()], ids=["equal", "mixed"])
def test_nothing_in_a_training_step_reads_the_device(jobs, dtype):
    steps = steps_of(jobs, dtype=dtype)
    assert len(steps) >= STEPS - 1
    for _, reads, _ in steps:
        assert [read for read in reads if SETTLED not in read] == []
        assert len(reads) <= 2  # whether the queued steps were made, and whether what ended is finite
    assert [] in [reads for _, reads, _ in steps]  # nothing at all where no adapter ends


def test_a_training_step_sends_little():
    """Token ids, positions, slots and layouts travel together; each copy of its own would be waited for."""
    steps = steps_of(equal_jobs(3))[1:-1]  # no adapter begins or ends in these
    assert max(len(sent) for _, _, sent in steps) <= 2


def test_a_step_is_as_many_kernels_for_many_adapters():
    one, four, eight = (steps_of(equal_jobs(count))[2][0] for count in (1, 4, 8))
    assert len(one) >= 100  # the model is there
    fused = 3  # kernels of AdamW for each adapter, which has a rate of its own
    assert len(eight) - len(four) == 4 * fused and len(four) - len(one) <= 0.05 * len(one) + 3 * fused


def test_a_decoding_step_reads_the_new_tokens_alone():
    for _, reads, _ in tokens_of(adapters=4)[1:]:
        assert len(reads) == 1 and TOKENS in reads[0]


def test_a_decoding_step_is_as_many_kernels_for_many_adapters():
    two, eight = (tokens_of(count)[2][0] for count in (2, 8))
    assert len(two) == len(eight) >= 50


def test_attention_copies_no_gradient_to_take_a_row_out_of_its_batch_of_one():
    """torch's gradient of `tensor[0]` is zeros of the whole with a copy in them; that of `squeeze` is a view."""
    for dtype in (torch.bfloat16, torch.float32):
        launched = [name for launches, _, _ in steps_of(equal_jobs(2), dtype=dtype) for name in launches]
        assert len(launched) > 100 and "select_backward" not in launched


@pytest.fixture
def waits():
    """Call it with True and False to begin and end noting where the host waits for a real GPU: file names."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def listen(on):
            torch.cuda.set_sync_debug_mode("warn" if on else "default")
            return [warning.filename for warning in caught if "called a synchronizing" in str(warning.message)]

        yield listen
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_the_host_does_not_wait_for_a_gpu_in_a_training_step(waits):
    policy, _ = policy_on("cuda:0")
    LOOP.adapt(policy, equal_jobs(4))  # first calls may wait
    done = []

    def on_step(_):
        done.append(waits(len(done) + 1 < STEPS))  # not before the first step, not after the last

    LOOP.adapt(policy, equal_jobs(4), on_step=on_step)
    assert [place for place in done[-1] if SETTLED not in place] == []
    assert len(done[-1]) <= STEPS - 1


@pytest.mark.gpu
def test_the_host_waits_for_a_gpu_once_a_token(waits):
    policy, quiet = policy_on("cuda:0")
    trained = LOOP.adapt(policy, equal_jobs(4))
    done = []

    def choose(logits, rows, *texts):
        done.append(waits(0 < len(done) < STEPS - 1))
        return logits.argmax(dim=-1)

    with trained.answering([0, 1, 2, 3]) as working:
        generate(quiet, [[3, 4, 5]] * 4, max_new_tokens=STEPS, choose=choose, on_keep=working.keep)
    assert [place for place in done[-1] if TOKENS not in place] == []
    assert len(done[-1]) <= STEPS - 2
