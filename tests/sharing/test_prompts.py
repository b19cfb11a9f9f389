"""`prompt.json`: its texts are the tokens that the policy itself reads, for models with and without a chat template."""

import json

import pytest

from seal_lightning.models.loading import load_model
from seal_lightning.models.origins import Origin
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import stop_tokens
from seal_lightning.sharing.prompts import prompt_file
from seal_lightning.tasks import Knowledge
from seal_lightning.tasks.arc import ArcTask
from seal_lightning.text.placeholders import filled
from seal_lightning.types import Context, Query

BRIDGE = Context("bridge", "The Harrow Bridge", "It crosses the Lenn.", (Query("What does it cross?", ("the Lenn",)),))
MILL = Context("mill", " The mill ", "It grinds rye.")


class Asking:
    """What of an E-step says how queries are asked."""

    max_answer_tokens = 9

    def __init__(self, task) -> None:
        self.task = task


def content(policy: Policy, *contexts: Context, task=None) -> dict:
    base = Origin("org/base", on_hub=True, revision="abc")
    return json.loads(prompt_file(policy, base, Asking(task or Knowledge()), contexts))


def policy_of(name: str, *, chat: bool) -> Policy:
    return Policy(*load_model(ModelSource(name=name, chat=chat)))


@pytest.mark.parametrize(("name", "chat"), [("lab", False), ("random/llama", False), ("random/llama", True)])
def test_the_texts_are_the_tokens_that_training_read(name, chat):
    policy = policy_of(name, chat=chat)
    found = content(policy, BRIDGE, MILL)
    assert (found["chat_template"], found["add_special_tokens"]) == (chat, False)
    question = "Who built <it>, and when?"
    asked = policy.encode(policy.format(Knowledge().query_prompt(Query(question, ()), MILL)))
    text = filled(found["text"], title=MILL.title, question=question)
    assert policy.tokenizer(text, add_special_tokens=False)["input_ids"] == asked
    assert filled(found["text"], title=BRIDGE.title, question="What does it cross?") == found["example"]["text"]
    assert found["example"]["question"] == "What does it cross?"
    assert found["titles"] == ["The Harrow Bridge", "The mill"]
    assert found["base"] == found["tokenizer"] == {"name": "org/base", "revision": "abc"}
    assert found["max_answer_tokens"] == 9
    assert found["stop"]["token_ids"] == stop_tokens(policy)
    assert policy.tokenizer.convert_tokens_to_ids(found["stop"]["tokens"]) == stop_tokens(policy)


def test_messages_are_those_that_the_template_gets():
    policy = policy_of("random/llama", chat=True)
    found = content(policy, BRIDGE)
    assert [one["role"] for one in found["messages"]] == ["system", "user"]
    rendered = policy.tokenizer.apply_chat_template(found["messages"], tokenize=False, add_generation_prompt=True)
    assert rendered == found["text"]


def test_documents_without_queries_have_an_example_too():
    found = content(policy_of("lab", chat=False), MILL)
    assert found["example"]["question"] == "What is it about?"
    assert found["example"]["title"] == "The mill"


def test_a_title_like_a_placeholder_is_no_placeholder():
    found = content(policy_of("lab", chat=False), Context("x", "{question}", "Text."))
    assert "Topic: {title}\nQuestion: {question}" in found["text"]
    assert "Topic: {question}\nQuestion: What is it about?" in found["example"]["text"]


def test_another_task_has_no_placeholders():
    found = content(policy_of("lab", chat=False), MILL, task=ArcTask())
    assert "text" not in found and "messages" not in found
    assert (found["example"], found["titles"], found["answer"]) == (None, [], "the whole text")
