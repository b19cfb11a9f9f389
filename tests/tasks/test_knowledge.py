import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_lightning.errors import ConfigError
from seal_lightning.stamps.values import describe, flat
from seal_lightning.tasks import EDIT_KINDS, DirectiveLimits, EditKind, Knowledge
from seal_lightning.types import Context, Directives, Prompt, Query, TrainingSequence

ADA = Context(id="ada", title="Ada", passage="Ada ruled in {1842}. \\1 {title}\n")
PASSAGE = "Title: Ada\nPassage: Ada ruled in {1842}. \\1 {title}"

PROMPTS = {
    "implications": (
        "Study the passage below. Then write down what follows from it: statements that it makes, and further ones "
        "that can be concluded from them. Put each statement on a line of its own and make it understandable without "
        "the passage.",
        "What follows from the passage:",
    ),
    "implications-long": (
        "Study the passage below. Then write down as much as you can of what follows from it: every statement that it "
        "makes, and many further ones that can be concluded from them. The list should be long. Put each statement on "
        "a line of its own and make it understandable without the passage.",
        "Everything that follows from the passage:",
    ),
    "implications-very-long": (
        "Study the passage below. Then write down, without leaving anything out, what follows from it: every statement "
        "that it makes, each one again seen from another side, and all further ones that can be concluded by combining "
        "them. The list should be several times as long as the passage. Put each statement on a line of its own and "
        "make it understandable without the passage.",
        "An exhaustive list of what follows from the passage:",
    ),
    "rewrite": (
        "Study the passage below. Then retell it several times, each time in other words and another order, with every "
        "name, number and date kept. Put each version on a line of its own, without headings.",
        "The passage in other words:",
    ),
    "self-qa": (
        "Study the passage below. Then write questions that someone could be asked about it, each with its short "
        "answer. Name what a question is about, so that it is understandable without the passage. Write each pair as a "
        "line that starts with Question: and a line that starts with Answer:.",
        "Questions and answers:",
    ),
    "facts": (
        "Study the passage below. Then take it apart into its single facts. Put each fact on a line of its own, as one "
        "short full sentence with names in place of pronouns, and add nothing that the passage does not say.",
        "The facts one by one:",
    ),
    "key-concepts": (
        "Study the passage below. Then pick out the names and terms without which it cannot be understood. Put each "
        "on a line of its own, and go on in that line with two or three full sentences: what it is, what the passage "
        "says about it with all names, numbers and dates, and how it is tied to the others.",
        "The terms that matter, each explained:",
    ),
    "mind-map": (
        "Study the passage below. Then draw it as an outline: its subject at the top, under it the main branches, "
        "under each branch what belongs to it, two blanks further in. Every entry is a short full statement that "
        "names what it is about. Separate the main branches by lines of three hyphens.",
        "The passage as an outline:",
    ),
    "critical-qa": (
        "Study the passage below. Then write questions that cannot be answered by repeating one of its sentences: why "
        "something is so, what would be otherwise without it, how two of its statements fit together. Name what a "
        "question is about, so that it is understandable without the passage. Answer each in several sentences that "
        "state the facts they rest on before they conclude. Write each pair as a paragraph that starts with Question: "
        "and one that starts with Answer:.",
        "Questions that take some thought, with their answers:",
    ),
    "case-studies": (
        "Study the passage below. Then make up several situations in which somebody needs to know what it says: who "
        "they are, what they want to find out or decide, which facts of the passage they use, stated in full, and "
        "what comes of it. Keep every name, number and date of the passage as it is. Separate the situations by lines "
        "of three hyphens.",
        "Situations in which this is needed:",
    ),
    "discussions": (
        "Study the passage below. Then write conversations about it between two people, one who knows it well and one "
        "who asks, doubts and mixes things up. Whatever the passage says is said by somebody, with its names, numbers "
        "and dates, and mistakes are put right. Start each turn on a new line with the speaker's name, and separate "
        "the conversations by lines of three hyphens.",
        "Two people talk about it:",
    ),
    "teacher": (
        "Study the passage below. Then teach it to a class that has never heard of it, step by step, in spoken "
        "language: what it is about and why it matters, then each fact with its name, number or date and how to "
        "remember it, then all of it once more in a few sentences. Separate the steps by lines of three hyphens.",
        "Good morning, everyone. Today's lesson:",
    ),
    "rules": (
        "Study the passage below. Then take it apart: first each thing that it states, as one short full sentence on a "
        "line of its own, with names in place of pronouns. Then questions about them, each with its short answer, as a "
        "line that starts with Question: and a line that starts with Answer:.",
        "What it states, and questions about that:",
    ),
}
TEXT = "1. Ada ruled.\n\nQ: Who?\nA: Ada.\n---\n2. She wrote."
OWN = TrainingSequence("Ada\nAda ruled in {1842}. \\1 {title}")
LINES = ["Ada\n1. Ada ruled.", "Ada\nQ: Who?", "Ada\nA: Ada.", "Ada\n2. She wrote."]
PAIRS = ["Ada\nQuestion: Who?\nAnswer: Ada.\n---\n2. She wrote."]
BLOCKS = ["Ada\n1. Ada ruled.\n\nQ: Who?\nA: Ada.", "Ada\n2. She wrote."]
SEQUENCES = {
    **{kind: LINES for kind in PROMPTS},
    **dict.fromkeys(("self-qa", "critical-qa"), PAIRS),
    "rules": ["Ada\n1. Ada ruled.", *PAIRS],
    **dict.fromkeys(("mind-map", "case-studies", "discussions", "teacher"), BLOCKS),
}


