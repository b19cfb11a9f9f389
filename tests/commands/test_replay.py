"""`seal replay`: what it prints and writes, that published runs and a fit's own choices come back, and its mistakes."""

import gzip
import json
import re
from dataclasses import replace

import pytest
from fault_injection import finished, fit

from seal_lightning.cli import main
from seal_lightning.hooks import EditFilter
from seal_lightning.records.journal import Journal
from seal_lightning.types import Rollout

ROLLOUT = Rollout(
    round=0,
    context_id="lamp",
    edit_index=0,
    repeat=0,
    seed=0,
    prompt="Read Lamp.",
    text="It burns oil.",
    status="ok",
    questions=("When?",),
    golds=(("1851",),),
    baseline_answers=("?",),
    answers=("In 1851.",),
    baseline_scores=(0.0,),
    scores=(1.0,),
    score=1.0,
    gain=1.0,
    reward=1.0,
)
WORSE = replace(ROLLOUT, edit_index=1, text="It is.", answers=("No",), scores=(0.0,), score=0.0, gain=0.0, reward=0.0)
TARN = {"context_id": "tarn", "prompt": "Read Tarn."}
ROLLOUTS = [
    WORSE,
    replace(ROLLOUT, edit_index=2),
    replace(ROLLOUT, **TARN, text="It freezes."),
    replace(WORSE, **TARN, answers=("1851?",)),  # a verdict that no grader of ours shares
]
KEPT = [
    {"prompt": "Read Lamp.", "completion": "It burns oil."},
    {"prompt": "Read Tarn.", "completion": "It freezes."},
]


class Shortest(EditFilter):
    """Keeps the shortest usable edit of each context."""

    def select(self, groups):
        usable = [[edit for edit in group.outcomes if edit.reward is not None] for group in groups]
        return [min(edits, key=lambda edit: len(edit.text)) for edits in usable]


@pytest.fixture
def replay(capfd):
    """Run `seal replay`; gives what it prints, and expects that to go well."""

    def run(*args):
        capfd.readouterr()
        code = main(["replay", *map(str, args)])
        printed = capfd.readouterr()
        assert (code, printed.err) == (0, "")
        return printed.out

    return run


@pytest.fixture
def mistake(capfd):
    """Run `seal replay`; gives its one line of complaint."""

    def run(*args):
        capfd.readouterr()
        code = main(["replay", *map(str, args)])
        printed = capfd.readouterr()
        assert (code, printed.out) == (2, "")
        assert printed.err.startswith("seal: ") and printed.err.count("\n") == 1, printed.err
        return printed.err

    return run


