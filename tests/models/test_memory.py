"""Running out of memory: what says so, what is free, and that work in parts ends as it would in one."""

import errno
import json
import logging
import os
import resource
import subprocess
import sys

import fault_injection
import numpy as np
import pytest
import torch

from seal_lightning.cli import main
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import NoMemoryError
from seal_lightning.grading import Contains, Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models import memory
from seal_lightning.models.memory import free_memory, in_parts, is_out_of_memory
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import LocalSampler, PolicyWriter
from seal_lightning.sampling.generation import generate_all
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context, Prompt, Query

NONE_LEFT = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "7602176 bytes. Error code 12 (Cannot allocate memory)"
)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("error", "says_so"),
    [
        (NONE_LEFT, True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:75] . DefaultCPUAllocator: not enough memory: you tried"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("could not create a primitive descriptor for a matmul primitive"), False),
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"), False),
        (ValueError("out of memory"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_says_that_memory_does_not_suffice(error, says_so):
    assert is_out_of_memory(error) is says_so


def test_what_libraries_really_raise():
    for allocate in (lambda: torch.empty(1 << 50), lambda: np.empty(1 << 55), lambda: bytearray(1 << 60)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert is_out_of_memory(caught.value)


def test_work_that_does_not_fit_is_done_in_parts(caplog):
    calls = []

    def work(rows):
        calls.append(list(rows))
        if len(rows) > 2:
            raise NONE_LEFT
        return [10 * row for row in rows]

    groups = [[0, 1, 2, 3, 4], [5], [6, 7, 8]]
    done = list(in_parts(groups, work, device=CPU, doing="counting", advice="count less"))
    assert done == [([0, 1], [0, 10]), ([2, 3], [20, 30]), ([4], [40]), ([5], [50]), ([6, 7], [60, 70]), ([8], [80])]
    assert calls == [[0, 1, 2, 3, 4], [0, 1], [2, 3], [4], [5], [6, 7], [8]]
    assert [record.message for record in caplog.records] == ["out of memory while counting: 2 at a time from now on"]


def test_one_row_that_does_not_fit_ends_in_one_line():
    def work(rows):
        raise NONE_LEFT

    expected = r"^there is no memory for counting even one at a time \(\[enforce fail .*\): count less$"
    with pytest.raises(NoMemoryError, match=expected):
        list(in_parts([[0, 1]], work, device=CPU, doing="counting", advice="count less"))


def test_other_errors_are_not_taken_for_it():
    def work(rows):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(in_parts([[0, 1]], work, device=CPU, doing="counting", advice=""))


# -- what is free ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "5000\n", "memory.current": "3000\n"}, [2000]),
        ({"memory.max": "max\n", "memory.current": "3000\n"}, []),
        ({"memory/memory.limit_in_bytes": "900", "memory/memory.usage_in_bytes": "1000"}, [0]),
        ({}, []),
    ],
)
def test_what_a_container_leaves(tmp_path, files, left):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(memory._left_by_container(tmp_path)) == left


def test_what_ulimit_leaves():
    code = (
        "import torch; from seal_lightning.models.memory import free_memory, _left_to_process;"
        "assert list(_left_to_process()) == [];"
        "import psutil, resource; used = psutil.Process().memory_info().vms;"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), -1));"
        "print(free_memory(torch.device('cpu')) >> 20)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 <= int(found.stdout) <= 64


def test_free_memory_of_a_gpu_counts_what_torch_has_and_does_not_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 400)
    assert free_memory(torch.device("cuda")) == 1300


# -- the E-step and the M-step -----------------------------------------------------------------------------------------


class Tight:
    """A model whose forward passes take at most some rows, or tokens of one row."""

    def __init__(self, model, *, rows=99, tokens=1 << 20):
        self.rows, self.tokens, self.refused = rows, tokens, 0
        model.register_forward_pre_hook(self.check, with_kwargs=True)

    def check(self, module, args, named):
        rows, tokens = named["input_ids"].shape
        if rows > self.rows or (rows == 1 and tokens > self.tokens):
            self.refused += 1
            raise NONE_LEFT


def policy():
    model, tokenizer = build_tiny("llama")
    return Policy(model.requires_grad_(False), tokenizer, chat=False)


