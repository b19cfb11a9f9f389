"""The suite itself: nothing is skipped unnoticed, and what the package imports is declared."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Declared, and imported by nobody here: who needs them.
FOR_OTHERS = {"tensorboard": "Lightning's logger", "bitsandbytes": "transformers"}
FOR_OTHERS |= {name: "make docs" for name in ("furo", "myst-parser", "sphinx", "sphinx-external-toc")}
FOR_OTHERS |= {name: "make" for name in ("build", "pyright", "pytest-xdist", "ruff")}
FOR_OTHERS |= {name: "Lightning's loggers" for name in ("mlflow-skinny", "wandb")}
FOR_OTHERS |= {name: "runs of MLflow on this machine" for name in ("alembic", "sqlalchemy")}
FOR_OTHERS |= {"trackio": "its logger, which imports it when it starts"}
FOR_OTHERS |= {"sentence-transformers": "an extra outside dev, known by its module where it is installed"}
WITHOUT_PIN = {"trackio", "sentence-transformers"}  # extras outside dev: an older pillow; scikit-learn and scipy
ARTIFACTS = {"pyarrow": "datasets", "pandas": "datasets"}  # what a package needs whose files tests read, and that


@pytest.fixture
def conftest(request):
    """The module of fixtures, which pytest has imported by its path."""
    return request.config.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))


# -- skips -------------------------------------------------------------------------------------------------------------


def skipped(reason):
    """The report of a test that was skipped."""
    longrepr = ("test_it.py", 3, f"Skipped: {reason}")
    return pytest.TestReport("test_it.py::test", ("", 3, ""), {}, "skipped", longrepr, "setup")


@pytest.mark.parametrize("reason", ["needs an installed Chromium", "could not import 'ray'", ""])
def test_an_unknown_skip_becomes_a_failure(conftest, reason):
    report = skipped(reason)
    conftest.refuse_skip(report)
    assert report.failed and str(report.longrepr) == (
        f"skipped ({reason}), and where CI is set nothing may be but what needs a CUDA device or needs the folder "
        "'shared' beside the repository or needs a server beside this environment"
    )


def test_what_a_machine_may_lack_is_skipped(conftest):
    for reason in conftest.ALLOWED_SKIPS:
        report = skipped(reason)
        conftest.refuse_skip(report)
        assert report.skipped


def test_ci_run_is_where_ci_is_set():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert any(line.startswith("export CI=true") for line in lines) and lines[-1] == "make test"


# -- dependencies ------------------------------------------------------------------------------------------------------


def normal(name: str) -> str:
    """The name of a distribution, as pip compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: list[str]) -> set[str]:
    return {normal(re.match(r"[\w.-]+", one)[0]) for one in requirements}


BASE = named(PROJECT["dependencies"])
EXTRAS = {name: named(requirements) for name, requirements in PROJECT["optional-dependencies"].items()}
OPTIONAL = set().union(*(names for extra, names in EXTRAS.items() if extra != "dev"))
DISTRIBUTIONS = {module: {normal(name) for name in names} for module, names in packages_distributions().items()}


def modules(*folders: str) -> set[str]:
    """The third-party modules that the files of some folders import, or have imported by name."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            found |= {name.partition(".")[0] for name in imported(node)}
    ours = {path.stem for folder in ("benchmarks", "docs", "tests") for path in (ROOT / folder).glob("*.py")}
    found -= {name for name in found if name in sys.stdlib_module_names or name.startswith("my_")}  # a test's own
    return found - ours - {"making", "seal_lightning"}


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "find_spec"):
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.startswith("."):
            yield first.value


def undeclared(found: set[str], declared: set[str]) -> set[str]:
    return {module for module in found if not DISTRIBUTIONS.get(module, {normal(module)}) & declared}


def test_what_the_package_imports_is_declared():
    package = modules("seal_lightning", "callbacks")
    assert {"torch", "yaml", "huggingface_hub", "markupsafe", "ray", "bs4"} <= package
    assert undeclared(package, BASE | OPTIONAL) == set()


def test_what_tests_docs_and_benchmarks_import_is_in_dev():
    wanted = EXTRAS["dev"] | BASE | OPTIONAL | ARTIFACTS.keys()
    assert undeclared(modules("tests", "docs", "benchmarks"), wanted) == set()
    assert set(ARTIFACTS.values()) <= BASE


def test_what_is_declared_is_used():
    everywhere = modules("seal_lightning", "callbacks", "tests", "docs", "benchmarks")
    used = set().union(*(DISTRIBUTIONS.get(module, set()) for module in everywhere))
    declared = BASE | OPTIONAL | EXTRAS["dev"]
    assert declared - used - FOR_OTHERS.keys() - {"seal-lightning"} == set()


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - {"dev", "trackio", "embeddings"}))
def test_dev_has_every_extra(extra):
    (own,) = [one for one in PROJECT["optional-dependencies"]["dev"] if one.startswith("seal-lightning[")]
    assert extra in own.partition("[")[2].rstrip("]").split(",")


def test_every_dependency_is_pinned():
    pinned = named([line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")])
    assert (BASE | OPTIONAL | EXTRAS["dev"]) - WITHOUT_PIN - pinned - {"seal-lightning"} == set()
