"""Who says the answers of a library: the model in this process, or a server that has loaded the library's adapters.

Both get the same prompts, as token ids, and stop where the model does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.inner_loop.lora_bank import lora_bank
from seal_lightning.library.opening import AskedWith, combined, is_whole, load_whole, read_adapter
from seal_lightning.models.lora import LoRA
from seal_lightning.policy.loading import Device
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import Answers, Asked, LocalAnswerer
from seal_lightning.sampling.server import AdapterServer, received
from seal_lightning.text.redaction import quoted
from seal_lightning.types import Prompt

KEPT = 64  # adapters that stay in memory once they were read
Hear = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Blend:
    """Which adapters answer, and how much the change of each counts; none at all is the policy alone."""

    adapters: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ToSay:
    """One prompt for a blend; `hear` is told the text so far, wherever that can be told."""

    blend: Blend
    prompts: tuple[Prompt, ...]
    hear: Hear | None = None


class Speaker(ABC):
    """Answers prompts with adapters of a library."""

    @abstractmethod
    def say(self, asked: Sequence[ToSay], *, max_new_tokens: int) -> list[Answers]:
        """What the model says to each, in order."""

    @abstractmethod
    def window(self) -> int:
        """The most tokens of a prompt with its answer."""


class LocalSpeaker(Speaker):
    """The model in this process, with adapters that are read when they are first asked.

    Args:
        folder: The library.
        policy: The policy without adapters.
        asked_with: How whole models are loaded.
        device: Where they go.
    """

    def __init__(self, folder: Path, policy: Policy, asked_with: AskedWith, device: Device) -> None:
        self.folder = folder
        self.policy = policy
        self._asked_with = asked_with
        self._device: Device = device
        self._loras: dict[str, LoRA] = {}
        self._whole: dict[str, Policy] = {}

    def window(self) -> int:
        return self.policy.window

    def say(self, asked: Sequence[ToSay], *, max_new_tokens: int) -> list[Answers]:
        whole = [self._whole_of(one.blend) for one in asked]
        answers: dict[int, Answers] = {}
        for adapter in dict.fromkeys(whole):
            places = [place for place, own in enumerate(whole) if own == adapter]
            policy = self.policy if adapter is None else self._load_whole(adapter)
            some = [asked[place] for place in places]
            answers |= zip(places, self._say(policy, some, max_new_tokens, plain=adapter is not None), strict=True)
        return [answers[place] for place in range(len(asked))]

    def _say(self, policy: Policy, asked: Sequence[ToSay], most: int, *, plain: bool) -> list[Answers]:
        blends = [] if plain else list(dict.fromkeys(one.blend for one in asked if one.blend.adapters))
        trained = TrainedBank(lora_bank(policy.model, [self._lora(blend) for blend in blends]), ()) if blends else None
        slots = {blend: slot for slot, blend in enumerate(blends)}
        jobs = [Asked(slots.get(one.blend), one.prompts) for one in asked]
        answers = self._answerer(policy, asked).answer(policy, jobs, trained, max_new_tokens=most)
        if broken := [one for one, given in zip(asked, answers, strict=True) if not given.finite]:
            raise ModelError(
                f"{self.folder / broken[0].blend.adapters[0]}: expected finite logits, got nan or infinity: make the "
                "adapter again"
            )
        return answers

    def _answerer(self, policy: Policy, asked: Sequence[ToSay]) -> LocalAnswerer:
        """Tells who wants to hear; where a question is asked in several ways, the first of them."""
        heard = {sum(len(before.prompts) for before in asked[:at]): one for at, one in enumerate(asked) if one.hear}
        if not heard:
            return LocalAnswerer()

        def hear(number: int, tokens: Sequence[int]) -> None:
            if (one := heard.get(number)) and one.hear and tokens:
                one.hear(policy.decode(tokens, prompt=policy.encode(policy.format(one.prompts[0]))))

        return LocalAnswerer().heard_by(hear)

    def _lora(self, blend: Blend) -> LoRA:
        for adapter in blend.adapters:
            if adapter not in self._loras:
                while len(self._loras) >= max(KEPT, len(blend.adapters)):
                    self._loras.pop(next(iter(self._loras)))
                self._loras[adapter] = read_adapter(self.folder, adapter, self.policy)
        return combined([self._loras[adapter] for adapter in blend.adapters], blend.weights)

    def _whole_of(self, blend: Blend) -> str | None:
        return next((adapter for adapter in blend.adapters if is_whole(self.folder, adapter)), None)

    def _load_whole(self, adapter: str) -> Policy:
        if adapter not in self._whole:
            self._whole[adapter] = load_whole(self.folder, adapter, self._asked_with, self._device)
        return self._whole[adapter]


@dataclass(frozen=True, slots=True)
class Held:
    """What a server holds.

    Attributes:
        url: The server's address, up to `/v1`.
        base: The base model as the server calls it.
        names: All of its models and adapters.
    """

    url: str
    base: str
    names: tuple[str, ...]

    @staticmethod
    def by(url: str, model: str | None = None) -> Held:
        """What the server at an address holds; without a `model` the base is the first one that is not an adapter.

        Raises:
            ConfigError: There is no such model, or the extra `endpoint` is missing.
            EndpointError: There is no server.
        """
        rows = Endpoint(model or "base", base_url=url, cache=None, retries=1).models()
        names = tuple(str(row["id"]) for row in rows)
        held = Held(url, model or next((str(row["id"]) for row in rows if not row.get("parent")), ""), names)
        if held.base not in names:
            raise ConfigError(f"--server_model {held.base}: {url} holds {held}: name the base model among these")
        return held

    def __str__(self) -> str:
        return quoted(", ".join(self.names[:8])) or "no model"


class ServerSpeaker(Speaker):
    """A server that knows each adapter by the name of its folder (docs/ask.md).

    Args:
        policy: Makes the prompts' tokens; its weights are not used.
        held: What the server holds.
    """

    def __init__(self, policy: Policy, held: Held) -> None:
        self.policy = policy
        self._held = held
        self._server = AdapterServer(Endpoint(held.base, base_url=held.url, cache=None, retries=3))

    def window(self) -> int:
        return self._server.window(self.policy)

    def say(self, asked: Sequence[ToSay], *, max_new_tokens: int) -> list[Answers]:
        """What adapters say, then what the base says: vLLM 0.32 on a CPU mixes these up within a batch."""
        names = [self._name(one.blend) for one in asked]
        answers: dict[int, Answers] = {}
        for of_base in (False, True):
            places = [place for place, name in enumerate(names) if (name == self._held.base) == of_base]
            some = self._say([asked[place] for place in places], [names[place] for place in places], max_new_tokens)
            answers |= zip(places, some, strict=True)
        return [answers[place] for place in range(len(asked))]

    def _say(self, asked: Sequence[ToSay], names: Sequence[str], most: int) -> list[Answers]:
        models = [name for name, one in zip(names, asked, strict=True) for _ in one.prompts]
        prompts = [self.policy.format(prompt) for one in asked for prompt in one.prompts]
        written = self._server.continued(self.policy, prompts, max_new_tokens=most, models=models) if prompts else []
        given = iter([received(self.policy, *pair) for pair in zip(prompts, written, strict=True)])
        answers = []
        for one in asked:
            texts = [next(given) for _ in one.prompts]
            answers.append(Answers(tuple(text.text for text in texts), 0, tuple(text.cut for text in texts)))
        return answers

    def _name(self, blend: Blend) -> str:
        if not blend.adapters:
            return self._held.base
        adapter, *others = blend.adapters
        if others:
            raise ConfigError("--k: a server answers with one adapter at a time: leave it out, or ask without --server")
        name = adapter.rpartition("/")[2]
        if name not in self._held.names:
            raise ConfigError(
                f"--server {self._held.url}: expected the adapter {name}, and it holds {self._held}: load it there "
                "(docs/ask.md)"
            )
        return name
