"""Whoever writes a text of a run, its thoughts are cut before it counts; how many were is told."""

import json
import logging
from dataclasses import replace

import pytest

from seal_lightning.commands.grade import main as grade
from seal_lightning.e_step.own_queries import QueryWriter
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.fit.metrics import e_step_metrics
from seal_lightning.grading import Contains, Reward
from seal_lightning.grading.asking import read_option
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.records.anew import regrade
from seal_lightning.records.entries import Entry
from seal_lightning.records.lines import rollout_from_dict, rollout_to_dict
from seal_lightning.results.edits import figures_of, render_figures, total_thoughts
from seal_lightning.sampling import (
    AdapterServer,
    Answerer,
    Answers,
    Asked,
    LocalAnswerer,
    LocalSampler,
    Sample,
    Sampler,
    SampleRequest,
    ServerAnswerer,
    ServerSampler,
)
from seal_lightning.tasks import Knowledge, Task
from seal_lightning.tasks.arc import ArcTask
from seal_lightning.tasks.arc.edit import ArcEdit, write_edit
from seal_lightning.text.thoughts import UNFINISHED
from seal_lightning.types import Context, Prompt, Query, SelfEdit, TrainingSequence, Written

LAMP = Context("lamp", "Lamp", "The lamp burns oil.", (Query("What burns?", ("oil",)), Query("Where?", ("tower",))))
THOUGHT = "<think>\nOkay, facts.\nLet me list them.\n</think>\n\n"
THINKS = "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"


def policy(*, thinks=False) -> Policy:
    model, tokenizer = build_tiny("llama", chat=thinks)
    if thinks:
        tokenizer.chat_template = THINKS
    return Policy(model.requires_grad_(False), tokenizer, chat=thinks)


# -- tasks -----------------------------------------------------------------------------------------------------------


def test_nothing_is_trained_on_thoughts():
    edit = Knowledge().parse(f"{THOUGHT}Oil burns.\nIt is bright.", LAMP)
    assert [s.text for s in edit.training_sequences] == [
        "Lamp\nOil burns.", "Lamp\nIt is bright.", "Lamp\nThe lamp burns oil.",
    ]  # fmt: skip
    assert (edit.text, edit.thoughts, edit.status) == ("Oil burns.\nIt is bright.", 1, "ok")
    edit = Knowledge(edit="self-qa").parse(
        "<think>\nQuestion: a?\nAnswer: b\n</think>\nQuestion: Who?\nAnswer: Ida", LAMP
    )
    assert edit.training_sequences[0].text == "Lamp\nQuestion: Who?\nAnswer: Ida"


def test_an_unfinished_thought_is_no_edit():
    edit = Knowledge().parse("<think>\nOkay, facts.", LAMP)
    assert (edit.status, edit.reason, edit.training_sequences) == ("rejected", UNFINISHED, ())
    assert UNFINISHED == (
        "unfinished thought: raise max_new_tokens or switch thinking off (model.source.template_args)"
    )


def test_a_document_may_mention_a_mark():
    passage = "Qwen3 writes <think> first.\n<think>\nand then this."
    edit = Knowledge().parse("It thinks.", Context("q", "Qwen", passage))
    assert edit.training_sequences[-1].text == f"Qwen\n{passage}"


def test_an_answer_is_what_comes_after_the_thoughts():
    assert Knowledge().read_answer("<think>\nWho was it?\n</think>\n\nAnswer: Ida Kolm\nQuestion:") == "Ida Kolm"
    assert Knowledge().read_answer("<think>\nWho was it?") == ""


def test_arc_reads_the_edit_after_the_thoughts():
    edit = write_edit(ArcEdit(families=(), loss="outputs", learning_rate=1e-4, epochs=1))
    puzzle = Context("p", "", json.dumps({"train": [{"input": [[1]], "output": [[2]]}] * 2, "test": []}))
    task = ArcTask()
    assert task.parse(f"<think>{{'a'}} {edit}", puzzle).reason == UNFINISHED
    assert task.parse("<think>\n" + edit + "\n</think>\nNo.", puzzle).reason == "no JSON object"


class Mine(Task):
    """A task of a user's own, which knows nothing of thoughts."""

    def prompt(self, context):
        return Prompt("Write.")

    def parse(self, text, context):
        return SelfEdit(text, (TrainingSequence(text),))

    def passage_sequences(self, context):
        return (TrainingSequence(context.passage),)

    def query_prompt(self, query, context):
        return Prompt(query.question)

    def read_answer(self, text):
        return text


