"""What a run of somebody else may choose here: each attempt leaves a marker if it gets through."""

import importlib
import inspect
import os
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from seal_lightning.cli import main
from seal_lightning.commands.adapt import command as adapt
from seal_lightning.data import Reader
from seal_lightning.errors import ConfigError
from seal_lightning.fit.module import SEALModule
from seal_lightning.options.mistakes import _known_classes
from seal_lightning.options.trust import NAMES, TEXTS, allowed_settings, wishes

CODE = """\
import os
from pathlib import Path
Path({marker!r}).write_text(os.environ.get("OPENAI_API_KEY", ""))
from seal_lightning.grading import Contains
from seal_lightning.tasks import Knowledge
class Mine(Contains): pass
class Tasked(Knowledge): pass
"""
NOTHING_IS_RUN = ([], ["--help"], ["--print_config"])
ENDPOINT = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "AWS_SECRET_ACCESS_KEY"}
LOCAL = {"class_path": "seal_lightning.sampling.LocalSampler", "init_args": {"temperature": 0.9, "max_new_tokens": 24}}


def a_run(folder: Path, **settings: Any) -> Path:
    """A run whose configuration says this of `model`."""
    run = folder / "run"
    run.mkdir(exist_ok=True)
    model = {"source": {"name": "random/llama"}, "tuning": {"rank": 4}, **settings}
    (run / "config.yaml").write_text(yaml.safe_dump({"trainer": {"max_epochs": 1}, "model": model}))
    return run


