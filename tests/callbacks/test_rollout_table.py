"""The table of a round: literal Markdown, and text that would break it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from samples import BARE

from seal_lightning.callbacks import RolloutTable
from seal_lightning.errors import ConfigError
from seal_lightning.m_step.selection import group_rollouts
from seal_lightning.results.rollout_tables import diversity_table
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup


def outcome(index: int, reward: float | None, text: str = "Oil burns.", *, context: str = "lamp") -> EditOutcome:
    score = reward or 0.0
    return EditOutcome(context, index, "prompt", text, reward=reward, score=score, gain=score - 0.25, repeats=1)


def rejected(index: int, *, repeat: int = 0, reason: str = "empty text", context: str = "lamp") -> Rollout:
    return replace(BARE, context_id=context, edit_index=index, repeat=repeat, status="rejected", reason=reason)


def render(outcomes, rollouts=(), kept=(), *, round=0, **options) -> str:
    groups = [RolloutGroup("lamp", tuple(outcomes))]
    return RolloutTable(**options).render(rollouts, groups, kept, round=round)


def cell(text: str, **options) -> str:
    """How one edit's text appears."""
    (row,) = [line for line in render([outcome(0, 0.5, text)], **options).split("\n") if line.startswith("| lamp")]
    return row.removeprefix("| lamp    | 0    | 0.500  | 0.500 | 0.250 |").removesuffix("|").strip()


def test_a_small_table():
    outcomes = [outcome(0, 0.0), outcome(1, 1.0), outcome(2, 0.5), outcome(3, None), outcome(4, 0.25)]
    rollouts = [rejected(3), rejected(3, repeat=1)]
    assert render(outcomes, rollouts, [outcomes[1]], round=1, rows=1) == "\n".join(
        [
            "# Round 2: 4 scored edits, 1 rejected, 1 kept",
            "",
            "## Best",
            "",
            "| context | edit | reward | score | gain  | kept | text       |",
            "| ------- | ---- | ------ | ----- | ----- | ---- | ---------- |",
            "| lamp    | 1    | 1.000  | 1.000 | 0.750 | yes  | Oil burns. |",
            "",
            "## Worst",
            "",
            "| context | edit | reward | score | gain   | text       |",
            "| ------- | ---- | ------ | ----- | ------ | ---------- |",
            "| lamp    | 0    | 0.000  | 0.000 | -0.250 | Oil burns. |",
            "",
            "## Rejected",
            "",
            "- lamp, edit 3: empty text",
            "",
        ]
    )


def shown(text: str, section: str) -> list[int]:
    """Edit indices of one section, in order."""
    parts = text.split(f"## {section}\n")
    return [int(line.split("|")[2]) for line in parts[1].split("##")[0].split("\n") if line.startswith("| lamp")]


def test_best_and_worst_share_no_row():
    outcomes = [outcome(index, index / 10) for index in range(5)]
    assert shown(render(outcomes, rows=2), "Best") == [4, 3]
    assert shown(render(outcomes, rows=2), "Worst") == [1, 0]
    assert shown(render(outcomes, rows=3), "Worst") == [1, 0]
    assert shown(render(outcomes, rows=5), "Best") == [4, 3, 2, 1, 0]
    assert "## Worst" not in render(outcomes, rows=5)


def test_equal_rewards_keep_their_order():
    assert shown(render([outcome(index, 0.5) for index in range(3)]), "Best") == [0, 1, 2]


def test_a_round_without_any_usable_edit():
    text = render([outcome(0, None), outcome(1, None)], [rejected(0), rejected(1)])
    assert text.startswith("# Round 1: 0 scored edits, 2 rejected, 0 kept\n")
    assert "## Best" not in text
    assert text.endswith("## Rejected\n\n- lamp, edit 0: empty text\n- lamp, edit 1: empty text\n")


# -- text of the model -------------------------------------------------------------------------------------------------


def test_html_does_not_get_through():
    assert cell("<script>alert('x')</script> & more") == ("&#60;script&#62;alert('x')&#60;/script&#62; &#38; more")


def test_a_pipe_does_not_end_the_cell():
    assert cell("a | b || c") == "a &#124; b &#124;&#124; c"
    assert cell("a \\| b") == "a &#92;&#124; b"  # a backslash before the pipe would undo a backslash escape
    assert cell("`a|b` [link](http://x) ![image](y)") == ("&#96;a&#124;b&#96; &#91;link](http://x) !&#91;image](y)")


def test_line_breaks_of_every_kind_become_slashes():
    assert cell("one\n\n  two\r\nthree\rfour\u2028five\x0bsix\x85seven\n") == (
        "one / two / three / four / five / six / seven"
    )
    assert cell(" \n\t\n") == ""


