"""Whole commands with reward terms of the reader's own, which lie in the working folder."""

import sys
from importlib import import_module, invalidate_caches
from pathlib import Path

import pytest
import yaml

from seal_lightning import ModelSource, SEALModule
from seal_lightning.cli import main
from seal_lightning.errors import ConfigError
from seal_lightning.grading import Weighted
from seal_lightning.records.journal import read_rollouts

ROOT = Path(__file__).parents[2]
TERMS = """\
from seal_lightning.grading import RewardTerm


def brevity(rollout):
    return 1 - len(rollout.text.split()) / {words}


class Short(RewardTerm):
    def __init__(self, words: int = 50) -> None:
        self.words = words

    def __call__(self, rollout):
        return len(rollout.text.split()) <= self.words
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("terms")


@pytest.fixture
def seal(folder, monkeypatch, capfd):
    """Run `seal` in a working folder with the terms, which this process otherwise does not find."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])

    def run(*args, words=100):
        (folder / "my_terms.py").write_text(TERMS.format(words=words))
        sys.modules.pop("my_terms", None)
        invalidate_caches()
        capfd.readouterr()
        return main([str(arg) for arg in args]), *capfd.readouterr()

    (folder / "configs").is_symlink() or (folder / "configs").symlink_to(ROOT / "configs")
    yield run
    sys.modules.pop("my_terms", None)


SMALL = "--trainer.max_epochs 1 --data.validation null --data.limit_train 2 --trainer.default_root_dir run".split()
FIT = ["fit", "--config", "configs/debug/random.yaml", *SMALL]
WEIGHTS = {"score": 1.0, "my_terms.brevity": 0.1}


@pytest.fixture
def fitted(folder, seal):
    """The folder of a run with such a term, named by the key of a mapping in a file."""
    if not (folder / "run").exists():
        (folder / "own.yaml").write_text(yaml.safe_dump({"model": {"reward": WEIGHTS}}))
        code, _, err = seal(*FIT, "--config", "own.yaml")
        assert code == 0, err
        assert "seal:" not in err
    return folder / "run"


def test_a_run_measures_the_term_and_writes_its_name(fitted):
    rollouts = read_rollouts(fitted / "journal", "train-000")
    assert rollouts and all(set(rollout.terms) == {"score", "brevity"} for rollout in rollouts)
    one = rollouts[0]
    assert one.terms["brevity"] == 1 - len(one.text.split()) / 100
    assert one.reward == pytest.approx(one.terms["score"] + 0.1 * one.terms["brevity"])
    assert yaml.safe_load((fitted / "config.yaml").read_text())["model"]["reward"] == WEIGHTS


def test_a_run_goes_on_with_the_same_code_only(fitted, seal):
    again = ["fit", "--config", "run/config.yaml", "--ckpt_path", "last", "--trainer.max_epochs", "1"]
    assert seal(*again)[0] == 0
    code, _, err = seal(*again, words=200)
    assert code == 2 and "the source of my_terms.brevity has changed" in err.splitlines()[-1]
    code, _, err = seal(*again, "--model.reward", "score")
    assert code == 2 and "model.reward.terms.brevity" in err


