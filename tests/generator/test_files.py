"""A generator's folder: what is written is read again, to the bit, and what does not belong together is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_generator import Tiny

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.files.digests import KEY
from seal_lightning.files.saving import SavingError
from seal_lightning.generator import FastWeights
from seal_lightning.generator.files import SETTINGS, WEIGHTS, load_generator
from seal_lightning.generator.policy import GeneratorPolicy, GeneratorTuning
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.tasks import Knowledge

TUNING = GeneratorTuning(
    generator=FastWeights(rank=2, alpha=3.0, target_modules=["q_proj"]), task=Knowledge(edit="rewrite")
)


def a_policy(tuning=TUNING, family="llama"):
    model, tokenizer = build_tiny(family)
    made = GeneratorPolicy(model, tokenizer, False, tuning, seed=5)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for matrix in made.network.parameters():
            matrix.add_(0.1 * torch.randn(matrix.shape, generator=draw))
    return made


def a_base(family="llama"):
    return Policy(*build_tiny(family), False)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder, and the policy that it was exported from."""
    folder, made = tmp_path_factory.mktemp("run") / "policy", a_policy()
    made.export(folder)
    return folder, made


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the folder that may be changed."""
    return shutil.copytree(written[0], tmp_path / "policy")


def rewrite(folder, **changes):
    """Change entries of the settings; None removes one."""
    path = folder / SETTINGS
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_a_generator_is_read_as_it_was_written(written):
    folder, made = written
    assert {path.name for path in folder.iterdir()} >= {WEIGHTS, SETTINGS, "tokenizer.json"}
    for place in (folder, folder.parent):  # the folder itself, and the run that it lies in
        network = load_generator(place, a_base())
        state, expected = network.state_dict(), made.network.state_dict()
        assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)
        assert not network.training and not any(one.requires_grad for one in network.parameters())
        assert (network.settings.rank, network.settings.alpha, network.settings.target_modules) == (2, 3.0, ["q_proj"])


def test_the_settings_say_what_it_belongs_to(written):
    content = json.loads((written[0] / SETTINGS).read_text())
    assert content["generator"]["class_path"] == "seal_lightning.generator.FastWeights"
    assert content["task"] == {"class_path": "seal_lightning.Knowledge", "init_args": {"edit": "rewrite"}}
    assert content["base"]["fingerprint"] == written[1].base["fingerprint"] and set(content[KEY]) == {WEIGHTS}
    assert set(content["layers"]) == set(written[1].network.sizes) and content["version"]


def test_half_a_generator_is_never_there(tmp_path, monkeypatch):
    """A disk that fills up while the weights are written leaves the folder before as it was."""
    made = a_policy()
    made.export(tmp_path / "policy")
    before = {path.name: path.read_bytes() for path in (tmp_path / "policy").iterdir()}

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seal_lightning.generator.files.digests_of", full)
    with pytest.raises(SavingError, match="No space left on device: make room"):
        made.export(tmp_path / "policy")
    assert {path.name: path.read_bytes() for path in (tmp_path / "policy").iterdir()} == before


def test_another_rank_writes_nothing_and_nothing_can_be_merged(tmp_path):
    made = a_policy()
    made.export(tmp_path / "policy", write=False)
    assert not (tmp_path / "policy").exists()
    with pytest.raises(ConfigError, match=r"checkpoint\.merged must be false where a generator is trained"):
        made.export(tmp_path / "policy", merged=True)


# -- what does not belong together -------------------------------------------------------------------------------------


def test_another_base_is_refused(folder):
    base = a_base()
    with torch.no_grad():
        next(base.model.parameters()).add_(1.0)
    with pytest.raises(ModelError, match=r"expected the base model that it was trained with \(.*\), got another"):
        load_generator(folder, base)
    with pytest.raises(ModelError, match="expected the base model that it was trained with"):
        load_generator(folder, a_base("gpt2"))


def test_another_tokenizer_is_refused(folder):
    base = a_base()
    base.tokenizer.add_tokens(["quokka"])
    with pytest.raises(ModelError, match="expected the tokenizer that it was trained with"):
        load_generator(folder, base)


def test_damaged_weights_are_found(folder):
    path = folder / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"got damaged ones: {WEIGHTS} is not the file that was written there"):
        load_generator(folder, a_base())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state | {"more": torch.zeros(2)}, r"more: expected nothing as generator.json says, got \(2,\)"),
        (lambda state: dict(list(state.items())[1:]), r"expected \(2, \d+\) as generator.json says, got nothing"),
        (lambda state: {name: one[:1].clone() for name, one in state.items()}, r"expected \(2, \d+\) as .* got \(1, "),
        (lambda state: {name: one * torch.nan for name, one in state.items()}, "diverged in training or is damaged"),
    ],
)
def test_weights_that_are_not_those_of_the_settings_are_refused(folder, change, reason):
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    rewrite(folder, **{KEY: None})  # as whoever changes them on purpose does
    with pytest.raises(ModelError, match=reason) as caught:
        load_generator(folder, a_base())
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_tensors_are_refused(folder):
    (folder / WEIGHTS).write_bytes(b"not tensors")
    rewrite(folder, **{KEY: None})
    with pytest.raises(ModelError, match="expected a generator's weights, got"):
        load_generator(folder, a_base())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"generator": None}, "expected a generator's settings, got none of generator"),
        ({"base": 3}, "got none of base"),
        (
            {"layers": {"model.layers.0.self_attn.q_proj": [1, 2]}},
            "layers: expected those of the base model, got others",
        ),
        (
            {"generator": {"class_path": "seal_lightning.generator.FastWeights", "init_args": {"rank": 0}}},
            "rank must be",
        ),
        ({"generator": {"class_path": "seal_lightning.generator.FastWeights", "init_args": {"rnk": 1}}}, "rnk"),
    ],
)
def test_settings_that_are_not_a_generators_are_refused(folder, changes, reason):
    rewrite(folder, **changes)
    with pytest.raises(ModelError, match=reason) as caught:
        load_generator(folder, a_base())
    assert "\n" not in str(caught.value)


def test_where_there_is_none_the_line_says_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match="expected a run that trained a generator, or its folder policy, got neither"):
        load_generator(tmp_path, a_base())
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="got a policy that writes texts: give it as --policy"):
        load_generator(tmp_path, a_base())


# -- whose code it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"class_path": "os.system"}, "generator: class_path os.system in generator.json names code"),
        (
            {"class_path": "seal_lightning.tasks.Knowledge"},
            "class_path seal_lightning.tasks.Knowledge in .* names code",
        ),
        ({"init_args": {}}, "names code"),
        ({"class_path": "seal_lightning.generator.FastWeights", "init_args": {"rank": 10**9}}, "rank: 1000000000 in"),
        (
            {"class_path": "seal_lightning.generator.FastWeights", "init_args": {"target_modules": "/etc/passwd"}},
            "target_modules: /etc/passwd in generator.json",
        ),
    ],
)
def test_a_folder_chooses_no_code(folder, settings, reason):
    rewrite(folder, generator=settings)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_generator(folder, a_base())
    assert "add --trust_policy if you trust whoever made it" in str(caught.value)


def test_a_class_of_ones_own_is_read_where_it_is_trusted(tmp_path):
    made = a_policy(GeneratorTuning(generator=Tiny()))
    made.export(tmp_path)
    with pytest.raises(ConfigError, match=r"class_path tests\.generator\.tiny_generator\.Tiny in .* names code"):
        load_generator(tmp_path, a_base())
    network = load_generator(tmp_path, a_base(), trusted=True)
    expected = made.network.state_dict()
    assert all(torch.equal(one, expected[name]) for name, one in network.state_dict().items())


def test_a_class_that_cannot_be_imported_is_not_written(tmp_path):
    class Local(FastWeights):
        pass

    with pytest.raises(ConfigError, match="Local is defined in a function, so the generator could not be read again"):
        a_policy(GeneratorTuning(generator=Local())).export(tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def test_a_link_leads_nowhere(folder, tmp_path):
    (tmp_path / "secret").write_text("4711")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(tmp_path / "secret")
    rewrite(folder, **{KEY: None})
    with pytest.raises(ModelError, match="expected a file of that folder, got a link"):
        load_generator(folder, a_base())
