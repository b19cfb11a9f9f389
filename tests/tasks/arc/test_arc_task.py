"""ARC as a task: literal prompts and training sequences, votes, and adapters of several puzzles in one bank."""

import json
from dataclasses import replace

import pytest
from tokenizers.processors import TemplateProcessing

from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import ConfigError, DataError, ModelError
from seal_lightning.grading import Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import Sample, Sampler
from seal_lightning.tasks.arc.answers import GridMatch
from seal_lightning.tasks.arc.edit import SCHEMA, ArcLimits
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle, context_of, input_of
from seal_lightning.tasks.arc.task import ArcTask
from seal_lightning.types import Context, Directives, Prompt, Query, SelfEdit, TrainingSequence

SWAP = context_of(
    Puzzle((Pair(((1, 2),), ((2, 1),)), Pair(((3, 4),), ((4, 3),))), (Pair(((5, 6),), ((6, 5),)),)), id="swap"
)
ASKED = {
    "basic": False,
    "size": False,
    "chained": False,
    "repeated": False,
    "loss": "outputs",
    "learning_rate": 0.0002,
    "epochs": 3,
}


def text(**changed) -> str:
    return json.dumps({**ASKED, **changed})


def plain(**options) -> ArcTask:
    """A task that trains on no copies."""
    return ArcTask(**{"colour_permutations": 0, "example_permutations": 0, **options})


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_the_request_shows_the_demonstrations():
    prompt = ArcTask(max_steps=99).prompt(SWAP)
    assert prompt.user.startswith("Below are examples of a rule that turns an input grid into an output grid.")
    assert "At most 99 training steps are allowed.\nFor example: {" in prompt.user
    assert prompt.user.endswith("}\n\nInput:\n12\nOutput:\n21\n\nInput:\n34\nOutput:\n43")
    assert (prompt.lead, prompt.system, prompt.plain) == ("\n\n", "", False)
    own = ArcTask(instruction=" Choose {well}. ", grids="letters").prompt(SWAP).user
    assert own.startswith("Choose {well}.\nFor example: {") and own.endswith("Input:\nd e\nOutput:\ne d")
    assert "56" not in prompt.user and "65" not in prompt.user


def test_the_example_in_the_request_is_a_valid_self_edit():
    shown = ArcTask().prompt(SWAP).user.partition("For example: ")[2].partition("\n")[0]
    assert ArcTask().parse(shown, SWAP).reason == ""


def test_a_query_is_asked_in_plain_text_with_the_demonstrations():
    (query,) = SWAP.queries
    wanted = Prompt("Input:\n12\nOutput:\n21\n\nInput:\n34\nOutput:\n43\n\nInput:\n56\nOutput:\n", plain=True)
    assert ArcTask().query_prompt(query, SWAP) == wanted
    assert ArcTask().query_prompts(query, SWAP) == (wanted,)
    spaced = ArcTask(grids="spaced").query_prompt(query, SWAP).user
    assert spaced.endswith("3 4\nOutput:\n4 3\n\nInput:\n5 6\nOutput:\n")


def test_votes_ask_under_symmetries():
    (query,) = SWAP.queries
    same, quarter, half = ArcTask(votes=3).query_prompts(query, SWAP)
    assert same == ArcTask().query_prompt(query, SWAP)
    assert quarter.user == "Input:\n1\n2\nOutput:\n2\n1\n\nInput:\n3\n4\nOutput:\n4\n3\n\nInput:\n5\n6\nOutput:\n"
    assert half.user == "Input:\n21\nOutput:\n12\n\nInput:\n43\nOutput:\n34\n\nInput:\n65\nOutput:\n"
    assert quarter.plain and half.plain
    assert ArcTask(votes=3).query_prompt(query, SWAP) == same


def test_answers_vote():
    (query,) = SWAP.queries
    task = ArcTask(votes=3)
    assert task.read_answers(["65", "6\n5", "56"], query, SWAP) == "65"
    assert task.read_answers(["12\n\nInput:", "6\n5", "56"], query, SWAP) == "65\n\n12"
    assert task.read_answers(["65", "x", ""], query, SWAP) == "65"
    assert task.read_answers(["x", "6\n5\n1\n12", ""], query, SWAP) == "malformed grid, not a colour:\nx"
    assert task.read_answer("65\n\nInput:\n1") == "65"
    assert ArcTask(grids="letters").read_answer("g f") == "65"


# -- self-edits --------------------------------------------------------------------------------------------------------


