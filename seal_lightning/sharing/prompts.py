"""`prompt.json` in an adapter's folder: how to ask it as training did, for servers and programs that know no task.

The whole text that the model reads is in it, chat template and all, with `{title}` and `{question}` where a document's
title and the question go (to be replaced as they are, without spaces around them). A server is sent that text with
greedy decoding; nothing is left to its own template. PEFT and vLLM do not look at the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from seal_lightning.e_step.step import EStep
from seal_lightning.models.encoding import MARK
from seal_lightning.models.origins import Origin
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import stop_tokens
from seal_lightning.tasks import Knowledge
from seal_lightning.text.placeholders import QUESTION, TITLE
from seal_lightning.types import Context, JsonObject, Prompt, Query

_SOME = Query("What is it about?", ())  # asked of documents without queries


def prompt_file(policy: Policy, base: Origin, e_step: EStep, contexts: Sequence[Context]) -> str:
    """The content of the file.

    Args:
        policy: The policy, with its tokenizer and chat template.
        base: The base model as cards name it, whose tokenizer is the policy's.
        e_step: Its task asks, and it says how long an answer may be.
        contexts: The documents that the adapter has learnt, at least one.
    """
    knows_titles = isinstance(e_step.task, Knowledge)
    ends = stop_tokens(policy)
    content: JsonObject = {
        "base": {"name": base.name, "revision": base.revision},
        "tokenizer": {"name": base.name, "revision": base.revision},
        "chat_template": policy.template is not None,
        "add_special_tokens": False,  # the texts have them
        **(_placeholders(policy, e_step, contexts[0]) if knows_titles else {}),
        "titles": [context.title.strip() for context in contexts] if knows_titles else [],
        "max_answer_tokens": e_step.max_answer_tokens,
        "stop": {"token_ids": list(ends), "tokens": policy.tokenizer.convert_ids_to_tokens(ends)},
        "answer": "the first line that is not empty" if knows_titles else "the whole text",
        "temperature": 0,
        "example": _example(policy, e_step, contexts),
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _placeholders(policy: Policy, e_step: EStep, context: Context) -> JsonObject:
    """The prompt with placeholders, as messages and as the text that the model reads."""
    query = Query(QUESTION, ())
    prompt = e_step.task.query_prompt(query, replace(context, title=TITLE, queries=(query,)))
    messages = [("system", prompt.system), ("user", prompt.user + ("" if policy.template else prompt.lead))]
    return {
        "messages": [{"role": role, "content": said} for role, said in messages if said],
        "text": _text(policy, prompt),
    }


def _example(policy: Policy, e_step: EStep, contexts: Sequence[Context]) -> JsonObject | None:
    """What the first query was asked with; None where there is none, and the task asks nothing of its own."""
    context = next((context for context in contexts if context.queries), contexts[0])
    if not context.queries and not isinstance(e_step.task, Knowledge):
        return None
    query = next(iter(context.queries), _SOME)
    text = _text(policy, e_step.task.query_prompt(query, context))
    return {"title": context.title.strip(), "question": query.question.strip(), "text": text}


def _text(policy: Policy, prompt: Prompt) -> str:
    """All that the model reads, special tokens and all."""
    text = policy.format(prompt).replace(MARK, "")
    return text if policy.template else policy.tokenizer.decode(policy.encoder.opening) + text
