"""Which queries choose and which measure, and what learning is found to cost."""

import json
from dataclasses import replace

import pytest
from adapted_towns import write_inputs

from seal_lightning.commands.adapt import command as adapt
from seal_lightning.commands.adapt.edits import EditChoice
from seal_lightning.commands.adapt.measuring import said_of, set_apart
from seal_lightning.commands.adapt.unrelated import GENERAL, Unrelated, read_unrelated
from seal_lightning.data.documents import Document, Documents, read_sources
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.variants import step_for
from seal_lightning.errors import ConfigError, DataError, StaleJournalError
from seal_lightning.grading import Contains, Reward, Rubric
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.sampling import WrittenEdits
from seal_lightning.tasks import ArcTask, Classification, Knowledge
from seal_lightning.types import Context, Query

STEP = EStep(Knowledge(), WrittenEdits(), InnerLoop(), Contains(), Reward(), Plan(edits=3, repeats=1))
BY_DATA = EditChoice("edits", STEP, None, keep=1)
FEN = Context("fen", "Fen", "Eels, reeds, peat, mist.", tuple(Query(f"What is {n}?", ("peat",)) for n in "abcdefg"))
TARN = Context("tarn", "Tarn", "A lake.", (Query("What is a tarn?", ("a lake",)),))


def documents(*contexts: Context) -> Documents:
    return Documents(tuple(Document(context, (context,)) for context in contexts))


def asked(context: Context) -> str:
    return "".join(query.question[8] for query in context.queries)


def test_a_share_of_each_documents_queries_is_held_out_of_the_choice():
    fen, tarn = set_apart(documents(FEN, TARN), BY_DATA, share=0.5, seed=0).documents
    assert (asked(fen.context), asked(fen.passages[0]), len(fen.choosing)) == ("adef", "bcg", 3)
    assert fen.choosing == fen.passages[0].queries
    assert tarn.context == TARN and tarn.passages[0].queries == tarn.choosing == ()  # a single query measures
    assert said_of((fen, tarn)) == "5 queries to measure, 3 others to choose self-edits"


@pytest.mark.parametrize(("share", "measuring"), [(0.01, 1), (0.3, 3), (0.5, 4), (1.0, 7)])
def test_shares_are_rounded_up(share, measuring):
    (fen,) = set_apart(documents(FEN), BY_DATA, share=share, seed=0).documents
    assert (len(fen.context.queries), len(fen.choosing)) == (measuring, 7 - measuring)


def test_the_draw_depends_on_seed_and_question_alone():
    again = replace(FEN, queries=FEN.queries[::-1])
    first, turned = (set_apart(documents(one), BY_DATA, share=0.5, seed=0).documents[0] for one in (FEN, again))
    assert sorted(asked(first.context)) == sorted(asked(turned.context))
    other = set_apart(documents(FEN), BY_DATA, share=0.5, seed=1).documents[0]
    assert asked(other.context) != asked(first.context)


def test_a_question_that_occurs_twice_stands_on_one_side():
    twice = replace(FEN, queries=(*FEN.queries, Query("what is  A?", ("eels",)), Query("What is b?", ("mist",))))
    (fen,) = set_apart(documents(twice), BY_DATA, share=0.5, seed=0).documents
    sides = [{query.question.split()[-1].lower() for query in side} for side in (fen.context.queries, fen.choosing)]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == {f"{n}?" for n in "abcdefg"}


def test_what_no_passage_contains_cannot_choose_and_measures(tmp_path):
    row = {"passage": "The mill is old. " * 20 + "\n\n" + "It lies on the Orm. " * 20, "title": "Mill"}
    asked = [("Where?", "on the Orm"), ("How old?", "200 years"), ("Who?", "Ada"), ("What?", "the mill")]
    row["queries"] = [{"question": question, "answer": answer} for question, answer in asked]
    (tmp_path / "mill.jsonl").write_text(json.dumps(row))
    read = read_sources([str(tmp_path / "mill.jsonl")], passage_chars=400)
    (mill,) = set_apart(read, BY_DATA, share=0.25, seed=0).documents
    assert [query.question for query in mill.context.queries] == ["How old?", "Who?"]
    assert [query.question for query in mill.choosing] == ["Where?", "What?"]
    assert {query for passage in mill.passages for query in passage.queries} == set(mill.choosing)


@pytest.mark.parametrize(
    "choice",
    [
        replace(BY_DATA, keep=None),
        replace(BY_DATA, keep=3),
        replace(BY_DATA, learn="passage"),
        replace(BY_DATA, e_step=step_for(Plan(edits=3, repeats=1, score_by="rubric"), STEP, rubric=Rubric())),
        replace(BY_DATA, e_step=step_for(Plan(edits=3, repeats=1, queries="own"), STEP)),
    ],
)
def test_where_no_query_chooses_all_of_them_measure(choice):
    read = documents(FEN)
    assert set_apart(read, choice, share=0.5, seed=0) == read
    assert said_of(read.documents) == "7 queries, all of which measure; none chooses self-edits"


def test_without_a_share_the_same_queries_do_both_and_that_is_said():
    (fen,) = set_apart(documents(FEN), BY_DATA, share=0.0, seed=0).documents
    assert fen.context == fen.passages[0] == FEN and fen.choosing == FEN.queries
    assert said_of((fen,)) == "7 queries, which choose self-edits and measure, too: the accuracy after flatters"
    assert said_of(()) == ""


# -- unrelated questions -----------------------------------------------------------------------------------------------


