"""Each countermeasure does what it says, with numbers."""

import pytest
import torch

from seal_lightning.commands.continual import (
    BoundedNorm,
    Consolidation,
    Countermeasure,
    KLToBase,
    Learnt,
    NullSpace,
    Orthogonal,
    Replay,
    countermeasures,
)
from seal_lightning.commands.continual.countermeasures import truncated
from seal_lightning.commands.continual.options import resolve
from seal_lightning.commands.continual.regularisers import (
    Protection,
    inputs_of,
    log_probabilities,
    main_directions,
)
from seal_lightning.data import Reader
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.grading import Reward
from seal_lightning.grading.lexical import Contains
from seal_lightning.inner_loop.bank import AdapterBank, bank_lora
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.lora import LoRA, stack
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import WrittenEdits
from seal_lightning.tasks import Knowledge
from seal_lightning.types import AdapterJob, Context, Prompt, TrainingSequence

MODEL, TOKENIZER = build_tiny("llama", seed=0)
POLICY = Policy(MODEL.eval().requires_grad_(False), TOKENIZER, chat=False)
LOOP = InnerLoop(rank=4, alpha=8, epochs=3, learning_rate=1e-2)
E_STEP = EStep(Knowledge(), WrittenEdits(), LOOP, Contains(), Reward("score"), Plan(1, 1), max_answer_tokens=4)
TARN, LAMP = (tuple(map(TrainingSequence, lines)) for lines in (
    ("a tarn is a lake", "it lies in a cirque"), ("the lamp burns oil", "it stands in a tower")))  # fmt: skip


class Sayings(Reader):
    def read(self):
        texts = ("haste makes waste", "still waters run deep", "all that glitters is not gold")
        return [Context(id=str(number), title="", passage=text) for number, text in enumerate(texts)]


class Blanks(Reader):
    def read(self):
        return [Context(id=str(number), title="", passage=" \n") for number in range(2)]


def train(sequences, regulariser=None, seed=1):
    job = AdapterJob(sequences, seed=seed)
    return LOOP.adapt(Policy(MODEL, TOKENIZER, chat=False), [job], regulariser=regulariser)


def learnt(sequences, seed=1):
    return Learnt(Context(id="x", title="", passage=""), sequences, bank_lora(train(sequences, seed=seed).bank, 0))


def rows_of(lora, layer, part):
    return lora.state[f"base_model.model.{layer}.lora_{part}.weight"]


def drawn_lora(seed, *, rank=2, scale=2.0):
    draw = torch.Generator().manual_seed(seed)
    layer = "base_model.model.layer"
    shapes = {f"{layer}.lora_A.weight": (rank, 6), f"{layer}.lora_B.weight": (5, rank)}
    return LoRA({name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}, scale)


def product(lora):
    return lora.scale * rows_of(lora, "layer", "B") @ rows_of(lora, "layer", "A")


# -- what is trained on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "replayed"), [(0.5, 1), (1.0, 2), (9.0, 4)])
def test_replay_adds_earlier_sequences(share, replayed):
    earlier = [Learnt(None, TARN, None), Learnt(None, LAMP, None)]
    own = (TrainingSequence("salt is white"), TrainingSequence("it is sold"))
    found = Replay(share=share).sequences(own, earlier, seed=3)
    assert found[:2] == own and len(found) == 2 + replayed
    assert set(found[2:]) <= {*TARN, *LAMP} and len(set(found)) == len(found)
    assert found == Replay(share=share).sequences(own, earlier, seed=3)
    assert Replay().sequences(own, [], seed=3) == own


# -- training ----------------------------------------------------------------------------------------------------------


def drift(bank, texts):
    """Mean divergence a token of an adapted model from the frozen one, as it is computed at leisure."""
    values = []
    with torch.no_grad():
        for text in texts:
            row = torch.tensor([TOKENIZER(text)["input_ids"]])
            before = log_probabilities(POLICY, input_ids=row)
            with bank.attached(), bank.routing(torch.zeros_like(row)):
                after = log_probabilities(POLICY, input_ids=row)
            values.append((before.exp() * (before - after)).sum(-1).mean())
    return float(sum(values) / len(values))


def test_kl_to_the_base_keeps_predictions_on_generic_text():
    texts = [context.passage for context in Sayings().read()]
    measure = KLToBase(weight=30.0, texts=Sayings(), batch=3)
    measure.begin(POLICY, seed=0)
    plain = drift(train(TARN).bank, texts)
    kept = drift(train(TARN, measure.regulariser(POLICY, [], seed=0)).bank, texts)
    assert plain > 0.015 and kept < 0.5 * plain


