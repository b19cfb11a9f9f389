"""Streams on a model with random weights: what they record, that being broken off changes nothing, merge and stack."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from seal_lightning.commands.continual import Countermeasure, NullSpace, Replay
from seal_lightning.commands.continual.command import make_routes
from seal_lightning.commands.continual.steps import StreamStep, read_step, write_step
from seal_lightning.commands.continual.stream import Route, StreamRunner, choose
from seal_lightning.commands.continual.updates import Merged, Stacked
from seal_lightning.e_step.closed_book import Answered
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import ConfigError, JournalError, StaleJournalError
from seal_lightning.grading import Reward
from seal_lightning.grading.lexical import Contains
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.random_models import build_tiny
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import WrittenEdits
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context, Query, Rollout

FACTS = {"tarn": "A tarn is a lake.", "lamp": "The lamp burns oil.", "salt": "Salt is white."}
CONTEXTS = tuple(
    Context(id=name, title=name, passage=text, queries=(Query(f"What of {name}?", ("e",)),), edits=(text, "It is so."))
    for name, text in FACTS.items()
)
ROUTE = Route("order 1, seed 1", CONTEXTS, seed=7)
IDS = torch.tensor([[5, 9, 12, 7, 30]])


class Killed(Exception):
    pass


def runner(kind=Merged, **options):
    model, tokenizer = build_tiny("llama", seed=0)
    policy = Policy(model.eval().requires_grad_(False), tokenizer, chat=False)
    loop = InnerLoop(rank=4, alpha=8, epochs=2, learning_rate=1e-2)
    e_step = EStep(Knowledge(), WrittenEdits(), loop, Contains(), Reward("score"), Plan(1, 1), max_answer_tokens=4)
    source = ModelSource("random/llama")
    return StreamRunner(e_step, kind(policy), (CONTEXTS[2],), origin={"base": "tiny"}, source=source, **options)


def logits(at_work):
    return at_work.updates.policy.model(IDS).logits


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished plain stream: its runner, its folder and what it gave."""
    at_work, folder = runner(), tmp_path_factory.mktemp("stream")
    before = logits(at_work)
    return at_work, folder, at_work.run(ROUTE, Countermeasure(), folder), before


def test_rows(whole):
    _, _, stream, _ = whole
    assert (stream.name, stream.contexts) == ("order 1, seed 1", ("tarn", "lamp", "salt"))
    assert [len(row) for row in stream.rows] == [3, 1, 2, 3]
    assert len(stream.unrelated) == 4


def test_the_end_loads_in_peft_and_the_base_comes_back(whole):
    at_work, folder, _, before = whole
    after = logits(at_work)
    fresh, _ = build_tiny("llama", seed=0)
    loaded = PeftModel.from_pretrained(fresh.eval(), folder / "adapter")
    assert float((after - before).abs().max()) > 0.01
    torch.testing.assert_close(loaded(IDS).logits, after, atol=1e-4, rtol=1e-4)
    at_work.updates.clear()
    assert torch.equal(logits(at_work), before)


@pytest.mark.parametrize("measure", [Replay, NullSpace])
def test_a_stream_that_was_killed_ends_the_same(tmp_path, measure):
    plain = runner().run(ROUTE, measure(), tmp_path / "whole")
    finished = []

    def kill(count):
        finished.append(count)
        if len(finished) == 3:
            raise Killed

    with pytest.raises(Killed):
        runner(advance=kill).run(ROUTE, measure(), tmp_path / "killed")
    torn = tmp_path / "killed" / "step-003"  # a step that had its adapter, but was not finished
    shutil.copytree(tmp_path / "killed" / "step-001", torn)
    (torn / "step.json").unlink()
    assert runner().run(ROUTE, measure(), tmp_path / "killed") == plain
    for name in ("step-003/adapter_model.safetensors", "adapter/adapter_model.safetensors", "step-003/step.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_stacked_updates_are_the_merged_ones(tmp_path, whole):
    at_work = runner(Stacked)
    before = logits(at_work)
    at_work.run(ROUTE, Countermeasure(), tmp_path)
    stacked = logits(at_work)
    merged = runner()
    merged.run(ROUTE, Countermeasure(), whole[1])
    assert float((stacked - before).abs().max()) > 0.01
    torch.testing.assert_close(stacked, logits(merged), atol=1e-3, rtol=1e-3)
    at_work.updates.clear()
    assert torch.equal(logits(at_work), before)


def test_other_settings_are_refused(whole):
    _, folder, _, _ = whole
    for route, measure, name in (
        (replace(ROUTE, seed=8), Countermeasure(), "seed: was 7"),
        (ROUTE, Replay(), "counterm"),
    ):
        with pytest.raises(StaleJournalError, match=f"written with other settings .*{name}.*choose another --output"):
            runner().run(route, measure, folder)


def test_several_edits_are_scored_and_the_best_is_learnt(tmp_path):
    at_work = replace(runner(), e_step=replace(runner().e_step, plan=Plan(edits=2, repeats=1)))
    at_work.run(replace(ROUTE, contexts=CONTEXTS[:2]), Countermeasure(), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "self-edits.rank-0.jsonl").read_text().splitlines()[1:]]
    assert [(row["unit"], row["edit_index"], row["reward"] is None) for row in rows] == [
        (1, 0, False), (1, 1, False), (2, 0, False), (2, 1, False),
    ]  # fmt: skip