def test_training_sequences_with_the_loss_on_outputs():
    assert plain().parse(text(), SWAP) == SelfEdit(
        text=text(),
        training_sequences=(
            TrainingSequence("21", prompt="Input:\n34\nOutput:\n43\n\nInput:\n12\nOutput:\n"),
            TrainingSequence("43", prompt="Input:\n12\nOutput:\n21\n\nInput:\n34\nOutput:\n"),
        ),
        asked=ASKED,
        applied=Directives(epochs=3, learning_rate=0.0002, batch_size=2, schedule="cosine"),
    )


def test_training_sequences_with_the_loss_on_all():
    assert plain(grids="letters").parse(text(loss="all"), SWAP).training_sequences == (
        TrainingSequence("Input:\nd e\nOutput:\ne d\n\nInput:\nb c\nOutput:\nc b"),
        TrainingSequence("Input:\nb c\nOutput:\nc b\n\nInput:\nd e\nOutput:\ne d"),
    )


def test_families_and_copies_add_training_sequences():
    tall = TrainingSequence("21\n21", prompt="Input:\n34\n34\nOutput:\n43\n43\n\nInput:\n12\n12\nOutput:\n")
    edit = plain(max_puzzles=8).parse(text(size=True), SWAP)
    assert len(edit.training_sequences) == 8 and tall in edit.training_sequences
    assert len(plain(max_puzzles=5).parse(text(size=True), SWAP).training_sequences) == 5
    copies = ArcTask().parse(text(), SWAP).training_sequences
    assert copies[:2] == plain().parse(text(), SWAP).training_sequences
    assert len(copies) == 4 and copies == ArcTask().parse(text(), SWAP).training_sequences
    assert ArcTask().parse(text(), replace(SWAP, id="other")).training_sequences[2:] != copies[2:]


def test_training_reads_as_asking_does():
    demonstrations = tuple(Pair(((number, 1),), ((1, number),)) for number in range(2, 5))
    context = context_of(Puzzle(demonstrations, ()), id="three")
    first = plain().parse(text(), context).training_sequences[0]
    smaller = context_of(Puzzle(demonstrations[1:], demonstrations[:1]), id="two")
    (query,) = smaller.queries
    assert plain().query_prompt(query, smaller).user == first.prompt
    assert (first.text,) == query.golds
    whole = plain().parse(text(loss="all"), context).training_sequences[0]
    assert (whole.prompt, whole.text) == ("", first.prompt + first.text)


def test_the_demonstrations_alone_are_the_plain_puzzles():
    assert ArcTask().passage_sequences(SWAP) == plain().parse(text(), SWAP).training_sequences


def test_a_single_demonstration_is_asked_without_others():
    context = context_of(Puzzle((Pair(((1,),), ((2,),)),), ()), id="one")
    assert plain().passage_sequences(context) == (TrainingSequence("2", prompt="Input:\n1\nOutput:\n"),)


def test_directives_are_moved_into_the_limits():
    task = plain(limits=ArcLimits(learning_rate=(1e-4, 1e-3), epochs=(1, 5)), batch_size=1, schedule="constant")
    edit = task.parse(text(learning_rate=1, epochs=50), SWAP)
    assert (edit.asked["learning_rate"], edit.asked["epochs"]) == (1, 50)
    assert edit.applied == Directives(epochs=5, learning_rate=1e-3, batch_size=1, schedule="constant")


def test_an_edit_of_too_many_steps_is_rejected():
    task = plain(max_steps=6, limits=ArcLimits(epochs=(1, 12)))
    assert task.parse(text(epochs=6), SWAP).reason == ""  # two sequences are one step
    edit = task.parse(text(epochs=7), SWAP)
    assert (edit.status, edit.reason, edit.training_sequences) == ("rejected", "too many training steps", ())
    assert (edit.asked, edit.applied.epochs) == ({**ASKED, "epochs": 7}, 7)
    assert plain(max_steps=6, batch_size=1).parse(text(epochs=3), SWAP).reason == ""
    assert plain(max_steps=5, batch_size=1).parse(text(epochs=3), SWAP).reason == "too many training steps"


@pytest.mark.parametrize(
    ("written", "reason", "asked"),
    [
        ("", "no JSON object", {}),
        ('{"basic": tr', "broken JSON", {}),
        ('{"epochs": 1}', "missing field", {"epochs": 1}),
        (text(loss="some"), "unknown loss", {**ASKED, "loss": "some"}),
    ],
)
def test_what_is_no_self_edit_trains_nothing(written, reason, asked):
    edit = ArcTask().parse(written, SWAP)
    assert (edit.text, edit.reason, edit.asked) == (written, reason, asked)
    assert edit.training_sequences == () and edit.applied == Directives()


