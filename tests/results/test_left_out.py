"""Whatever is cut, skipped or dropped is counted once, and stands in the log, the tables, the card and the report."""

import json
import logging
from dataclasses import replace

import pytest

from seal_lightning.commands.adapt import command as adapt
from seal_lightning.e_step.own_queries import QueryWriter
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.grading import Contains, Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.m_step.batches import MStep, encode_taught, tell_truncated
from seal_lightning.m_step.objectives import Taught
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.records.lines import rollout_from_dict, rollout_to_dict
from seal_lightning.report.costs import Prices
from seal_lightning.report.page import render
from seal_lightning.report.read import read
from seal_lightning.results.left_out import added, render_left_out, tell_left_out, total_left_out
from seal_lightning.sampling import LocalSampler, PolicyWriter
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context, EditOutcome, Prompt, Query, Rollout, Written

TARN = Context(
    "tarn", "Tarn", "Tarn was founded by Ada Merrow in 1204.", (Query("Who?", ("Ada",)),), ("One.\nTwo.\nThree.",)
)


@pytest.fixture(scope="module")
def policy() -> Policy:
    model, tokenizer = build_tiny("llama")
    return Policy(model.eval().requires_grad_(False), tokenizer, False)


def e_step(**options) -> EStep:
    return EStep(
        task=options.pop("task", Knowledge()),
        sampler=LocalSampler(max_new_tokens=8),
        inner_loop=options.pop("inner_loop", InnerLoop(rank=2, epochs=1)),
        grader=Contains(),
        reward=Reward(),
        max_answer_tokens=4,
        **options,
    )


def rollout(**options) -> Rollout:
    return Rollout(round=0, context_id="a", edit_index=0, repeat=0, seed=0, prompt="", text="", status="ok", **options)


# -- counting ----------------------------------------------------------------------------------------------------------


def test_the_line():
    counts = {"truncated": 2, "longest": 4100, "skipped": 1, "edits": 1, "pieces": 3, "answers": 1}
    assert render_left_out(counts) == (
        "2 training sequences truncated (the longest has 4,100 tokens): raise inner_loop.max_length (at most to the "
        "model's window), or take shorter passages; 1 training sequence skipped, with nothing to learn in what is left "
        "of it; 1 self-edit cut at the sampler's max_new_tokens; 3 pieces of self-edits beyond task.max_sequences left "
        "out; 1 answer cut at max_answer_tokens"
    )
    assert render_left_out({}) == ""
    assert added([{"longest": 5, "skipped": 1}, {"longest": 7, "skipped": 2, "edits": 0}]) == {
        "longest": 7,
        "skipped": 3,
    }


def test_what_belongs_to_an_edit_counts_once_and_answers_every_time():
    first = rollout(left_out={"truncated": 2, "longest": 90, "edits": 1, "answers": 1, "queries: repeats another": 1})
    again = replace(first, repeat=1, left_out={"truncated": 2, "longest": 90, "edits": 1, "answers": 2})
    other = replace(first, edit_index=1, left_out={"truncated": 1, "longest": 60})
    assert total_left_out([first, again, other]) == {
        "truncated": 3, "longest": 90, "edits": 1, "answers": 3, "queries: repeats another": 1,
    }  # fmt: skip


def test_one_warning_where_training_data_is_lost(caplog):
    caplog.set_level(logging.INFO, logger="seal_lightning")
    tell_left_out("round 1", [rollout(left_out={"truncated": 1, "longest": 90})])
    tell_left_out("round 2", [rollout(left_out={"answers": 1})])
    tell_left_out("round 3", [rollout()])
    tell_left_out("round 4", [rollout(left_out={"skipped": 1})], only=False)
    assert [(record.levelname, record.getMessage()[:29]) for record in caplog.records] == [
        ("WARNING", "round 1: 1 training sequence "),
        ("INFO", "round 2: 1 answer cut at max_"),
    ]


def test_journals_without_counts_are_read_and_written_as_before():
    plain = rollout()
    assert "left_out" not in rollout_to_dict(plain)
    assert rollout_from_dict(json.loads(json.dumps(rollout_to_dict(plain)))) == plain
    cut = rollout(left_out={"edits": 1})
    assert rollout_from_dict(json.loads(json.dumps(rollout_to_dict(cut)))) == cut


# -- where things are cut ----------------------------------------------------------------------------------------------


def test_an_e_step_counts_all_of_it(policy):
    step = e_step(inner_loop=InnerLoop(rank=2, epochs=1, max_length=12), task=Knowledge(append_passage=True))
    found = replace(step, plan=Plan(edits=1, repeats=2)).run(policy, [TARN], round=0)
    counts = total_left_out(found)
    assert counts["edits"] == 1  # eight random tokens, and no end
    assert counts["truncated"] >= 1 and counts["longest"] == 45  # title, passage and EOS
    assert set(counts) <= {"edits", "truncated", "longest", "answers", "skipped"}


def test_pieces_beyond_the_tasks_limit():
    edit = Knowledge(max_sequences=1, append_passage=False).parse("One.\nTwo.\nThree.", TARN)
    assert (len(edit.training_sequences), edit.left_out) == (1, 2)
    assert Knowledge().parse("One.\nTwo.", TARN).left_out == 0