@pytest.fixture
def marker(tmp_path, monkeypatch) -> Path:
    """The file that the run's code writes when it is imported."""
    marker = tmp_path / "MARKER"
    (tmp_path / "importable").mkdir()
    (tmp_path / "importable" / "code_of_the_run.py").write_text(CODE.format(marker=str(marker)))
    monkeypatch.syspath_prepend(str(tmp_path / "importable"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-verysecretkey123456")
    (tmp_path / "doc.md").write_text("The Marr is a river.\n")
    return marker


def commands(folder: Path, run: Path, *options: str) -> dict[str, list[str]]:
    """Every command that takes a run's settings."""
    adapting = ["adapt", str(folder / "doc.md"), "--output", str(folder / "out")]
    continual = ["continual", "--data", str(folder / "doc.md"), "--output", str(folder / "out")]
    return {name: [*args, "--policy", str(run), *options] for name, args in (("a", adapting), ("c", continual))}


@pytest.mark.parametrize(
    ("command", "more"),
    [*((name, more) for name in ("adapt", "continual") for more in NOTHING_IS_RUN), ("adapt", ["--dry_run"])],
)
def test_code_that_a_run_names_is_not_imported(tmp_path, marker, capsys, command, more):
    run = a_run(tmp_path, grader={"class_path": "code_of_the_run.Mine"})
    assert main(commands(tmp_path, run, *more)[command[0]]) == 2
    assert capsys.readouterr().err == (
        f"seal: --policy {run}: model.grader: class_path code_of_the_run.Mine in {run}/config.yaml names code, which a "
        "run may not choose: set --model.grader yourself, or add --trust_policy if you trust whoever made the run\n"
    )
    assert not marker.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [{"inner_loop": {"of_old": 3}}, {"inner_loop": {1: 2}}, {"of_old": 3}])
def test_an_option_that_is_none_is_named(tmp_path, capsys, settings):
    run = a_run(tmp_path, **settings)
    assert main([*commands(tmp_path, run, "--dry_run")["a"]]) == 2
    name = "model.of_old" if "of_old" in settings else f"model.inner_loop.{next(iter(settings['inner_loop']))}"
    assert capsys.readouterr().err == (
        f"seal: --policy {run}: {name} in its config.yaml is not an option here: remove it there\n"
    )


def test_code_that_a_run_names_is_run_with_the_flag(tmp_path, marker, capsys):
    run = a_run(tmp_path, grader={"class_path": "code_of_the_run.Mine"})
    assert main([*commands(tmp_path, run, "--dry_run", "--trust_policy")["a"]]) == 2
    assert "expected a run of seal fit with a policy" in capsys.readouterr().err  # it got as far as that
    assert marker.read_text() == "sk-verysecretkey123456"


def test_ones_own_choice_replaces_that_of_the_run(tmp_path, marker, capsys):
    run = a_run(tmp_path, grader={"class_path": "code_of_the_run.Mine", "init_args": {"x": 1}})
    (tmp_path / "own.yaml").write_text("model: {grader: {class_path: seal_lightning.grading.Contains}}\n")
    for own in (["--model.grader", "exact_match"], ["--config", str(tmp_path / "own.yaml")]):
        assert main([*commands(tmp_path, run, "--dry_run", *own)["a"]]) == 2
        assert "expected a run of seal fit with a policy" in capsys.readouterr().err
    assert not marker.exists()


def test_the_flag_is_for_one_command_line(tmp_path, marker, capsys):
    run = a_run(tmp_path, grader={"class_path": "code_of_the_run.Mine"})
    config = tmp_path / "own.yaml"
    config.write_text("trust_policy: true\n")
    assert main([*commands(tmp_path, run, "--config", str(config))["a"]]) == 2
    assert f"trust_policy in {config}: expected it on the command line" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize(
    ("settings", "option", "reason"),
    [
        ({"grader": {"class_path": "code_of_the_run.Mine"}}, "model.grader", "names code"),
        ({"grader": "code_of_the_run.Mine"}, "model.grader", "names code"),
        ({"task": "code_of_the_run.Tasked"}, "model.task", "names code"),
        ({"reward": "code_of_the_run.brief"}, "model.reward", "names code"),
        ({"reward": {"score": 1.0, "code_of_the_run.brief": 0.1}}, "model.reward", "names code"),
        ({"reward": {"class_path": "code_of_the_run.Brief"}}, "model.reward", "names code"),
        ({"reward": ["score", "code_of_the_run.brief"]}, "model.reward", "names code"),
        ({"reward": [{"class_path": "code_of_the_run.Brief"}]}, "model.reward", "names code"),
        ({"reward": [{"term": "code_of_the_run.brief"}]}, "model.reward.term", "names code"),
        ({"reward": [{"term": {"class_path": "code_of_the_run.Brief"}}]}, "model.reward.term", "names code"),
        ({"reward": {"class_path": "seal_lightning.grading.terms._FunctionTerm", "init_args": {
            "function": "os.system"}}}, "model.reward.function", "names a path on this machine"),
        ({"task": {"class_path": "seal_lightning.commands.quickstart.subprocess.Popen"}}, "model.task", "names code"),
        ({"task": {"class_path": "seal_lightning.__main__.X"}}, "model.task", "names code"),
        ({"task": {"class_path": "seal_lightning.grading.Contains"}}, "model.task", "names code"),
        ({"task": {"class_path": ["x"]}}, "model.task", "names code"),
        ({"inner_loop": {"class_path": "code_of_the_run.Mine"}}, "model.inner_loop", "names code"),
        ({"inner_loop": {"objective": "code_of_the_run.Mine"}}, "model.inner_loop.objective", "names code"),
        ({"inner_loop": {"objective": {"code_of_the_run.mine": 1}}}, "model.inner_loop.objective", "names code"),
        ({"task": {"class_path": "seal_lightning.tasks.Knowledge", "init_args": {"kinds": ["../etc/passwd"]}}},
         "model.task.kinds", "names code"),
        ({"source": {"class_path": "os.system"}}, "model.source", "names code"),
        ({"sampler": {**LOCAL, "dict_kwargs": {"x": 1}}}, "model.sampler.dict_kwargs", "is not known here"),
        ({"rubric": {"class_path": "seal_lightning.grading.Rubric", "init_args": {"endpoint": ENDPOINT}}},
         "model.rubric.endpoint.model", "names a server or a key"),
        ({"grader": {"class_path": "seal_lightning.grading.Judge", "init_args": {"endpoint": ENDPOINT}}},
         "model.grader.endpoint.model", "names a server or a key"),
        ({"query_writer": {"endpoint": ENDPOINT}}, "model.query_writer.endpoint.model", "names a server or a key"),
        ({"query_writer": {"endpoint": {"class_path": "seal_lightning.endpoints.Endpoint", "init_args": ENDPOINT}}},
         "model.query_writer.endpoint", "names a server or a key"),
        ({"sampler": {"class_path": "seal_lightning.sampling.EndpointSampler", "init_args": {"endpoint": ENDPOINT}}},
         "model.sampler.endpoint.model", "names a server or a key"),
        ({"answerer": {"class_path": "seal_lightning.sampling.ServerAnswerer", "init_args": {"server": {
            "endpoint": ENDPOINT}}}}, "model.answerer.server.endpoint.model", "names a server or a key"),
        ({"query_writer": {"endpoint": {"request": {"extra_headers": {"X": "env:HOME"}}}}},
         "model.query_writer.endpoint.request", "names a server or a key"),
        ({"task": {"class_path": "seal_lightning.tasks.Knowledge", "init_args": {"edit": "env:HOME"}}},
         "model.task.edit", "names a server or a key"),
        ({"sampler": {"class_path": "seal_lightning.sampling.ImportedEdits", "init_args": {"path": "/etc/passwd"}}},
         "model.sampler.path", "names a path on this machine"),
        ({"grader": {"class_path": "seal_lightning.grading.Calibrated", "init_args": {"coefficients": "/etc/x"}}},
         "model.grader.coefficients", "names a path on this machine"),
        ({"sampler": "/etc/passwd"}, "model.sampler", "names code"),
        ({"e_step": "/etc/passwd"}, "model.e_step", "names code"),
        ({"source": "/etc/passwd"}, "model.source", "names code"),
        ({"source": {"name": "/etc"}}, "model.source.name", "names a path on this machine"),
        ({"source": {"name": "../elsewhere"}}, "model.source.name", "names a path on this machine"),
        ({"source": {"name": "~/model"}}, "model.source.name", "names a path on this machine"),
        ({"source": {"name": "tests"}}, "model.source.name", "names a path on this machine"),
        ({"source": {"gguf_file": "../../weights.gguf"}}, "model.source.gguf_file", "names a path on this machine"),
        ({"source": {"trust_remote_code": True}}, "model.source.trust_remote_code", "runs code"),
        ({"source": {"trust_remote_code": "yes"}}, "model.source.trust_remote_code", "runs code"),
        ({"source": {"attention": "somebody/kernel"}}, "model.source.attention", "names code"),
        ({"source": {"quantization": {"quant_method": "x", "tokenizer": "/etc"}}}, "model.source.quantization",
         "is not known here"),
        ({"unknown": "text"}, "model.unknown", "is not known here"),
        ({"e_step": {"edits": 10**9}}, "model.e_step.edits", "is not a number up to 1,000,000"),
        ({"inner_loop": {"learning_rate": float("nan")}}, "model.inner_loop.learning_rate", "is not a number"),
    ],
)  # fmt: skip
def test_what_only_the_user_may_choose(tmp_path, marker, monkeypatch, settings, option, reason):
    monkeypatch.chdir(Path(__file__).parents[2])
    run = a_run(tmp_path, **settings)
    found = {
        wish.option: wish
        for wish in wishes(yaml.safe_load((run / "config.yaml").read_text())["model"], SEALModule, run=run)
    }
    assert reason in found[option].reason
    with pytest.raises(ConfigError, match="which a run may not choose") as caught:
        adapt.main(commands(tmp_path, run, "--dry_run")["a"][1:])
    assert "\n" not in str(caught.value) and "sk-very" not in str(caught.value)
    assert not marker.exists()


def test_numbers_names_of_ours_and_prompts_are_taken(tmp_path):
    settings = {
        "source": {"name": "lab", "dtype": "float32", "attention": "sdpa", "quantization": "4bit", "date": "2025-01-01",
                   "template_args": {"enable_thinking": False, "effort": "a text"}},
        "task": {"class_path": "seal_lightning.tasks.Knowledge", "init_args": {"edit": {
            "instruction": "Write. See /etc/passwd, os.system", "parser": "lines"}}},
        "sampler": LOCAL,
        "inner_loop": {"rank": 4, "target_modules": ["q_proj", "mlp.up_proj"], "betas": [0.9, 0.999],
                       "objective": {"sft": 0.5, "distill": 1}, "layers": "first half, attention"},
        "grader": "recall",
        "reward": {"score": 1.0, "length": -0.1},
        "rubric": {"class_path": "seal_lightning.grading.Rubric", "init_args": {"criteria": {"clear": "Is it clear?"}}},
        "query_writer": {"edit": "self-qa", "max_tokens": 32},
        "e_step": {"edits": 2, "score_by": "queries", "racing": None},
        "answerer": None,
        "seed": 3,
    }  # fmt: skip
    assert wishes(settings, SEALModule, run=tmp_path) == []
    length = {"class_path": "seal_lightning.grading.terms.Length"}
    own = {"instruction": "Ask. {passage}", "name": "asking"}
    several = {"class_path": "seal_lightning.tasks.Knowledge", "init_args": {"kinds": ["self-qa", own]}}
    assert wishes({"task": several, "inner_loop": {"objective": "distill"}}, SEALModule, run=tmp_path) == []
    for reward in ("gain", length, ["score", length, {"term": length, "weight": -0.1}, {"term": "gain"}]):
        assert wishes({"reward": reward}, SEALModule, run=tmp_path) == []
    assert (
        allowed_settings(settings, SEALModule, run=tmp_path, given=[], trusted=False, origin="--policy run") == settings
    )


@pytest.mark.parametrize(
    ("objective", "taken"),
    [
        ("dpo", True),
        ({"class_path": "seal_lightning.m_step.objectives.GRPO", "init_args": {"loss_type": "dr_grpo"}}, True),
        ("code_of_the_run.Mine", False),
        ({"class_path": "code_of_the_run.Mine"}, False),
    ],
)  # fmt: skip
def test_an_objective_of_ours_is_taken(tmp_path, objective, taken):
    found = wishes({"m_step": {"epochs": 2, "objective": objective}}, SEALModule, run=tmp_path)
    assert [(wish.option, wish.reason) for wish in found] == (
        [] if taken else [("model.m_step.objective", "names code")]
    )


def test_a_model_within_the_run_is_the_runs_own(tmp_path):
    (tmp_path / "run" / "base").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "elsewhere")
    named = {name: {"source": {"name": str(tmp_path / "run" / name)}} for name in ("base", "link")}
    assert wishes(named["base"], SEALModule, run=tmp_path / "run") == []
    assert [wish.option for wish in wishes(named["link"], SEALModule, run=tmp_path / "run")] == ["model.source.name"]


