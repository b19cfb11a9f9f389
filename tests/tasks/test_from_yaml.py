"""Tasks, graders and rewards as jsonargparse makes them from YAML, the project's and a user's own."""

import jsonargparse
import pytest
import yaml

from seal_lightning.fit.module import SEALModule
from seal_lightning.grading import F1, Grader, Recall, Reward
from seal_lightning.tasks import EDIT_KINDS, DirectiveLimits, EditKind, Knowledge, Task
from seal_lightning.types import Prompt, SelfEdit, TrainingSequence


class Shout(Task):
    """A user's task."""

    def __init__(self, *, mark: str = "!") -> None:
        self.mark = mark

    def prompt(self, context):
        return Prompt(context.passage + self.mark)

    def parse(self, text, context):
        return SelfEdit(text=text, training_sequences=(TrainingSequence(text + self.mark),))

    def passage_sequences(self, context):
        return (TrainingSequence(context.passage),)

    def query_prompt(self, query, context):
        return Prompt(query.question)


class Always(Grader):
    """A user's grader."""

    def grade(self, *, question, golds, answer):
        return 1.0


def load(base, text):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "it")
    config = parser.parse_string(text)
    again = parser.parse_string(yaml.safe_dump({"it": yaml.safe_load(parser.dump(config))["it"]}))
    assert again == config  # what a run saves as its configuration loads again
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return instantiate(config).it


def test_knowledge_by_name_of_its_kind():
    task = load(Task, "it: {class_path: seal_lightning.tasks.Knowledge, init_args: {edit: self-qa}}")
    assert (type(task), task.kind, task.directives) == (Knowledge, EDIT_KINDS["self-qa"], None)


def test_knowledge_with_a_kind_written_in_yaml():
    task = load(
        Task,
        """
it:
  class_path: seal_lightning.tasks.Knowledge
  init_args:
    edit:
      instruction: |
        Tell me about {title}.

        {passage}
      lead: "Well:"
      parser: blocks
    passage_repeats: 3
    max_sequences: 8
    directives: {epochs: [1, 5], learning_rate: [1e-4, 1e-2], layers: [kinds, depth]}
""",
    )
    assert task.kind == EditKind("Tell me about {title}.\n\n{passage}\n", lead="Well:", parser="blocks")
    assert (task.passage_repeats, task.max_sequences) == (3, 8)
    assert task.directives == DirectiveLimits(epochs=(1, 5), learning_rate=(1e-4, 1e-2), layers=("kinds", "depth"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{edit: {instruction: List facts.}}", "instruction must contain"),
        ("{edit: {instruction: '{passage}', parser: json}}", "parser"),
        ("{edit: rewrit}", "edit must be one of implications"),
        ("{directives: {epochs: [5, 1]}}", "epochs must be two"),
        ("{directives: {layers: [heads]}}", "heads"),
        ("{passage_repeat: 2}", "passage_repeat"),
    ],
)
def test_mistakes_name_the_option(options, message):
    with pytest.raises((jsonargparse.ArgumentError, ValueError), match=message):
        load(Task, f"it: {{class_path: seal_lightning.tasks.Knowledge, init_args: {options}}}")


def test_a_users_own_task_and_grader():
    assert load(Task, f"it: {{class_path: {__name__}.Shout, init_args: {{mark: '?'}}}}").mark == "?"
    assert isinstance(load(Grader, f"it: {{class_path: {__name__}.Always}}"), Always)


def test_graders_and_reward():
    recall = load(Grader, "it: {class_path: seal_lightning.grading.Recall, init_args: {threshold: 0.5}}")
    f1 = load(Grader, "it: {class_path: seal_lightning.grading.F1}")
    assert (type(recall), recall.threshold, type(f1), f1.threshold) == (Recall, 0.5, F1, None)
    path = "it: {class_path: seal_lightning.grading.Reward, init_args: {terms: %s}}"
    assert load(Reward, path % "gain").weights == {"gain": 1.0}
    assert load(Reward, path % "{score: 1, gain: 0.5}").weights == {"score": 1.0, "gain": 0.5}


def test_a_users_own_grader_by_its_class_path_alone():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SEALModule, "model")
    named = parser.parse_args(["--model.grader", f"{__name__}.Always"]).model.grader
    assert named.class_path == f"{__name__}.Always"
    assert parser.parse_args(["--model.grader", "recall"]).model.grader == "recall"


def test_several_kinds_by_name_and_of_ones_own():
    task = load(
        Task,
        """
it:
  class_path: seal_lightning.tasks.Knowledge
  init_args:
    kinds: [self-qa, {instruction: "Shout it: {passage}", parser: whole, name: shout}]
""",
    )
    assert [each.edit_kind for each in task.by_edit] == ["self-qa", "shout"]
    assert task.for_edit(1).kind == EditKind("Shout it: {passage}", parser="whole", name="shout")
