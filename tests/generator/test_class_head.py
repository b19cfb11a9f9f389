"""A fixed head on the last token's state: what it answers, with adapters and without, and how a query gets a loss."""

import json
import pickle

import pytest
import torch
from torch.nn import functional

from seal_lightning.errors import ConfigError, DataError
from seal_lightning.generator import ClassHead, MLPGenerator
from seal_lightning.generator.class_head import last_states, ridge_head
from seal_lightning.generator.lessons import Classroom, Examiner
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.generator.trials import bank_of
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import Asked
from seal_lightning.stamps.values import describe
from seal_lightning.tasks import Classification
from seal_lightning.tasks.classification import text_prompt
from seal_lightning.types import Context, Query

LINES = ["zip: light => good", "poles were heavy => bad", "wool is thin => bad", "the lining was quite thick => good"]
TEXTS = ["zip: slim", "poles were thick", "wool is lovely", "a hem"]
GENERATOR = MLPGenerator(rank=2, alpha=2.0, size=4, width=8, reach=3.0)


def write(path, lines):
    rows = [{"title": "T", "passage": "\n".join(lines), "queries": [{"question": "zip: slim", "answers": ["good"]}]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def examples(tmp_path):
    return write(tmp_path / "train.jsonl", LINES)


@pytest.fixture
def policy():
    model, tokenizer = build_tiny("gpt2")
    model.requires_grad_(False).eval()
    return GeneratingPolicy(model, tokenizer, False, network=GENERATOR.network(model, seed=0))


def plain_states(policy, texts):
    rows = [torch.tensor([policy.encode(policy.format(text_prompt(text)))]) for text in texts]
    with torch.no_grad():
        return torch.stack([policy.model.transformer(row).last_hidden_state[0, -1] for row in rows])


def asked(texts, job=None):
    return Asked(job, tuple(map(text_prompt, texts)))


def answers(head, policy, some, bank=None):
    return head.answer(policy, some, bank, max_new_tokens=1)


def test_the_head_is_ridge_regression_on_the_states_of_the_examples(policy, examples):
    states = plain_states(policy, [line.split(" => ")[0] for line in LINES]).double()
    wanted = torch.tensor([[-1.0, 1.0], [1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]).double()  # bad, good
    centred = states - states.mean(0)
    weights = torch.linalg.solve(centred.T @ centred + 0.5 * torch.eye(32).double(), centred.T @ wanted)
    found = ClassHead(examples, ridge=0.5).head(policy)
    torch.testing.assert_close(found[:-1], weights.float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[-1], (wanted.mean(0) - states.mean(0) @ weights).float(), atol=1e-5, rtol=1e-4)


def test_answers_are_those_of_a_plain_forward_pass(policy, examples):
    head = ClassHead(examples, batch_size=3)
    logits = plain_states(policy, TEXTS) @ head.head(policy)[:-1] + head.head(policy)[-1]
    wanted = [("bad", "good")[place] for place in logits.argmax(1).tolist()]
    (found,) = answers(head, policy, [asked(TEXTS)])
    assert list(found.texts) == wanted and found.tokens == 0 and found.finite and not any(found.cut)
    assert [answers(head, policy, [asked([text])])[0].texts[0] for text in TEXTS] == wanted


def test_adapters_of_one_batch_answer_as_each_alone(policy, examples):
    head, network = ClassHead(examples), policy.network
    codes = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bank = bank_of(network, policy, codes)
        rows = [policy.encode(policy.format(text_prompt(text))) for text in TEXTS]
        together = last_states(policy, rows * 3, bank, [job for job in range(3) for _ in rows]).view(3, len(rows), -1)
        for job in range(3):
            alone = bank_of(network, policy, codes[[job]])
            each = torch.cat([last_states(policy, [row], alone, [0]) for row in rows])
            torch.testing.assert_close(together[job], each, atol=1e-5, rtol=1e-4)
            mine = answers(head, policy, [asked(TEXTS, 0)], alone)[0]
            assert answers(head, policy, [asked(TEXTS, number) for number in range(3)], bank)[job] == mine
    assert float((together[0] - together[1]).abs().max()) > 0.1


def test_of_equal_logits_the_first_label_counts(policy, examples):
    head = ClassHead(examples)
    head._head = torch.zeros(33, 2)
    assert answers(head, policy, [asked(TEXTS)])[0].texts == ("bad",) * len(TEXTS)


def test_states_that_are_not_finite_are_told(policy, examples):
    head = ClassHead(examples)
    head.head(policy)
    with torch.no_grad():
        bank = bank_of(policy.network, policy, torch.zeros(2, 4))
        for matrix in (*bank.bank.A.values(), *bank.bank.B.values()):
            matrix[1] = 1e30
    found = answers(head, policy, [asked(TEXTS, 0), asked(TEXTS, 1)], bank)
    assert [one.finite for one in found] == [True, False]


def test_a_query_has_the_loss_of_its_class(policy, examples):
    head, task = ClassHead(examples), Classification()
    assert isinstance(head, Examiner)
    queries = tuple(Query(text, (label,)) for text, label in zip(TEXTS, ["good", "bad", "bad", "good"], strict=True))
    context = Context("c", "T", "\n".join(LINES), queries)
    room = Classroom(policy, task, head, seed=0, round=0)
    codes = torch.full((1, 4), 0.5, requires_grad=True)
    losses = room.losses(policy.network.adapters(codes), [room.query_exercises(context)], room.query_loss)
    with torch.no_grad():
        bank = bank_of(policy.network, policy, codes)
        rows = [policy.encode(policy.format(text_prompt(text))) for text in TEXTS]
        logits = last_states(policy, rows, bank, [0] * len(rows)) @ head.head(policy)[:-1] + head.head(policy)[-1]
    wanted = functional.cross_entropy(logits, torch.tensor([1, 0, 0, 1]))
    torch.testing.assert_close(losses.detach()[0], wanted, atol=1e-5, rtol=1e-4)
    (grad,) = torch.autograd.grad(losses.sum(), [codes])
    assert grad.abs().sum() > 0


def test_a_label_that_the_head_does_not_know_is_refused_in_one_line(policy, examples):
    query = Query("zip: slim", ("fine",))
    with pytest.raises(DataError, match=r"context 'c': label must be one of bad, good,.*got 'fine': add") as refused:
        ClassHead(examples).exercise(policy, query, Context("c", "T", "", (query,)))
    assert "\n" not in str(refused.value)


def test_examples_with_one_label_or_none_are_refused(tmp_path):
    with pytest.raises(DataError, match="the examples of a head need two labels or more, got good"):
        ClassHead(write(tmp_path / "one.jsonl", LINES[:1]))
    with pytest.raises(ConfigError, match=r"answerer\.ridge must be above 0, got 0"):
        ClassHead(write(tmp_path / "one.jsonl", LINES), ridge=0.0)


def test_a_model_that_m_steps_change_is_refused(policy, examples):
    changing = Policy(policy.model, policy.tokenizer, False)
    with pytest.raises(ConfigError, match="ClassHead reads the states of a model that stays as it is"):
        answers(ClassHead(examples), changing, [asked(TEXTS)])


def test_other_examples_are_another_head_and_a_copy_has_the_same(policy, tmp_path, examples):
    head = ClassHead(examples)
    other = ClassHead(write(tmp_path / "other.jsonl", [*LINES, "canvas was broad => bad"]))
    assert describe(head) != describe(other) and describe(head) == describe(ClassHead(examples))
    before = describe(head)
    made = head.head(policy)
    assert describe(head) == before  # it has been used, and is told by what it was made from alone
    assert torch.equal(pickle.loads(pickle.dumps(head)).head(policy), made)
    assert torch.equal(ClassHead(examples).head(policy), made)


def test_the_ridge_leaves_the_bias_free():
    states = torch.zeros(6, 2)
    head = ridge_head(states, torch.tensor([0, 0, 0, 0, 0, 1]), ridge=100.0)
    torch.testing.assert_close(head[-1], torch.tensor([4 / 6, -4 / 6]))
