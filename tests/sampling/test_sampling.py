"""Writing texts: what a sample depends on, that it has the right distribution, and where it ends."""

import json
from collections import Counter

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

from seal_lightning.errors import ConfigError, DataError, ModelError
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import ImportedEdits, LocalSampler, Sample, SampleRequest, WrittenEdits
from seal_lightning.sampling.generation import batches, generate, stop_tokens
from seal_lightning.types import Context

LAMP = Context(id="lamp", title="Lamp", passage="A lamp.")
PROMPTS = ["Lamp:", "The lamp of Vessel burns oil and kelp.\n", "x", "Copper is mined at dawn, "]
EOS = 1


def policy(family="llama", **options) -> Policy:
    model, tokenizer = build_tiny(family, **options)
    return Policy(model, tokenizer, chat=False)


def requests(prompts, *, seed=0) -> list[SampleRequest]:
    return [SampleRequest(prompt, LAMP, index, seed + index) for index, prompt in enumerate(prompts)]


def greedy(model, ids: list[int], steps: int) -> list[int]:
    """Plain greedy decoding without cache or padding."""
    ids = list(ids)
    for _ in range(steps):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token == EOS:
            break
        ids.append(token)
    return ids


def ending(row, step):
    """Greedy, but `row` ends at `step`; notes which rows were still going."""
    seen = []

    def choose(logits, rows, texts):
        tokens = logits.argmax(dim=-1)
        if len(seen) == step and row in rows:
            tokens[list(rows).index(row)] = EOS
        seen.append(list(rows))
        return tokens

    return choose, seen


# -- what a sample depends on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_a_sample_does_not_depend_on_the_batch_it_is_in(family):
    model = policy(family)
    sampler = LocalSampler(max_new_tokens=24, batch_size=8)
    together = sampler.sample(model, requests(PROMPTS * 2))
    alone = [sampler.sample(model, [request])[0] for request in requests(PROMPTS * 2)]
    assert together == alone
    assert LocalSampler(max_new_tokens=24, batch_size=3).sample(model, requests(PROMPTS * 2)) == alone
    assert len({sample.text for sample in alone}) == 8  # the same prompt with another seed is another text
    assert [sample.prompt_tokens for sample in alone] == [5, 39, 1, 25] * 2


def test_a_sample_is_its_seeds_alone():
    model, sampler = policy(), LocalSampler(max_new_tokens=16)
    torch.manual_seed(5)
    first = sampler.sample(model, requests(["Lamp:"], seed=7))
    state = torch.get_rng_state()
    assert sampler.sample(model, requests(["Lamp:"], seed=7)) == first
    assert sampler.sample(model, requests(["Lamp:"], seed=8)) != first
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_near_the_window_a_sample_does_not_depend_on_its_batch_either(family):
    model = policy(family, max_positions=48)
    sampler = LocalSampler(temperature=0.7, max_new_tokens=20, batch_size=8)
    prompts = ["a" * 5, "b" * 28, "c" * 29, "d" * 40, "e" * 47, "f" * 40]
    together = sampler.sample(model, requests(prompts))
    assert together == [sampler.sample(model, [request])[0] for request in requests(prompts)]
    assert all(sample.tokens <= most for sample, most in zip(together, [20, 20, 19, 8, 1, 8], strict=True))
    assert [sample.tokens for sample in together][-2:] == [1, 8]


def test_batches_are_made_of_similar_prompts_that_have_the_same_room():
    model = policy(max_positions=48)
    prompts = [[3] * length for length in (5, 40, 7, 3, 47, 40, 28)]
    assert list(batches(model, prompts, size=2, max_new_tokens=20)) == [[3, 0], [2, 6], [1, 5], [4]]
    assert list(batches(model, prompts, size=9, max_new_tokens=1)) == [[3, 0, 2, 6, 1, 5, 4]]
    assert list(batches(model, [], size=2, max_new_tokens=20)) == []
    assert list(batches(model, prompts, size=3, max_new_tokens=20, by_length=False)) == [[0, 2, 3], [6], [1, 5], [4]]


# -- distribution ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_p": 1e-6}, {"temperature": 2.0, "top_p": 1e-6}])
def test_cold_or_narrow_sampling_is_greedy(options):
    model = policy()
    samples = LocalSampler(max_new_tokens=12, **options).sample(model, requests(PROMPTS))
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        ids = model.encode(prompt)
        wanted = greedy(model.model, ids, 12)[len(ids) :]
        assert sample.text == model.tokenizer.decode(wanted, skip_special_tokens=True).strip()
        assert sample.tokens == len(wanted)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (0.7, 0.6)])