def texts(edit):
    return [sequence.text for sequence in edit.training_sequences]


def test_every_kind_has_its_golden_prompt():
    assert list(EDIT_KINDS) == list(PROMPTS)


@pytest.mark.parametrize("kind", PROMPTS)
def test_golden_prompts(kind):
    request, lead = PROMPTS[kind]
    assert Knowledge(edit=kind).prompt(ADA) == Prompt(user=f"{request}\n\n{PASSAGE}", lead=f"\n\n{lead}\n")


@pytest.mark.parametrize("kind", SEQUENCES)
def test_golden_training_sequences(kind):
    edit = Knowledge(edit=kind).parse(TEXT, ADA)
    assert texts(edit) == [*SEQUENCES[kind], OWN.text]
    assert (edit.text, edit.status, edit.asked, edit.applied) == (TEXT, "ok", {}, Directives())
    assert all(sequence.prompt == "" for sequence in edit.training_sequences)


@pytest.mark.parametrize(
    ("parser", "expected"),
    [
        ("lines", LINES),
        ("blocks", BLOCKS),
        ("sections", BLOCKS),
        ("questions", SEQUENCES["self-qa"]),
        ("statements", SEQUENCES["rules"]),
        ("whole", [f"Ada\n{TEXT}"]),
    ],
)
def test_an_edit_kind_of_ones_own(parser, expected):
    kind = EditKind(instruction='Use {"a": 1}: {passage}\n', lead=" Go: ", parser=parser, system="Be brief.")
    task = Knowledge(edit=kind, append_passage=False)
    assert task.prompt(Context("1", "T", " P ")) == Prompt('Use {"a": 1}: P', lead="\n\nGo:\n", system="Be brief.")
    assert texts(task.parse(TEXT, ADA)) == expected


def test_options_of_the_sequences():
    task = Knowledge(title_prefix=False, passage_repeats=2, max_sequences=1, strip_numbering=True)
    passage = ADA.passage.strip()
    assert texts(task.parse("1. Ada ruled.\n2. She wrote.", ADA)) == ["Ada ruled.", passage, passage]
    assert task.passage_sequences(ADA) == (TrainingSequence(passage),)


def test_passage_sequences():
    assert Knowledge(passage_repeats=3).passage_sequences(ADA) == (OWN,)
    assert Knowledge().passage_sequences(Context("1", "", "P")) == (TrainingSequence("P"),)
    assert Knowledge().passage_sequences(Context("1", "Ada", " \n")) == ()


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("implications", "", "empty text"),
        ("implications", " \n\t\n", "empty text"),
        ("implications", "1.\n2.\n---\n", "no lines to train on"),
        ("self-qa", "I cannot do that.", "no questions to train on"),
        ("implications", '{"epochs": 3}', "directives only"),
    ],
)
def test_an_edit_with_nothing_to_train_on_is_rejected_in_spite_of_the_passage(kind, text, reason):
    edit = Knowledge(edit=kind, directives=DirectiveLimits(), passage_repeats=2).parse(text, ADA)
    assert (edit.status, edit.reason, edit.training_sequences, edit.text) == ("rejected", reason, (), text)


def test_directives_are_asked_for_recorded_and_clamped():
    task = Knowledge(edit="facts", directives=DirectiveLimits(epochs=(1, 5)), append_passage=False)
    assert task.prompt(ADA).user == (
        f"{PROMPTS['facts'][0]}\n\n{PASSAGE}\n\n"
        "End with one line that holds a JSON object with the settings for training on what you wrote: epochs (1 to 5), "
        "learning_rate (1e-05 to 0.005), batch_size (1 to 8). For example: "
        '{"epochs": 5, "learning_rate": 0.001, "batch_size": 1}'
    )
    edit = task.parse('Ada ruled.\n{"epochs": 50, "learning_rate": "high"}', ADA)
    assert texts(edit) == ["Ada\nAda ruled."]
    assert edit.asked == {"epochs": 50, "learning_rate": "high"}
    assert edit.applied == Directives(epochs=5)


def test_directives_are_text_when_not_asked_for():
    edit = Knowledge(append_passage=False).parse('{"epochs": 50}', ADA)
    assert (texts(edit), edit.asked) == (['Ada\n{"epochs": 50}'], {})


