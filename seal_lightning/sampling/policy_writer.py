"""The policy as one that is asked: it answers requests, and tells how likely it finds given answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from seal_lightning.policy import Policy
from seal_lightning.sampling.generation import batches, generate
from seal_lightning.types import Prompt, Written


@dataclass(frozen=True, slots=True)
class PolicyWriter:
    """A frozen policy as a `Chooser`; `batch_size` prompts are read together."""

    policy: Policy
    batch_size: int = 32

    def write(self, prompts: Sequence[Prompt], *, max_tokens: int) -> list[Written]:
        policy = self.policy
        ids = [policy.encode(policy.format(prompt)) for prompt in prompts]
        written: dict[int, Written] = {}
        for rows in batches(policy, ids, size=self.batch_size, max_new_tokens=max_tokens):
            texts = generate(policy, [ids[row] for row in rows], max_new_tokens=max_tokens)
            for row, tokens in zip(rows, texts, strict=True):
                written[row] = Written(policy.tokenizer.decode(tokens, skip_special_tokens=True).strip())
        return [written[row] for row in range(len(prompts))]

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[tuple[float, ...]]:
        """From the likelihood of an option's tokens after the prompt; their mean, so that short ones do not win."""
        policy = self.policy
        space = "" if policy.chat else " "
        ends = [policy.tokenizer(space + option, add_special_tokens=False)["input_ids"] for option in options]
        rows = [(policy.encode(policy.format(prompt)), end) for prompt in prompts for end in ends]
        parts = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        likelihoods = [value for part in parts for value in self._log_likelihoods(part)]
        table = torch.tensor(likelihoods, dtype=torch.float64).view(len(prompts), len(options))
        return [tuple(row) for row in table.softmax(dim=1).tolist()]

    @torch.no_grad()
    def _log_likelihoods(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Mean log-probability of the second part's tokens after the first."""
        policy = self.policy
        longest = max(len(prompt) + len(end) for prompt, end in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (prompt, end) in enumerate(rows):
            tokens = [*prompt, *end]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        logits = policy.model(input_ids=ids.to(policy.device), attention_mask=mask.to(policy.device)).logits
        found = []
        for row, (prompt, end) in enumerate(rows):
            places = torch.arange(len(prompt) - 1, len(prompt) + len(end) - 1)
            scores = logits[row, places.to(logits.device)].float().log_softmax(dim=-1).cpu()
            found.append(float(scores[torch.arange(len(end)), torch.tensor(end)].mean()))
        return found