def test_texts_and_choices_are_the_same_in_parts(caplog):
    plain, tight = policy(), policy()
    prompts = [[60 + number] * (3 + number % 3) for number in range(9)]
    asked = [Prompt(f"Is {number} even?") for number in range(7)]
    for one in (plain, tight):
        generate_all(one, prompts, size=1, max_new_tokens=2)  # the model has been probed
        PolicyWriter(one).choose(asked[:1], ["yes", "no"])
    narrow = Tight(tight.model, rows=2)
    assert generate_all(tight, prompts, size=9, max_new_tokens=6) == generate_all(
        plain, prompts, size=9, max_new_tokens=6
    )
    found, expected = (PolicyWriter(one).choose(asked, ["yes", "no"]) for one in (tight, plain))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-5, rtol=0)
    assert narrow.refused >= 2 and "out of memory while writing texts: 2 at a time from now on" in caplog.text


def test_an_e_step_without_room_for_all_adapters_takes_them_by_turns(monkeypatch, caplog):
    tarn = Context("tarn", "Tarn", "A tarn is a lake.", (Query("What is a tarn?", ("a lake",)),))
    loop = InnerLoop(rank=2, alpha=4.0, epochs=2, learning_rate=0.01)
    step = EStep(
        task=Knowledge(), sampler=LocalSampler(max_new_tokens=12), inner_loop=loop, grader=Contains(), reward=Reward(),
        max_answer_tokens=6, plan=Plan(edits=4, repeats=1), seed=1,
    )  # fmt: skip
    expected = step.run(policy(), [tarn], round=0)
    plain = InnerLoop._bank

    def small(self, model, jobs, *, slots, trainable):
        if slots > 1:
            raise NONE_LEFT
        return plain(self, model, jobs, slots=slots, trainable=trainable)

    monkeypatch.setattr(InnerLoop, "_bank", small)
    with caplog.at_level(logging.WARNING):
        found = step.run(policy(), [tarn], round=0)
    assert [(one.text, one.answers, one.score) for one in found] == [(o.text, o.answers, o.score) for o in expected]
    assert "out of memory: the adapters of 2 and 2 self-edits by turns" in caplog.text


def test_an_m_step_without_memory_ends_in_one_line(tmp_path, monkeypatch, capsys):
    from seal_lightning.fit.module import SEALModule

    def full(self, batch, batch_idx):
        raise NONE_LEFT

    monkeypatch.setattr(SEALModule, "training_step", full)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(fault_injection.config(tmp_path / "run", max_epochs=1)))
    assert main(["fit", "--config", str(path)]) == 1
    assert "seal: round 1, M-step: there is no memory for a batch ([enforce fail at" in capsys.readouterr().err


def test_a_run_under_ulimit_ends_as_without(tmp_path):
    """Room for the libraries, the policy and some, but not all of the adapters of a unit."""
    code = (
        "import os, sys, resource, psutil, torch, seal_lightning.fit.module, seal_lightning.fit.trainer, transformers;"
        "from seal_lightning.models.random_models import build_tiny;"
        "from seal_lightning.inner_loop.loop import InnerLoop;"
        "from seal_lightning.policy.policy import Policy;"
        "from seal_lightning.types import AdapterJob, TrainingSequence;"
        "model, tokenizer = build_tiny('llama'); model.requires_grad_(False);"
        "loop = InnerLoop(rank=512, target_modules='all-linear', epochs=1, max_adapters=16, learning_rate=1e-3);"
        "jobs = [AdapterJob((TrainingSequence('a lamp of copper ' + str(n)),), seed=n) for n in range(16)];"
        "loop.adapt(Policy(model, tokenizer, chat=False), jobs[:1]);"
        "used = psutil.Process().memory_info().vms;"
        "each = 4 * loop._bank(model, jobs, slots=1, trainable=False).parameters.numel();"
        "print(chr(10) + 'ready', file=sys.stderr, flush=True);"
        "child = os.fork();"  # the limit is the child's alone, which has the libraries from its parent
        "child or resource.setrlimit(resource.RLIMIT_AS, (used + 45 * each, -1));"
        "ended = int(child and os.waitpid(child, 0)[1] != 0);"
        "child and print(chr(10) + 'without', file=sys.stderr, flush=True);"
        "trained = loop.adapt(Policy(model, tokenizer, chat=False), jobs);"
        "print([round(stats.loss, 4) for stats in trained.stats], flush=True); sys.exit(ended)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-500:]
    limited, plain = run.stdout.splitlines()
    assert limited == plain
    limited, plain = run.stderr.partition("\nready\n")[2].split("\nwithout\n")
    assert "out of memory in the inner loop" in limited and "out of memory" not in plain
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
