"""Thoughts are cut out of what models write, in all their usual forms, and in time proportional to the text."""

import time

import pytest

from seal_lightning.text.thoughts import Said, closing_of, cut_thoughts, is_marker, opened_by

FACT = "The bridge was opened in 1874."


@pytest.mark.parametrize(
    "thought",
    [
        "<think>\nOkay.\n</think>\n\n",
        "<think>\n\n</think>\n\n",
        "<thinking>Okay.</thinking>\n",
        "<THINK>Okay.</Think>",
        "<thought>Okay.</thought>\n",
        "<reasoning>Okay.</reasoning>\n",
        "<seed:think>Okay.</seed:think>",
        "<longcat_think>Okay.</longcat_think>",
        "[THINK]Okay.[/THINK]",
        "◁think▷Okay.◁/think▷",
        "<|begin_of_thought|>Okay.<|end_of_thought|>\n",
        "<|START_THINKING|>Okay.<|END_THINKING|>",
        "<unused94>thought\nOkay.<unused95>",
        "<|channel>thought\nOkay.<channel|>",
        "<|channel|>analysis<|message|>Okay.<|end|><|start|>assistant<|channel|>final<|message|>",
        "analysisThe user wants facts.assistantfinal",
    ],
)
def test_every_form_of_a_thought_is_cut(thought):
    assert cut_thoughts(thought + FACT) == Said(FACT, 1)


def test_a_text_without_thoughts_is_left_as_it_is():
    for text in ("", "  two\n\n", "Analysis of the bridge.", "x < y > z", "I think [sic] so.", "analysis is final"):
        assert cut_thoughts(text) == Said(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Let me see. It was Per.\n</think>\n\nIda Kolm", "Ida Kolm"),  # the prompt has opened the thought
        ("Let me see.</think>Ida Kolm", "Ida Kolm"),
        ("<think>a</think>One.\n<think>b</think>\nTwo.", "One.\n\nTwo."),
        ("<think>a<think>b</think>c</think>Ida", "Ida"),
        ("<think>I could write <think> here.</think>Ida", "Ida"),
        ("Well. <think>Hm.</think> Ida", "Well.  Ida"),
        ("<think>a</thinking>Ida", "Ida"),
        ("<think>a</think>\n<answer>Ida</answer>", "Ida"),
        ("<think>a</think><response>\nIda", "Ida"),
        ("<|channel|>final<|message|>Ida<|return|>", "Ida"),
        ("<|channel|>commentary<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>Ida", "Ida"),
    ],
)
def test_what_is_said_remains(text, said):
    assert cut_thoughts(text).text == said
    assert not cut_thoughts(text).unfinished


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nOkay, the user",
        "<think>",
        "  <think>Okay",
        "[THINK]Okay",
        "Here it is.\n<think>\nOkay",
        "<think>a</think>Ida\n<think>b",
        "<|channel|>analysis<|message|>Okay",
        "<|channel|>analysis<|message|>Okay<|end|><|start|>assistant<|channel|>final",
    ],
)
def test_an_unfinished_thought_says_nothing(text):
    said = cut_thoughts(text)
    assert (said.text, said.unfinished) == ("", True)
    assert said.thoughts >= 1


def test_a_model_that_thinks_again_within_a_line_has_not_finished():
    assert cut_thoughts("<think>Who?</think>Ida Kolm <think>Or was it Per") == Said("", 2, unfinished=True)


def test_a_mark_that_is_only_mentioned_is_text():
    for text in (
        "The mark `<think>` opens a thought, `</think>` ends it.",
        'Qwen writes "<think>" first.',
        "A thought begins with <think> in Qwen3.",
    ):
        assert cut_thoughts(text) == Said(text)


@pytest.mark.parametrize(
    "piece", ["<think>a", "x <think>", "</think>a", "<", "<|channel|>", "<a:think", "[THINK", " \n<"]
)
def test_it_takes_time_in_proportion(piece):
    start = time.perf_counter()
    cut_thoughts(piece * (2_000_000 // len(piece)))
    assert time.perf_counter() - start < 15  # a quadratic one would take hours


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("<｜Assistant｜><think>", "<think>"),
        ("[/INST][THINK]", "[THINK]"),
        ("<seed:bos>assistant\n<seed:think><seed:cot_budget_reflect>", "<seed:think><seed:cot_budget_reflect>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<｜Assistant｜></think>", ""),
        ("<|im_start|>assistant\n", ""),
        ("What does <think> mean?<|im_end|>\n", ""),
        ("", ""),
    ],
)
def test_a_prompt_may_open_a_thought(prompt, opens):
    assert opened_by(prompt) == opens


def test_how_an_open_thought_is_closed():
    openings = ("<think>\n", "[THINK]", "◁think▷", "<seed:think><seed:cot_budget_reflect>", "<|START_THINKING|>")
    assert [closing_of(opening) for opening in openings] == [
        "</think>", "[/THINK]", "◁/think▷", "</seed:think>", "<|END_THINKING|>",
    ]  # fmt: skip


def test_tokens_that_mark_thoughts():
    assert all(
        map(is_marker, ["<think>", "</think>", "[THINK]", "<|channel|>", "<|message|>", "<|channel>", "<unused94>"])
    )
    assert not any(map(is_marker, ["<eos>", "<|im_end|>", "<|im_start|>", "[INST]", "think"]))