def test_samples_have_the_distribution_of_the_warped_logits(temperature, top_p):
    model, draws = policy(), 3000
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([model.encode("Lamp:")])).logits[0, -1]
    chance = (logits / temperature).softmax(dim=0)
    order = chance.argsort(descending=True)
    before = chance[order].cumsum(dim=0) - chance[order]
    chance[order[before >= top_p]] = 0.0
    expected: Counter[str] = Counter()
    for token, share in enumerate((chance / chance.sum()).tolist()):
        text = "" if token == EOS else model.tokenizer.decode([token], skip_special_tokens=True).strip()
        expected[text] += share

    sampler = LocalSampler(temperature=temperature, top_p=top_p, max_new_tokens=1, batch_size=1000)
    counts = Counter(sample.text for sample in sampler.sample(model, requests(["Lamp:"] * draws)))

    assert all(expected[text] > 0 for text in counts)
    for text, share in expected.items():
        spread = (share * (1 - share) / draws) ** 0.5
        assert counts[text] / draws == pytest.approx(share, abs=5 * spread + 1e-9), text
    assert len(counts) > 10


# -- where a text ends -------------------------------------------------------------------------------------------------


def test_a_row_ends_at_eos_and_the_others_go_on():
    model = policy()
    prompts = [model.encode(text) for text in ("Lamp:", "Oil")]
    free = generate(model, prompts, max_new_tokens=6)
    assert [len(row) for row in free] == [6, 6]
    choose, seen = ending(0, 2)
    kept = []
    assert generate(model, prompts, max_new_tokens=6, choose=choose, on_keep=kept.append) == [free[0][:2], free[1]]
    assert seen == [[0, 1]] * 3 + [[1]] * 3 and kept == [[1]]  # what has ended leaves the batch
    assert generate(model, prompts[:1], max_new_tokens=6, choose=ending(0, 0)[0]) == [[]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma3"])
def test_rows_that_leave_change_nothing_for_the_others(family):
    model = policy(family)
    prompts = [model.encode(text) for text in PROMPTS]
    free = generate(model, prompts, max_new_tokens=10)
    lengths = [10, 1, 4, 7]

    def choose(logits, rows, texts):
        tokens = logits.argmax(dim=-1)
        for place, row in enumerate(rows):
            if counts[row] == lengths[row]:
                tokens[place] = EOS
            counts[row] += 1
        return tokens

    counts = [0] * 4
    assert generate(model, prompts, max_new_tokens=10, choose=choose) == [
        row[:length] for row, length in zip(free, lengths, strict=True)
    ]


def test_every_end_token_of_model_and_tokenizer_stops():
    model = policy()
    assert stop_tokens(model) == [1]
    model.model.generation_config.eos_token_id = [70, 1]
    assert stop_tokens(model) == [1, 70]
    model.model.generation_config.eos_token_id = None
    assert stop_tokens(model) == [1]
    prompt = model.encode("Lamp:")
    free = generate(model, [prompt], max_new_tokens=6)[0]
    model.model.generation_config.eos_token_id = free[3]
    assert generate(model, [prompt], max_new_tokens=6)[0] == free[: free.index(free[3])]


def test_the_window_limits_the_length():
    model = policy(max_positions=32)
    assert [len(row) for row in generate(model, [[70] * 28, [71] * 3], max_new_tokens=9)] == [4, 4]
    with pytest.raises(ModelError, match=r"a prompt of 32 tokens leaves no room in the model's window of 32; shorten"):
        generate(model, [[70] * 32, [71] * 3], max_new_tokens=9)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_shipped_generation_settings_do_not_leak_in():
    model = policy()
    prompts = [model.encode(text) for text in PROMPTS]
    sampled = LocalSampler(max_new_tokens=12).sample(model, requests(PROMPTS))
    free = generate(model, prompts, max_new_tokens=12)
    shipped = GenerationConfig(
        eos_token_id=EOS,
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        do_sample=True,
        temperature=0.3,
        top_k=1,
        suppress_tokens=sorted({row[0] for row in free}),
        min_new_tokens=11,
        max_length=20,
    )
    model.model.generation_config = shipped
    assert generate(model, prompts, max_new_tokens=12) == free
    assert LocalSampler(max_new_tokens=12).sample(model, requests(PROMPTS)) == sampled
    assert model.model.generation_config is shipped


def test_progress_counts_every_request():
    done = []
    LocalSampler(max_new_tokens=1, batch_size=3).sample(policy(), requests(PROMPTS * 2), on_done=done.append)
    assert done == [3, 3, 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -0.1}, r"sampler\.temperature must be 0 or more, got -0\.1"),
        ({"top_p": 0}, r"sampler\.top_p must be in \(0, 1\], got 0"),
        ({"top_p": 1.5}, r"sampler\.top_p must be in \(0, 1\], got 1\.5"),
        ({"max_new_tokens": 0}, r"sampler\.max_new_tokens must be a whole number of at least 1, got 0"),
        ({"batch_size": 0}, r"sampler\.batch_size must be a whole number of at least 1, got 0"),
    ],
)
def test_options_that_cannot_work_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        LocalSampler(**options)


