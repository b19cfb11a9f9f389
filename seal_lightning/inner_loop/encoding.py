"""Training sequences in tokens, as the inner loop trains on them, and as others look at them again."""

from __future__ import annotations

from itertools import takewhile

from seal_lightning.inner_loop.plans import Encoded
from seal_lightning.policy.policy import Policy
from seal_lightning.types import Prompt, TrainingSequence


def encode_sequence(policy: Policy, sequence: TrainingSequence, *, ended: bool) -> Encoded:
    """A training sequence, without the source that a teacher reads.

    Args:
        policy: Whose tokens they are.
        sequence: The sequence.
        ended: Whether the EOS follows it; the answer to a request always has the end of its turn.
    """
    if sequence.asked is not None:
        return _asked(policy, sequence.asked, sequence.text)
    encoder = policy.encoder
    tokens, prompt = encoder.sequence(sequence.text, prompt=sequence.prompt, ended=ended)
    end = len(tokens) - (len(encoder.end) if ended else 0)
    start = prompt or len(encoder.opening)
    heading = encoder.data(sequence.heading) if sequence.heading else []
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(heading, tokens[start:], strict=False))
    return Encoded(tokens, prompt, told_from=start + len(list(shared)), told_to=end)


def _asked(policy: Policy, prompt: Prompt, reply: str) -> Encoded:
    """A request as the policy reads it, up to where it answers, and the reply up to the end of the turn."""
    opening = policy.reply_opening
    request = [*policy.encode(policy.format(prompt)), *opening]
    said = reply if policy.template and not prompt.plain else f" {reply}"  # a base model goes on behind the lead
    start, end = len(request), len(request) + len(policy.encoder.data(said))
    return Encoded([*request, *policy.encode_reply(said)[len(opening) :]], start, told_from=start, told_to=end)