def test_an_answer_is_cut_where_its_own_line_is(policy, monkeypatch):
    """A base model that writes on after its answer loses nothing."""
    step = e_step()
    (own,) = step.ask(policy, [[(TARN, TARN.queries[0])]], clock=_Clock())
    texts = {"Ada\nQuestion: and": 0, "Ada Merr": 1}
    for text, cut in texts.items():
        monkeypatch.setattr(policy.tokenizer, "decode", lambda tokens, text=text, **options: text)
        (one,) = step.ask(policy, [[(TARN, TARN.queries[0])]], clock=_Clock())
        assert one.cut == cut
    assert own.tokens == 4


class _Clock:
    def phase(self, name, total):
        from contextlib import nullcontext

        return nullcontext(lambda count: None)


def test_texts_of_the_policy_say_where_they_were_cut(policy):
    (written,) = PolicyWriter(policy).write([Prompt("Say more")], max_tokens=3)
    assert written.cut
    (sample,) = LocalSampler(max_new_tokens=3).sample(policy, [_request()])
    assert sample.cut and sample.tokens == 3


def _request():
    from seal_lightning.sampling import SampleRequest

    return SampleRequest("Write", TARN, 0, 0)


def test_own_queries_say_what_was_dropped():
    class Cut:
        def write(self, prompts, *, max_tokens):
            text = "Question: Who founded Tarn?\nAnswer: Ada\nQuestion: When?\nAnswer: 1204\nQuestion: A\nAnswer: B"
            return [Written(text, cut=True) for _ in prompts]

    (one,) = QueryWriter(count=1, check=False).write([TARN], policy=Cut(), grader=Contains())  # type: ignore[arg-type]
    assert one.dropped == {
        "no question of its own": 1, "cut at query_writer.max_tokens": 1, "beyond the first 1": 1,
    }  # fmt: skip


def test_edits_that_lose_their_end(policy, caplog):
    kept = [
        EditOutcome("a", index, "Write:", text, 1.0, 1.0, 0.0, 1) for index, text in enumerate(["short", "long " * 20])
    ]
    settings = MStep(max_length=40)
    taught = encode_taught(policy, [Taught((edit,)) for edit in kept], settings=settings)
    assert tell_truncated(taught, settings) == 1
    (message,) = caplog.messages
    assert message == (
        "M-step: 1 of 2 edits lost their end, the longest has 107 tokens with its prompt: raise "
        "model.m_step.max_length (40; at most to the model's window), or lower the sampler's max_new_tokens"
    )
    assert tell_truncated(taught, settings, only=False) == 1
    assert len(caplog.messages) == 1


# -- where it is told --------------------------------------------------------------------------------------------------


def test_adapt_tells_it_in_terminal_table_card_result_and_report(tmp_path, capsys):
    rows = [
        {"id": "one", "passage": "A" * 90, "queries": [{"question": "Who?", "answers": ["Ada"]}]},
        {"id": "two", "passage": "B"},
    ]
    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = "--model.source.name random/llama --learn passage --model.inner_loop.rank 2 --model.inner_loop.epochs 1"
    limits = "--model.inner_loop.max_length 40 --model.max_answer_tokens 3 --model.grader contains"
    adapt.main([str(documents), "--output", str(tmp_path / "out"), *options.split(), *limits.split()])
    said = capsys.readouterr()
    line = "1 training sequence truncated (the longest has 91 tokens): raise inner_loop.max_length"
    assert f"cut or left out in training the adapters: {line}" in said.err
    assert f"Cut or left out: {line}" in said.out
    out = tmp_path / "out"
    assert f"Cut or left out: {line}" in (out / "adapt.md").read_text()
    assert f"Cut or left out: {line}" in (out / "adapters" / "one" / "README.md").read_text()
    assert "Cut or left out" not in (out / "adapters" / "two" / "README.md").read_text()
    found = json.loads((out / "adapters" / "one" / "adaptation.json").read_text())["left_out"]
    assert (found["truncated"], found["longest"]) == (1, 91)
    assert [adapter.left_out.get("truncated", 0) for adapter in read(str(out)).adapters] == [1, 0]


def test_the_report_tells_it(fitted_with_cuts):
    html, markdown = render([read(str(fitted_with_cuts))], now=0.0, prices=Prices())
    assert "Cut or left out, round 1 E-step: 1 self-edit cut at the sampler" in markdown
    assert "Cut or left out, round 1 E-step: 1 self-edit cut at the sampler" in html


@pytest.fixture
def fitted_with_cuts(tmp_path):
    from seal_lightning.records.journal import Journal

    scored = rollout(reward=1.0, questions=("Who?",), golds=(("Ada",),), answers=("Ada",), scores=(1.0,),
                     baseline_answers=("no",), baseline_scores=(0.0,), score=1.0, left_out={"edits": 1})  # fmt: skip
    Journal(tmp_path / "journal", "train-000", stamp={}).append(0, [scored])
    (tmp_path / "config.yaml").write_text("trainer: {max_epochs: 1}\n")
    return tmp_path
