"""Multiple choice: a model is asked for a verdict in such a way that the answer can only be one of the given options.

An endpoint has to reply with one option and nothing else. A reply that cannot be read is asked for again, and if that
does not help, the unit of work fails: it is never taken for a "no". The policy is not asked to write at all: its own
probabilities of the options are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError, GradingError, check_count
from seal_lightning.stamps.arguments import Remembers
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


class AsksModel(Remembers):
    """What has a model choose among options: one behind an endpoint, or the policy itself.

    Args:
        endpoint: The model that is asked; null asks the policy, whose probabilities count.
        attempts: How often the endpoint is asked for one decision, until its reply can be read.
        max_tokens: Longest reply of the endpoint; a model that thinks first needs more.
    """

    def __init__(self, *, endpoint: Endpoint | None = None, attempts: int = 3, max_tokens: int = 16) -> None:
        self.endpoint = endpoint
        self.attempts = check_count("attempts", attempts)
        self.max_tokens = check_count("max_tokens", max_tokens)

    def decide(
        self,
        prompts: Sequence[Prompt],
        options: Sequence[str],
        *,
        policy: Chooser | None,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[Decision]:
        """Have the model choose one of the options for each prompt, which names them.

        Raises:
            ConfigError: There is neither endpoint nor policy.
            GradingError: A reply could not be read, `attempts` times.
            EndpointError: The endpoint did not answer.
        """
        if self.endpoint is not None:
            return self._ask(self.endpoint, prompts, options, on_done)
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

    def _ask(
        self, endpoint: Endpoint, prompts: Sequence[Prompt], options: Sequence[str], on_done: Callable[[int], None]
    ) -> list[Decision]:
        decisions: dict[int, Decision] = {}
        spent = [Usage()] * len(prompts)
        pending, unreadable = list(range(len(prompts))), ""
        insistence = f"\n\nReply with one word only: {' or '.join(options)}."
        for attempt in range(self.attempts):
            asked = [prompts[row] for row in pending]
            if attempt:
                asked = [replace(prompt, user=prompt.user + insistence) for prompt in asked]
            replies = endpoint.write(
                asked,
                max_tokens=self.max_tokens,
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
                else:
                    shares = tuple(float(number == chosen) for number in range(len(options)))
                    decisions[row] = Decision(shares, spent[row])
                    on_done(1)
            pending = [row for row in pending if row not in decisions]
            if not pending:
                return [decisions[row] for row in range(len(prompts))]
        raise GradingError(
            f"{endpoint.model}: expected {' or '.join(options)}, got {unreadable[:80]!r} after asking {self.attempts} "
            f"times for {len(pending)} of {len(prompts)} verdicts: use a model that follows instructions, or give a "
            "model that thinks first more max_tokens"
        )