@pytest.fixture
def run(tmp_path):
    """A run folder with one round and a validation."""
    journal = Journal(tmp_path / "run" / "journal", "train-000", stamp={})
    journal.append(0, ROLLOUTS)
    journal.keep(ROLLOUTS[1:3], round=0)
    passage = replace(ROLLOUT, kind="passage", edit_index=-1, prompt="", text="")
    Journal(tmp_path / "run" / "journal", "validation-000", stamp={}).append(0, [passage, ROLLOUT])
    return tmp_path / "run"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def golden(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_tables(replay, run):
    assert replay(run) == (
        "|                         | contexts | edits | repeats | queries | rejected | kept |\n"
        "| ----------------------- | -------- | ----- | ------- | ------- | -------- | ---- |\n"
        "| train-000               | 2        | 4     | 1       | 2       | 0.0%     | 2    |\n"
        "| validation-000          | 1        | 1     | 1       | 1       | 0.0%     |      |\n"
        "| validation-000, passage | 1        | 1     | 1       | 1       | 0.0%     |      |\n"
        "\n"
        "|                         | baseline        | score           | gain    | over edits | within edits "
        "| improved | solved | best edit | reward |\n"
        "| ----------------------- | --------------- | --------------- | ------- | ---------- | ------------ "
        "| -------- | ------ | --------- | ------ |\n"
        "| train-000               | 0.0000 ± 0.0000 | 0.5000 ± 0.0000 | +0.5000 | 0.7071     | 0.0000       "
        "| 50.0%    | 50.0%  | 1.0000    | 0.5000 |\n"
        "| validation-000          | 0.0000 ± 0.0000 | 1.0000 ± 0.0000 | +1.0000 | 0.0000     | 0.0000       "
        "| 100.0%   | 100.0% | 1.0000    | 1.0000 |\n"
        "| validation-000, passage | 0.0000 ± 0.0000 | 1.0000 ± 0.0000 | +1.0000 | 0.0000     | 0.0000       "
        "| 100.0%   | 100.0% | 1.0000    | 1.0000 |\n"
    )


def test_entries_of_one_name_go_by_their_source(replay, run, tmp_path):
    Journal(tmp_path / "other", "train-000", stamp={}).append(0, ROLLOUTS)
    found = json.loads(replay(run / "journal" / "train-000", tmp_path / "other", "--json"))
    assert list(found["figures"]) == [f"{run}/journal/train-000: train-000", f"{tmp_path}/other: train-000"]


def test_json_is_all_that_is_printed(replay, run):
    found = json.loads(replay(run, "--json", "--grader", "contains"))
    assert found["figures"]["train-000"]["score"] == [0.75, pytest.approx(0.35355339)]
    assert found["figures"]["train-000"]["kept"] == 2
    assert found["figures"]["validation-000"]["kept"] is None
    assert found["regrading"]["answers"] == 4
    assert (found["comparison"], found["published"], found["written"]) == (None, {}, [])


# -- graders, rewards, filters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grader", ["contains", "seal_lightning.grading.Contains"])
def test_another_grader(replay, run, grader):
    out = replay(run / "journal" / "train-000", "--grader", grader)
    assert "graded anew: 4 distinct answers, 75.0% as before, κ 0.500\n" in out
    assert "| train-000 | 0.0000 ± 0.0000 | 0.7500 ± 0.3536 | +0.7500 | 0.3536 " in out
    assert re.search(r"\| +\| score +\|\n", out)  # the terms of the reward


def test_another_reward_chooses_other_edits(replay, run, tmp_path):
    replay(run, "--reward", "{length: -1}", "--filter.above", "null", "--sft", tmp_path / "kept.jsonl")
    assert [row["completion"] for row in lines(tmp_path / "kept.jsonl")] == ["It is.", "It freezes."]


def test_another_filter(replay, run, tmp_path):
    replay(run, "--filter", f"{__name__}.Shortest", "--sft", tmp_path / "kept.jsonl")
    assert [row["completion"] for row in lines(tmp_path / "kept.jsonl")] == ["It is.", "It is."]


def test_options_from_yaml(replay, run, tmp_path):
    (tmp_path / "options.yaml").write_text(
        "grader: {class_path: seal_lightning.grading.Recall, init_args: {threshold: 0.5}}\n"
        "reward: {gain: 1.0}\n"
        "filter: {class_path: seal_lightning.callbacks.ReSTEMFilter, init_args: {k: 5, min_gain: 0.5}}\n"
    )
    found = json.loads(replay(run, "--config", tmp_path / "options.yaml", "--json"))
    assert found["figures"]["train-000"]["kept"] == 3
    assert list(found["figures"]["train-000"]["terms"]) == ["gain"]


def test_without_a_filter_option_the_filter_is_the_one_of_fit(replay, run, tmp_path):
    replay(run, "--sft", tmp_path / "pure.jsonl")
    replay(run, "--filter.k", "1", "--sft", tmp_path / "callback.jsonl")
    assert lines(tmp_path / "pure.jsonl") == lines(tmp_path / "callback.jsonl") == KEPT


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_kept_edits_are_written(replay, run, tmp_path):
    path = tmp_path / "new" / "kept.jsonl"
    assert replay(run, "--sft", path).endswith(f"\nwritten: {path}: 2 kept edits\n")
    assert lines(path) == KEPT
    replay(run, "--sft", path, "--reward", "{score: -1}", "--filter.above", "null")
    assert [row["completion"] for row in lines(path)] == ["It is.", "It is."]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (KEPT, "2 of 2"),
        ([{**KEPT[0], "completion": "It burns oil.\n"}, KEPT[1]], "2 of 2"),
        ([KEPT[0], {**KEPT[1], "completion": "It is."}], "1 of 2, and 1 that is not there; not kept of tarn"),
        ([KEPT[0]], "1 of 1, and 1 that is not there"),
        ([*KEPT, KEPT[0]], "2 of 3; not kept of lamp"),
        (
            [*KEPT, {"prompt": "Read Moor.", "completion": "It is wet."}],
            "2 of 3; not kept of a prompt that is in none of the files",
        ),
        ([{**KEPT[0], "completion": str(n)} for n in range(7)], "not kept of lamp, lamp, lamp, lamp, lamp and 2 more"),
    ],
)
def test_comparison(replay, run, tmp_path, rows, said):
    path = golden(tmp_path / "golden.jsonl", *rows)
    assert replay(run, "--compare", path).splitlines()[-1].startswith(f"kept as in {path}: ")
    assert replay(run, "--compare", path).endswith(f"{said}\n")