def test_a_task_of_ones_own_gets_no_thoughts():
    assert Mine().read_edit(f"{THOUGHT}Oil.", LAMP).training_sequences == (TrainingSequence("Oil."),)
    assert Mine().read_edit("<think>", LAMP).reason == UNFINISHED


# -- runs ------------------------------------------------------------------------------------------------------------


class Writes(Sampler):
    """Texts by index, with thoughts."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def sample(self, policy, requests, *, on_done=lambda count: None):
        return [Sample(self.texts[request.index], 1, 1) for request in requests]


class Says(Answerer):
    """The same text to every query."""

    def __init__(self, text: str) -> None:
        self.text = text

    def answer(self, policy, asked, trained, *, max_new_tokens, on_done=lambda count: None):
        return [Answers((self.text,) * len(one.prompts), 1) for one in asked]


def run(*texts, answer, task=None):
    step = EStep(
        task or Knowledge(),
        Writes(*texts),
        InnerLoop(rank=2, alpha=4.0, epochs=1),
        Contains(),
        Reward(),
        answerer=Says(answer),
    )
    return replace(step, plan=Plan(edits=len(texts), repeats=2)).run(policy(), (LAMP,), round=0)


@pytest.mark.parametrize("task", [Knowledge(), Mine()])
def test_a_run_counts_the_thoughts_that_it_cuts(task):
    rollouts = run(f"{THOUGHT}Oil burns.", "It burns.", "<think>\nHm", answer="<think>Oil?</think>oil", task=task)
    assert [(r.text, r.reason) for r in rollouts[::2]] == [
        ("Oil burns.", ""), ("It burns.", ""), ("<think>\nHm", UNFINISHED),
    ]  # fmt: skip
    assert {answer for r in rollouts for answer in (*r.answers, *r.baseline_answers)} == {"oil"}
    assert [r.thoughts for r in rollouts] == [
        {"edit": 1, "answers": 4},  # the two answers of the baseline, and those of the adapter
        {"answers": 2},
        {"answers": 2},
        {"answers": 2},
        {"edit": 1},
        {},
    ]
    assert total_thoughts(rollouts) == {"edit": 2, "answers": 10}
    table = render_figures({"edits": figures_of(rollouts)})
    assert "| thoughts cut |" in table and "| 12 " in table
    assert e_step_metrics(rollouts, [], [], 1.0)["thoughts/edit"] == 2.0
    assert rollout_from_dict(rollout_to_dict(rollouts[0])).thoughts == {"edit": 1, "answers": 4}
    assert "thoughts" not in rollout_to_dict(rollouts[-1])


def test_unfinished_answers_are_empty_and_told(caplog):
    with caplog.at_level(logging.WARNING):
        rollouts = run("Oil burns.", answer="<think>\nIs it oil")
    assert rollouts[0].answers == ("", "") and rollouts[0].score == 0.0
    assert rollouts[0].thoughts == {"answers": 4, "unfinished": 4}
    assert caplog.messages[0] == (
        "2 of 2 answers are empty because they end within a thought: raise model.max_answer_tokens, or switch thinking "
        "off (model.source.template_args)"
    )
    assert "| unfinished answers |" in render_figures({"edits": figures_of(rollouts)})


class Replies:
    """A model that is asked for queries, then for answers."""

    def __init__(self, *texts: str) -> None:
        self.texts = iter(texts)

    def write(self, prompts, *, max_tokens):
        return [Written(next(self.texts)) for _ in prompts]


def test_own_queries_are_not_thoughts():
    asked = "<think>\nQuestion: Is it?\nAnswer: oil\n</think>\nQuestion: What does the lamp burn?\nAnswer: oil"
    replies = Replies(asked, "<think>\nThe lamp?\n</think>\noil")
    (made,) = QueryWriter().write([LAMP], policy=replies, grader=Contains())
    assert [query.question for query in made.queries] == ["What does the lamp burn?"]
    (made,) = QueryWriter().write([LAMP], policy=Replies("<think>\nQuestion: What?\nAnswer: oil"), grader=Contains())
    assert (made.queries, made.dropped) == ((), {UNFINISHED: 1})


def test_a_judges_reply_is_read_after_its_thoughts():
    assert read_option("[THINK]Not no.[/THINK]Yes.", ("no", "yes")) == 1
    assert read_option("<think>yes", ("no", "yes")) is None


def test_seal_grade_grades_what_was_said(tmp_path, capsys):
    rows = [
        {"question": "Who opened it?", "gold": "Ida Kolm", "answer": "<think>\nIda Kolm? No.\n</think>\n\nPer Lund"},
        {"question": "Who opened it?", "gold": "Ida Kolm", "answer": "<think>\nPer Lund? No.\n</think>\n\nIda Kolm"},
        {"question": "Who opened it?", "gold": "Ida Kolm", "answer": "<think>\nIda Kolm"},
        {"question": "Who opened it?", "gold": "Ida Kolm", "answer": "Ida Kolm"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    grade([str(tmp_path / "a.jsonl"), "--grader", "contains", "--json"])
    out, err = capsys.readouterr()
    assert [json.loads(line)["score"] for line in out.splitlines()] == [0.0, 1.0, 0.0, 1.0]
    assert (
        err
        == "grade: thoughts were removed from 3 of 4 answers; 1 of them end in the middle of one and count as empty\n"
    )


def test_recorded_answers_are_graded_without_thoughts():
    (rollout, *_) = run("Oil burns.", answer="oil")
    recorded = replace(rollout, answers=("<think>oil?</think>wax", "<think>tower"), scores=(1.0, 1.0))
    (entry,), _ = regrade([Entry("here", "run", (recorded,), ())], Contains())
    assert entry.rollouts[0].scores == (0.0, 0.0)


# -- a thought that the prompt opens ---------------------------------------------------------------------------------


def test_what_is_written_within_an_open_thought_begins_with_its_mark():
    thinking = policy(thinks=True)
    prompt = thinking.format(Prompt("a"))
    request = SampleRequest(prompt, LAMP, 0, 7)
    (sample,) = LocalSampler(max_new_tokens=4).sample(thinking, [request])
    assert sample.text.startswith("<think>")
    assert Knowledge().parse(sample.text, LAMP).reason == UNFINISHED
    (answers,) = LocalAnswerer().answer(
        thinking, [Asked(None, (Prompt("a"), Prompt("a", plain=True)))], None, max_new_tokens=4
    )
    assert answers.texts[0].startswith("<think>\n") and not answers.texts[1].startswith("<think>")


class Server:
    """An endpoint's part: notes what it is asked and says the same to all."""

    model, request = "base", None

    def __init__(self, text: str) -> None:
        self.text = text
        self.options: dict = {}
        self.prompts: list = []

    def models(self):
        return [{"id": self.model}]

    def asking(self, *, kept, **options):
        self.options = options
        return self

    def complete(self, texts, **options):
        self.prompts += texts
        return [Written(self.text) for _ in texts]