def test_a_long_text_is_cut():
    assert cell("x" * 300) == "x" * 300
    assert cell("x" * 301) == "x" * 299 + "…"
    assert cell("y" * 100_000, max_chars=10) == "y" * 9 + "…"
    assert cell("line\n" * 20_000, max_chars=12) == "line / line…"
    assert len(render([outcome(0, 0.5, "<" * 100_000)])) < 3000


def test_names_and_reasons_are_escaped_too():
    text = RolloutTable().render(
        [rejected(0, reason="bad | <b>\nreason", context="a|b")],
        [RolloutGroup("a|b", (outcome(1, 0.5, context="a|b"),))],
        [],
        round=0,
    )
    assert "| a&#124;b | 1    | 0.500  |" in text
    assert "- a&#124;b, edit 0: bad &#124; &#60;b&#62; / reason" in text


# -- as a callback -----------------------------------------------------------------------------------------------------


def e_step_end(folder, *, first=True, rounds_done=0, text="Oil burns.") -> None:
    rollouts = [replace(BARE, context_id="lamp", text=text, score=0.5, gain=0.25, reward=0.5)]
    trainer = SimpleNamespace(is_global_zero=first, default_root_dir=str(folder))
    groups = group_rollouts(rollouts)
    RolloutTable().on_e_step_end(
        trainer,
        SimpleNamespace(rounds_done=rounds_done),
        rollouts=rollouts,
        groups=groups,
        kept=list(groups[0].outcomes),
    )


def test_the_file_of_a_round(tmp_path):
    e_step_end(tmp_path, rounds_done=3, text="Zürich 東京 \ud800")  # a lone surrogate cannot be written as UTF-8
    (path,) = tmp_path.rglob("*.md")
    assert path == tmp_path / "tables" / "round-003.md"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Round 4: 1 scored edits, 0 rejected, 1 kept\n")
    assert "| lamp    | 0    | 0.500  | 0.500 | 0.250 | yes  | Zürich 東京 ⟨U+D800⟩ |" in text


def test_only_the_first_process_writes(tmp_path):
    e_step_end(tmp_path, first=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "got"), [({"rows": 0}, "0 and 300"), ({"max_chars": 0}, "5 and 0")])
def test_options_are_checked(options, got):
    with pytest.raises(ConfigError, match=rf"table\.rows and table\.max_chars must be at least 1, got {got}"):
        RolloutTable(**options)


def written(index: int, text: str, *, kind: str = "", score: float = 0.5, context: str = "lamp") -> Rollout:
    return replace(
        BARE, context_id=context, edit_index=index, repeat=0, status="ok", text=text, edit_kind=kind, baseline=0.25,
        score=score, gain=score - 0.25, reward=score,
    )  # fmt: skip


def test_what_came_of_each_kind_and_which_edits_are_alike():
    rollouts = [written(0, "Oil burns.", kind="facts"), written(1, "Who? Ada.", kind="self-qa", score=0.75)]
    rollouts += [written(2, "Oil burns.", kind="facts", score=0.0)]
    groups = group_rollouts(rollouts)
    text = RolloutTable(rows=1).render(rollouts, groups, [groups[0].outcomes[1]], round=0)
    kinds, best, _, diversity = text.split("## ")[1:]
    assert kinds.splitlines()[2:] == [
        "| edit_kind | edits | rejected | score | gain  | kept |",
        "| --------- | ----- | -------- | ----- | ----- | ---- |",
        "| facts     | 2     | 0.000    | 0.250 | 0.000 | 0    |",
        "| self-qa   | 1     | 0.000    | 0.750 | 0.500 | 1    |",
        "",
    ]
    assert "| lamp    | 1    | self-qa   | 0.750  |" in best
    assert diversity.splitlines()[2].split() == "| context | compression | distinct | similarity |".split()
    assert "## Kinds" not in RolloutTable().render([written(0, "Oil burns.")], groups, [], round=0)


def test_the_contexts_whose_edits_are_most_alike_come_first():
    texts = {"ford": ("Oil burns.", "It is old."), "lamp": ("Oil burns.", "Oil burns."), "tarn": ("One.", "")}
    rollouts = [written(place, text, context=name) for name, pair in texts.items() for place, text in enumerate(pair)]
    table = diversity_table(rollouts)
    assert [row[0] for row in table.rows] == ["lamp", "ford"], "a single text differs from nothing"
    assert table.rows[0][3] == 1.0 > table.rows[1][3]