def test_what_differs_has_a_table_and_stands_in_the_json(replay, run, tmp_path):
    """The lamp's edits 0 and 2 tie, and the tarn's edit 1 is worse than the one that was kept."""
    journal = Journal(tmp_path / "tied" / "journal", "train-000", stamp={})
    rollouts = [*ROLLOUTS, replace(ROLLOUT, text="It burns.", edit_index=0)]
    journal.append(0, rollouts)
    journal.keep([rollouts[-1], rollouts[2]], round=0)
    path = golden(tmp_path / "golden.jsonl", KEPT[0], {**KEPT[1], "completion": "It is."})
    out = replay(tmp_path / "tied", "--compare", path)
    assert out.endswith(
        "| not kept as in golden.jsonl | theirs | reward | kept here | reward |           |\n"
        "| --------------------------- | ------ | ------ | --------- | ------ | --------- |\n"
        "| lamp                        | edit 2 | 1.0000 | edit 0    | 1.0000 | exact tie |\n"
        "| tarn                        | edit 1 | 0.0000 | edit 0    | 1.0000 | miss      |\n"
        "\n"
        f'kept as in {path}: 0 of 2, 1 exact tie (context "lamp": edits 0 and 2 both 1.0000; theirs is edit 2), '
        "and 1 that is not there; not kept of tarn\n"
    )
    tie = {"context": "lamp", "theirs": 2, "ours": 0, "their_reward": 1.0, "our_reward": 1.0, "tied": [0, 2]}
    miss = {"context": "tarn", "theirs": 1, "ours": 0, "their_reward": 0.0, "our_reward": 1.0, "tied": []}
    found = json.loads(replay(tmp_path / "tied", "--compare", path, "--json"))["comparison"]
    assert (found["same"], found["more"], found["ties"], found["misses"]) == (0, 1, [tie], [miss])


def test_a_fit_kept_what_replay_keeps(replay, once, tmp_path):
    """The fit's own table names every edit that its filter chose."""
    folder = once("uninterrupted-single", lambda folder: finished(fit(folder / "run", "single"))) / "run"
    for number in (0, 1):
        name = f"train-{number:03d}"
        replay(folder / "journal" / name, "--sft", tmp_path / name)
        rows = lines(folder / "journal" / f"{name}.rank-0.jsonl")[1:-1]
        texts = {(row["context_id"], str(row["edit_index"])): (row["prompt"], row["text"]) for row in rows}
        table = (folder / "tables" / f"round-{number:03d}.md").read_text().splitlines()
        cells = [[cell.strip() for cell in line.split("|")] for line in table if " | yes " in line]
        chosen = [texts[cell[1], cell[2]] for cell in cells]
        assert len(chosen) == 4
        assert sorted((row["prompt"], row["completion"]) for row in lines(tmp_path / name)) == sorted(chosen)


def test_kept_edits_are_those_that_the_journal_names(replay, run, tmp_path):
    """And not those that a filter would choose again."""
    Journal(run / "journal", "train-000", stamp={}).keep([ROLLOUTS[0]], round=0)
    assert json.loads(replay(run, "--json"))["figures"]["train-000"]["kept"] == 1
    replay(run, "--sft", tmp_path / "kept.jsonl")
    assert [row["completion"] for row in lines(tmp_path / "kept.jsonl")] == ["It is."]
    assert (
        json.loads(replay(run, "--json", "--filter.k", "2", "--filter.above", "null"))["figures"]["train-000"]["kept"]
        == 4
    )


def test_a_round_without_a_choice_says_so(replay, mistake, run, tmp_path):
    path = run / "journal" / "train-000.rank-0.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))  # killed before the filter
    words = "what was kept of train-000 is not written down, as before a round's filter has chosen"
    assert words in replay(run) and json.loads(replay(run, "--json"))["unknown"] == ["train-000"]
    assert words in mistake(run, "--sft", tmp_path / "kept.jsonl")
    assert json.loads(replay(run, "--json", "--filter.k", "1"))["figures"]["train-000"]["kept"] == 2