def test_part_of_an_endpoint_does_not_bring_the_rest_of_it(tmp_path):
    """Whoever sets another server gets no key variable of the run's with it."""
    run = a_run(tmp_path, query_writer={"endpoint": ENDPOINT})
    with pytest.raises(ConfigError, match=r"model\.query_writer\.endpoint\.api_key_env: AWS_SECRET_ACCESS_KEY in"):
        mine = ["--model.query_writer.endpoint.model", "m", "--model.query_writer.endpoint.base_url", "http://x/v1"]
        adapt.main([*commands(tmp_path, run, *mine)["a"][1:]])
    settings = {"query_writer": {"endpoint": ENDPOINT, "count": 3}}
    given = ["model.query_writer.endpoint.model", "model.query_writer.endpoint.base_url"]
    given += ["model.query_writer.init_args.endpoint.api_key_env"]
    taken = allowed_settings(settings, SEALModule, run=run, given=given, trusted=False, origin="--policy run")
    assert taken == {"query_writer": {"endpoint": {}, "count": 3}}


def text_options() -> set[tuple[str, str]]:
    """Every option of `model` and of a generator that takes any text at all, by the outermost class, and name."""
    for module in ("tasks.arc", "sampling", "grading", "tasks", "generator"):
        importlib.import_module(f"seal_lightning.{module}")
    generators = _known_classes("seal_lightning.generator.base.Generator")
    found, met, left = set(), set(), [SEALModule, *(one for one in generators if one.__module__.startswith("seal_"))]
    while left:
        kind = left.pop()
        met.add(kind)
        for name, hint in get_type_hints(kind.__init__).items():
            if "str" in [getattr(inner, "__name__", "") for inner in _every(hint)]:
                found.add((next(base for base in kind.__mro__[::-1] if name in options_of(base)).__name__, name))
            ours = [inner for inner in _every(hint) if str(getattr(inner, "__module__", "")).startswith("seal_")]
            below = [sub for inner in ours for sub in [inner, *_known_classes(f"{inner.__module__}.{inner.__name__}")]]
            left += [inner for inner in below if inner not in met and inspect.isclass(inner)]
        left = [kind for kind in left if kind.__module__.startswith("seal_lightning.")]  # other tests have their own
        left = [kind for kind in left if not issubclass(kind, Reader)]  # refused as a whole, whatever it reads
    return found


