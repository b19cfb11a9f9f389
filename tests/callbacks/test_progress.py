"""What the screen shows: literal lines of a log, bars on a terminal alone, silence from the other processes."""

import io
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console
from samples import BARE

from seal_lightning.callbacks import EStepProgress
from seal_lightning.errors import ConfigError
from seal_lightning.fit.metrics import term_metrics
from seal_lightning.m_step.batches import MStep, Shares
from seal_lightning.progress.clock import Progress
from seal_lightning.types import Rollout


def rollout(kind="edit", *, baseline=0.25, score=0.5, context="lamp") -> Rollout:
    return replace(BARE, context_id=context, kind=kind, baseline=baseline, score=score)


def trainer(*, first=True, epoch=0, batches=2, loss=1.5, shares=Shares(1, 1, 1)) -> SimpleNamespace:
    return SimpleNamespace(
        is_global_zero=first, current_epoch=epoch, num_training_batches=batches, callback_metrics={"m_step/loss": loss},
        shares=shares,
    )  # fmt: skip


def module(*, rounds_done=0, kept=(1,), taught=None, told="", figures=None) -> SimpleNamespace:
    metrics = {
        "reward/mean": 0.25,
        "reward/best": 0.5,
        "e_step/rejected_frac": 0.125,
        "e_step/seconds": 61.2,
    }
    return SimpleNamespace(
        rounds_done=rounds_done, kept=list(kept), taught=list(kept if taught is None else taught), m_step_told=told,
        e_step_metrics=metrics, m_step_metrics=dict(figures or {}), m_step=MStep(epochs=2),
    )  # fmt: skip


def plain(**options) -> EStepProgress:
    return EStepProgress(**{"every_seconds": 0.0, **options})


def units(
    progress, *, phase="train", done=2, finished=0, rounds_done=0, first=True, rollouts=None, seconds=((1.0,),)
) -> None:
    border = (trainer(first=first), module(rounds_done=rounds_done))
    rollouts = [rollout()] if rollouts is None else rollouts
    progress.setup(*border, "fit")
    progress.on_units_start(*border, phase=phase, units=done, finished=finished)
    for unit in range(finished, done):
        progress.on_unit_progress(*border, phase=phase, progress=Progress("inner loop", 3, 9))
        progress.on_unit_end(*border, phase=phase, unit=unit, rollouts=rollouts)
        for _ in range(2):  # as a rank that waits for others is told again and again
            progress.on_units_progress(*border, phase=phase, finished=unit + 1)
    progress.on_units_end(*border, phase=phase, rollouts=rollouts, seconds=seconds)


def m_step(progress, losses, *, start=0, epoch=0) -> None:
    """As after a resume at batch `start`, where Lightning does not announce the epoch again."""
    if not start:
        progress.on_train_epoch_start(trainer(epoch=epoch), module())
    for index, loss in enumerate(losses, start):
        border = (trainer(epoch=epoch, batches=start + len(losses), loss=loss), module())
        progress.on_train_batch_start(*border, None, index)
        progress.on_train_batch_end(*border, None, None, index)


def test_a_log_has_one_line_a_unit(capsys):
    units(plain())
    assert capsys.readouterr().out.splitlines() == [
        "round 1 E-step: unit 1/2, base 0.250 · edits 0.500, about 0 s left",
        "round 1 E-step: unit 2/2, base 0.250 · edits 0.500, about 0 s left",
    ]


def test_lines_are_not_wrapped_and_not_read_as_markup(capsys):
    plain().line("[bold] " + "long " * 100)
    assert capsys.readouterr().out == "[bold] " + "long " * 100 + "\n"


def test_a_log_is_not_flooded(capsys):
    units(plain(every_seconds=1000.0), done=50)
    assert capsys.readouterr().out == ""


def test_finished_units_are_told_and_do_not_count_as_speed(capsys):
    units(plain(), done=3, finished=2, rounds_done=4)
    assert capsys.readouterr().out.splitlines() == [
        "round 5 E-step: 2 of 3 units are in the journal already",
        "round 5 E-step: unit 3/3, base 0.250 · edits 0.500, about 0 s left",
    ]


