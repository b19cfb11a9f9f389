"""The policy on a server: adapters that it loads while it runs answer as they do here.

`transformers serve` loads any folder that a request names. The proxy before it plays vLLM's part: it is told which
adapters to load and unload, merges each into the base by means of peft, and turns their names into folders.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from endpoints import ChatServer, FaultProxy, make_chat_model, serving
from peft import PeftModel
from transformers import AutoTokenizer

from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.lab.data import LabPassages
from seal_lightning.models.loading import load_model
from seal_lightning.models.lora import LoRA, stack
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy
from seal_lightning.sampling import AdapterServer, Asked, LocalAnswerer, SampleRequest, ServerAnswerer, ServerSampler
from seal_lightning.tasks import Knowledge
from seal_lightning.types import AdapterJob, Prompt

# Word for word what vLLM 0.32 says, with status 500.
TOO_LARGE = (
    "Call to add_lora method failed: Worker failed with error 'LoRA rank {} is greater than max_lora_rank {}.', please "
    "check the stack trace above for the root cause"
)


class LoraProxy(FaultProxy):
    """Adapters by name, as vLLM has them at runtime."""

    def __init__(self, server: ChatServer) -> None:
        super().__init__(server.base_url)
        self.base = server.model
        self.tokenizer = AutoTokenizer.from_pretrained(server.model)
        self.options: dict[str, Any] = {}
        self.one_at_a_time = threading.Lock()
        self.loaded: dict[str, str] = {}
        self.commands: list[str] = []
        self.window = 256
        self.max_rank: int | None = 64  # None: started without what lets it load adapters

    def list_models(self, handler) -> None:
        rows = [{"id": self.base, "max_model_len": self.window}]
        self._send(handler, 200, json.dumps({"object": "list", "data": rows}).encode())

    def handle(self, handler) -> None:
        if "lora_adapter" not in handler.path:
            super().handle(handler)
            return
        with self.one_at_a_time:  # as in vLLM; transformers cannot load two models at once
            self._take(handler)

    def _take(self, handler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        self.commands.append(f"{handler.path} {body['lora_name']}")
        if self.max_rank is None:
            self._send(handler, 404, b'{"detail": "Not Found"}')
            return
        if handler.path == "/v1/load_lora_adapter":
            rank = json.loads((Path(body["lora_path"]) / "adapter_config.json").read_text())["r"]
            if rank > self.max_rank:
                said = {"error": {"message": TOO_LARGE.format(rank, self.max_rank), "type": "InternalServerError"}}
                self._send(handler, 500, json.dumps(said).encode())
                return
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
        names = {"stop_token_ids", "repetition_penalty", "top_k", "min_p"} & content.keys()
        self.options = {name: content.pop(name) for name in names}
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
        trained = inner_loop.adapt(frozen, jobs)
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


def checked(server, folder, *, rank: int = 8, model: str | None = None) -> None:
    policy = tuned(server)
    endpoint = Endpoint(model or server.base, base_url=server.base_url, cache=None)
    AdapterServer(endpoint, folder=str(folder)).check(policy.view, rank=rank, layers=policy.layers)


def test_a_server_that_fits_is_sent_one_small_adapter_and_keeps_none(server, tmp_path):
    server.commands.clear()
    checked(server, tmp_path, rank=64)
    assert [command.split()[0] for command in server.commands] == ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"]
    assert server.loaded == {} and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("held", "wanted", "said"),
    [
        (
            64,
            {"model": "another"},
            r"model another at http://\S+: the server holds \S+/model; set endpoint.model to that$",
        ),
        (
            None,
            {},
            r"refused with status 404: Not Found; it has to load adapters of rank 8 while it runs: start vLLM with "
            r"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora and --max-lora-rank 8 or more$",
        ),
        (
            64,
            {"rank": 65},
            r"refused with status 500: .*LoRA rank 65 is greater than max_lora_rank 64.*; it has to load adapters of "
            r"rank 65 while it runs: start vLLM with .*--max-lora-rank 65 or more$",
        ),
    ],
)
def test_a_server_that_cannot_hold_the_policy_is_refused_at_once(server, monkeypatch, tmp_path, held, wanted, said):
    monkeypatch.setattr(server, "max_rank", held)
    with pytest.raises(ConfigError, match=said) as refused:
        checked(server, tmp_path, **wanted)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_what_the_endpoint_asks_for_goes_over_how_a_server_is_made_to_generate(server, tmp_path):
    endpoint = Endpoint(server.base, base_url=server.base_url, cache=None, request={"min_p": None, "top_k": 5})
    with tuned(server).frozen() as policy:
        AdapterServer(endpoint, folder=str(tmp_path)).continued(
            policy, ["Question: Who leads Tarn?"], max_new_tokens=2, models=[server.base]
        )
    assert server.options == {"stop_token_ids": [0], "repetition_penalty": 1.0, "top_k": 5}


def test_a_server_with_a_shorter_window_cuts_answers_and_refuses_longer_prompts(server, monkeypatch, tmp_path):
    monkeypatch.setattr(server, "window", 9)
    with tuned(server).frozen() as policy:
        prompt = "Question: Who leads Tarn?"
        held = adapters(server, tmp_path)
        (written,) = held.continued(policy, [prompt], max_new_tokens=64, models=[server.base])
        assert written.usage.completion_tokens == 3  # beside a prompt of 6; alone it would write 4
        with pytest.raises(ModelError, match=r"a prompt of 23 tokens leaves no room in the window of 9 of model"):
            held.continued(policy, [prompt, "Who " * 20], max_new_tokens=1, models=[server.base] * 2)


def test_adapters_are_where_another_user_can_read_them(server, tmp_path):
    policy = taught(tuned(server), 0)
    old = os.umask(0o022)
    try:
        with adapters(server, tmp_path / "sent").holding(policy.view, [policy.learned()]) as (name,):
            (folder,) = (tmp_path / "sent").iterdir()
            modes = {path.stat().st_mode & 0o777 for path in (folder, folder / name)}
    finally:
        os.umask(old)
    assert modes == {0o755}


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