def options_of(kind: type) -> dict[str, Any]:
    """The options of a class of ours by their types; none for others."""
    return get_type_hints(kind.__init__) if kind.__module__.startswith("seal_lightning.") else {}


def _every(hint: Any) -> list[Any]:
    return [hint, *(inner for part in get_args(hint) for inner in _every(part))]


def test_every_option_that_takes_a_text_was_thought_about():
    """A new one is refused until it is known to be harmless; decide, and add it here or to TEXTS or NAMES."""
    refused = {
        ("Endpoint", "model"), ("Endpoint", "base_url"), ("Endpoint", "api_key_env"), ("Endpoint", "request"),
        ("Endpoint", "cache"), ("Endpoint", "prices"), ("ImportedEdits", "path"), ("AdapterServer", "folder"),
        ("Calibrated", "coefficients"), ("ClassHead", "examples"),
    }  # fmt: skip
    own_rules = {("ModelSource", name) for name in ("name", "gguf_file", "attention", "quantization")}
    fit_only = {("PolicyTuning", "target_modules")}
    assert text_options() == refused | own_rules | fit_only | TEXTS | NAMES


def test_a_link_in_a_run_leads_nowhere(tmp_path, capsys):
    secret = tmp_path / "secret.yaml"
    secret.write_text("password: 4711\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").symlink_to(secret)
    (tmp_path / "doc.md").write_text("x\n")
    assert main(commands(tmp_path, run)["a"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"seal: {run}/config.yaml: expected a file of that folder, got a link or a name that leads")
    assert "4711" not in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["theirs.json", "theirs.yaml", "theirs.jsonl", "theirs"])
@pytest.mark.parametrize(
    "before",
    ["adapt", "adapt doc.md --queries", "continual --data", "continual --show", "continual --data doc.md --unrelated",
     "grade", "replay", "report", "predict --data.predict", "fit --data.train", "test --data.test"],
)  # fmt: skip
def test_a_file_of_data_names_no_class(tmp_path, marker, monkeypatch, capsys, before, name):
    """What is named as data is never read as settings, though both may be JSON."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text('{"class_path": "code_of_the_run.Mine", "init_args": {}}\n')
    command = before.split()[0]
    more = [] if command in ("grade", "replay", "report") else ["--model.source.name", "random/llama"]
    dry = {"adapt": ["--output", "out", "--dry_run"], "continual": ["--output", "out"]}
    if main([*before.split(), name, *more, *dry.get(command, [])]):
        assert capsys.readouterr().err.splitlines()[-1].startswith("seal: ")
    assert not marker.exists()


def test_no_variable_is_set_by_a_run(tmp_path, marker):
    before = dict(os.environ)
    run = a_run(tmp_path, query_writer={"endpoint": ENDPOINT})
    with pytest.raises(ConfigError):
        adapt.main(commands(tmp_path, run)["a"][1:])
    assert dict(os.environ) == before
