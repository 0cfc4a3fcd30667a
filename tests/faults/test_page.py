"""docs/reliability.md has every row, and names tests that exist."""

import ast
import re

import pytest

from tests.source import ROOT, tree

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| ((?:`[\w/.]+::\w+` ?)+) \|$", PAGE, re.MULTILINE)


def test_every_row_is_there_once():
    lines = [line for line in PAGE.splitlines() if re.match(r"\| \d", line)]
    assert len(ROWS) == len(lines)
    assert [int(number) for number, *_ in ROWS] == list(range(1, 61))


@pytest.mark.parametrize(("number", "tests"), [(row[0], row[3]) for row in ROWS])
def test_the_tests_of_a_row_exist(number, tests):
    for path, name in re.findall(r"`([\w/.]+)::(\w+)`", tests):
        nodes = ast.walk(tree(ROOT / path))
        names = {getattr(node, "name", None) or getattr(node, "id", None) for node in nodes}
        assert name in names, f"row {number}: {path}::{name}"