def test_the_schema_of_self_edits_has_the_limits():
    schema = ArcTask(limits=ArcLimits(epochs=(2, 3))).edit_schema
    assert schema["required"] == SCHEMA["required"] == list(ASKED)
    assert schema["properties"]["epochs"] == {"type": "integer", "minimum": 2, "maximum": 3}
    assert schema["properties"]["learning_rate"]["maximum"] == 5e-3


# -- what cannot work --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"votes": 0}, "votes must be a whole number of at least 1, got 0"),
        ({"votes": 9}, "votes must be at most 8, got 9"),
        ({"max_steps": True}, "max_steps must be a whole number of at least 1, got True"),
        ({"max_puzzles": 1.5}, "max_puzzles must be a whole number of at least 1, got 1.5"),
        ({"batch_size": "2"}, "batch_size must be a whole number of at least 1, got '2'"),
        ({"colour_permutations": -1}, "colour_permutations must be a whole number of at least 0, got -1"),
        ({"example_permutations": None}, "example_permutations must be a whole number of at least 0, got None"),
        ({"schedule": "liner"}, "schedule must be one of linear, cosine, constant, got 'liner'"),
        ({"grids": "roman"}, "grids must be one of"),
    ],
)
def test_options_that_cannot_work_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        ArcTask(**options)


def test_what_is_no_puzzle_is_refused():
    lamp = Context("lamp", "Lamp", "The lamp burns oil.", (Query("What burns?", ("oil",)),))
    for verb in (ArcTask().prompt, ArcTask().passage_sequences):
        with pytest.raises(DataError, match="context 'lamp': expected a passage of demonstrations"):
            verb(lamp)
    why = Query("Why?", ("12",))
    for ask in (input_of, ArcTask().query_prompt, ArcTask().query_prompts):
        with pytest.raises(DataError, match="context 'swap': expected grids of digits as queries and golds"):
            ask(why, SWAP)


# -- tokenizers --------------------------------------------------------------------------------------------------------


def policy_with(*, chat=False, bos=False):
    model, tokenizer = build_tiny("llama", chat=chat)
    if bos:
        first = tokenizer.bos_token
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, tokenizer.bos_token_id)]
        )
    return Policy(model.requires_grad_(False), tokenizer, chat)


def test_a_chat_template_is_for_the_request_and_not_for_puzzles():
    policy, (query,) = policy_with(chat=True), SWAP.queries
    assert policy.format(ArcTask().prompt(SWAP)).startswith("<user>\nBelow are examples of a rule")
    asked = ArcTask().query_prompt(query, SWAP)
    assert policy.format(asked) == asked.user
    assert policy_with(chat=True, bos=True).format(asked) == f"<bos>{asked.user}"
    assert policy_with(bos=True).format(asked) == asked.user  # `encode` adds it there


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("grids", ["digits", "letters"])
def test_training_and_asking_begin_with_the_same_tokens(chat, bos, grids):
    policy, task = policy_with(chat=chat, bos=bos), plain(grids=grids)
    # the first training puzzle, as the test of a puzzle of its own
    pair, other = Pair(((1, 2),), ((2, 1),)), Pair(((3, 4),), ((4, 3),))
    smaller = context_of(Puzzle((other,), (pair,)), id="smaller")
    asked = policy.encode(policy.format(task.query_prompt(smaller.queries[0], smaller)))
    assert (asked[0] == policy.tokenizer.bos_token_id) == bos
    answer = policy.tokenizer(task.text.encode(pair.output), add_special_tokens=False)["input_ids"]
    end = [policy.tokenizer.eos_token_id]
    masked, whole = (task.parse(text(loss=loss), SWAP).training_sequences[0] for loss in ("outputs", "all"))
    learnt = [InnerLoop()._encode(policy, each) for each in (masked, whole)]
    assert [one.tokens for one in learnt] == [[*asked, *answer, *end]] * 2
    assert [one.prompt for one in learnt] == [len(asked), 0]


# -- the E-step --------------------------------------------------------------------------------------------------------


class Fixed(Sampler):
    """Writes texts by context and index, and remembers what it was asked for."""

    def __init__(self, **texts: list[str]) -> None:
        self.texts = texts
        self.requests: list = []

    def sample(self, policy, requests, *, on_done=lambda count: None):
        self.requests += requests
        return [Sample(self.texts[r.context.id][r.index], len(r.prompt), 9) for r in requests]


