"""Hostile YAML, mistyped keys, values that must not be accepted."""

import copy
import math
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from agents.options import TrainOptions
from worldmodels.config import build, dump_yaml, to_mapping
from worldmodels.errors import ConfigError
from worldmodels.strict_yaml import MAX_BYTES, load_yaml, parse_yaml


def _sections(mapping, path=()):
    yield path, mapping
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from _sections(value, (*path, key))


def _at(mapping, path):
    for key in path:
        mapping = mapping[key]
    return mapping


def _swaps(key):
    return [key[:i] + key[i + 1] + key[i] + key[i + 2 :] for i in range(len(key) - 1) if key[i] != key[i + 1]]


def _drops(key):
    return [key[:i] + key[i + 1 :] for i in range(len(key)) if len(key) > 1]


def _mutants(full):
    """Yield (kind, mapping, path of the section, wrong key, dotted path of the right one) for every key."""
    for path, section in _sections(full):
        for key, value in section.items():
            wrong = [("swap", k) for k in _swaps(key)] + [("drop", k) for k in _drops(key)]
            wrong += [("case", k) for k in (key.upper(), key.capitalize(), key.swapcase()) if k != key]
            for kind, new in wrong:
                if new not in section:
                    mutant = copy.deepcopy(full)
                    del _at(mutant, path)[key]
                    _at(mutant, path)[new] = value
                    yield kind, mutant, path, new, ".".join((*path, key))
            if path and key not in _at(full, path[:-1]):
                mutant = copy.deepcopy(full)
                del _at(mutant, path)[key]
                _at(mutant, path[:-1])[key] = value
                yield "up", mutant, path[:-1], key, ".".join((*path, key))


def test_every_mistyped_key_is_refused_and_the_right_one_named():
    full = to_mapping(TrainOptions())
    total: dict[str, int] = {}
    right: dict[str, int] = {}
    missed = []
    for kind, mutant, path, wrong, meant in _mutants(full):
        with pytest.raises(ConfigError) as caught:
            build(TrainOptions, mutant)
        where = ".".join(path) + ": " if path else ""
        line = next(x for x in str(caught.value).splitlines() if x.startswith(f"{where}unknown key {wrong!r}"))
        total[kind] = total.get(kind, 0) + 1
        named = f"'{meant}'" if kind == "up" else f"'{meant.rpartition('.')[2]}'"
        if named in line:
            right[kind] = right.get(kind, 0) + 1
        else:
            missed.append(f"{meant}: {line}")
    assert set(total) == {"swap", "drop", "case", "up"} and sum(total.values()) > 500
    for kind, count in total.items():
        assert right[kind] >= 0.95 * count, f"{kind}: {right[kind]} of {count}\n" + "\n".join(missed[:20])


def test_every_duplicate_key_is_refused_with_its_line():
    lines = dump_yaml(to_mapping(TrainOptions())).splitlines()
    tried = 0
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if ":" not in line or len(following) - len(following.lstrip()) > len(line) - len(line.lstrip()):
            continue  # the first line of a section: twice in a row it would be an empty section, then the full one
        tried += 1
        with pytest.raises(ConfigError, match=f"duplicate key '.*' at line {number + 2}"):
            parse_yaml("\n".join([*lines[: number + 1], line, *lines[number + 1 :]]))
    assert tried > 60


@dataclass(frozen=True, kw_only=True)
class Table:
    learning_rate: float = field(default=1e-3, metadata={"above": 0.0, "max": 1.0})
    gamma: float = field(default=0.99, metadata={"min": 0.0, "max": 1.0})
    batch: int = field(default=16, metadata={"min": 1})
    steps: int = field(default=100, metadata={"min": 1})
    flag: bool = False
    name: str = "a"


GOOD = {
    "learning_rate": {"1.0e-4": 1e-4, "1": 1.0, "1.": 1.0},
    "gamma": {"0": 0.0, "1.0": 1.0, "0.5": 0.5},
    "batch": {"1": 1, "1_000": 1000},
    "steps": {"5": 5},
    "flag": {"true": True, "False": False},
    "name": {"x": "x", "'1'": "1", "yes": "yes", "1e-4": "1e-4"},
}
VALUES = [
    *["1e-4", "'1.0e-4'", "yes", "no", "on", "null", "~", "''", "1.5", "0", "-1", "-5", "1", "'1'", "true", "'true'"],
    *["x", "[]", "[1]", "{}", "{a: 1}", ".nan", ".inf", "-.inf", "nan", "inf", "0x10", "010", "0o17", "1:30", "1,5"],
    *["1e400", "1.0e400", "2001-01-01", "1.0e-4", "0.5", "0.0", "1.0", "1.", "5", "False", "1_000", "16.0"],
]