def test_validation_ends_with_its_means(capsys):
    rollouts = [rollout(), rollout("passage", score=0.375), rollout(score=1.0, baseline=0.75, context="tarn")]
    units(plain(every_seconds=1000.0), phase="validation", rollouts=rollouts)
    units(plain(every_seconds=1000.0), phase="validation", rollouts=rollouts, rounds_done=2)
    units(plain(every_seconds=1000.0), phase="test", rollouts=rollouts)  # `seal test` prints its own table
    assert capsys.readouterr().out.splitlines() == [
        "validation before training: base 0.500 · passage 0.375 · edits 0.750 (2 contexts), 0 s",
        "validation after round 2: base 0.500 · passage 0.375 · edits 0.750 (2 contexts), 0 s",
    ]


def test_the_end_of_an_e_step(capsys):
    progress = plain(every_seconds=1000.0)
    units(progress, rounds_done=1)
    progress.on_e_step_end(trainer(), module(rounds_done=1), rollouts=[], groups=[], kept=[None, None])
    assert capsys.readouterr().out == (
        "round 2 E-step: reward 0.250 on average, 0.500 for the best of each context; 12% rejected, 2 edits kept, "
        "1 min 01 s\n"
    )


def test_terms_and_cost_of_an_e_step(capsys):
    progress, one = plain(every_seconds=1000.0), module()
    scored = [replace(rollout(context=name), terms={"score": s, "length": 0.5}) for name, s in (("a", 0.0), ("b", 1.0))]
    one.e_step_metrics |= term_metrics(scored)
    used = {"requests": 2, "prompt_tokens": 30, "completion_tokens": 4, "dollars": 0.0125}
    rollouts = [replace(rollout(), usage={"sampling": used, "grading": {"cached": 3}})]
    units(progress)
    progress.on_e_step_end(trainer(), one, rollouts=rollouts, groups=[], kept=[])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "round 1 E-step: score 0.500 ± 0.707 · length 0.500 ± 0.000",
        "round 1 E-step: endpoints: 2 requests and 3 from the cache, 30 prompt and 4 completion tokens, $0.012500",
    ]


def test_one_term_has_no_statistics_of_its_own():
    assert term_metrics([replace(rollout(), terms={"score": 1.0})]) == {}


def test_the_m_step_tells_the_loss_of_its_first_and_last_epoch(capsys):
    progress = plain()
    m_step(progress, [4.0, 3.0, 2.0, 1.0], epoch=1)
    m_step(progress, [8.0, 6.0, 7.0, 4.0, 2.0, 3.0], epoch=2)
    assert capsys.readouterr().out.splitlines() == [
        "round 2 M-step: loss 3.500 in the first epoch, 1.500 in the last, 4 batches, 0 s",
        "round 3 M-step: loss 7.000 in the first epoch, 3.000 in the last, 6 batches, 0 s",
    ]


def test_an_m_step_resumed_half_way(capsys):
    m_step(plain(), [2.0, 1.0], start=5)
    assert (
        capsys.readouterr().out == "round 1 M-step: loss 2.000 in the first epoch, 1.000 in the last, 2 batches, 0 s\n"
    )


def test_several_ranks_are_told_apart(capsys):
    units(plain(every_seconds=1000.0), seconds=[[1.0, 2.0], [], [4.0]])
    assert (
        capsys.readouterr().out
        == "round 1 E-step: rank 0 2 units in 1.5 s each, rank 1 0 units, rank 2 1 units in 4.0 s each\n"
    )


def test_the_effective_batch_is_stated(capsys):
    progress = plain()
    made = module()
    made.m_step = MStep(epochs=2, batch_size=2, effective_batch=10)
    border = (trainer(batches=1, shares=made.m_step.shares(3, accumulation=1)), made)
    progress.on_train_batch_start(*border, None, 0)
    progress.on_train_batch_end(*border, None, None, 0)
    assert "1 batch of each rank, effective batch 10, 0 s" in capsys.readouterr().out


def test_a_round_that_kept_nothing(capsys):
    plain().on_train_epoch_start(trainer(epoch=2), module(kept=()))
    assert capsys.readouterr().out == "round 3: no self-edit was kept, the M-step is skipped\n"


def test_a_round_that_kept_edits_and_teaches_nothing(capsys):
    plain().on_train_epoch_start(trainer(epoch=2), module(taught=()))
    assert capsys.readouterr().out == "round 3: there is nothing to learn, the M-step is skipped\n"