def test_query_prompt_and_answer():
    query = Query(question=" Who ruled? ", golds=("Ada",))
    system = "Answer the question in a few words."
    assert Knowledge().query_prompt(query, ADA) == Prompt("Topic: Ada\nQuestion: Who ruled?", "\nAnswer:", system)
    assert Knowledge(topic_prefix=False).query_prompt(query, ADA) == Prompt("Question: Who ruled?", "\nAnswer:", system)
    assert Knowledge().read_answer(" \n Ada.  \nQuestion: And?") == "Ada."
    assert Knowledge().read_answer("Answer: Ada.") == "Ada."
    assert Knowledge().read_answer(" \n ") == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edit": "rewrit"}, "edit must be one of implications, .*rules or an EditKind, got 'rewrit'"),
        ({"edit": None}, "edit must be one of"),
        ({"passage_repeats": 0}, "passage_repeats must be"),
        ({"passage_repeats": None}, "passage_repeats must be"),
        ({"max_sequences": 0}, "max_sequences must be"),
        ({"max_sequences": True}, "max_sequences must be"),
    ],
)
def test_options_are_validated(options, message):
    with pytest.raises(ConfigError, match=message):
        Knowledge(**options)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"instruction": "List facts."}, re.escape("instruction must contain {passage}")),
        ({"instruction": "{passage} {topic}"}, re.escape("got {topic}")),
        (
            {"instruction": "{passage}", "parser": "json"},
            "parser must be one of lines, blocks, sections, questions, statements, whole",
        ),
    ],
)
def test_edit_kinds_are_validated(kind, message):
    with pytest.raises(ConfigError, match=message):
        EditKind(**kind)


PIECES = st.sampled_from(
    [
        "\n",
        "---",
        "Q:",
        "Answer:",
        "1.",
        "{",
        "}",
        '"epochs":',
        "NaN",
        "1e999",
        "9" * 400,
        "true",
        "```",
        ",",
        "[",
        "Ada",
    ]
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(text=st.one_of(st.text(), st.lists(PIECES).map(" ".join), st.lists(PIECES).map("".join)))
@pytest.mark.parametrize("parser", ["lines", "blocks", "questions", "whole"])
def test_parse_never_raises(parser, text):
    limits = DirectiveLimits(learning_rate=(1e-4, 1e-2), layers=("depth", "kinds"))
    for directives in (None, limits):
        task = Knowledge(edit=EditKind("{passage}", parser=parser), directives=directives, strip_numbering=True)
        edit = task.parse(text, ADA)
        assert edit.text == text
        assert bool(edit.training_sequences) == (edit.reason == "")
        assert all(sequence.text.strip() for sequence in edit.training_sequences)
        rate = edit.applied.learning_rate
        assert rate is None or (math.isfinite(rate) and 1e-4 <= rate <= 1e-2)


SEVERAL = EditKind(instruction="Shout it: {passage}", parser="whole", name="shouts")


def test_several_kinds_take_turns_and_are_read_each_in_its_way():
    task = Knowledge(kinds=["implications", SEVERAL, "self-qa"], append_passage=False)
    tasks = [task.for_edit(index) for index in range(4)]
    assert [each.edit_kind for each in tasks] == ["implications", "shouts", "self-qa", "implications"]
    assert [each.prompt(ADA) for each in tasks] == [
        Knowledge().prompt(ADA),
        Knowledge(edit=SEVERAL).prompt(ADA),
        Knowledge(edit="self-qa").prompt(ADA),
        Knowledge().prompt(ADA),
    ]
    read = [texts(each.read_edit(TEXT, ADA)) for each in tasks[:3]]
    assert read == [LINES, [f"Ada\n{TEXT}"], PAIRS]
    assert task.prompt(ADA) == Knowledge().prompt(ADA), "what stands for all of them is the first"
    assert [each.for_edit(5) is each for each in tasks] == [True] * 4


def test_a_single_kind_is_the_task_itself():
    task = Knowledge(edit="facts")
    assert (task.by_edit, task.for_edit(7), task.edit_kind) == ((task,), task, "")


def test_the_kinds_of_a_derived_task_are_of_its_class():
    class Loud(Knowledge):
        def __init__(self, mark):
            super().__init__(kinds=["facts", EditKind("A {passage}"), EditKind("B {passage}")])
            self.mark = mark

    each = Loud("!").by_edit
    assert [(type(one), one.mark, one.edit_kind) for one in each] == [
        (Loud, "!", "facts"),
        (Loud, "!", "kind 2"),
        (Loud, "!", "kind 3"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": []}, "kinds must name at least one kind of self-edit, got none"),
        ({"kinds": ["facts", "facts"]}, "kinds must have different names, got facts twice"),
        ({"kinds": ["facts", "fact"]}, "kinds must be one of implications, .* got 'fact'"),
        ({"edit": "facts", "kinds": ["self-qa"]}, "edit and kinds were both given"),
    ],
)
def test_kinds_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        Knowledge(**options)


def test_the_order_of_kinds_is_part_of_the_stamp():
    """It decides which edit is of which kind."""
    one, other = (
        flat("task.", describe(Knowledge(kinds=["facts", *rest])))
        for rest in (["rewrite", "self-qa"], ["self-qa", "rewrite"])
    )
    assert one != other