def test_gradients_and_projections_are_float32_under_autocast():
    """Autocast covers the forward pass of the penalty alone, as in the inner loop: its products would be bfloat16."""
    backward: list[bool] = []
    note = lambda grad: backward.append(torch.is_autocast_enabled("cpu"))  # noqa: E731

    def watch(module, args, output):
        if output.requires_grad:
            output.register_hook(note)

    measure = KLToBase(texts=Sayings(), batch=1)
    measure.begin(POLICY, seed=0)
    penalty = measure.regulariser(POLICY, [], seed=0)
    bank = AdapterBank(MODEL, slots=1, rank=2, alpha=4.0)
    bank.reset(0, seed=0)
    with torch.no_grad():
        for lora_B in bank.B.values():
            lora_B.fill_(0.1)
    handle = MODEL.model.layers[0].register_forward_hook(watch)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad(), bank.attached():
        penalty.add_gradients(bank, [0])
    handle.remove()
    assert backward == [False]
    assert bool(bank.gradients.any())

    name, lora_A = next(iter(bank.A.items()))
    rows = main_directions(
        torch.randn(8, lora_A.shape[-1], generator=torch.Generator().manual_seed(0)), energy=0.9, most=0.5
    )
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        Protection({name: rows}).project(bank, [0])
    assert float((lora_A[0].detach() @ rows.T).abs().max()) < 1e-6


def test_kl_has_no_gradient_where_nothing_has_drifted():
    measure = KLToBase(texts=Sayings(), batch=3)
    measure.begin(POLICY, seed=0)
    bank = AdapterBank(MODEL, slots=1, rank=4, alpha=8)
    bank.reset(0, seed=1)
    with torch.enable_grad(), bank.attached():
        measure.regulariser(POLICY, [], seed=0).add_gradients(bank, [0])
    assert float(bank.gradients.abs().max()) < 1e-4


def test_the_policy_can_write_the_generic_text_itself():
    measure = KLToBase(count=3, tokens=8)
    measure.begin(POLICY, seed=0)
    texts, before = measure._encoded, measure._before
    assert [len(one) for one in before] == [len(text) for text in texts] and max(map(len, texts)) <= 8
    measure.begin(POLICY, seed=0)
    assert measure._encoded == texts
    measure.begin(POLICY, seed=1)
    assert measure._encoded != texts


def test_generic_texts_are_read_at_once(tmp_path):
    with pytest.raises(DataError, match="kl: texts: expected passages in Blanks, got 2 empty ones: name others"):
        KLToBase(texts=Blanks())
    with pytest.raises(DataError, match="none: expected a file or folder, got nothing there"):
        KLToBase(texts=str(tmp_path / "none"))
    measure = KLToBase(texts=Sayings())
    measure._read = []  # a tokenizer that makes nothing of the texts
    with pytest.raises(ConfigError, match="kl: expected generic text, got texts without a token: name others"):
        measure.begin(POLICY, seed=0)


def test_orthogonal_updates_read_other_directions():
    first = learnt(TARN)
    second = bank_lora(train(LAMP, Orthogonal().regulariser(POLICY, [first], seed=0), seed=2).bank, 0)
    plain = bank_lora(train(LAMP, seed=2).bank, 0)
    for layer in second.layers:
        before = rows_of(first.lora, layer, "A")
        assert float((rows_of(second, layer, "A") @ before.T).abs().max()) < 1e-5
        assert float((rows_of(plain, layer, "A") @ before.T).abs().max()) > 1e-2
        assert rows_of(second, layer, "B").any()


def test_null_space_updates_do_not_act_on_earlier_edits():
    first = learnt(TARN)
    measure = NullSpace(energy=0.999, most=0.9)
    new = train(LAMP, measure.regulariser(POLICY, [first], seed=0), seed=2).bank
    plain = train(LAMP, seed=2).bank
    texts = [TOKENIZER(sequence.text)["input_ids"] for sequence in TARN]
    seen = inputs_of(POLICY, new.targets, texts)
    for name, rows in seen.items():
        acts, would = (float((rows @ bank.A[name][0].detach().T).norm()) for bank in (new, plain))
        assert acts < 0.2 * would
        assert new.B[name].any()


def test_the_null_space_of_a_request_is_that_of_the_request_with_its_answer(monkeypatch):
    looked_at = []
    monkeypatch.setattr(countermeasures, "inputs_of", lambda policy, targets, texts: looked_at.extend(texts) or {})
    sequence = TrainingSequence("a lake", asked=Prompt("What is a tarn?", lead="\nAnswer:"))
    lora = bank_lora(train(TARN).bank, 0)
    earlier = Learnt(Context(id="tarn", title="", passage=""), (sequence,), lora)
    NullSpace().regulariser(POLICY, [earlier], seed=0)
    assert looked_at == [TOKENIZER("What is a tarn?\nAnswer: a lake")["input_ids"]]