# -- official runs -----------------------------------------------------------------------------------------------------


def test_journals_become_official_runs(replay, run, tmp_path):
    contexts = [{"id": "lamp", "title": "Lamp", "passage": "The lamp is old."}]
    (tmp_path / "contexts.json").write_text(json.dumps(contexts))
    path = tmp_path / "out" / "run_0.json.gz"
    out = replay(run, "--to-official", path, "--contexts", tmp_path / "contexts.json")
    assert f"{path}: 2 contexts of train-000, 1 by their ids and without passages (name the data with" in out
    content = json.loads(gzip.decompress(path.read_bytes()))
    assert [(a["title"], a["context"]) for a in content["articles"]] == [("Lamp", "The lamp is old."), ("tarn", "")]
    assert content["exp_name"] == "train-000"
    again = replay(path)
    assert "run_0: 7 of 7 published figures reproduced to 4 digits\n" in again
    assert "| run_0 | 0.0000 ± 0.0000 | 0.5000 ± 0.0000 | +0.5000 |" in again


def test_edits_that_a_race_dropped_are_left_out_of_official_runs(replay, tmp_path):
    lost = [replace(one, reward=None, dropped="racing: 1 of 2 repeats trained") for one in ROLLOUTS[:1]]
    lost += [replace(lost[0], repeat=1, answers=(), scores=())]
    Journal(tmp_path / "raced", "train-000", stamp={}).append(0, [*lost, *ROLLOUTS[1:]])
    path = tmp_path / "run_0.json"
    assert ", 1 dropped by a race left out\n" in replay(tmp_path / "raced", "--to-official", path)
    texts = [[edit["text"] for edit in one["completions"]] for one in json.loads(path.read_text())["articles"]]
    assert sum(map(len, texts)) == len(ROLLOUTS) - 1 and ROLLOUTS[0].text not in texts[0]


def test_official_runs_go_through_unchanged(replay, run, tmp_path):
    replay(run, "--to-official", tmp_path / "run_0.json")
    replay(tmp_path / "run_0.json", "--to-official", tmp_path / "run_1.json")
    assert (tmp_path / "run_0.json").read_bytes() == (tmp_path / "run_1.json").read_bytes()


def test_figures_that_do_not_come_out_are_named(replay, run, tmp_path):
    path = tmp_path / "run_0.json"
    replay(run, "--to-official", path)
    content = json.loads(path.read_text())
    content["overall"]["mean_gain"] = 0.9
    path.write_text(json.dumps(content))
    said = "run_0: 6 of 7 published figures reproduced to 4 digits; mean_gain 0.5000 (published: 0.9000)\n"
    assert replay(path).endswith(said)


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("rank_iter0", [0.3187, 0.2252, 0.4018, 0.1891, 0.1244, 0.1592, 0.0831]),
        ("rank_iter0_prompt-rewrite", [0.2888, 0.2309, 0.5016, 0.1792, 0.1582, 0.1833, 0.2128]),
    ],
)
def test_published_figures(replay, shared, name, figures):
    found = json.loads(replay(shared / "data" / "seal-published" / f"{name}.json.gz", "--json"))
    row = found["figures"][name]
    assert (row["contexts"], row["edits"], row["repeats"]) == (50, 250, 3)
    own = [*row["baseline"], *row["score"], row["over_edits"], row["within_edits"], row["gain"]]
    assert [round(value, 4) for value in own] == figures
    assert list(found["published"][name].values()) == [[value, value] for value in figures]


def test_the_authors_choices(replay, shared):
    published = shared / "data" / "seal-published"
    path = published / "sft_best1of5_iter0.jsonl"
    out = replay(published / "rank_iter0.json.gz", "--compare", path)
    assert out.endswith(f"7 of 7 published figures reproduced to 4 digits\nkept as in {path}: 50 of 50\n")


