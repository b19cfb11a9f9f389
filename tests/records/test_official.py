"""Official run files: what is read from them, what is written, and that the published ones survive both."""

import gzip
import json
from dataclasses import replace

import pytest

from seal_lightning.errors import DataError
from seal_lightning.records.official import UNANSWERED, published_figures, read_run, to_official
from seal_lightning.types import Context, Rollout


def question(rep, before, after, *, name="When?"):
    verdicts = {"baseline_correct": before, "adapter_correct": after}
    return {
        "rep": rep, "question": name, "answer": "1851", "baseline_answer": "?", "adapter_answer": "In 1851.", **verdicts
    }  # fmt: skip


def edit(text, *verdicts):
    """An edit with one repeat for each (before, after)."""
    return {"text": text, "questions": [question(rep, *pair) for rep, pair in enumerate(verdicts)]}


def article(title, *edits):
    return {"title": title, "context": f"{title} stands.", "prompt": f"Read {title}.", "completions": list(edits)}


LAMP = article("Lamp", edit("It burns oil.", (False, True), (False, False)), edit("It is new.", (False, True), (0, 1)))
TARN = article("Tarn", edit("It freezes.", (True, True), (True, False)), edit(""))


@pytest.fixture
def read(tmp_path):
    """Read the run with that content."""

    def read(content, name="run_0.json"):
        text = json.dumps(content).encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return read_run(tmp_path / name)

    return read


@pytest.mark.parametrize("name", ["run_0.json", "run_0.json.gz"])
def test_a_rollout_for_each_edit_and_repeat(read, name):
    run = read({"exp_name": "lamps", "articles": [LAMP, TARN]}, name)
    assert run.header == {"exp_name": "lamps"}
    lamp, tarn = run.contexts
    assert (lamp.title, lamp.passage) == ("Lamp", "Lamp stands.")
    assert [(r.context_id, r.edit_index, r.repeat, r.score, r.status) for r in run.rollouts] == [
        (lamp.id, 0, 0, 1.0, "ok"),
        (lamp.id, 0, 1, 0.0, "ok"),
        (lamp.id, 1, 0, 1.0, "ok"),
        (lamp.id, 1, 1, 1.0, "ok"),
        (tarn.id, 0, 0, 1.0, "ok"),
        (tarn.id, 0, 1, 0.0, "ok"),
        (tarn.id, 1, 0, 1.0, "rejected"),
    ]
    assert run.rollouts[0] == Rollout(
        round=0,
        context_id=lamp.id,
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
        baseline=0.0,
        score=1.0,
        gain=1.0,
        reward=1.0,
        title="Lamp",
        passage_digest="18f5934fd3ac83fe",
    )


def test_a_rejected_edit_leaves_the_policy_as_it_was(read):
    rejected = read({"articles": [TARN]}).rollouts[-1]
    assert (rejected.reason, rejected.reward) == (UNANSWERED, None)
    assert (rejected.baseline, rejected.score, rejected.gain) == (1.0, 1.0, 0.0)


def test_figures_by_hand(read):
    content = to_official(read({"articles": [LAMP, TARN]}).rollouts)
    assert (content["n_articles"], content["k_completions"], content["eval_times"]) == (2, 2, 2)
    assert content["overall"] == {
        "baseline_mean_accuracy": 0.5,
        "baseline_std_of_article_means": 0.7071,  # of 0 and 1
        "adapter_mean_accuracy": 0.75,
        "adapter_std_of_article_means": 0.0,
        "mean_adapter_std_over_completions": 0.3536,  # of .5 and 1, twice
        "mean_adapter_std_within_completions": 0.3536,  # .7071 for two of four edits
        "mean_gain": 0.25,
    }
    assert content["articles"][0]["stats"] == {
        "baseline_accuracy": 0.0,
        "adapter_mean_accuracy": 0.75,
        "adapter_std_over_completions": 0.3536,
        "mean_adapter_std_within_completions": 0.3536,
        "mean_gain": 0.75,
    }
    assert content["articles"][0]["completions"][0]["stats"] == {
        "baseline_mean": 0.0,
        "baseline_std": 0.0,
        "adapter_mean": 0.5,
        "adapter_std": pytest.approx(0.70710678),
        "gain_mean": 0.5,
    }