def test_what_is_compared_and_what_came_of_it(capsys):
    told = module(told="dpo learns from 6 edits in 3 comparisons, 1 of 4 contexts teach nothing")
    progress = plain()
    progress.on_e_step_end(trainer(), told, rollouts=[], groups=[], kept=[])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "round 1 M-step: dpo learns from 6 edits in 3 comparisons, 1 of 4 contexts teach nothing"
    ]
    figures = {"m_step/seconds": 3.0, "m_step/mean_loss": 0.4, "m_step/mean_margin": 1.25, "m_step/mean_kl": 0.0125}
    progress.on_m_step_end(trainer(epoch=1), module(figures=figures))
    assert capsys.readouterr().out == "round 2 M-step: margin 1.250 · kl 0.013\n"
    progress.on_m_step_end(trainer(), module(figures={"m_step/mean_loss": 0.4}))
    assert capsys.readouterr().out == ""


def test_other_processes_are_quiet(capsys):
    progress = plain(bars=True)
    units(progress, first=False)
    units(progress, first=False, phase="validation")
    progress.on_e_step_end(trainer(first=False), module(), rollouts=[], groups=[], kept=[])
    m_step(progress, [2.0, 1.0])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599.6, "1 h 00 min"),
        (7380, "2 h 03 min"),
    ],
)
def test_durations(seconds, said, capsys):
    progress = plain()
    units(progress, done=0)
    made = module()
    made.e_step_metrics["e_step/seconds"] = seconds
    progress.on_e_step_end(trainer(), made, rollouts=[], groups=[], kept=[])
    assert capsys.readouterr().out.endswith(f", {said}\n")


def test_time_left_is_that_of_the_units_to_come(capsys, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    progress = plain(every_seconds=25.0)
    border = (trainer(), module())
    progress.on_units_start(*border, phase="train", units=10, finished=4)
    for unit in range(4, 7):
        clock.now += 20.0
        progress.on_unit_end(*border, phase="train", unit=unit, rollouts=[rollout()])
        progress.on_units_progress(*border, phase="train", finished=unit + 1)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "round 1 E-step: unit 6/10, base 0.250 · edits 0.500, about 1 min 20 s left"
    ]


# -- bars --------------------------------------------------------------------------------------------------------------


def on_terminal(**options) -> EStepProgress:
    progress = plain(bars=True, **options)
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=100, soft_wrap=True, color_system=None)
    return progress


def test_bars_only_on_a_terminal():
    assert EStepProgress().bars is False  # the tests' output is a pipe
    assert EStepProgress(bars=True).bars is True


def test_bars_show_units_phase_and_batches():
    progress = on_terminal()
    units(progress, done=3, finished=0)
    m_step(progress, [2.0, 1.0])
    shown = progress.console.file.getvalue()
    assert "round 1 E-step" in shown and "3/3" in shown
    assert "inner loop" in shown and "3/9" in shown
    assert "round 1 M-step" in shown and "2/2" in shown
    assert "unit 1/3" not in shown  # the bar tells it
    assert "round 1 M-step: loss 2.000 in the first epoch, 1.000 in the last, 2 batches, 0 s" in shown


@pytest.mark.parametrize("how", ["exception", "teardown"])
def test_bars_give_the_terminal_back(how):
    progress = on_terminal()
    border = (trainer(), module())
    progress.on_units_start(*border, phase="train", units=3, finished=0)
    hidden, shown = "\x1b[?25l", "\x1b[?25h"  # the cursor
    assert progress.console.file.getvalue().count(hidden) == 1
    assert progress.console.file.getvalue().count(shown) == 0
    if how == "exception":
        progress.on_exception(*border, KeyboardInterrupt())
    else:
        progress.teardown(*border, "fit")
    assert progress.console.file.getvalue().count(shown) == 1


def test_every_seconds_is_checked():
    with pytest.raises(ConfigError, match=r"progress\.every_seconds must be 0 or more, got -1"):
        EStepProgress(every_seconds=-1)


def test_a_log_says_what_is_worked_on_where_units_take_long(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("seal_lightning.progress.screen.time", SimpleNamespace(monotonic=lambda: now[0]))
    progress, border = plain(every_seconds=30.0), (trainer(), module())
    progress.setup(*border, "fit")
    progress.on_units_start(*border, phase="train", units=13, finished=0)
    for seconds, done in ((10, 20), (29, 100), (31, 120), (59, 200), (62, 250)):
        now[0] = 100.0 + seconds
        progress.on_unit_progress(*border, phase="train", progress=Progress("sampling", done, 250))
    now[0] += 1
    progress.on_units_progress(*border, phase="train", finished=13)
    now[0] += 2
    progress.on_unit_progress(*border, phase="train", progress=Progress("sampling", 1, 250))
    lines = [line.rsplit("E-step: ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["sampling 120/250", "sampling 250/250", "unit 13/13, about 0 s left"]
