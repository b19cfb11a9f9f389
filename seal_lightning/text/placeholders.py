"""The places in an adapter's `prompt.json` where a title and a question go."""

from __future__ import annotations

PROMPT = "prompt.json"  # the file, in the folder of an adapter
TITLE, QUESTION = "{title}", "{question}"


def filled(text: str, *, title: str, question: str) -> str:
    """A prompt with a title and a question in it; what these mention of placeholders stays as it is.

    >>> filled("Topic: {title}\\nQuestion: {question}\\n", title=" Delta ", question="What is {title}?")
    'Topic: Delta\\nQuestion: What is {title}?\\n'
    """
    return question.strip().join(part.replace(TITLE, title.strip()) for part in text.split(QUESTION))
