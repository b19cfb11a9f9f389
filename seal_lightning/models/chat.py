"""Chat templates: what an instruct model's prompts look like, found out by rendering its template, never by name.

A template is tried when its model is loaded. If it takes no system text, that goes before the user's. Thoughts are
switched off if it has a switch, and the date is fixed. The token that ends an assistant's turn tells an instruct model,
which stops there, from a base model that merely carries the template.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jinja2
import jinja2.meta
import jinja2.nodes
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from seal_lightning.errors import ModelError
from seal_lightning.models.encoding import TextEncoder
from seal_lightning.models.template_limits import TemplateOverrun, check_source, limited, short_range
from seal_lightning.text.thoughts import closing_of, opened_by
from seal_lightning.types import Prompt

log = logging.getLogger(__name__)

DATE = "2025-01-01"  # "today" for templates that tell it
ADVICE = "model.source.chat=false gives plain prompts"

# What a template may call its switch for thoughts, and the value that is off.
SWITCHES: Mapping[str, Any] = {
    **dict.fromkeys(["enable_thinking", "thinking", "enable_think", "think", "use_thinking", "with_thinking"], False),
    **dict.fromkeys(["enable_reasoning", "reasoning", "use_reasoning"], False),
    "thinking_budget": 0,
}
EFFORT = "reasoning_effort"
LEAST_EFFORT = ("none", "off", "minimal", "low")
OURS = frozenset(["messages", "add_generation_prompt", "continue_final_message", "strftime_now", "raise_exception"])
FAILURES = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, ImportError)
FAILURES += (RecursionError, MemoryError)

_SYSTEM, _USER, _REPLY, _NEXT = "Instruction4711", "Request4712", "Reply4713", "Request4714"  # no template has these


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A tokenizer's chat template, tried out.

    Attributes:
        tokenizer: Renders it.
        source: The template with its date fixed.
        args: Arguments it gets besides the messages.
        takes_system: Whether it has a place for the system text.
        takes_parts: Whether a message's content is a list of parts.
        end: The token that ends an assistant's turn; None if no token does.
        end_text: The text that ends it, for messages.
        reply: Text that the template writes between a prompt and the reply, such as the channel of gpt-oss.
        opens: The end of a prompt that opens a thought for the model to go on with.
    """

    tokenizer: Any = field(repr=False)
    source: str = field(repr=False)
    args: Mapping[str, Any] = field(default_factory=dict)
    takes_system: bool = True
    takes_parts: bool = False
    end: int | None = None
    end_text: str = ""
    reply: str = ""
    opens: str = ""

    def render(self, prompt: Prompt) -> str:
        """The text of a prompt, up to where the model goes on; the user's begins with a system text without a place."""
        apart = self.takes_system and bool(prompt.system)
        system = [{"role": "system", "content": prompt.system}] if apart else []
        user = prompt.user if apart or not prompt.system else f"{prompt.system}\n\n{prompt.user}"
        return self._rendered([*system, {"role": "user", "content": user}])

    def _rendered(self, messages: Sequence[Mapping[str, str]], *, to_answer: bool = True) -> str:
        shaped = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
        try:
            with limited():
                return self.tokenizer.apply_chat_template(
                    list(shaped if self.takes_parts else messages),
                    chat_template=self.source,
                    tokenize=False,
                    add_generation_prompt=to_answer,
                    **self.args,
                )
        except TemplateOverrun as error:
            name = getattr(self.tokenizer, "name_or_path", "") or "the model"
            raise TemplateOverrun(f"the chat template of {name} cannot be used: {error}; {ADVICE}") from None

    @property
    def stamp(self) -> bool | str:
        """What prompts depend on beside the tokenizer: True for a template that is taken as it is."""
        plain = ChatTemplate(self.tokenizer, self.tokenizer.get_chat_template())
        changes = {name: getattr(self, name) for name in ("args", "takes_system", "takes_parts", "reply", "opens")}
        if self.source == plain.source and all(getattr(plain, name) == value for name, value in changes.items()):
            return True
        digest = hashlib.blake2b(self.source.encode(), digest_size=8).hexdigest()
        return json.dumps({"template": digest, **changes}, sort_keys=True, default=str)


def read_template(
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str = "the model",
    args: Mapping[str, object] | None = None,
    date: str = DATE,
) -> ChatTemplate:
    """Find out how a tokenizer's chat template is used.

    Args:
        tokenizer: A tokenizer with a chat template, or with several of which one is the default.
        name: Name of the model, for messages.
        args: Arguments that the user sets.
        date: "Today", as YYYY-MM-DD.

    Raises:
        ModelError: The template cannot render a request, or does not know one of `args`.
    """
    try:
        source = _fixed_date(tokenizer.get_chat_template(), datetime.date.fromisoformat(date))
        known = _variables(source)
        given = _checked(args or {}, known=known - set(tokenizer.special_tokens_map), name=name)
        template = _shaped(ChatTemplate(tokenizer, source, given))
    except FAILURES as error:
        if isinstance(error, ModelError):
            raise
        why = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise ModelError(f"model.source.name={name}: its chat template cannot be used: {why}; {ADVICE}") from error
    return _with_turns(_silenced(template, known))