def always(id: str, output: int, edits=()) -> Context:
    """A puzzle whose output is one colour, whatever the input."""
    pairs = [Pair(((number, number + 1),), ((output,),)) for number in range(1, 6)]
    return context_of(Puzzle(tuple(pairs[:3]), tuple(pairs[3:])), id=id, edits=edits)


SEVENS, EIGHTS = always("sevens", 7, edits=("no edit",)), always("eights", 8, edits=(text(loss="all"),))
LIMITS = ArcLimits(learning_rate=(1e-5, 0.02), epochs=(1, 20))
INNER = InnerLoop(rank=4, alpha=8.0, epochs=2, learning_rate=0.001)


def e_step(**texts) -> EStep:
    return EStep(
        task=plain(votes=3, limits=LIMITS, max_steps=60),
        sampler=Fixed(**texts),
        inner_loop=INNER,
        grader=GridMatch(),
        reward=Reward(),
        max_answer_tokens=8,
    )


LEARN, HARDLY = text(learning_rate=0.01, epochs=10), text(learning_rate=1e-5, loss="all", epochs=1)


def test_adapters_of_different_puzzles_and_directives_in_one_bank():
    step = e_step(sevens=[LEARN, "no edit"], eights=[HARDLY, text(learning_rate=1, epochs=9)])
    plan = Plan(edits=2, repeats=1, passage_only=True, written=True)
    rollouts = replace(step, plan=plan).run(policy_with(), (SEVENS, EIGHTS), round=0)
    assert [(r.context_id, r.kind, r.status, r.reason, r.steps) for r in rollouts] == [
        ("sevens", "passage", "ok", "", 2 * 9),  # the inner loop's own settings
        ("sevens", "written", "rejected", "no JSON object", 0),
        ("sevens", "edit", "ok", "", 10 * 5),  # nine puzzles, two a step
        ("sevens", "edit", "rejected", "no JSON object", 0),
        ("eights", "passage", "ok", "", 2 * 9),
        ("eights", "written", "ok", "", 3 * 5),
        ("eights", "edit", "ok", "", 1 * 5),
        ("eights", "edit", "ok", "", 9 * 5),
    ]
    assert {len(request.schema["required"]) for request in step.sampler.requests} == {7}
    sevens, hardly, eights = rollouts[2], rollouts[6], rollouts[7]
    assert (sevens.answers, sevens.scores, sevens.reward) == (("7", "7"), (1.0, 1.0), 1.0)
    assert (eights.answers, eights.scores, eights.reward) == (("8", "8"), (1.0, 1.0), 1.0)
    assert sevens.golds == (("7",), ("7",)) and sevens.questions == ("45", "56")
    assert (hardly.scores, hardly.reward) == ((0.0, 0.0), 0.0)
    assert sevens.applied == {"epochs": 10, "learning_rate": 0.01, "batch_size": 2, "schedule": "cosine"}
    assert (eights.asked["learning_rate"], eights.applied["learning_rate"]) == (1, 0.02)
    for rollout in rollouts:
        assert all(answer.startswith("malformed grid, ") for answer in rollout.baseline_answers)
        assert (rollout.baseline_scores, rollout.baseline) == ((0.0, 0.0), 0.0)
    rows = step.task.tables({0: rollouts})[0].rows
    assert rows[0] == ("in-context", 0.0, "n = 2", 0.0, 0.0, 0.0, "1.000", "–", 2, 2)
    assert rows[2] == ("self-edits", 0.5, "n = 2", 1.0, 1.0, 0.5, "0.333", "0.750", 2, 4)


def test_a_bank_of_two_puzzles_equals_each_alone():
    step = e_step(sevens=[LEARN], eights=[HARDLY])
    step = replace(step, plan=Plan(edits=1, repeats=1))
    together = step.run(policy_with(), (SEVENS, EIGHTS), round=0)
    for rollout, context in zip(together, (SEVENS, EIGHTS), strict=True):
        (alone,) = step.run(policy_with(), (context,), round=0)
        assert replace(rollout, seconds={}) == replace(alone, seconds={})


def test_a_puzzle_that_leaves_no_room_is_found_early():
    model, tokenizer = build_tiny("llama", max_positions=200)
    policy = Policy(model, tokenizer, chat=False)
    with pytest.raises(ModelError, match=r"context 'sevens' .* exceeds the model's window of 200"):
        e_step().check_fits(policy, [SEVENS])
