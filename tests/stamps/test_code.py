"""The code of a user's own classes: whatever of it a class uses, a change of it is told."""

import functools
import sys
from importlib import import_module, invalidate_caches

import pytest

from seal_lightning.stamps import code as outside_code
from seal_lightning.stamps.code import code_of

SOURCES = {
    "mine/__init__.py": "",
    "mine/words.py": "WORDS = 1\n",
    "mine/lazy.py": "LAZY = 1\n",
    "mine/maybe.py": "MAYBE = 1\n",
    "mine/deep/__init__.py": "",
    "mine/deep/down.py": "DOWN = 1\n",
    "mine/base.py": "from seal_lightning.grading import Grader\n\n\nclass Base(Grader):\n    pass\n",
    "mine/part.py": "class Part:\n    def score(self):\n        return 0.5\n",
    "mine/functions.py": "def half(x):\n    return 0.5\n\n\ndef made(inner):\n    return lambda x: inner(x)\n",
    "mine/graders.py": """\
from mine.base import Base
from . import words

try:
    from mine import maybe
except ImportError:
    maybe = None


class Half(Base):
    def __init__(self, part=None, function=None):
        self._part, self.function, self._cache = part, function, None

    def grade(self, *, question, golds, answer):
        from .lazy import LAZY
        import mine.deep.down

        return 0.5
""",
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The user's package, changed as asked, and imported anew: `mine("words.py")` is its modules by name."""
    monkeypatch.syspath_prepend(tmp_path)

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
            del sys.modules[name]
        outside_code._read.clear()
        outside_code._source_file.cache_clear()
        invalidate_caches()

    def of(changed="", *, at=tmp_path):
        forget()
        for name, text in SOURCES.items():
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            (at / name).write_text(text + ("CHANGED = 1\n" if name == f"mine/{changed}" else ""))
        return lambda name: import_module(f"mine.{name}")

    yield of
    forget()


PARTS = [
    (None, ["graders.py", "base.py", "words.py", "maybe.py", "lazy.py", "deep/down.py", "__init__.py"]),
    (lambda m: {"part": m("part").Part()}, ["part.py"]),
    (lambda m: {"function": m("functions").half}, ["functions.py"]),
    (lambda m: {"function": functools.partial(m("functions").half, 2)}, ["functions.py"]),
    (lambda m: {"function": m("part").Part().score}, ["part.py"]),
    (lambda m: {"function": m("functions").made(m("part").Part().score)}, ["functions.py", "part.py"]),
]  # fmt: skip


@pytest.mark.parametrize(("options", "changed"), [(one, name) for one, names in PARTS for name in names])
def test_a_change_is_told(mine, options, changed):
    def stamp():
        return code_of({"grader": modules("graders").Half(**(options(modules) if options else {}))})

    modules = mine()
    before = stamp()
    modules = mine()
    assert stamp() == before
    modules = mine(changed)
    assert stamp().keys() == before.keys() and stamp() != before


def test_what_a_class_does_not_use_is_not_told(mine):
    before = code_of(mine()("graders").Half())
    assert code_of(mine("functions.py")("graders").Half()) == before
    assert list(before) == ["code.mine.graders.Half"]


def test_a_package_that_is_installed_is_of_one_place(mine, tmp_path, monkeypatch):
    place = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(place)
    before = code_of(mine(at=place)("graders").Half())
    assert code_of(mine("lazy.py", at=place)("graders").Half()) != before
    assert code_of(mine(at=place)("part").Part()) == {}  # a library's class that extends none of ours


def test_what_an_object_keeps_once_it_is_used_changes_nothing(mine):
    modules = mine()
    half = modules("graders").Half()
    before = code_of(half)
    half._cache = modules("part").Part()
    assert code_of(half) == before
    half._cache._cache = half  # and it may hold itself
    assert "code.mine.part.Part" in code_of(modules("graders").Half(half._cache))


SCRIPT = """\
from seal_lightning.grading import Grader

FACTOR = 0.5
API_KEY = "sk-1"
EPOCHS = 3


def helper(x):
    return inner(x) * FACTOR


def inner(x):
    return x


class Mine(Grader):
    def grade(self, *, question, golds, answer):
        return helper(1.0) if API_KEY else 0.0
"""


def test_of_a_script_what_the_class_uses(tmp_path, monkeypatch):
    def stamp(old="", new=""):
        path = tmp_path / f"script{len(list(tmp_path.iterdir()))}.py"
        path.write_text(SCRIPT.replace(old, new) if old else SCRIPT)
        module = type(sys)("__main__")
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "__main__", module)
        exec(compile(path.read_text(), str(path), "exec"), vars(module))
        return code_of(module.Mine())

    before = stamp()
    assert list(before) == ["code.__main__.Mine"] and stamp() == before
    for old, new in (("FACTOR = 0.5", "FACTOR = 0.4"), ("return x\n", "return x + 0\n"), ("1.0", "0.9")):
        assert stamp(old, new) != before
    for old, new in (("EPOCHS = 3", "EPOCHS = 4"), ('"sk-1"', '"sk-2"')):  # how it is started, and a secret
        assert stamp(old, new) == before
