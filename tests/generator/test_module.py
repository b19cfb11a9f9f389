"""A generator's run: the base stays as it is, the network learns, and a run that died ends as if it had not."""

import hashlib
from pathlib import Path

import pytest
import torch
from generator_fits import Passages, StopAfter, Stopped, fit, module
from tiny_generator import Tiny

from seal_lightning.callbacks import RandomFilter, Retention
from seal_lightning.e_step.closed_book import ask_closed_book
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.race_rule import Racing
from seal_lightning.errors import ConfigError, ModelError, StaleJournalError
from seal_lightning.fit.strategies import ZeROStrategy
from seal_lightning.generator import ClassHead, Distill, EndToEnd, GeneratorModule, Reinforce
from seal_lightning.generator.lessons import text_of
from seal_lightning.generator.reading import tokens_of
from seal_lightning.generator.trials import generate_bank
from seal_lightning.m_step.batches import MStep
from seal_lightning.records.journal import read_rollouts
from seal_lightning.results.retention import read_matrices
from seal_lightning.types import Context

REVIEWS = str(Path(__file__).parents[2] / "configs/generator/reviews-train.jsonl")


def bits(module: torch.nn.Module) -> str:
    digest = hashlib.blake2b()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def rollouts(folder):
    names = sorted(path.name.partition(".")[0] for path in (folder / "journal").glob("*.jsonl"))
    return [rollout for name in names for rollout in read_rollouts(folder / "journal", name)]


OBJECTIVES = {
    "end to end": lambda: EndToEnd(queries=1.0, reconstruction=0.5, continuation=0.5),
    "distilled": lambda: Distill(temperature=2.0),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_run_that_died_in_an_m_step_ends_as_one_that_did_not(tmp_path, objective):
    whole = module(objective=objective())
    before = None
    whole.configure_model()
    before = bits(whole.policy.view.model)
    fit(tmp_path / "whole", whole)
    with pytest.raises(Stopped):
        fit(
            tmp_path / "died", module(objective=objective()), callbacks=[StopAfter(8)]
        )  # the second of the second round
    resumed = module(objective=objective())
    fit(tmp_path / "died", resumed, ckpt_path="last")
    assert bits(resumed.policy.network) == bits(whole.policy.network)
    assert resumed.policy.digest() == whole.policy.digest()
    assert bits(whole.policy.view.model) == bits(resumed.policy.view.model) == before
    scores = [
        [(one.context_id, one.answers, one.reward) for one in rollouts(tmp_path / name)] for name in ("whole", "died")
    ]
    assert scores[0] == scores[1] and len(scores[0]) == 2 * 6 + 3 * 3


def test_what_is_not_finite_earns_no_reward_and_nothing_of_it_is_learnt(tmp_path):
    texts = Passages(6).read()
    probe = module()
    probe.configure_model()
    lengths = [len(tokens_of(probe.policy.view, text_of(probe.parts.task, text))) for text in texts]
    wrong = {text.id for text, length in zip(texts, lengths, strict=True) if length == lengths[0]}
    assert 0 < len(wrong) < len(texts)
    made = module(Tiny(spoilt=lengths[0]))
    fit(tmp_path, made, rounds=1)
    trained = [one for one in rollouts(tmp_path) if one.context_id.startswith("t")]
    for one in trained:
        if one.context_id in wrong:
            assert one.status == "diverged" and one.reward is None and "not finite" in one.reason
        else:
            assert one.status == "ok" and one.reward is not None
    assert {outcome.context_id for outcome in made.kept} == {text.id for text in texts} - wrong


def test_edits_are_the_same_in_any_unit_and_without_noise_however_often(tmp_path):
    made = module(e_step=Plan(edits=2, repeats=2))
    fit(tmp_path, made, rounds=1)
    by_context = {}
    for one in rollouts(tmp_path):
        if one.context_id.startswith("t"):
            by_context.setdefault(one.context_id, set()).add(tuple(one.answers))
    assert all(len(answers) == 1 for answers in by_context.values()) and len(by_context) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"e_step": Plan(edits=4, repeats=2, racing=Racing(keep=2))}, "e_step.racing must be None"),
        ({"evaluation": Plan(edits=1, repeats=1, queries="own")}, "evaluation.queries must be 'data'"),
        ({"e_step": Plan(edits=1, repeats=1, score_by="rubric")}, "e_step.score_by must be 'queries'"),
        ({"m_step": MStep(max_length=64)}, "m_step.max_length is about self-edits, which a generator does not write"),
        ({"objective": Distill(), "answerer": ClassHead(REVIEWS)}, "Distill is about answers in words as it is set"),
        ({"objective": EndToEnd(others=1), "answerer": ClassHead(REVIEWS)}, "EndToEnd is about answers in words"),
    ],
)
def test_what_only_edits_in_words_have_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        module(**options)