def test_only_values_of_the_right_type_and_range_are_accepted():
    accepted = set()
    for name in GOOD:
        for text in VALUES:
            try:
                build(Table, parse_yaml(f"{name}: {text}"))
            except ConfigError as error:
                assert str(error).startswith(f"{name}: expected"), (name, text, str(error))
                continue
            accepted.add((name, text))
    numbers = {"1", "1.0e-4", "0.5", "1.0", "1."}
    texts = {"1e-4", "yes", "no", "on", "x", "nan", "inf", "0x10", "010", "0o17", "1:30", "1,5", "1e400", "2001-01-01"}
    assert accepted == {
        *(("learning_rate", text) for text in numbers),
        *(("gamma", text) for text in numbers | {"0", "0.0"}),
        *((name, text) for name in ("batch", "steps") for text in ("1", "5", "1_000")),
        *(("flag", text) for text in ("true", "False")),
        *(("name", text) for text in texts | {"'1.0e-4'", "''", "'1'", "'true'"}),
    }
    for name, table in GOOD.items():
        for text, value in table.items():
            built = getattr(build(Table, parse_yaml(f"{name}: {text}")), name)
            assert built == value and type(built) is type(value)


def test_all_wrong_values_are_named_in_one_error():
    wrong = {"learning_rate": "1e-4", "gamma": 1.5, "batch": 0, "steps": -1, "flag": "yes", "name": None}
    with pytest.raises(ConfigError) as caught:
        build(Table, wrong)
    assert str(caught.value).splitlines() == [
        "learning_rate: expected float, got '1e-4' (write 1.0e-4)",
        "gamma: expected at most 1.0, got 1.5",
        "batch: expected at least 1, got 0",
        "steps: expected at least 1, got -1",
        "flag: expected bool, got 'yes' (write true)",
        "name: expected str, got None",
    ]
    with pytest.raises(ConfigError, match="finite"):
        build(Table, {"gamma": math.nan})


N = MAX_BYTES - 100
LEVELS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
HOSTILE = {
    "python object": ("a: 1\nb: 2\nc: !!python/object/apply:os.system ['touch canary']", "unsupported tag at line 3"),
    "python name": ("a: !!python/name:os.system", "unsupported tag at line 1"),
    "python module": ("a: 1\nb: !!python/module:os x", "unsupported tag at line 2"),
    "local tag": ("a: !env HOME", "unsupported tag at line 1"),
    "binary": ("a: !!binary aGk=", "unsupported tag at line 1"),
    "tagged key": ("!!python/tuple [1]: 1", "unsupported tag at line 1"),
    "tagged root": ("!!python/object:os.system {a: 1}", "unsupported tag at line 1"),
    "mapping tag on a list": ("a: !!map [1]", "unsupported tag at line 1"),
    "laughs": (LEVELS, "aliases expand to more than"),
    "wide laughs": ("a: &a [" + "x," * 900 + "]\nb: [" + "*a," * 900 + "]", "aliases expand to more than"),
    "self": ("a: &a [*a]", "alias that contains itself"),
    "merge": ("a: &a {b: 1}\nc:\n  <<: *a", "merge keys are not supported, at line 3"),
    "flow depth": ("a: " + "[" * N, "nested deeper than"),
    "mapping depth": ("a: " + "{" * N, "nested deeper than"),
    "block depth": ("- " * (N // 2), "nested deeper than"),
    "question depth": ("? " * (N // 2), "nested deeper than"),
    "many": ("a: [" + "1," * (N // 2) + "]", "more than 10000 values"),
    "long file": ("a: " + "x" * MAX_BYTES, "larger than"),
    "digits": ("a: " + "1" * N, "is not a int"),
    "tag of bangs": ("a: " + "!" * N, "unsupported tag"),
    "newlines": ("\n" * N + "a: [", "not YAML"),
    "comments": ("#\n" * (N // 2) + "a: [", "not YAML"),
    "spaces": (" " * N + "a: [", "not YAML"),
    "block text": ("a: |\n" + " x\n" * (N // 3) + "b: [", "not YAML"),
    "escapes": ('a: "' + "\\x41" * (N // 4) + '"\nb: [', "not YAML"),
    "two documents": ("a: 1\n---\nb: 1", "not YAML"),
    "control character": ("a: \x07", "not YAML"),
    "undefined alias": ("a: *b", "not YAML"),
    "list": ("- 1", "expected a mapping"),
    "text": ("abc", "expected a mapping"),
    "null key": ("~: 1", "is not text at line 1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_quickly(name, tmp_path, monkeypatch):
    text, message = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(path)
    assert len(str(caught.value)) < 500
    assert list(tmp_path.iterdir()) == [path]


def test_hostile_yaml_needs_little_memory(tmp_path):
    paths = []
    for number, (text, _) in enumerate(HOSTILE.values()):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_bytes(text.encode())
    code = """
import resource, sys
from worldmodels.errors import ConfigError
from worldmodels.strict_yaml import load_yaml
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        load_yaml(path)
    except ConfigError:
        continue
    raise SystemExit(path + " was accepted")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, "-c", code, *map(str, paths)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    assert grown < 50_000  # KiB
