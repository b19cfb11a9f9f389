"""Several runs on one page: what they differ in beside their results, and the runs that lie in another's folder."""

import shutil

import pytest

from seal_lightning.cli import main
from seal_lightning.errors import DataError
from seal_lightning.report.alike import differences_of
from seal_lightning.report.measure import measure
from seal_lightning.report.read import read, read_all
from seal_lightning.results.pairing import contexts_of, digest_of, pair_contexts, titles_of


def model(config, **changes):
    return {**config, "model": {**config["model"], **changes}}


@pytest.fixture
def written(capfd):
    """Report on runs; gives the Markdown and the HTML page."""

    def run(*sources):
        assert main(["report", *map(str, sources)]) == 0
        return tuple((sources[0] / f"report.{kind}").read_text() for kind in ("md", "html"))

    return run


def test_the_control_in_a_run_is_shown_beside_it(written, fitted, runs):
    run = fitted("quickstart")
    lots = {**runs.config, "filter": {"class_path": "seal_lightning.callbacks.RandomFilter", "init_args": {"k": 1}}}
    fitted("quickstart/control", config=lots)
    markdown, html = written(run)
    assert "2 runs, which differ in filter." in markdown
    assert "| filter ReSTEMFilter | quickstart | 0.500 | 0.250 | 0.750 |" in markdown
    assert "| filter RandomFilter | control | 0.500 | 0.250 | 0.750 |" in markdown
    assert "control: filter RandomFilter against the first: +0.0 points" in markdown
    assert "<h1>quickstart · control</h1>" in html
    assert html.count('<details class="run" open>') == 1 and html.count('<details class="run">') == 1


def test_many_differences_are_counted_in_the_first_sentence(written, fitted, runs):
    changed = dict.fromkeys(("a", "b", "c", "d", "e", "f"), 1)
    markdown, _ = written(fitted("one"), fitted("other", config=model(runs.config, **changed)))
    assert "2 runs, which differ in a, b, c and 3 more." in markdown


def test_a_folder_of_runs_is_all_of_them(fitted):
    first, _ = fitted("sweep/one"), fitted("sweep/two")
    assert [run.name for run in read_all([str(first.parent), str(first)])] == ["one", "two"]
    with pytest.raises(DataError, match="expected a run folder, got one without journals"):
        read_all([str(first.parent.parent)])


def test_what_a_link_in_a_run_leads_to_is_none_of_its_runs(fitted):
    run = fitted("run")
    shutil.move(fitted("run/control"), run.with_name("elsewhere"))
    (run / "control").symlink_to(run.with_name("elsewhere"))
    assert [found.name for found in read_all([str(run)])] == ["run"]


def test_runs_that_were_not_measured_alike_say_so(fitted, runs):
    one = fitted("one", config=model(runs.config, reward="gain"))
    other = fitted("other", config=model(runs.config, grader="recall"), table=False)
    assert differences_of([measure(read(str(run))) for run in (one, other)]) == [
        "Not all runs have come to their end: other (not finished: validation after round 1 of 1, 2 of 2 contexts).",
        "The graders differ, so the same answer may get another score, so a difference may be the grader’s alone: "
        "exact_match (one); recall (other).",
        "The rewards differ, so rewards of the runs are not on one scale; accuracies are: gain (one); none (other).",
    ]
    assert differences_of([measure(read(str(one)))]) == []


def test_other_held_out_contexts_are_said(fitted, runs, tmp_path):
    unit = [runs.scored(0.5, context_id="fen"), runs.scored(0.5, context_id="x", passage_digest="x")]
    journals = {"validation-000": [unit]}
    other = runs.write(tmp_path / "other", journals, table=True)
    found = differences_of([measure(read(str(run))) for run in (fitted("one"), other)])
    assert found == ["The held-out contexts of other are not those of one: 1 are in both, of 2 and 2."]


# -- which contexts are the same ---------------------------------------------------------------------------------------


def asked(runs, name, passage, *, question="What?", **changes):
    digest = digest_of(f"{passage} stands.")
    return runs.scored(
        0.5, context_id=name, title=passage, passage_digest=digest, questions=(question,), golds=(("a",),), **changes
    )


def test_contexts_are_told_by_their_passages_and_not_by_their_ids(runs):
    one = [asked(runs, "0", "Fen"), asked(runs, "1", "Moor")]
    other = [asked(runs, "0", "Moor"), asked(runs, "1", "Fen"), asked(runs, "2", "Tarn")]
    found = pair_contexts(one, other)
    assert (found.pairs, found.mine, found.others, found.whole) == ((("0", "1"), ("1", "0")), 2, 3, False)


def test_the_same_passage_with_other_queries_is_not_the_same(runs):
    found = pair_contexts([asked(runs, "0", "Fen")], [asked(runs, "0", "Fen", question="Who?")])
    assert (found.pairs, found.reworded) == ((), 1)


def test_a_rejected_edit_leaves_the_queries_to_another_edit(runs):
    ((_, queries),) = contexts_of([runs.rejected(questions=(), golds=()), runs.scored(0.5)]).values()
    assert len(queries) == 2


def test_white_space_around_a_passage_does_not_make_another(runs):
    assert digest_of(" The fen. \n") == digest_of("The fen.") != digest_of("the fen.")
    assert digest_of(" \n") == ""


def test_contexts_are_called_by_their_titles(runs):
    rollouts = [asked(runs, "0", "Fen"), runs.scored(0.5, context_id="1")]
    rollouts += [runs.scored(0.5, context_id=name, title="Moor") for name in ("2", "3")]
    assert titles_of(rollouts) == {"0": "Fen", "1": "1", "2": "Moor (2)", "3": "Moor (3)"}