def test_the_built_in_questions_are_forty_with_short_answers():
    contexts = read_unrelated(GENERAL, Knowledge())
    queries = [context.queries[0] for context in contexts]
    assert len({query.question for query in queries}) == len({context.id for context in contexts}) == 40
    assert all(len(gold.split()) <= 3 for query in queries for gold in query.golds)
    assert queries[0] == Query("What is the capital of France?", ("Paris",))
    assert read_unrelated("none", Knowledge()) == read_unrelated(None, Knowledge()) == ()
    assert read_unrelated(GENERAL, Classification()) == ()


def test_each_adapter_is_asked_questions_of_its_own_draw():
    unrelated = Unrelated(read_unrelated(GENERAL, Knowledge()))
    first, second = (unrelated.asked_of(name, most=12) for name in ("first", "second"))
    assert [int(context.id[-3:]) for context in first] == [0, 6, 8, 9, 14, 17, 25, 26, 31, 33, 37, 39]
    assert len(second) == 12 and second != first
    assert unrelated.asked_of("all", most=60) == list(unrelated.contexts)
    fewer = Unrelated(tuple(context for context in unrelated.contexts if context != first[0]))
    assert fewer.asked_of("first", most=12)[:11] and set(first[1:]) < set(fewer.asked_of("first", most=12))
    assert unrelated.asked_in_all(2, True) == 40 + 2 * 12 + 40


def test_a_file_of_ones_own_may_name_topics(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"title": "Rivers", "question": "Where is the Orm?", "answers": ["north", "the north"]}\n')
    (context,) = read_unrelated(str(path), Knowledge())
    assert context == Context("unrelated-000", "Rivers", "", (Query("Where is the Orm?", ("north", "the north")),))
    path.write_text('{"question": "Where is the Orm?"}\n')
    with pytest.raises(DataError, match="line 1: field answer or answers must be the accepted answers, got nothing"):
        read_unrelated(str(path), Knowledge())
    with pytest.raises(ConfigError, match="expected a task that asks questions without their context, got ArcTask"):
        read_unrelated(str(path), ArcTask())


# -- in the command ----------------------------------------------------------------------------------------------------


def run(folder, output, *options):
    config = ["--config", str(folder / "config.yaml"), "--output", str(folder / output)]
    adapt.main([str(folder / "documents.jsonl"), *config, "--adapters", "each", *options])


def fill(folder):
    write_inputs(folder)
    run(folder, "half")


@pytest.fixture
def half(once):
    """A run in which half of the queries chose."""
    return once("adapt-half", fill)


def test_table_file_and_card_tell_what_was_measured(half):
    text = (half / "half" / "adapt.md").read_text()
    assert "- 9 queries to measure, 9 others to choose self-edits.\n- Unrelated questions (one each): " in text
    assert ": accuracy 1.000 before, " in text
    assert "paired over 36 queries of 3 adapters; worst: " in text
    result = json.loads((half / "half" / "adapters" / "first" / "adaptation.json").read_text())
    (row,), unrelated = result["measured"], result["unrelated"]
    journal = [json.loads(line) for line in (half / "half" / "journal" / "adapt.rank-0.jsonl").read_text().splitlines()]
    chose = {tuple(one["questions"]) for one in journal if one.get("context_id") == "first"}
    assert len(row["questions"]) == len(row["open_book"]["answers"]) == row["chose"] == 3
    assert all(not set(questions) & set(row["questions"]) and len(questions) == 3 for questions in chose) and chose
    assert len(unrelated["questions"]) == len(unrelated["scores"]) == len(unrelated["before"]["scores"]) == 12
    card = (half / "half" / "adapters" / "first" / "README.md").read_text()
    assert "| documents | open book |" in card and "| unrelated | after " in card
    assert "Asked: 3 queries to measure, 3 others to choose self-edits." in card and "flatters" not in card


def test_another_share_is_refused_by_its_name(half):
    with pytest.raises(StaleJournalError, match=r"held_out: was 0.5, is 0.25"):
        run(half, "half", "--resume", "--held_out", "0.25")


def test_with_nothing_held_out_the_card_warns(tmp_path):
    write_inputs(tmp_path)
    run(tmp_path, "all", "--held_out", "0", "--unrelated", "none")
    assert "too: the accuracy after flatters." in (text := (tmp_path / "all" / "adapt.md").read_text())
    assert "Unrelated" not in text
    card = (tmp_path / "all" / "adapters" / "first" / "README.md").read_text()
    assert "- The queries that measured it had chosen its self-edits, too (`--held_out 0`)" in card
    assert json.loads((tmp_path / "all" / "adapters" / "first" / "adaptation.json").read_text())["unrelated"] == {}


@pytest.mark.parametrize("share", ["-0.1", "1.5"])
def test_a_share_that_is_none_is_refused(tmp_path, share):
    write_inputs(tmp_path)
    with pytest.raises(ConfigError, match="--held_out must be a share from 0 to 1, got "):
        run(tmp_path, "out", "--held_out", share)


def test_a_missing_file_of_questions_is_refused_before_the_model_is_loaded(tmp_path):
    write_inputs(tmp_path)
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        run(tmp_path, "out", "--unrelated", "nowhere.jsonl", "--model.source.name", "no/model")


def test_a_dry_run_counts_the_answers(tmp_path, capsys):
    write_inputs(tmp_path)
    run(tmp_path, "none", "--dry_run")
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in capsys.readouterr().out.splitlines()]
    assert ["scores before and after", "18 answers"] in rows
    assert ["with the document in view", "9 answers"] in rows
    assert ["unrelated questions", "78 answers"] in rows  # 42 without an adapter, 12 with each of three
