"""The policy on a server: adapters that it loads while it runs answer as they do here.

`transformers serve` loads any folder that a request names. The proxy before it plays vLLM's part: it is told which
adapters to load and unload, merges each into the base by means of peft, and turns their names into folders.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from endpoints import ChatServer, FaultProxy, make_chat_model, serving
from peft import PeftModel
from transformers import AutoTokenizer

from seal_lightning.adapters import LoRA, stack
from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop import InnerLoop
from seal_lightning.lab.data import LabPassages
from seal_lightning.model import ModelSource, load_model
from seal_lightning.policy import PolicyTuning, TunedPolicy
from seal_lightning.sampling import AdapterServer, Asked, LocalAnswerer, SampleRequest, ServerAnswerer, ServerSampler
from seal_lightning.tasks import Knowledge
from seal_lightning.types import AdapterJob, Prompt


class LoraProxy(FaultProxy):
    """Adapters by name, as vLLM has them at runtime."""

    def __init__(self, server: ChatServer) -> None:
        super().__init__(server.base_url)
        self.base = server.model
        self.tokenizer = AutoTokenizer.from_pretrained(server.model)
        self.options: dict[str, Any] = {}
        self.loaded: dict[str, str] = {}
        self.commands: list[str] = []

    def handle(self, handler) -> None:
        if "lora_adapter" not in handler.path:
            super().handle(handler)
            return
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        self.commands.append(f"{handler.path} {body['lora_name']}")
        if handler.path == "/v1/load_lora_adapter":
            served = Path(self.base).parent / body["lora_name"]
            model, tokenizer, _ = load_model(ModelSource(self.base))
            PeftModel.from_pretrained(model, body["lora_path"]).merge_and_unload().save_pretrained(served)
            tokenizer.save_pretrained(served)
            self.loaded[body["lora_name"]] = str(served)
        else:
            del self.loaded[body["lora_name"]]
        self._send(handler, 200, b"Success", {"Content-Type": "text/plain"})

    def _forward(self, handler, body: bytes) -> tuple[int, bytes]:
        content = json.loads(body)
        self.options = {name: content.pop(name) for name in ("stop_token_ids", "repetition_penalty", "top_k", "min_p")}
        content["prompt"] = self.tokenizer.decode(content["prompt"])  # `transformers serve` knows no token ids
        content["model"] = self.loaded.get(content["model"], content["model"])
        return super()._forward(handler, json.dumps(content).encode())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = tmp_path_factory.mktemp("policy") / "model"
    make_chat_model(model)
    with serving(model, pinned=False) as served, LoraProxy(served) as proxy:
        yield proxy


def tuned(server, **tuning) -> TunedPolicy:
    model, tokenizer, _ = load_model(ModelSource(server.base))
    return TunedPolicy(model, tokenizer, False, PolicyTuning(rank=2, alpha=4.0, **tuning), seed=0)


def taught(policy: TunedPolicy, round: int) -> TunedPolicy:
    """The policy after an M-step that changed it at random, merged as at a round's end."""
    draw = torch.Generator().manual_seed(round)
    for name, parameter in policy.trainable_state().items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.02
    policy.end_round(round)
    return policy


def adapters(server, folder) -> AdapterServer:
    return AdapterServer(Endpoint(server.base, base_url=server.base_url, cache=None), folder=str(folder))


@pytest.mark.slow
def test_adapters_answer_on_a_server_as_they_do_here(server, tmp_path):
    policy = taught(taught(tuned(server), 0), 1)
    contexts = LabPassages("train", count=2).read()
    task = Knowledge()
    jobs = [AdapterJob(task.parse(c.edits[0], c).training_sequences, seed=7) for c in contexts]
    inner_loop = InnerLoop(rank=4, alpha=8.0, target_modules=["v_proj", "down_proj"], epochs=4, learning_rate=5e-3)
    with policy.frozen() as frozen:
        trained = inner_loop.adapt(frozen.model, frozen.tokenizer, jobs)
        prompts = [tuple(task.query_prompt(query, context) for query in context.queries) for context in contexts]
        asked = [Asked(job, prompts[job]) for job in (0, 1)]
        here = LocalAnswerer().answer(frozen, asked, trained, max_new_tokens=6)
        answerer = ServerAnswerer(adapters(server, tmp_path))
        there = answerer.answer(frozen, asked, trained, max_new_tokens=6)
        plain = [Asked(None, prompts[0])]
        plain_here = LocalAnswerer().answer(frozen, plain, None, max_new_tokens=6)
        plain_there = answerer.answer(frozen, plain, None, max_new_tokens=6)
    assert [one.texts for one in there] == [one.texts for one in here]
    assert [one.texts for one in plain_there] == [one.texts for one in plain_here]
    assert plain_here[0].texts != here[0].texts  # or the adapters would show nothing
    assert server.loaded == {}
    assert server.options == {"stop_token_ids": [0], "repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0}
    assert len(server.commands) == 2 * 3  # two adapters and the policy alone, each loaded and unloaded


@pytest.mark.slow
def test_edits_are_sampled_from_what_the_policy_has_learned(server, tmp_path):
    server.commands.clear()
    context = LabPassages("train", count=1).read()[0]
    untaught, policy = tuned(server), taught(tuned(server), 3)
    samples = {}
    for name, one in {"untaught": untaught, "taught": policy}.items():
        with one.frozen() as frozen:
            message = Knowledge().prompt(context)
            request = SampleRequest(frozen.format(message), context, 0, 1, message)
            sampler = ServerSampler(adapters(server, tmp_path), temperature=0, max_new_tokens=12)
            (samples[name],) = sampler.sample(frozen, [request])
    assert samples["taught"].text != samples["untaught"].text
    assert samples["taught"].usage.completion_tokens == 12
    assert [command.split()[0] for command in server.commands] == ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"]


def test_a_fully_tuned_policy_cannot_be_held_by_a_server(server, tmp_path):
    with tuned(server, method="full").frozen() as frozen, pytest.raises(ConfigError, match=r"must be lora .* got full"):
        ServerAnswerer(adapters(server, tmp_path)).answer(
            frozen, [Asked(None, (Prompt("Who?"),))], None, max_new_tokens=2
        )


def test_a_stack_adds_up_whatever_layers_its_parts_change():
    draw = torch.Generator().manual_seed(0)

    def lora(rank: int, *layers: str, scale: float) -> LoRA:
        state = {}
        for layer in layers:
            state[f"{layer}.lora_A.weight"] = torch.randn(rank, 5, generator=draw)
            state[f"{layer}.lora_B.weight"] = torch.randn(3, rank, generator=draw)
        return LoRA(state, scale)

    one, other = lora(2, "q", "v", scale=0.5), lora(3, "v", "o", scale=2.0)
    both = stack([one, other])

    def product(part: LoRA, layer: str) -> torch.Tensor:
        if f"{layer}.lora_A.weight" not in part.state:
            return torch.zeros(3, 5)
        return part.scale * part.state[f"{layer}.lora_B.weight"] @ part.state[f"{layer}.lora_A.weight"]

    for layer in "qvo":
        assert both.state[f"{layer}.lora_A.weight"].shape == (5, 5)
        assert torch.allclose(product(both, layer), product(one, layer) + product(other, layer), atol=1e-6)
