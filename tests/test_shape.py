"""The shape of the code: short functions and files, real types, one name for one thing, sentences for descriptions.

Each rule is a function from source text to numbers or complaints, and is shown to complain. How far a rule holds is
written beside its name; a limit that is passed says that something wants to be taken apart, not squeezed.
"""

import ast
import inspect
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from functools import reduce
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST_FUNCTION = 60
LONGEST_FILE = 400
MEDIAN_FUNCTION = 8
NINE_IN_TEN_FUNCTIONS = 22
SHARE_OF_ANY = 0.1
FILES_AT_THE_ROOT = 8
# "rank: Of the LoRA." wants to be "rank: Rank of the LoRA.", and "a list is no number" "a list is not a number".
FRAGMENT = re.compile(r"^\s+\w+: (?:Of|That|It)\b|(?<![Tt]here )is no [a-z]")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def package_texts() -> dict[str, str]:
    """The source of every module of the package and of callbacks/, by its path."""
    paths = [path for folder in ("seal_lightning", "callbacks") for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


TEXTS = package_texts()


def functions(text: str) -> list[Function]:
    """Every function and method of a source, nested ones too."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, Function)]


def length(function: Function) -> int:
    """Lines of a function from `def` to its last one, without decorators."""
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def lengths(texts: Iterable[str]) -> list[int]:
    """The lengths of all functions, shortest first."""
    return sorted(length(function) for text in texts for function in functions(text))


def long_functions(text: str) -> list[str]:
    return [f"{f.name}: {length(f)} lines" for f in functions(text) if length(f) > LONGEST_FUNCTION]


def uses_any(function: Function) -> bool:
    """Whether a signature says `Any` of an argument or of what it returns."""
    spec = function.args
    arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
    annotations = [argument.annotation for argument in arguments if argument is not None] + [function.returns]
    return any(re.search(r"\bAny\b", ast.unparse(annotation)) for annotation in annotations if annotation is not None)


def share_of_any(texts: Iterable[str]) -> float:
    """The share of signatures with `Any` in them."""
    return statistics.mean(uses_any(function) for text in texts for function in functions(text))


def class_names(text: str) -> list[str]:
    """Classes at the top of a module, but for private ones."""
    names = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    return [name for name in names if not name.startswith("_")]


def repeated_classes(texts: Iterable[str]) -> list[str]:
    """Names that more than one class has."""
    counts = Counter(name for text in texts for name in class_names(text))
    return sorted(name for name, count in counts.items() if count > 1)


def fragments(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if FRAGMENT.search(line)]


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_is_short_and_in_whole_sentences(name: str) -> None:
    text = TEXTS[name]
    assert len(text.splitlines()) <= LONGEST_FILE
    assert long_functions(text) == []
    assert fragments(text) == []


def test_most_functions_fit_into_a_glance() -> None:
    ordered = lengths(TEXTS.values())
    assert statistics.median(ordered) <= MEDIAN_FUNCTION
    assert ordered[int(0.9 * len(ordered))] <= NINE_IN_TEN_FUNCTIONS


def test_signatures_say_what_they_take() -> None:
    assert share_of_any(TEXTS.values()) <= SHARE_OF_ANY


def test_one_class_name_is_one_thing() -> None:
    assert repeated_classes(TEXTS.values()) == []


def test_few_files_lie_beside_the_rooms() -> None:
    assert len(list((ROOT / "seal_lightning").glob("*.py"))) <= FILES_AT_THE_ROOT


# The calls from a round to an optimizer step; CONTRIBUTING.md lists them.
HOPS = (
    "round:run_round",
    "e_step.step:EStep.run",
    "e_step.step:EStep.roll_out",
    "e_step.trials:AllTrials.run",
    "inner_loop.loop:InnerLoop.adapt",
    "inner_loop.slots:BankTraining.run",
    "inner_loop.bank:AdapterBank.step",
)


def source_of(hop: str) -> str:
    """The source of `module:Class.method` or `module:function`."""
    module, _, names = hop.partition(":")
    return inspect.getsource(reduce(getattr, names.split("."), import_module(f"seal_lightning.{module}")))


def test_six_calls_lead_from_a_round_to_an_optimizer_step() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for caller, called in pairwise(HOPS):
        assert f".{called.rpartition('.')[2]}(" in source_of(caller)
    for module, _, name in (hop.partition(":") for hop in HOPS):
        assert f"| `{name}` | `{module.replace('.', '/')}.py` |" in contributing


# -- the rules complain ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lines", "count"), [(59, 0), (60, 1)])
def test_long_function_rule(lines: int, count: int) -> None:
    text = "class A:\n    async def f(self):\n" + "        pass\n" * lines
    assert len(long_functions(text)) == count


def test_lengths_of_functions() -> None:
    assert lengths(["@cache\ndef f():\n    def g(): ...\n    return g", "def h(): ..."]) == [1, 1, 3]


def test_share_of_any_rule() -> None:
    texts = [
        "def f(x: Any) -> int: ...\ndef g(x: 'dict[str, Any]'): ...\ndef h(*a: Many) -> Company: ...",
        "def i(): ...",
    ]
    assert share_of_any(texts) == 0.5


def test_repeated_class_rule() -> None:
    assert repeated_classes(
        ["class A: ...\nclass B:\n    class A: ...", "class B: ...\nclass _C: ...", "class _C: ..."]
    ) == ["B"]


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("    rank: Of the LoRA.", 1),
        ("    tokens: That training takes.", 1),
        ("    rank: Rank of the LoRA.", 0),
        ("    'the first line is no stamp'", 1),
        ("    # there is no other way, and this is nothing", 0),
    ],
)
def test_fragment_rule(line: str, count: int) -> None:
    assert len(fragments(line)) == count
