"""docs/mathematics.md names files and tests that exist, and every file of mathematics is on it."""

import ast
import re

import pytest

from tests.source import ROOT, python_files, relative, tree

PAGE = (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.*) \| `([\w/.]+)` \| `([\w/.:]+)` \|$", PAGE, re.MULTILINE)


def test_every_row_of_the_tables_is_understood():
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| formula")]
    assert len(ROWS) == len(lines) > 30


@pytest.mark.parametrize(("formula", "file", "test"), ROWS)
def test_file_and_test_of_a_formula_exist(formula, file, test):
    assert (ROOT / file).is_file()
    path, _, name = test.partition("::")
    functions = {node.name for node in ast.walk(tree(ROOT / path)) if isinstance(node, ast.FunctionDef)}
    assert not name or name in functions


def test_every_file_of_distributions_and_returns_is_on_the_page():
    named = {file for _, file, _ in ROWS}
    files = {relative(path) for path in python_files("worldmodels/distributions") if path.name != "__init__.py"}
    assert files | {"agents/returns.py", "worldmodels/dynamics/gru.py"} <= named
