"""docs/security.md: every row of its table names a test that is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "security.md"
COLUMNS = ["who", "can influence", "what it can do", "what it cannot", "test"]


def rows() -> list[list[str]]:
    """The cells of the table with the tests."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index(f"| {' | '.join(COLUMNS)} |")
    table = [line for line in lines[start + 2 :] if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_row_names_a_test_that_exists():
    found = rows()
    assert len(found) > 30
    for row in found:
        assert len(row) == len(COLUMNS) and all(row), row
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[-1])
        assert named, f"no test in {row}"
        for path, name in named:
            assert name in names_in(ROOT / path), f"{path}::{name} is not there"
