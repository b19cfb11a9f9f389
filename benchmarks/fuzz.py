"""Broken inputs for every reader of foreign files: no traceback, and no input that takes 2 seconds.

`python benchmarks/fuzz.py` makes 20,000 inputs of each kind out of valid ones (`mutation`) and reads each as a command
does. An input may be read or refused with an error of ours; anything else is written to `--failures`, beside its
traceback, and `--replay FILE` reads such a file again. `tests/test_fuzz.py` does the same with a few hundred of each.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import logging
import random
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mutation import changed, changed_json

from seal_lightning.data.detect import read_contexts
from seal_lightning.data.documents import read_sources
from seal_lightning.e_step.own_queries import QueryWriter
from seal_lightning.endpoints.wire import Garbled, read_reply
from seal_lightning.errors import SealError
from seal_lightning.grading import Calibrated, Contains, Recall
from seal_lightning.grading.asking import read_option
from seal_lightning.options.config_files import read_config
from seal_lightning.options.parser import Parser
from seal_lightning.records.entries import read_entries
from seal_lightning.records.journal import Journal, rollout_to_dict, unfinished_units
from seal_lightning.records.official import published_figures, read_run, to_official
from seal_lightning.report.read import _configuration
from seal_lightning.results.accuracy import accuracy_table, to_table
from seal_lightning.results.table import to_markdown
from seal_lightning.tasks import EditKind, Knowledge
from seal_lightning.tasks.arc import ArcTask
from seal_lightning.tasks.arc.answers import GridMatch
from seal_lightning.tasks.arc.edit import ArcLimits, read_edit
from seal_lightning.tasks.directives import DirectiveLimits, split_directives
from seal_lightning.tasks.layer_choice import read_choice
from seal_lightning.types import Context, Query, Rollout

LIMIT = 2.0  # seconds of processor time for one input
CONTEXT = Context("mill", "The mill", "Ida Kolm built the mill in 1803.", (Query("Who built it?", ("Ida Kolm",)),))
GRID = "12\n34"


class TooSlow(BaseException):
    """An input took too long; no `except` of a reader mistakes this for a broken file."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of input: how one is made, and who reads it.

    Attributes:
        make: Function that makes an input and names the ending of its file.
        read: Function that reads that file, in a folder of its own.
    """

    make: Callable[[random.Random], tuple[bytes, str]]
    read: Callable[[Path], object]


@dataclass(slots=True)
class Outcome:
    """Results for the inputs of a kind: how many were refused, the slowest in seconds, and the failures."""

    inputs: int = 0
    refused: int = 0
    slowest: float = 0.0
    failed: list[tuple[int, str]] = field(default_factory=list)


# -- valid inputs ------------------------------------------------------------------------------------------------------

EDITS = (
    "1. Ida Kolm built the mill.\n2. The mill is from 1803.\n- It stands in Tarn.",
    "Question: Who built it?\nAnswer: Ida Kolm.\n\n**Q2:** When?\n**A2:** In 1803.",
    'One version.\n---\nAnother version.\n---\n\n```json\n{"epochs": 3, "learning_rate": 0.001}\n```',
    '<think>\nHm.\n</think>\nIda Kolm built it. {"directives": {"epochs": 2, "batch_size": 1}}',
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Ida built it.",
    '{"basic": true, "size": false, "chained": false, "repeated": false, "loss": "outputs", "learning_rate": 0.0001, '
    '"epochs": 2}',
    "12\n34\n\n12\n34",
    "问：谁造的？\n答：李明，1803年。\nВопрос: Кто?\nОтвет: Иван в 1803 году.",
)
DOCUMENTS: Sequence[tuple[str, str]] = (
    (".md", "---\ntitle: The mill\ntags: [a, b]\n---\n# The mill {#mill}\n\nIda *built* it.\n\n| a | b |\n|---|---|\n"
     "| 1 | 2 |\n\n```python\nx = 1\n```\n\n- one\n  - two\n\n> said\n"),
    (".md", "+++\ntitle = 'The mill'\n[x]\ny = 1\n+++\n\nThe mill\n========\n\nText.\n"),
    (".html", "<!doctype html><html><head><title>The mill</title><script>x</script></head><body><h1>The mill</h1><p>"
     "Ida <b>built</b> <a href='http://a'>it</a>.</p><ul><li>a<li>b</ul><table><tr><th>a<td>b</table><pre>x\n y</pre>"),
    (".csv", 'passage,question,answer\n"Ida Kolm, who built it.",Who?,Ida\nThe mill,When?,1803\n'),
    (".tsv", "name\ttext\nDelta\tIda built it.\n"),
    (".txt", "Ida Kolm built the mill in 1803.\n\nIt stands in Tarn.\n"),
    (".rst", "The mill\n========\n\nIda built it.\n"),
    (".adoc", "= The mill\n\nIda built it.\n"),
    (".ipynb", json.dumps({"metadata": {"kernelspec": {"language": "python"}}, "cells": [
        {"cell_type": "markdown", "source": ["# The mill\n", "Ida."]}, {"cell_type": "code", "source": "x = 1"}]})),
    (".json", json.dumps([{"title": "The mill", "passage": "Ida built it.", "queries": [
        {"question": "Who?", "answers": ["Ida"]}], "edits": ["Ida."]}])),
    (".jsonl", '{"title": "The mill", "passage": "Ida built it."}\n{"text": "a", "id": "b"}\n'),
)  # fmt: skip
SEAL = [{"title": "The mill", "context": "Ida built it.", "completions": ["Ida."], "questions": [
    {"question": "Who?", "answer": "Ida"}]}]  # fmt: skip
SQUAD = {
    "version": "2",
    "data": [
        {
            "title": "The mill",
            "paragraphs": [
                {
                    "context": "Ida built it.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "Who?",
                            "is_impossible": False,
                            "answers": [{"text": "Ida", "answer_start": 0}],
                        }
                    ],
                }
            ],
        }
    ],
}
ARC = {"a1": {"train": [{"input": [[1, 2]], "output": [[2, 1]]}] * 2, "test": [{"input": [[3]], "output": [[4]]}]}}
PUBLISHED = {"exp_name": "mill", "overall": {"baseline_mean": 0.0, "adapter_mean": 0.5}, "articles": [
    {"title": "The mill", "context": "Ida built it.", "prompt": "Read.", "completions": [{"text": "Ida.", "questions": [
        {"rep": 0, "question": "Who?", "answer": "Ida", "baseline_answer": "?", "adapter_answer": "Ida",
         "baseline_correct": False, "adapter_correct": True}]}]}]}  # fmt: skip
CONFIG = """\
trainer: &t
  max_epochs: 2
  default_root_dir: runs/mill