def test_one_edit_and_one_repeat_have_no_spread(read):
    run = read({"articles": [article("Lamp", edit("e", (0, 1))), article("Tarn", edit("e", (0, 0)))]})
    overall = to_official(run.rollouts)["overall"]
    assert overall["mean_adapter_std_over_completions"] == overall["mean_adapter_std_within_completions"] == 0.0
    assert overall["adapter_std_of_article_means"] == 0.7071


def test_there_and_back(read):
    first = read({"exp_name": "lamps", "articles": [LAMP, TARN]})
    content = to_official(first.rollouts, contexts=first.contexts, header=first.header)
    again = read(content)
    assert (again.rollouts, again.contexts) == (first.rollouts, first.contexts)
    assert to_official(again.rollouts, contexts=again.contexts, header=again.header) == content
    assert published_figures(again) == {name: (value, value) for name, value in content["overall"].items()}


def test_scores_that_are_no_verdicts_are_kept(read):
    run = read({"articles": [article("Lamp", edit("e", (0.25, 0.5)))]})
    (written,) = to_official(run.rollouts)["articles"][0]["completions"][0]["questions"]
    assert (written["baseline_correct"], written["adapter_correct"]) == (0.25, 0.5)


def test_rollouts_of_ours_are_written(read):
    """Without its passage a context goes by its id; what the format has no place for is left out."""
    ours = replace(read({"articles": [LAMP]}).rollouts[0], context_id="lamp", golds=(("1851", "in 1851"),), seed=7)
    rollouts = [ours, replace(ours, kind="passage", edit_index=-1)]
    bare = to_official(rollouts)
    assert len(bare["articles"][0]["completions"]) == 1
    assert bare["articles"][0]["completions"][0]["questions"][0]["answer"] == "1851"
    assert read(bare).rollouts == (replace(ours, golds=(("1851",),), seed=0, title="lamp", passage_digest=""),)
    whole = to_official(rollouts, contexts=[Context("lamp", "Lamp", "It stands.")])
    assert [(a["title"], a["context"]) for a in whole["articles"]] == [("Lamp", "It stands.")]


def test_the_same_passage_twice_is_two_contexts(read):
    one, two = read({"articles": [LAMP, LAMP]}).contexts
    assert two.id == f"{one.id}#2"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"title": "T"}, {"title": "U"}], "row 1: the row must be an official run with articles, got 2 rows"),
        ({"base": {"mean_gain": 0.1}}, "must be an official run with articles, got the fields base: name a run_*.json"),
        ({"articles": {}}, "field articles must be a list, got an object"),
        ({"articles": []}, "field articles must be at least one object, got an empty list"),
        ({"articles": [{**LAMP, "completions": []}]}, "field articles[0].completions must be at least one object"),
        ({"articles": [LAMP, {"title": "T"}]}, "field articles[1].context must be text, got nothing"),
        ({"articles": [article("T", {"text": 3})]}, "field articles[0].completions[0].text must be text"),
        (
            {"articles": [article("T", {"text": "e", "questions": [{**question(0, True, True), "rep": -1}]})]},
            "field articles[0].completions[0].questions[0].rep must be a whole number from 0, got the number -1",
        ),
        (
            {"articles": [article("T", edit("e", (True, "yes")))]},
            "questions[0].adapter_correct must be true, false or a score, got the text 'yes'",
        ),
        ({"articles": [article("T", edit("e", (2, True)))]}, "baseline_correct must be true, false or a score"),
    ],
)
def test_a_file_that_cannot_be_used(read, content, words):
    with pytest.raises(DataError) as caught:
        read(content)
    assert words in str(caught.value)


@pytest.mark.parametrize("cut", [5, 60])
def test_a_damaged_gzip_file(tmp_path, cut):
    path = tmp_path / "run.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"articles": [LAMP]}).encode())[:cut])
    with pytest.raises(DataError, match=r"run\.json\.gz: expected a whole gzip file, got: Compressed file ended"):
        read_run(path)


@pytest.mark.parametrize("name", ["rank_iter0.json.gz", "rank_iter0_prompt-rewrite.json.gz"])
def test_published_runs_survive_to_the_last_digit(shared, name):
    path = shared / "data" / "seal-published" / name
    content = json.loads(gzip.decompress(path.read_bytes()))
    run = read_run(path)
    assert len(run.contexts) == 50 and len(run.rollouts) == 50 * 5 * 3
    assert to_official(run.rollouts, contexts=run.contexts, header=run.header) == content