def _fixed_date(source: str, day: datetime.date) -> str:
    """The template with a clock of its own, a macro in place of transformers' `strftime_now`, which stands at `day`."""
    if "strftime_now" not in source:
        return source
    codes = sorted(
        {*re.findall(r"%[-_0^#]?[A-Za-z]", source), *(f"%{letter}" for letter in "aAbBcdDeFHIjmMpSTuwxXyYZ")}
    )
    midnight = datetime.datetime.combine(day, datetime.time())
    filters = "".join(f"|replace({json.dumps(code)},{json.dumps(midnight.strftime(code))})" for code in codes)
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{filters} }}}}{{%- endmacro %}}\n{source}"


def _variables(source: str) -> frozenset[str]:
    """What can be told to a template, which is checked before it is compiled."""
    check_source(source, _compile_jinja_template("").environment)
    with limited():  # compiling computes what is constant
        environment = _compile_jinja_template(source).environment
        environment.globals["range"] = short_range
        return frozenset(jinja2.meta.find_undeclared_variables(environment.parse(source))) - OURS


def _checked(args: Mapping[str, object], *, known: frozenset[str], name: str) -> dict[str, object]:
    if unknown := sorted(set(args) - known):
        knows = f"it knows {', '.join(sorted(known))}" if known else "it knows none"
        raise ModelError(f"model.source.template_args: the chat template of {name} does not know {unknown[0]}; {knows}")
    return dict(args)


def _shaped(template: ChatTemplate) -> ChatTemplate:
    """The template with the shape that its messages need. Raises one of `FAILURES` if it renders none."""
    failure: Exception = ValueError("it leaves out what the user says")
    for parts in (False, True):
        tried = replace(template, takes_parts=parts)
        try:
            if not _holds(tried.render(Prompt(_USER)), _USER):
                continue
        except FAILURES as error:
            failure = failure if parts else error
            continue
        return replace(tried, takes_system=_takes_system(tried))
    raise failure


def _takes_system(template: ChatTemplate) -> bool:
    try:
        text = template.render(Prompt(_USER, system=_SYSTEM))
    except FAILURES:
        return False
    return _holds(text, _SYSTEM) and _holds(text, _USER)


def _holds(text: str, part: str) -> bool:
    return part.casefold() in text.casefold()


def _silenced(template: ChatTemplate, known: frozenset[str]) -> ChatTemplate:
    """The template with thoughts switched off, if it has a switch that the user has not set."""
    free = [switch for switch in SWITCHES if switch in known and switch not in template.args]
    wanted = {switch: SWITCHES[switch] for switch in free}
    if EFFORT in known and EFFORT not in template.args:
        parsed = _compile_jinja_template(template.source).environment.parse(template.source)
        words = {node.value for node in parsed.find_all(jinja2.nodes.Const)}  # that its code compares with
        wanted[EFFORT] = next((word for word in LEAST_EFFORT if word in words), LEAST_EFFORT[-1])
    for switch, value in wanted.items():
        tried = replace(template, args={**template.args, switch: value})
        try:
            tried.render(Prompt(_USER))
        except FAILURES:
            continue
        template = tried
    return template


def _with_turns(template: ChatTemplate) -> ChatTemplate:
    """The template with how it begins and ends an assistant's turn."""
    prompt = template.render(Prompt(_USER))
    opens = opened_by(prompt)
    said = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _REPLY}]
    template = replace(template, opens=opens, reply=f"{closing_of(opens)}\n\n" if opens else "")
    try:
        whole = template._rendered(said, to_answer=False)
        goes_on = template._rendered([*said, {"role": "user", "content": _NEXT}], to_answer=False)
    except FAILURES:
        return template
    before, _, after = whole.partition(_REPLY)
    if not opens and before.startswith(prompt) and before[len(prompt) :].strip():
        template = replace(template, reply=before[len(prompt) :])
    if not after.strip():  # it may say how a turn ends only where another one follows
        between = goes_on.partition(_REPLY)[2].partition(_NEXT)[0]
        end = _control_at_start(template.tokenizer, between)
        return replace(template, end=end, end_text=between.strip() if end is not None else "")
    return replace(template, end=_control_at_start(template.tokenizer, after), end_text=after.strip())


def _control_at_start(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """The control token that a text begins with."""
    control = TextEncoder(tokenizer).control
    begins = [token for token in control if text.lstrip().startswith(token)]
    return control[max(begins, key=len)] if begins else None


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a text of a model, as its configurations and its tokenizer say."""
    configs = [getattr(model, "generation_config", None), model.config, model.config.get_text_config()]
    shipped = [*(getattr(config, "eos_token_id", None) for config in configs), tokenizer.eos_token_id]
    listed = [ids if isinstance(ids, list | tuple) else [ids] for ids in shipped]
    return [token for ids in listed for token in ids if token is not None]


def ends_turns(template: ChatTemplate, model: PreTrainedModel) -> bool:
    """Whether the model stops where the template ends a turn: an instruct model does, a base model was never taught to.

    A template that ends turns with nothing says nothing about that; it is taken to be the model's.
    """
    if template.end is None:
        return not template.end_text
    return template.end in stop_ids(model, template.tokenizer)


def chosen_template(template: ChatTemplate, model: PreTrainedModel, *, name: str) -> ChatTemplate | None:
    """The template for an instruct model, None for a base model; says which in the log."""
    end = repr(template.end_text) if template.end_text else "no token"
    if ends_turns(template, model):
        log.info("%s: prompts go through its chat template, which ends turns with %s", name, end)
        return template
    log.info(
        "%s: prompts are plain, as for a base model: it does not stop at %s, with which its chat template ends turns; "
        "model.source.chat=true uses the template all the same",
        name,
        end,
    )
    return None