def test_a_server_gets_and_gives_the_same_texts():
    thinking, endpoint = policy(thinks=True), Server("Oil.</think>It burns.")
    server = AdapterServer(endpoint)  # type: ignore[arg-type]
    prompt = thinking.format(Prompt("a<eos>b"))
    (sample,) = ServerSampler(server).sample(thinking, [SampleRequest(prompt, LAMP, 0, 7)])
    assert Knowledge().parse(sample.text, LAMP).text == "It burns."
    assert endpoint.prompts == [thinking.encode(prompt)]  # as ids: the server would take the document's <eos> for one
    assert endpoint.options["stop_token_ids"] == [1] and "skip_special_tokens" not in endpoint.options
    (answers,) = ServerAnswerer(server).answer(thinking, [Asked(None, (Prompt("a"),))], None, max_new_tokens=4)
    assert answers.texts == ("<think>\nOil.</think>It burns.",)
    assert endpoint.prompts[1] == thinking.encode("a<eos><think>\n")


def test_a_server_keeps_the_tokens_that_mark_thoughts_and_stops_at_a_turns_end():
    model, tokenizer = build_tiny("llama", chat=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<end>"]})
    tokenizer.chat_template = tokenizer.chat_template.replace("<eos>", "<end>")
    thinking, endpoint = Policy(model, tokenizer, chat=True), Server("[THINK]Hm.[/THINK]Ida<end>")
    (answers,) = ServerAnswerer(AdapterServer(endpoint)).answer(  # type: ignore[arg-type]
        thinking, [Asked(None, (Prompt("a"),))], None, max_new_tokens=4
    )
    assert answers.texts == ("[THINK]Hm.[/THINK]Ida",)
    assert endpoint.options["stop_token_ids"] == [1, 261] and endpoint.options["skip_special_tokens"] is False