def test_where_the_authors_rounding_decided(replay, shared):
    second = shared / "data" / "seal-2025-08"
    path = second / "sft_3B_best1of5_iter0.jsonl"
    out = replay(second / "rank_3B_iter0.json.gz", "--compare", path)
    assert out.endswith(
        f"kept as in {path}: 49 of 50, 1 exact tie "
        '(context "mexico-city-83bcd8f0": edits 1 and 4 both 0.4000; theirs is edit 4)\n'
    )


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "FILE is not set: name a run folder, a journal, or an official run_*.json"),
        (["{at}/none.json"], "none.json: expected a file, got nothing there: check the path"),
        (["{at}/broken.json"], "broken.json, line 1: expected JSON, got: "),
        (["{at}/tables.json"], "tables.json, row 1: the row must be an official run with articles, got the fie"),
        (["{at}/cut.json.gz"], "cut.json.gz: expected a whole gzip file, got: "),
        (["{at}/torn.jsonl"], "torn.jsonl: expected a journal with a finished unit, got none"),
        (["{at}/run", "--nope", "1"], "--nope: unknown option"),
        (["{at}/run", "--grader", "nobody"], "grader must be one of calibrated, recall, contains, "),
        (["{at}/run", "--grader", "no.such.Grader"], "got 'no.such.Grader': use a name or a class_path"),
        (["{at}/run", "--reward", "luck"], "reward must be made of score, "),
        (["{at}/run", "--reward", "carry_over"], "carry_over of context 'lamp' was not measured"),
        (["{at}/run", "--filter", "Nobody"], "--filter: expected a class_path such as "),
        (["{at}/run", "--reward", "{{length: -1}}"], "filter.above must be below the highest reward that there can be"),
        (["{at}/run", "--filter.k", "0"], "filter.k must be at least 1, got 0"),
        (["{at}/run", "--config", "{at}/none.yaml"], "--config {at}/none.yaml: cannot be read"),
        (["{at}/run", "--compare", "{at}/none.jsonl"], "none.jsonl: expected a file, got nothing there"),
        (["{at}/run", "--compare", "{at}/other.jsonl"], "other.jsonl: expected prompts that stand in the files too"),
        (["{at}/run", "--compare", "{at}/rows.jsonl"], "rows.jsonl, line 1: field prompt must be text, got nothing"),
        (["{at}/run", "--sft", "{at}"], "--sft {at}: expected a file or a new name, got a folder or device"),
        (["{at}/run", "--sft", "/dev/null"], "--sft /dev/null: expected a file or a new name, got a folder or device"),
        (["{at}/run", "--sft", "{at}/broken.json/kept.jsonl"], "kept.jsonl: File exists; choose a place where"),
        (["{at}/run", "--compare", "{at}/kept.jsonl", "--sft", "{at}/kept.jsonl"], "than the one that was read"),
        (["{journal}/validation-000", "--sft", "{at}/x"], "expected rollouts to learn from, got validation and test"),
        (
            ["{at}/run", "{at}/two", "--to-official", "{at}/x"],
            "--to-official: expected one round with self-edits, got {at}/run: train-000, {at}/two: train-000: name one",
        ),
        (["{at}/run", "--to-official", "{at}/x", "--contexts", "{at}/none"], "{at}/none: expected a file or folder"),
    ],
)  # fmt: skip
def test_mistakes(mistake, run, tmp_path, args, words):
    Journal(tmp_path / "two", "train-000", stamp={}).append(0, ROLLOUTS)
    files = {"broken.json": b"{", "tables.json": b'{"base": {}}', "torn.jsonl": b'{"stamp": {}}\n{"unit"'}
    files |= {"cut.json.gz": gzip.compress(b"{}" * 99)[:-9], "rows.jsonl": b'{"completion": "c"}'}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    golden(tmp_path / "kept.jsonl", *KEPT)
    golden(tmp_path / "other.jsonl", {"prompt": "Read Moor.", "completion": "It is wet."})
    places = {"at": tmp_path, "journal": run / "journal"}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    given = [arg.format(**places) for arg in args]
    assert words.format(**places) in mistake(*given)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_journal_is_never_written_over(mistake, run):
    path = run / "journal" / "train-000.rank-0.jsonl"
    assert "expected another file than the one that was read" in mistake(run, "--sft", path)
    assert len(lines(path)) == 6


def test_help_names_every_option(capfd):
    assert main(["replay", "--help"]) == 0
    out = capfd.readouterr().out
    options = ("grader", "reward", "filter", "sft", "compare", "to-official", "contexts", "json", "config")
    assert all(f"--{option} " in out or f"--{option}\n" in out for option in options)
    assert "ReSTEMFilter" in out
