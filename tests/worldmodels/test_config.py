"""Mapping -> dataclass -> mapping, and YAML text, are exact; every kind of type is read and refused as documented."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodels.config import build, check_keys, dump_yaml, load_yaml, to_mapping
from worldmodels.errors import ConfigError
from worldmodels.strict_yaml import parse_yaml


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = field(default=8, metadata={"min": 1, "max": 64})
    rate: float = field(default=1e-3, metadata={"above": 0.0, "below": 1.0})
    kind: Literal["gru", "lstm"] = "gru"


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    limit: int | None = None
    mixed: int | str = 0
    flag: bool = False
    widths: tuple[int, ...] = field(default=(4, 4), metadata={"min": 1})
    pair: tuple[float, str] = (0.5, "a")
    names: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    mode: str = field(default="fast", metadata={"choices": ("fast", "exact")})

    def __post_init__(self):
        if self.flag and self.limit is None:
            raise ConfigError("flag needs a limit")


def errors(mapping, cls=Outer, path=""):
    with pytest.raises(ConfigError) as caught:
        build(cls, mapping, path=path)
    return str(caught.value).splitlines()


def test_defaults_and_given_values():
    built = build(Outer, {"name": "x", "inner": {"rate": 0.5}, "widths": [1, 2, 3], "pair": [1, "b"], "limit": 3})
    assert built == Outer(name="x", inner=Inner(rate=0.5), widths=(1, 2, 3), pair=(1.0, "b"), limit=3)
    assert isinstance(built.pair[0], float)
    assert build(Outer, {"name": "x", "maybe": {"size": 2}}).maybe == Inner(size=2)
    assert build(Outer, {"name": "x", "mixed": "text"}).mixed == "text"
    assert build(Outer, Outer(name="y")) == Outer(name="y")


inners = st.builds(
    Inner,
    size=st.integers(1, 64),
    rate=st.floats(0, 1, exclude_min=True, exclude_max=True),
    kind=st.sampled_from(["gru", "lstm"]),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
outers = st.builds(
    Outer,
    name=st.text(),
    inner=inners,
    maybe=st.none() | inners,
    limit=st.integers(),
    mixed=st.integers() | st.text(),
    flag=st.booleans(),
    widths=st.lists(st.integers(min_value=1)).map(tuple),
    pair=st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.text()),
    names=st.lists(st.text()),
    extra=st.dictionaries(st.text(), plain, max_size=3),
    mode=st.sampled_from(["fast", "exact"]),
)


@given(outers)
def test_mapping_and_yaml_round_trip(options):
    mapping = to_mapping(options)
    assert build(Outer, mapping) == options
    assert parse_yaml(dump_yaml(mapping)) == mapping
    assert build(Outer, parse_yaml(dump_yaml(mapping))) == options


def test_every_error_is_reported_at_once_with_its_path():
    lines = errors(
        {
            "nam": "x",
            "inner": {"size": 0, "rate": "1e-4", "kind": "gur"},
            "maybe": 3,
            "flag": 1,
            "widths": [1, 0, True],
            "pair": [1.0],
            "names": "abc",
            "extra": {1: 2},
            "mode": "fats",
            "mixed": 1.5,
        },
        path="run",
    )
    assert lines == [
        "run: unknown key 'nam'; did you mean 'name'?",
        "run: missing key 'name' (str)",
        "run.inner.size: expected at least 1, got 0",
        "run.inner.rate: expected float, got '1e-4' (write 1.0e-4)",
        "run.inner.kind: expected one of 'gru', 'lstm', got 'gur'; did you mean 'gru'?",
        "run.maybe: expected a mapping, got 3",
        "run.mixed: expected int or str, got 1.5",
        "run.flag: expected bool, got 1",
        "run.widths[1]: expected at least 1, got 0",
        "run.widths[2]: expected int, got True",
        "run.pair: expected a list of 2, got [1.0]",
        "run.names: expected a list, got 'abc'",
        "run.extra: expected a mapping with text keys, got {1: 2}",
        "run.mode: expected one of 'fast', 'exact', got 'fats'; did you mean 'fast'?",
    ]


def test_combination_checked_by_the_dataclass_itself_is_reported_with_its_path():
    assert errors({"name": "x", "flag": True}, path="run") == ["run: flag needs a limit"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1e-4", "(write 1.0e-4)"),
        ("2.5E+3", "(write 2.5e+3)"),
        ("0.5", "(write 0.5 without quotes)"),
        ("fast", "got 'fast'"),
        ("nan", "got 'nan'"),
        (True, "got True"),
        (None, "got None"),
        (math.nan, "expected a finite float, got nan"),
        (-math.inf, "expected a finite float, got -inf"),
        (10**400, "expected a finite float, got an integer of"),
        ([0.5], "got [0.5]"),
        (0.0, "expected more than 0.0, got 0.0"),
        (1, "expected less than 1.0, got 1.0"),
    ],
)
def test_a_float_is_a_finite_number_in_range(value, text):
    (line,) = errors({"rate": value}, Inner)
    assert line.startswith("rate: expected") and text in line


def test_a_long_value_is_shown_in_one_short_line():
    (line,) = errors({"size": "x\n" * 5000}, Inner)
    assert len(line) < 130


@pytest.mark.parametrize("value", [object(), {"a": {1, 2}}, {"a": math.nan}, {"a": [b"x"]}])
def test_free_mappings_hold_plain_finite_data_only(value):
    assert errors({"name": "x", "extra": value})[0].startswith("extra")


def test_suggestions():
    def line(mapping, cls=Outer, path=""):
        return next(text for text in errors(mapping, cls, path) if "unknown" in text)

    assert line({"name": "x", "rate": 1}) == "unknown key 'rate'; did you mean 'inner.rate' or 'maybe.rate'?"
    assert line({"name": "x", "inner": {"flag": 1}}) == "inner: unknown key 'flag'; did you mean 'flag'?"
    assert line({"Size": 3}, Inner, "a.b") == "a.b: unknown key 'Size'; did you mean 'size'?"
    assert line({"zzz": 3}, Inner) == "unknown key 'zzz'; valid keys: size, rate, kind"
    assert line({5: 3}, Inner) == "unknown key 5; keys are text"


def test_check_keys_looks_at_keys_only():
    check_keys({"size": "not a number"}, Inner)
    with pytest.raises(ConfigError, match="unknown key 'sise'; did you mean 'size'"):
        check_keys({"sise": 3}, Inner)


def test_load_yaml_names_file_and_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: duplicate key 'c' at line 5"):
        load_yaml(path)
    path.write_text("")
    assert load_yaml(path) == {}
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_yaml(path)
    with pytest.raises(ConfigError, match=r"cannot be read: No such file"):
        load_yaml(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_yaml(tmp_path)


def test_scalars_are_those_of_the_core_schema():
    text = "{a: 1e-4, b: 1.0e-4, c: yes, d: 010, e: 1:30, f: 2001-01-01, g: -.5, h: 1., i: ., j: ~, k: TRUE, l: +1_000}"
    assert parse_yaml(text) == {
        **{"a": "1e-4", "b": 1e-4, "c": "yes", "d": "010", "e": "1:30", "f": "2001-01-01"},
        **{"g": -0.5, "h": 1.0, "i": ".", "j": None, "k": True, "l": 1000},
    }