def test_nothing_earlier_means_nothing_to_protect():
    unusable = Learnt(Context(id="x", title="", passage=""), (), None)
    for measure in (Orthogonal(), NullSpace()):
        assert measure.regulariser(POLICY, [], seed=0) is measure.regulariser(POLICY, [unusable], seed=0) is None


def test_main_directions():
    rows = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]))  # shares of 14: 9, 4, 1
    assert main_directions(rows, energy=0.6, most=1.0).abs().tolist() == [[1, 0, 0, 0]]
    assert main_directions(rows, energy=0.9, most=1.0).abs().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert len(main_directions(rows, energy=1.0, most=1.0)) == 3
    assert len(main_directions(rows, energy=1.0, most=0.5)) == 2


# -- the update at its end ---------------------------------------------------------------------------------------------


def test_norms_are_bounded_relative_to_the_weight():
    new = learnt(TARN).lora
    bounded = BoundedNorm(largest=0.01).finish(new, [], policy=POLICY, e_step=E_STEP)
    for layer in new.layers:
        weight = MODEL.get_submodule(layer).weight.norm()
        size, cut = (
            float(lora.scale * (rows_of(lora, layer, "B") @ rows_of(lora, layer, "A")).norm() / weight)
            for lora in (new, bounded)
        )
        assert size > 0.02 and cut == pytest.approx(0.01, rel=1e-4)
    free = BoundedNorm(largest=10.0).finish(new, [], policy=POLICY, e_step=E_STEP)
    assert all(torch.equal(free.state[name], tensor) for name, tensor in new.state.items())


def test_consolidation_keeps_the_strongest_directions_of_the_sum():
    first, second, measure = drawn_lora(1), drawn_lora(2), Consolidation(rank=3)
    added = measure.finish(first, [], policy=POLICY, e_step=E_STEP)
    torch.testing.assert_close(product(added), product(first))  # of rank 2
    change = measure.finish(second, [Learnt(None, (), added)], policy=POLICY, e_step=E_STEP)
    total = product(added) + product(change)
    left, values, right = torch.linalg.svd(product(first) + product(second))
    torch.testing.assert_close(total, left[:, :3] * values[:3] @ right[:3], atol=1e-5, rtol=1e-5)
    assert values[3] > 0.1  # there was something to drop


def test_consolidation_takes_an_adapters_rank_by_default():
    sum_of_both = stack([drawn_lora(1), drawn_lora(2)])
    assert rows_of(sum_of_both, "layer", "A").shape == (4, 6)
    added = Consolidation().finish(drawn_lora(2), [Learnt(None, (), drawn_lora(1))], policy=POLICY, e_step=E_STEP)
    assert torch.linalg.matrix_rank(product(truncated(drawn_lora(1), 2)) + product(added), rtol=1e-4) == 2


# -- names -------------------------------------------------------------------------------------------------------------


def test_names():
    assert [one.label for one in resolve("all")] == [
        "replay", "kl", "orthogonal", "null-space", "norm", "consolidation", "gate",
    ]  # fmt: skip
    (mine,) = resolve([Replay(share=0.5, label="half")])
    assert (mine.label, mine.share) == ("half", 0.5)
    assert resolve("replay, norm")[1].largest == 0.06
    with pytest.raises(ConfigError, match=r"countermeasures: expected some of replay, kl, .* or all, got 'reply'"):
        resolve("reply")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Replay(share=0), "replay: share must be above 0, got 0: try 1.0"),
        (lambda: KLToBase(weight=-1), "kl: weight must be above 0, got -1: try 1.0"),
        (lambda: KLToBase(batch=0), "kl: batch must be a whole number of at least 1, got 0: use 1 or more"),
        (lambda: NullSpace(energy=2), "null-space: energy must be above 0 and at most 1, got 2: try 0.9"),
        (lambda: BoundedNorm(largest=0), "norm: largest must be above 0, got 0: try 0.06"),
        (lambda: Consolidation(rank=0), "consolidation: rank must be a whole number of at least 1, got 0"),
        (lambda: Countermeasure(label="../up"), r"label must consist of .*, got '../up': it names a folder"),
    ],
)
def test_bad_options(make, complaint):
    with pytest.raises(ConfigError, match=complaint):
        make()