# -- written edits -----------------------------------------------------------------------------------------------------


def test_written_edits_are_taken_from_the_context():
    context = Context(id="lamp", title="Lamp", passage="A lamp.", edits=("It burns.", "Zürich"))
    done = []
    samples = WrittenEdits().sample(
        policy(), [SampleRequest("Lamp:", context, index, 0) for index in (1, 0, 2)], on_done=done.append
    )
    assert samples == [Sample("Zürich", 5, 7), Sample("It burns.", 5, 9), Sample("", 5, 0)]
    assert done == [3]


def test_written_edits_are_counted_without_bos():
    model = policy()
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    context = Context(id="lamp", title="Lamp", passage="A lamp.", edits=("It burns.",))
    assert WrittenEdits().sample(model, [SampleRequest("Lamp:", context, 0, 0)]) == [Sample("It burns.", 6, 9)]


# -- edits from a file -------------------------------------------------------------------------------------------------


def imported(tmp_path, rows, name="edits.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(row) for row in rows) if name.endswith("l") else json.dumps(rows))
    return ImportedEdits(str(path))


def taken(sampler, *indices, context=LAMP):
    requests = [SampleRequest("Lamp:", context, index, 0) for index in indices]
    return [sample.text for sample in sampler.sample(policy(), requests)]


@pytest.mark.parametrize(
    "rows",
    [
        [{"context_id": name, "text": text} for name, text in (("lamp", "One."), ("tarn", "No."), ("lamp", "Two."))],
        [{"title": LAMP.title, "passage": LAMP.passage, "edits": ["One.", "Two."]}],
        [{"title": LAMP.title, "context": LAMP.passage, "completions": ["One.", "Two."]}],
        [{"title": LAMP.title, "context": LAMP.passage, "completions": [{"text": "One."}, {"text": "Two."}]}],
        [{"articles": [{"title": "Lamp", "context": "A lamp.", "completions": [{"text": "One."}, {"text": "Two."}]}]}],
    ],
    ids=["seal predict", "edits", "completions", "texts", "a published run"],
)  # fmt: skip
def test_edits_of_a_file_enter_as_if_sampled(rows, tmp_path):
    sampler = imported(tmp_path, rows)
    assert taken(sampler, 1, 0) == ["Two.", "One."]
    assert sampler.sample(policy(), [SampleRequest("Lamp:", LAMP, 0, 0)]) == [Sample("One.", 5, 4)]


def test_an_empty_edit_is_one(tmp_path):
    assert taken(imported(tmp_path, [{"context_id": "lamp", "text": ""}]), 0) == [""]


def test_too_few_edits_of_a_context_are_no_empty_ones(tmp_path):
    sampler = imported(tmp_path, [{"context_id": "lamp", "text": "One."}])
    with pytest.raises(DataError, match=r"edits\.jsonl: expected 2 or more edits of 'lamp', got 1: add them"):
        taken(sampler, 1)


def test_edits_of_another_passage_with_the_same_id_are_refused(tmp_path):
    """An id may be a row's number, and row 3 of other data is about something else."""
    rows = [
        {"context_id": "lamp", "text": "One.", "prompt": f"Read.\nPassage: {text}\n\n"} for text in ("A lamp.", "Fog.")
    ]
    assert taken(imported(tmp_path, rows[:1]), 0) == ["One."]
    with pytest.raises(DataError, match="expected edits of the passage 'lamp', got those of another with that id"):
        taken(imported(tmp_path, rows[1:]), 0)


def test_another_content_is_another_sampler_to_the_journal(tmp_path):
    one, other, same = (imported(tmp_path, [{"context_id": "lamp", "text": text}]) for text in ("One.", "Two.", "One."))
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"context_id": "lamp"},
            "line 1: field text must be a self-edit, got nothing: give text, edits or completions",
        ),
        ({"text": "One."}, "line 1: field context must be text, got nothing: add it"),
        ({"context_id": "lamp", "edits": "One."}, r"line 1: field edits must be a list, got the text 'One\.'"),
        ({"context_id": "lamp", "text": 3}, "line 1: field text must be text, got the number 3"),
    ],
)
def test_rows_without_edit_or_owner_are_named(row, said, tmp_path):
    with pytest.raises(DataError, match=said):
        imported(tmp_path, [row])
