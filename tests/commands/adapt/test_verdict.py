"""Whether adapters learnt anything: how that is judged, why they did not, and what is said last."""

import io

import pytest
from rich.console import Console

from seal_lightning.commands.adapt.verdict import EditCounts, LearningVerdict, TrainingFacts, judge
from seal_lightning.e_step.closed_book import Answered
from seal_lightning.progress.screen import Screen

SOUND = TrainingFacts(steps=40, before=2.0, after=0.5, option="model.inner_loop", left_out={})
LOST, RATE = "the loss on the training text", "together.learning_rate"


def answers(**scores):
    return {name: Answered(("",) * len(found), tuple(map(float, found))) for name, found in scores.items()}


BEFORE = answers(fen=[0, 0, 1, 0], moor=[0, 0, 0, 0], tarn=[0, 1, 0, 0])


def test_accuracy_that_rose_with_every_document_was_learnt():
    names = [f"d{number}" for number in range(6)]
    before, after = (answers(**dict.fromkeys(names, scores)) for scores in ([0, 0, 1, 0], [1, 0, 1, 0]))
    assert judge(before, after, SOUND) == LearningVerdict(
        "yes", "accuracy 0.250 before, 0.500 after; +25.0 points (+25.0 to +25.0), paired over 6 documents"
    )


def test_few_documents_are_paired_by_query():
    after = answers(fen=[1, 1, 1, 0], moor=[1, 1, 0, 0], tarn=[1, 1, 0, 0])
    assert judge(BEFORE, after, SOUND) == LearningVerdict(
        "yes",
        "accuracy 0.167 before, 0.583 after; +41.7 points (+16.7 to +66.7), paired over 12 queries of 3 documents",
    )


def test_a_rise_within_the_interval_is_not_certain():
    after = answers(fen=[1, 0, 1, 0], moor=[0, 0, 0, 0], tarn=[0, 1, 0, 0])
    verdict = judge(BEFORE, after, SOUND)
    assert (verdict.learnt, verdict.how) == (
        "not certain",
        "accuracy 0.167 before, 0.250 after; +8.3 points (+0.0 to +25.0), paired over 12 queries of 3 documents",
    )  # fmt: skip
    assert verdict.line("one each").startswith("not certain that anything was learnt (one each): accuracy 0.167 before")


def test_accuracy_that_is_not_above_before_is_nothing_learnt():
    verdict = judge(BEFORE, BEFORE, SOUND)
    assert verdict.line() == (
        "learnt nothing: accuracy 0.167 before, 0.167 after; +0.0 points (+0.0 to +0.0), paired over 12 queries of 3 "
        "documents; why: the loss on the training text fell (2.000 to 0.500), but the queries ask about other things, "
        "or in more detail; try: other or more self-edits (model.task, model.e_step.edits), more "
        "model.inner_loop.epochs"
    )


def test_one_document_is_paired_by_query():
    verdict = judge(answers(fen=[0, 0, 1, 0]), answers(fen=[1, 1, 1, 0]), SOUND)
    assert verdict.how.startswith(
        "accuracy 0.250 before, 0.750 after; +50.0 points, paired over 4 queries of 1 document"
    )
    assert verdict.learnt == "not certain"
    assert judge(answers(fen=[0]), answers(fen=[1]), SOUND).how.endswith(
        "; +100.0 points, paired over 1 query of 1 document"
    )
    assert judge(answers(fen=[0]), answers(fen=[1]), SOUND).learnt == "not certain"


def test_without_queries_the_loss_on_the_training_text_is_the_measure():
    assert judge({}, {}, SOUND) == LearningVerdict(
        "yes", "no queries were asked; the loss on the training text is 2.000 without and 0.500 with the adapter"
    )
    verdict = judge({}, {}, TrainingFacts(40, 2.0, 2.25, "together", {}))
    assert (verdict.learnt, verdict.why) == ("no", "the loss on the training text did not fall (2.000 to 2.250)")
    assert verdict.advice == "another together.learning_rate"
    assert judge({}, {}, TrainingFacts(0, None, None, "together", {})).learnt == "no"


@pytest.mark.parametrize(
    ("training", "why", "advice"),
    [
        (TrainingFacts(40, 2.0, 1.99, "together", {}), f"{LOST} hardly fell (2.000 to 1.990)", f"a higher {RATE}"),
        (TrainingFacts(2, 2.0, 1.0, "together", {}), "an adapter made 2 optimizer steps", "more together.epochs"),
        (TrainingFacts(40, 2.0, 1.0, "together", {"answers": 3}), "3 answers were", "a higher model.max_answer_tokens"),
        (TrainingFacts(40, 2.0, 1.0, "together", {"truncated": 1}), "1 training seq", "a higher together.max_length"),
    ],
)  # fmt: skip
def test_reasons(training, why, advice):
    verdict = judge(BEFORE, BEFORE, training)
    assert verdict.why.startswith(why) and verdict.advice == advice


def test_queries_that_were_all_known_before():
    known = answers(fen=[1, 1], moor=[1, 1])
    assert judge(known, known, SOUND).why == "all queries were answered right before"


def test_only_rejected_self_edits_are_nothing_learnt_whatever_passages_gave():
    after = answers(fen=[1, 1, 1, 0], moor=[1, 1, 0, 0], tarn=[1, 1, 0, 0])
    verdict = judge(BEFORE, after, SOUND, EditCounts(edits=6, rejected=6, reason="empty text"))
    assert verdict.line().startswith(
        "learnt nothing: no self-edit was usable, so only the passages themselves were learnt (accuracy 0.167 "
        "before, 0.583 after; "
    )
    assert verdict.why == "all 6 self-edits were rejected (most often: empty text)"
    assert judge(BEFORE, after, SOUND, EditCounts(edits=6, rejected=5, reason="empty text")).learnt == "yes"


@pytest.mark.parametrize(
    ("terminal", "shown"), [(True, "\x1b[1;31mlearnt nothing\x1b[0m\n"), (False, "learnt nothing\n")]
)
def test_the_last_line_is_red_on_a_terminal_and_plain_in_a_log(terminal, shown, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, color_system="standard" if terminal else None)
    Screen(console=console).line("learnt nothing", style="bold red")
    assert text.getvalue() == shown
