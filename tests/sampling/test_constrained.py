"""Sampling under a schema: every finished text is JSON of the schema, whatever the model, and rows stay independent."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import ConfigError
from seal_lightning.grading import Contains, Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.lab.tokenizer import build_tokenizer
from seal_lightning.models.loading import load_model
from seal_lightning.models.random_models import build_tiny, byte_tokenizer
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import EndpointSampler, LocalSampler, SampleRequest
from seal_lightning.sampling.constrained import SchemaMasks
from seal_lightning.sampling.generation import most_likely
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context

pytest.importorskip("llguidance")

LAMP = Context(id="lamp", title="Lamp", passage="A lamp.")
PROMPTS = ["Lamp:", "The lamp of Vessel burns oil and kelp.\n", "x", "Copper is mined at dawn, "]
SETTINGS = {
    "type": "object",
    "properties": {
        "on": {"type": "boolean"},
        "loss": {"enum": ["outputs", "all"]},
        "rate": {"type": "number", "minimum": 1e-5, "maximum": 1e-2, "multipleOf": 1e-6},
        "epochs": {"type": "integer", "minimum": 1, "maximum": 20},
    },
    "required": ["on", "loss", "rate", "epochs"],
    "additionalProperties": False,
}
WORDS = {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 1, "maxItems": 3}
YES = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}


def policy(family="llama") -> Policy:
    model, tokenizer = build_tiny(family)
    return Policy(model, tokenizer, chat=False)


def requests(prompts=PROMPTS, *, schema=SETTINGS) -> list[SampleRequest]:
    return [SampleRequest(prompt, LAMP, index, index, schema=schema) for index, prompt in enumerate(prompts)]


def check_settings(text: str) -> None:
    found = json.loads(text)
    assert text == json.dumps(found, separators=(",", ":")) or "rate" in text  # 0.00010 is a number too
    assert " " not in text and list(found) == SETTINGS["required"]
    assert type(found["on"]) is bool and found["loss"] in ("outputs", "all")
    assert 1e-5 <= found["rate"] <= 1e-2 and type(found["epochs"]) is int and 1 <= found["epochs"] <= 20


def check_words(text: str) -> None:
    found = json.loads(text)
    assert 1 <= len(found) <= 3 and all(type(word) is str and len(word) <= 6 for word in found)


# -- what is written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.8, "top_p": 1.0}, {"top_p": 1e-6}, {"temperature": 5.0, "top_p": 1.0}]
)
def test_random_weights_write_json_of_the_schema(family, options):
    samples = LocalSampler(constrained=True, batch_size=8, **options).sample(policy(family), requests(PROMPTS * 2))
    for sample in samples:
        check_settings(sample.text)
        assert sample.tokens == len(sample.text.encode())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_strings_of_any_bytes_are_strings(family):
    sampler = LocalSampler(constrained=True, temperature=2.0, top_p=1.0)
    samples = sampler.sample(policy(family), requests(PROMPTS * 4, schema=WORDS))
    for sample in samples:
        check_words(sample.text)
    assert any(not sample.text.isascii() for sample in samples)


def test_greedy_takes_the_likeliest_allowed_token():
    model = policy()
    for prompt, sample in zip(
        PROMPTS, LocalSampler(constrained=True, temperature=0).sample(model, requests()), strict=True
    ):
        check_settings(sample.text)
        ids = torch.tensor([model.encode(prompt + '{"on":')])  # true or false: the first free choice
        logits = model.model(input_ids=ids).logits[0, -1].detach()
        likelier = max("tf", key=lambda letter: float(logits[model.encode(letter)[0]]))
        assert sample.text[len('{"on":')] == likelier


def test_a_text_that_is_cut_off_is_the_start_of_one():
    whole_ones, cut_ones = (
        LocalSampler(constrained=True, max_new_tokens=most).sample(policy(), requests()) for most in (1024, 30)
    )
    for whole, cut in zip(whole_ones, cut_ones, strict=True):
        assert cut.text == whole.text[:30] and cut.tokens == 30


def test_a_schema_is_ignored_unless_constrained():
    free = LocalSampler(max_new_tokens=16)
    assert free.sample(policy(), requests()) == free.sample(policy(), requests(schema=None))


# -- what a sample depends on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_sample_does_not_depend_on_the_batch_it_is_in(family):
    model = policy(family)
    mixed = [
        SampleRequest(prompt, LAMP, index, index, schema=(SETTINGS, WORDS, YES)[index % 3])
        for index, prompt in enumerate(PROMPTS * 2)
    ]
    alone = [LocalSampler(constrained=True).sample(model, [request])[0] for request in mixed]
    assert LocalSampler(constrained=True, batch_size=8).sample(model, mixed) == alone
    assert LocalSampler(constrained=True, batch_size=3).sample(model, mixed) == alone
    assert len({len(sample.text) for sample in alone}) > 3  # rows left at different times


# -- which tokens are allowed ------------------------------------------------------------------------------------------


def walk(tokenizer, *, stops=None, width=None, text="") -> list[list[int]]:
    """The tokens that are allowed at each step of writing `text`, and after it."""
    generation = SimpleNamespace(eos_token_id=stops)
    made = SimpleNamespace(model=SimpleNamespace(generation_config=generation), tokenizer=tokenizer, template=None)
    path, seen = tokenizer(text, add_special_tokens=False)["input_ids"], []

    def follow(logits, rows, texts):
        seen.append(logits[0].isfinite().nonzero().flatten().tolist())
        return torch.tensor([path[len(seen) - 1] if len(seen) <= len(path) else tokenizer.eos_token_id])

    choose = SchemaMasks(made).keep_to([YES], follow)
    for _ in range(len(path) + 2):
        choose(torch.zeros(1, width or len(tokenizer)), [0], [path[: len(seen)]])
    return seen


def test_every_step_allows_what_may_follow():
    tokenizer = byte_tokenizer()
    seen = walk(tokenizer, text='{"a":true}')
    assert [tokenizer.decode(tokens) for tokens in seen[:-2]] == ["{", '"', "a", '"', ":", "ft", "r", "u", "e", "}"]
    assert seen[-2:] == [[1], [1]]  # the end, also of a row that has ended and is still in the batch


def test_any_of_the_end_tokens_ends_a_complete_text_and_no_other():
    seen = walk(byte_tokenizer(), stops=[2, 1], text='{"a":true}')
    assert seen[-1] == [1, 2]
    assert all(not {1, 2} & set(tokens) for tokens in seen[:-2])


def test_a_model_may_have_more_logits_than_there_are_tokens():
    assert walk(byte_tokenizer(), width=300, text='{"a":') == walk(byte_tokenizer(), text='{"a":')


def test_a_free_choice_is_not_disturbed():
    """Where the text is within the schema already, masks change nothing."""
    model = policy()
    choose = SchemaMasks(model).keep_to([YES], most_likely)
    logits = torch.randn(1, 259, generator=torch.Generator().manual_seed(0))
    text = []
    for letter in '{"a":false}':
        wanted = logits.clone()
        wanted[0, model.encode(letter)[0]] = 50.0
        assert choose(wanted, [0], [text]).tolist() == model.encode(letter)
        text += model.encode(letter)


# -- tokenizers --------------------------------------------------------------------------------------------------------


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """With ▁ for spaces, one before every text, and bytes to fall back to, as Llama 2 and Gemma have it."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    merges = [("▁", "{"), ("{", '"'), ("t", "r"), ("u", "e"), ("tr", "ue")]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, *(left + right for left, right in merges)])}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize(
    "tokenizer",
    [byte_tokenizer(), build_tokenizer(["true outputs all the lamp is on"]), sentencepiece_like()],
    ids=["bytes", "unigram", "sentencepiece"],
)
@pytest.mark.parametrize(("schema", "check"), [(SETTINGS, check_settings), (WORDS, check_words)])
def test_tokenizers_of_all_kinds(tokenizer, schema, check):
    stand_in = SimpleNamespace(
        tokenizer=tokenizer, template=None, model=SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))
    )
    masks, draw = SchemaMasks(stand_in), torch.Generator().manual_seed(0)
    for _ in range(20):
        choose, ids = masks.keep_to([schema], most_likely), []
        while (
            token := int(choose(torch.randn(1, len(tokenizer), generator=draw), [0], [ids]))
        ) != tokenizer.eos_token_id:
            ids.append(token)
        check(tokenizer.decode(ids))