@pytest.mark.parametrize(
    "reward",
    [
        "my_terms.brevity",
        "{gain: 1.0, my_terms.brevity: 1}",
        "{class_path: my_terms.Short, init_args: {words: 3}}",
        "[score, {term: {class_path: my_terms.Short, init_args: {words: 3}}, weight: 0.5}]",
    ],
)
def test_a_journal_is_rewarded_anew(fitted, seal, reward):
    (fitted.parent / "again.yaml").write_text(f"reward: {reward}\n")
    code, out, err = seal("replay", fitted, "--reward", reward)
    assert code == 0, err
    assert "brevity" in out or "Short" in out or "Short" not in reward
    assert seal("replay", fitted, "--config", "again.yaml")[:2] == (0, out)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (
            "brevty",
            "model.reward must be made of score, gain, improved, precision, length, format, carry_over, diversity, got",
        ),
        ("lenght", "got 'lenght': did you mean length?"),
        ("my_terms.brevty", "module 'my_terms' has no attribute 'brevty'"),
        ("no_such_module.brevity", "got 'no_such_module.brevity': No module named 'no_such_module'"),
        ("{score: 1.0, my_terms.brevty: 1.0}", "has no attribute 'brevty'"),
        (
            "{class_path: my_terms.Short, init_args: {wrods: 3}}",
            "model.reward.wrods: unknown option; did you mean model.reward.words?",
        ),
        ("[{term: score, weight: heavy}]", "check its class_path, init_args and weights"),
        ("{score: heavy}", "check its class_path, init_args and weights"),
    ],
)
def test_mistakes_are_one_line(seal, reward, said):
    code, _, err = seal(*FIT, "--model.reward", reward)
    assert code == 2 and said in err.splitlines()[-1] and err.splitlines()[-1].startswith("seal: ")


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (
            "my_terms.brevty",
            "model.reward must name what can be imported, got 'my_terms.brevty': module 'my",
        ),
        (
            "{class_path: my_terms.Short, init_args: {wrods: 3}}",
            "model.reward.wrods in wrong.yaml: unknown option",
        ),
        (
            "{class_path: my_terms.Shrt}",
            "model.reward in wrong.yaml: class_path my_terms.Shrt cannot be used",
        ),
        ("{score: heavy}", "model.reward in wrong.yaml: expected a number, got 'heavy'"),
        ("[{term: score, weight: heavy}]", "model.reward.weight: expected a number, got 'heavy'"),
    ],
)
def test_mistakes_in_a_file_name_the_option(seal, reward, said):
    Path("wrong.yaml").write_text(f"model: {{reward: {reward}}}\n")
    code, _, err = seal(*FIT, "--config", "wrong.yaml")
    assert code == 2 and err.splitlines()[-1].startswith(f"seal: {said}")


def test_somebody_elses_run_may_not_name_one(fitted, seal, monkeypatch):
    (fitted.parent / "note.txt").write_text("Dry Ferry lies on the Gorn.")
    adapt = ["adapt", "note.txt", "--policy", "run", "--output", "out", "--dry_run"]
    code, _, err = seal(*adapt)
    assert code == 2 and "names code, which a run may not choose" in err and "my_terms" not in sys.modules
    assert seal(*adapt, "--model.reward", "score")[0] == 0
    checkpoint = fitted / "checkpoints" / "last.ckpt"
    with pytest.raises(ConfigError, match=r"model\.reward: .* names code, which a checkpoint may not choose"):
        SEALModule.load_from_checkpoint(checkpoint)
    monkeypatch.syspath_prepend(str(fitted.parent))
    assert seal(*adapt, "--trust_policy")[0] == 0
    module = SEALModule.load_from_checkpoint(checkpoint, trust_checkpoint=True)
    assert module.e_step.reward.weights == {"score": 1.0, "brevity": 0.1}


def test_python_passes_the_thing_itself_and_the_checkpoint_holds_it(fitted, seal, monkeypatch):
    from seal_lightning.fit.module import settings_of_module

    monkeypatch.syspath_prepend(str(fitted.parent))
    terms = import_module("my_terms")
    Short, brevity = terms.Short, terms.brevity

    for reward, written in [
        (brevity, "my_terms.brevity"),
        ({"score": 1.0, brevity: 0.5}, {"score": 1.0, "my_terms.brevity": 0.5}),
        (Short(3), {"class_path": "my_terms.Short", "init_args": {"words": 3}}),
        ([Weighted(brevity, 2.0), "score"], [{"term": "my_terms.brevity", "weight": 2.0}, "score"]),
        ({Short(): 0.5}, [{"term": {"class_path": "my_terms.Short"}, "weight": 0.5}]),
    ]:
        module = SEALModule(source=ModelSource("random/llama"), reward=reward)
        assert settings_of_module(module)["model"]["reward"] == written
    module = SEALModule(source=ModelSource("random/llama"), reward=lambda rollout: 1.0)
    assert "is defined in a function" in settings_of_module(module)["left_out"]["reward"]