def test_a_filter_would_choose_among_what_is_all_learnt(tmp_path):
    with pytest.raises(ConfigError, match=r"filter: a generator learns from every edit of a round, got RandomFilter"):
        fit(tmp_path, module(), callbacks=[RandomFilter()])
    assert not (tmp_path / "journal").exists()


def test_a_text_beyond_the_window_needs_a_generator_that_reads_pieces():
    made = module()
    made.configure_model()
    long = [Context("long", "T", "word " * 3000)]
    with made.policy.frozen() as policy, pytest.raises(ModelError, match=r"context 'long': its text has \d+ tokens"):
        made.e_step.check_fits(policy, long)
    with made.policy.frozen() as policy, pytest.raises(ConfigError, match="context 'empty' has no passage"):
        made.e_step.check_fits(policy, [Context("empty", "", " ")])


def test_a_module_comes_back_from_its_checkpoint(tmp_path):
    made = module(objective=EndToEnd(queries=0.5))
    fit(tmp_path, made, rounds=1)
    again = GeneratorModule.load_from_checkpoint(
        tmp_path / "checkpoints" / "last.ckpt", generator=Tiny()
    )  # the generator is a class of the tests' own
    assert bits(again.policy.network) == bits(made.policy.network)
    assert again.objective.queries == 0.5 and again.m_step == made.m_step


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_in_half_precision_the_network_keeps_its_bits(tmp_path, precision):
    made = module()
    fit(tmp_path, made, rounds=1, precision=precision)
    assert {tensor.dtype for tensor in made.policy.network.parameters()} == {torch.float32}
    base = {tensor.dtype for tensor in made.policy.view.model.parameters()}
    assert base == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
    before = module()
    before.configure_model()
    assert bits(made.policy.network) != bits(before.policy.network)  # and learns
    assert all(tensor.isfinite().all() for tensor in made.policy.network.parameters())


def test_what_an_adapter_does_to_everything_else_is_measured_each_round(tmp_path):
    made, measured = module(), Retention(unrelated=Passages(4, prefix="u"))
    fit(tmp_path, made, callbacks=[measured], rounds=2)
    (matrix,) = read_matrices(tmp_path / "retention.json")
    (stream,) = matrix.streams
    assert len(stream.rows) == len(stream.unrelated) == 3  # before, and after both rounds
    asked = Passages(4, prefix="u").read()
    with made.policy.frozen() as policy:
        alone = ask_closed_book(made.e_step, policy, asked)
        under = made.ask_closed_book(policy, asked)
        trained = generate_bank(policy, made.parts.task, Passages(1, prefix="v").read())
        first = ask_closed_book(made.e_step, policy, asked[:1], jobs=[0], trained=trained)
    assert under[0].answers == first[0].answers
    assert [one.answers for one in under] != [one.answers for one in alone]


def test_a_run_goes_on_with_the_settings_that_it_began_with(tmp_path):
    fit(tmp_path, module(), rounds=1)
    for changed in (module(objective=EndToEnd(queries=0.5)), module(Tiny(alpha=3.0))):
        with pytest.raises(StaleJournalError, match=r"objective|generator"):
            fit(tmp_path, changed, rounds=2, ckpt_path="last")


def test_layers_are_missed_by_the_option_that_names_them():
    with pytest.raises(ConfigError, match=r"model\.generator\.target_modules: no linear layer is called nope"):
        module(Tiny(target_modules=["nope"])).configure_model()


@pytest.fixture
def ranks_environment(monkeypatch):
    """What a strategy of several ranks writes into the environment is put back."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "DS_ACCELERATOR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.filterwarnings("ignore:It is recommended to use")
@pytest.mark.usefixtures("ranks_environment")
def test_what_has_no_gradient_in_an_objective_keeps_no_rank_waiting(tmp_path):
    made = module(objective=Reinforce(noise=0.3), e_step=Plan(edits=2, repeats=1))
    try:
        fit(tmp_path, made, rounds=1, strategy="ddp")
    finally:
        torch.distributed.destroy_process_group()
    before = module()
    before.configure_model()
    A, fresh = made.policy.network.A, before.policy.network.A
    assert all(torch.equal(one, other) for one, other in zip(A, fresh, strict=True))


@pytest.mark.usefixtures("ranks_environment")
def test_weights_spread_over_the_ranks_are_refused_before_any_work(tmp_path):
    made = module()
    with pytest.raises(
        ConfigError, match=r"trainer\.strategy\.stage must be 1 or 2 where a generator is trained, got 3"
    ):
        fit(tmp_path, made, strategy=ZeROStrategy(stage=3))
    assert made.tuned is None