model:
  source: {name: random/llama, seed: 0}
  # inner_loop:
  task:
    class_path: seal_lightning.tasks.Knowledge
    init_args: {edit: facts, directives: null}
  grader: {class_path: seal_lightning.grading.Judge, init_args: {endpoint: {model: m, base_url: "http://h/v1"}}}
data: {class_path: seal_lightning.data.SEALDataModule, init_args: {train: [a.jsonl, b.jsonl]}}
filter:
  k: 1
again: *t
"""
GRADE = """\
grader: {class_path: seal_lightning.grading.Calibrated, init_args: {threshold: 0.4}}
count: 3
names: [a, b]
rates: {a: 0.5}
kind: {instruction: "Read {passage}", parser: lines}
"""
REPLY = {"id": "1", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {
    "role": "assistant", "content": "Ida Kolm built it."}, "text": "Ida."}], "usage": {"prompt_tokens": 5,
    "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}}  # fmt: skip


def _rollout(repeat: int) -> Rollout:
    return Rollout(
        round=0, context_id="mill", edit_index=0, repeat=repeat, seed=1, prompt="Read.", text="Ida.", status="ok",
        questions=("Who?",), golds=(("Ida",),), baseline_answers=("?",), baseline_scores=(0.0,), answers=("Ida",),
        scores=(1.0,), baseline=0.0, score=1.0, gain=1.0, reward=1.0,
    )  # fmt: skip


def _journal_rows() -> list[dict[str, Any]]:
    rows = [{"unit": 0, "of": 2, **rollout_to_dict(_rollout(repeat))} for repeat in range(2)]
    return [{"stamp": {"seed": 0, "settings": {"a": 1}}}, *rows]


# -- making ------------------------------------------------------------------------------------------------------------


def _edit(chance: random.Random) -> tuple[bytes, str]:
    return changed(chance.choice(EDITS).encode(), chance), ".txt"


def _journal(chance: random.Random) -> tuple[bytes, str]:
    rows = _journal_rows()
    lines = [json.dumps(row).encode() for row in rows]
    at = chance.randrange(len(rows))
    lines[at] = changed_json(rows[at], chance).replace(b"\n", b" ")
    data = b"\n".join(lines) + b"\n"
    return (changed(data, chance) if chance.random() < 0.3 else data), chance.choice((".jsonl", ".rank-0.jsonl"))


def _official(chance: random.Random) -> tuple[bytes, str]:
    data = changed_json(chance.choice((SEAL, SQUAD, ARC, PUBLISHED, PUBLISHED)), chance)
    return _packed(data, ".json", chance)


def _yaml(chance: random.Random) -> tuple[bytes, str]:
    return changed(chance.choice((CONFIG, GRADE)).encode(), chance), ".yaml"


def _document(chance: random.Random) -> tuple[bytes, str]:
    kind = chance.randrange(8)
    if kind == 0:
        return changed(_archive(chance), chance), chance.choice((".docx", ".epub"))
    suffix, text = chance.choice(DOCUMENTS)
    if suffix in (".json", ".ipynb") and kind < 5:
        return _packed(changed_json(json.loads(text), chance), suffix, chance)
    if kind == 1:
        return changed(text.encode("utf-16"), chance), suffix
    return _packed(changed(text.encode(), chance), suffix if kind > 2 else chance.choice(DOCUMENTS)[0], chance)


def _archive(chance: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as book:
        for name, text in (
            ("META-INF/container.xml", "<c xmlns='a'><rootfile full-path='p.opf'/></c>"),
            ("p.opf", "<p xmlns='a'><title>Mill</title><item id='i' href='c.html'/><itemref idref='i'/></p>"),
            ("c.html", "<html><body><p>Ida built it.</p></body></html>"),
            ("word/document.xml", "<w:document xmlns:w='http://schemas.openxmlformats.org/wordprocessingml/2006/main'>"
             "<w:body><w:p><w:r><w:t>Ida</w:t></w:r></w:p></w:body></w:document>"),
        ):  # fmt: skip
            book.writestr(name, changed(text.encode(), chance))
    return file.getvalue()


def _packed(data: bytes, suffix: str, chance: random.Random) -> tuple[bytes, str]:
    if chance.random() > 0.1:
        return data, suffix
    packed = gzip.compress(data, mtime=0)
    return (changed(packed, chance) if chance.random() < 0.5 else packed), f"{suffix}.gz"


def _reply(chance: random.Random) -> tuple[bytes, str]:
    return changed_json(REPLY, chance), ".json"


# -- reading -----------------------------------------------------------------------------------------------------------

_KINDS = [Knowledge(edit=EditKind("{passage}", parser=parser)) for parser in ("lines", "blocks", "questions", "whole")]
_GRADERS = (Recall(), Calibrated(), Contains())
_QUERY_WRITER = QueryWriter()
ARC_TASK, ARC_GRADER = ArcTask(), GridMatch()


def read_edit_text(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    for task in (*_KINDS, Knowledge(directives=DirectiveLimits(layers=("depth", "kinds")), strip_numbering=True)):
        edit = task.read_edit(text, CONTEXT)
        assert edit.training_sequences or edit.reason, "an edit without sequences has a reason"
    read_edit(text, ArcLimits())
    ARC_GRADER.grade(question="", golds=[GRID], answer=ARC_TASK.read_answer(text))
    _QUERY_WRITER._filtered(text, CONTEXT)
    answer = _KINDS[0].read_answer(text)
    for grader in _GRADERS:
        assert 0 <= grader.grade(question="Who built it?", golds=["Ida Kolm", "李明"], answer=answer) <= 1


def read_directives(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    said, asked = split_directives(text)
    DirectiveLimits().apply(asked)
    read_choice(text)
    json.dumps([said, asked], ensure_ascii=False, allow_nan=False).encode()
    _, asked, _ = read_edit(text, ArcLimits())
    json.dumps(asked, ensure_ascii=False, allow_nan=False).encode()


def read_journal(path: Path) -> None:
    unfinished_units(path, path.read_bytes())
    for entry in read_entries(str(path)):
        to_markdown(to_table(accuracy_table(entry.rollouts)))
    name = path.name.partition(".")[0]
    Journal(path.parent, name, stamp=_journal_rows()[0]["stamp"])


def read_official(path: Path) -> None:
    refused = []
    for read in (lambda: _published(path), lambda: read_contexts(str(path))):
        try:
            read()
        except SealError as error:
            refused.append(error)
    if len(refused) == 2:
        raise refused[0]


def _published(path: Path) -> None:
    run = read_run(path)
    published_figures(run)
    json.dumps(to_official(run.rollouts, contexts=run.contexts, header=run.header))


@cache
def _parser() -> Parser:
    parser = Parser("grade")
    parser.add_argument("--config", action="config")
    parser.add_argument("--grader", type=Calibrated | str, default="recall")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--names", type=list[str], default=[])
    parser.add_argument("--rates", type=dict[str, float], default={})
    parser.add_argument("--kind", type=EditKind | None, default=None)
    return parser


def read_yaml(path: Path) -> None:
    """As a config file, which may be none of these options, as a value on the command line, and as that of a run."""
    text = path.read_bytes().decode("utf-8", "replace")
    run = path.with_name("config.yaml")
    run.write_bytes(path.read_bytes())
    for read in (
        lambda: _parser().read(["--config", str(path)]),
        lambda: _parser().read(["--rates", text]),
        lambda: _parser().read([f"--kind={text}"]),
        lambda: _configuration(run.parent),
    ):
        with suppress(SealError):
            read()
    read_config("--config", str(path))


def read_document(path: Path) -> None:
    read_sources([str(path)])


def read_server_reply(path: Path) -> None:
    try:
        reply = read_reply(path.read_bytes())
    except Garbled as error:
        raise SealError(str(error)) from None
    read_option(reply.text, ("no", "yes"))


KINDS: Mapping[str, Kind] = {
    "edits": Kind(_edit, read_edit_text),
    "directives": Kind(_edit, read_directives),
    "journals": Kind(_journal, read_journal),
    "official files": Kind(_official, read_official),
    "YAML": Kind(_yaml, read_yaml),
    "documents": Kind(_document, read_document),
    "server replies": Kind(_reply, read_server_reply),
}


# -- running -----------------------------------------------------------------------------------------------------------


def fuzz(kind: str, count: int, *, seed: int = 0, limit: float = LIMIT, failures: Path | None = None) -> Outcome:
    """Make and read inputs of a kind; each depends on the seed and its number only."""
    outcome = Outcome()
    for number in range(count):
        data, suffix = KINDS[kind].make(random.Random(f"{kind} {seed} {number}"))
        started = time.process_time()
        fault, refused = read_one(kind, data, suffix, limit=limit)
        seconds = time.process_time() - started
        outcome.inputs += 1
        outcome.refused += refused
        outcome.slowest = max(outcome.slowest, seconds)
        if not fault and seconds > limit:
            fault = f"took {seconds:.1f} s"
        if fault:
            outcome.failed.append((number, fault))
            if failures is not None:
                failures.mkdir(parents=True, exist_ok=True)
                place = failures / f"{kind.replace(' ', '-')}-{seed}-{number}{suffix}"
                place.write_bytes(data)
                place.with_name(f"{place.name}.traceback").write_text(fault, encoding="utf-8", errors="replace")
    return outcome


def read_one(kind: str, data: bytes, suffix: str, *, limit: float = LIMIT) -> tuple[str, bool]:
    """What went wrong with an input ("" for nothing), and whether it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"train-000{suffix}"
        path.write_bytes(data)
        try:
            with _alarm(limit):
                KINDS[kind].read(path)
        except SealError as error:
            text = str(error)
            return ("" if text and "\n" not in text else f"a message of several lines: {text!r}"), True
        except TooSlow:
            return f"over {limit} s\n{traceback.format_exc()}", False
        except Exception:  # what is looked for
            return traceback.format_exc(), False
    return "", False


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise `TooSlow` after so many seconds of processor time, wherever Python code runs then."""

    def late(number: int, frame: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--failures", type=Path, default=Path("build/fuzz"), help="folder for inputs that failed")
    parser.add_argument("--replay", type=Path, help="read one such input again")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.replay:
        name = options.replay.name
        kind = next(kind for kind in KINDS if name.startswith(f"{kind.replace(' ', '-')}-"))
        suffix = name[name.index(".") :]
        fault, refused = read_one(kind, options.replay.read_bytes(), suffix)
        print(fault or ("refused" if refused else "read"))
        return bool(fault)
    print("| kind | inputs | refused | slowest ms | failures |\n|---|---|---|---|---|", flush=True)
    failed = 0
    for kind in options.kinds:
        outcome = fuzz(kind, options.inputs, seed=options.seed, failures=options.failures)
        failed += len(outcome.failed)
        counts = f"{outcome.inputs:,} | {outcome.refused:,} | {outcome.slowest * 1000:,.0f} | {len(outcome.failed)}"
        print(f"| {kind} | {counts} |", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
