"""Many adapters in one bank equal the same adapters trained one after another with peft and torch's AdamW."""

import random

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import set_peft_model_state_dict
from torch.nn import functional

from seal_lightning.adapters import AdapterBank, adapter_state
from seal_lightning.inner_loop import InnerLoop, learning_rate_factor
from seal_lightning.policy import Policy
from seal_lightning.sampling.generation import generate
from seal_lightning.tiny import FAMILIES, build_tiny
from seal_lightning.types import AdapterJob, Directives, TrainingSequence

LOOP = InnerLoop(rank=4, alpha=8, target_modules="all-linear", learning_rate=5e-3, epochs=3, max_tokens=150)
WORDS = "tarn holm lamp oil copper moth cedar dawn fell barley kelp basalt cliff timber market engineer".split()
PROBE = "The lamp of the tarn burned until dawn."


def text(draw, words):
    return " ".join(draw.choice(WORDS) for _ in range(words))


def jobs():
    """Six adapters that differ in everything a directive or the data can make them differ in."""
    draw = random.Random(1)
    plans = [
        (5, Directives()),
        (2, Directives(epochs=5, learning_rate=1e-2)),
        (7, Directives(batch_size=3, schedule="cosine")),
        (1, Directives(epochs=1)),
        (4, Directives(batch_size=2, schedule="constant", learning_rate=2e-3)),
        (3, Directives(epochs=4, batch_size=8)),
    ]
    made = []
    for number, (count, directives) in enumerate(plans):
        masked = number % 2 == 1
        sequences = tuple(
            TrainingSequence(text(draw, draw.randint(1, 9)), prompt=text(draw, 3) if masked else "")
            for _ in range(count)
        )
        made.append(AdapterJob(sequences, seed=100 + number, directives=directives))
    return made


def train_alone(family, job):
    """One adapter the plain way: peft, one minibatch at a time, padded, `loss` computed from full logits."""
    model, tokenizer = build_tiny(family)
    model.requires_grad_(False)
    bank = AdapterBank(model, slots=1, rank=LOOP.rank, alpha=LOOP.alpha, target_modules=LOOP.target_modules)
    bank.reset(0, seed=job.seed)
    names = [target.name for target in bank.targets]
    config = LoraConfig(r=LOOP.rank, lora_alpha=LOOP.alpha, target_modules=names, fan_in_fan_out=family == "gpt2")
    peft_model = get_peft_model(model, config).eval()
    set_peft_model_state_dict(peft_model, adapter_state(bank, 0))
    parameters = [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
    epochs = job.directives.epochs or LOOP.epochs
    size = job.directives.batch_size or LOOP.batch_size
    peak = job.directives.learning_rate or LOOP.learning_rate
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.0)
    shuffle = random.Random(job.seed)
    batches = []
    for _ in range(epochs):
        order = list(range(len(job.training_sequences)))
        shuffle.shuffle(order)
        batches += [order[at : at + size] for at in range(0, len(order), size)]
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = peak * learning_rate_factor(job.directives.schedule or LOOP.schedule, step, len(batches))
        rows, labels = [], []
        for sequence in (job.training_sequences[index] for index in batch):
            prompt = tokenizer(sequence.prompt)["input_ids"] if sequence.prompt else []
            tokens = tokenizer(sequence.text)["input_ids"] + [tokenizer.eos_token_id]
            rows.append(prompt + tokens)
            labels.append([-100] * len(prompt) + tokens)
        longest = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        goal = torch.tensor([row + [-100] * (longest - len(row)) for row in labels])
        logits = peft_model(input_ids=ids, attention_mask=mask).logits
        functional.cross_entropy(logits[:, :-1].flatten(0, 1), goal[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, LOOP.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
    return peft_model, tokenizer


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_together_equals_alone(family):
    model, tokenizer = build_tiny(family)
    model.requires_grad_(False)
    work = jobs()
    trained = LOOP.adapt(model, tokenizer, work)
    probe = torch.tensor([tokenizer(PROBE)["input_ids"]])
    for number, job in enumerate(work):
        alone, _ = train_alone(family, job)
        state = adapter_state(trained.bank, number)
        expected = {name.replace(".default", ""): value for name, value in alone.named_parameters() if "lora_" in name}
        assert state.keys() == expected.keys()
        assert max((state[name] - expected[name]).abs().max().item() for name in state) <= 1e-4
        with trained.answering([number]), torch.no_grad():
            logits = model(input_ids=probe).logits
        assert (logits - alone(input_ids=probe).logits).abs().max().item() <= 1e-3
        assert max(value.abs().max().item() for name, value in state.items() if "lora_B" in name) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_adapter_gives_equal_logits(family, tmp_path):
    model, tokenizer = build_tiny(family)
    model.requires_grad_(False)
    trained = LOOP.adapt(model, tokenizer, jobs()[:3])
    trained.save(1, tmp_path)
    probe = torch.tensor([tokenizer(PROBE)["input_ids"]])
    with trained.answering([1]), torch.no_grad():
        expected = model(input_ids=probe).logits
    loaded = PeftModel.from_pretrained(build_tiny(family)[0], str(tmp_path)).eval()
    plain = model(input_ids=probe).logits
    assert (loaded(input_ids=probe).logits - expected).abs().max().item() <= 1e-4
    assert (plain - expected).abs().max().item() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_equal_rows_alone(family):
    """Trained with everything in one forward pass, and with one sequence a pass."""
    model, tokenizer = build_tiny(family)
    model.requires_grad_(False)
    packed = InnerLoop(rank=4, alpha=8, target_modules="all-linear", epochs=2).adapt(model, tokenizer, jobs())
    single = InnerLoop(rank=4, alpha=8, target_modules="all-linear", epochs=2, max_tokens=1).adapt(
        model, tokenizer, jobs()
    )
    assert (packed.bank.parameters - single.bank.parameters).abs().max().item() <= 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_answers_of_many_adapters_in_one_batch(family):
    model, tokenizer = build_tiny(family)
    model.requires_grad_(False)
    trained = LOOP.adapt(model, tokenizer, jobs())
    policy = Policy(model, tokenizer, chat=False)
    prompts = [policy.encode(prompt) for prompt in ("The tarn", "A lamp", "Copper and kelp", "Dawn")]
    asked = [2, None, 0, 2]
    with trained.answering(asked):
        together = generate(policy, prompts, max_new_tokens=12)
    alone = []
    for prompt, job in zip(prompts, asked, strict=True):
        with trained.answering([job]):
            alone += generate(policy, [prompt], max_new_tokens=12)
    assert together == alone
    assert together[1] == generate(policy, [prompts[1]], max_new_tokens=12)[0]
    assert len({tuple(row) for row in together}) > 1
