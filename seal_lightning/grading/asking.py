"""Multiple choice: how a model is asked for a verdict, so that the answer can only be one of the given options.

An endpoint has to reply with one option and nothing else; a reply that cannot be read is asked for again, and when that
does not help the unit of work fails: it is never taken for a "no". The policy is not asked to write at all, its own
probabilities of the options are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError, GradingError
from seal_lightning.text.thoughts import cut_thoughts
from seal_lightning.types import Chooser, Prompt, Usage

AT_ONCE = 64  # prompts for the policy between two reports of progress
_AROUND = " \t\n\r*_`'\".:()[]"


@dataclass(frozen=True, slots=True)
class Decision:
    """The probability of each option (an endpoint's is all or nothing), and what an endpoint charged."""

    probabilities: tuple[float, ...]
    usage: Usage = Usage()


def read_option(text: str, options: Sequence[str]) -> int | None:
    """Which option a reply is, whatever its case and the marks around it; None for any other text.

    >>> [read_option(text, ("no", "yes")) for text in ("**Yes.**", "no", "Yes, mostly", "<think>Hm.</think> NO", "")]
    [1, 0, None, 0, None]
    """
    said = cut_thoughts(text).text.strip(_AROUND).casefold()
    return next((number for number, option in enumerate(options) if said == option.casefold()), None)


def decide(
    prompts: Sequence[Prompt],
    options: Sequence[str],
    *,
    endpoint: Endpoint | None,
    policy: Chooser | None,
    attempts: int = 3,
    max_tokens: int = 16,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Decision]:
    """Have a model choose one of the options for each prompt.

    Args:
        prompts: Requests that name the options.
        options: The replies that can be read.
        endpoint: The model that is asked; None asks the policy.
        policy: The policy of the E-step.
        attempts: How often an endpoint is asked for one decision, until its reply can be read.
        max_tokens: Longest reply of an endpoint; a model that thinks first needs more.
        on_done: Called with the number of decisions made since the last call.

    Raises:
        ConfigError: There is neither endpoint nor policy.
        GradingError: A reply could not be read, `attempts` times.
        EndpointError: The endpoint did not answer.
    """
    if endpoint is None:
        if policy is None:
            raise ConfigError(
                "endpoint must be set if no policy can be asked: set endpoint.model (or --policy, in seal grade)"
            )
        decisions = []
        for start in range(0, len(prompts), AT_ONCE):
            asked = prompts[start : start + AT_ONCE]
            decisions += [Decision(probabilities) for probabilities in policy.choose(asked, options)]
            on_done(len(asked))
        return decisions
    return _ask(prompts, options, endpoint, attempts, max_tokens, on_done)


def _ask(
    prompts: Sequence[Prompt],
    options: Sequence[str],
    endpoint: Endpoint,
    attempts: int,
    max_tokens: int,
    on_done: Callable[[int], None],
) -> list[Decision]:
    decisions: list[Decision | None] = [None] * len(prompts)
    spent = [Usage()] * len(prompts)
    pending, unreadable = list(range(len(prompts))), ""
    for attempt in range(attempts):
        replies = endpoint.write(
            [_insistent(prompts[row], options) if attempt else prompts[row] for row in pending],
            max_tokens=max_tokens,
            temperature=0.0 if attempt < 2 else 1.0,
            seeds=[attempt] * len(pending) if attempt else None,
            accept=lambda text: read_option(text, options) is not None,
            on_done=lambda count: on_done(0),  # still waiting; what counts are replies that can be read
        )
        for row, reply in zip(pending, replies, strict=True):
            spent[row] += reply.usage
            chosen = read_option(reply.text, options)
            if chosen is None:
                unreadable = reply.text
                continue
            decisions[row] = Decision(tuple(float(number == chosen) for number in range(len(options))), spent[row])
            on_done(1)
        pending = [row for row in pending if decisions[row] is None]
        if not pending:
            break
    if pending:
        raise GradingError(
            f"{endpoint.model}: expected {' or '.join(options)}, got {unreadable[:80]!r} after asking {attempts} times "
            f"for {len(pending)} of {len(prompts)} verdicts: take a model that follows instructions, or give a model "
            "that thinks first more max_tokens"
        )
    return [decision for decision in decisions if decision is not None]


def _insistent(prompt: Prompt, options: Sequence[str]) -> Prompt:
    return replace(prompt, user=f"{prompt.user}\n\nReply with one word only: {' or '.join(options)}.")