def test_the_lab_model_writes_json():
    policy = Policy(*load_model(ModelSource(name="lab")))
    samples = LocalSampler(constrained=True, temperature=0.8).sample(policy, requests(PROMPTS))
    for sample in samples:
        check_settings(sample.text)


# -- where it comes from, and what is refused --------------------------------------------------------------------------


class Settings(Knowledge):
    edit_schema = SETTINGS


def written(task) -> list[str]:
    step = EStep(task, LocalSampler(constrained=True), InnerLoop(), Contains(), Reward(), Plan(edits=3))
    return [rollout.text for rollout in step.write_edits(policy(), [LAMP], round=0)]


def test_the_schema_is_that_of_the_task():
    texts = written(Settings())
    assert len(set(texts)) == 3
    for text in texts:
        check_settings(text)


def test_a_task_without_schema_is_refused():
    for sample in (lambda: written(Knowledge()), lambda: endpoint_sampler().sample(policy(), requests(schema=None))):
        with pytest.raises(ConfigError, match=r"^sampler\.constrained needs a task whose self-edits are JSON"):
            sample()


def endpoint_sampler() -> EndpointSampler:
    return EndpointSampler(None, constrained=True)  # type: ignore[arg-type]


def test_a_missing_library_is_named_before_anything_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    LocalSampler()
    with pytest.raises(
        ConfigError, match=r"^sampler\.constrained needs llguidance: pip install 'llguidance>=1\.3', or leave it off$"
    ):
        LocalSampler(constrained=True)


@pytest.mark.parametrize(
    "schema",
    [{"type": "objekt"}, {"type": "object", "not": {}}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}],
)
def test_a_schema_that_cannot_be_kept_to_is_refused_in_one_line(schema):
    with pytest.raises(ConfigError, match=r"^sampler\.constrained: llguidance cannot keep to the schema: [^\n]+$"):
        LocalSampler(constrained=True).sample(policy(), requests(schema=schema))


def test_a_text_that_nothing_can_end_is_refused():
    model = policy()
    model.tokenizer.eos_token = None
    model.model.generation_config.eos_token_id = None
    with pytest.raises(ConfigError, match="end-of-sequence token"):
        LocalSampler(constrained=True).sample(model, requests())