def rollout(index, reward, status="ok"):
    return Rollout(1, "tarn", index, 0, 0, "", "", status, reward=reward)


def test_choice():
    assert choose([rollout(0, 0.25), rollout(1, 0.75), rollout(2, None, "rejected")]) == 1
    assert choose([rollout(0, 0.5), rollout(1, 0.5)]) == 0
    assert choose([rollout(0, None)]) == 0
    assert choose([rollout(0, None, "rejected")]) is None
    assert choose([rollout(0, 0.5), rollout(0, None, "diverged")]) is None
    assert choose([rollout(0, None, "diverged"), rollout(1, 0.1)]) == 1


def test_an_adapter_that_diverges_is_not_added(tmp_path, caplog):
    at_work = runner()
    before = logits(at_work)
    loop = replace(at_work.e_step.inner_loop, learning_rate=3e38)
    at_work = replace(at_work, e_step=replace(at_work.e_step, inner_loop=loop))
    stream = at_work.run(replace(ROUTE, contexts=CONTEXTS[:1]), Countermeasure(), tmp_path)
    assert torch.equal(logits(at_work), before)
    assert stream.rows[1][0] == stream.rows[0][0] and not (tmp_path / "adapter").exists()
    assert [path.name for path in (tmp_path / "step-001").iterdir()] == ["step.json"]
    step = json.loads((tmp_path / "step-001" / "step.json").read_text())
    assert step["chosen"] is None and step["left_out"]["diverged"] == 1
    assert "order 1, seed 1, tarn: nothing is learnt from it, because its adapter diverged (the " in caplog.text


def test_an_edit_that_cannot_be_used_leaves_the_policy_as_it_is(tmp_path):
    at_work = runner()
    before = logits(at_work)
    contexts = tuple(replace(context, edits=()) for context in CONTEXTS)
    stream = at_work.run(replace(ROUTE, contexts=contexts), NullSpace(), tmp_path)
    assert torch.equal(logits(at_work), before)
    assert stream.rows[3] == stream.rows[0] and not (tmp_path / "adapter").exists()


def test_steps_on_disk(tmp_path):
    step = StreamStep(0, (Answered(("oil", ""), (1.0, 0.0)),), ())
    assert read_step(tmp_path / "step-001") is None
    write_step(tmp_path / "step-001", step, ["lamp"], lora=None, model=runner().updates.policy.model)
    assert read_step(tmp_path / "step-001") == step
    (tmp_path / "step-001" / "step.json").write_text('{"chosen": 0}')
    with pytest.raises(
        JournalError,
        match=r"step.json: expected a step of seal continual, got another file \(answered is missing\): remove",
    ):
        read_step(tmp_path / "step-001")


def test_routes():
    options = {"count": 2, "seeds": 2, "seed": 0, "own_contexts": False}
    routes = make_routes(CONTEXTS, orders=2, **options)
    assert [route.name for route in routes] == [f"order {i}, seed {j}" for i in (1, 2) for j in (1, 2)]
    assert routes[0].folder == "order-1-seed-1" and len({route.seed for route in routes}) == 4
    assert [context.id for context in routes[0].contexts] == ["tarn", "lamp"]
    assert {context.id for context in routes[2].contexts} == {"tarn", "lamp"}
    assert make_routes(CONTEXTS, orders=3, **options)[:4] == routes  # more orders leave the first ones alone
    with pytest.raises(ConfigError, match="--contexts 2: expected 4 contexts in the data, got 3: lower --contexts"):
        make_routes(CONTEXTS, orders=2, **{**options, "own_contexts": True})


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])


def test_a_damaged_step_is_run_again_and_later_ones_stay_where_it_comes_to_the_same(tmp_path, caplog):
    plain = runner().run(ROUTE, Countermeasure(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for damaged in ("step-002/adapter_model.safetensors", "step-002/adapter_config.json", "step-003/step.json"):
        caplog.clear()
        flip(tmp_path / damaged) if damaged.endswith("safetensors") else (tmp_path / damaged).write_text("{")
        assert runner().run(ROUTE, Countermeasure(), tmp_path) == plain
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 1 and said[0].startswith(f"{(tmp_path / damaged).parent}: damaged, so it is run again (")
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_steps_after_one_that_has_other_weights_now_are_run_again(tmp_path, caplog):
    plain = runner().run(ROUTE, Countermeasure(), tmp_path)
    record = tmp_path / "step-002" / "step.json"
    record.write_text(record.read_text().replace('"adapter_model.safetensors": "', '"adapter_model.safetensors": "0'))
    assert runner().run(ROUTE, Countermeasure(), tmp_path) == plain
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"{record.parent}: damaged, so it is run again (")
    assert said[1:] == [f"{tmp_path / 'step-003'}: run again, because an earlier step has other weights now"]
