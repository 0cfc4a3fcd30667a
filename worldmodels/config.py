"""From a plain mapping to a typed dataclass, strictly: every mistake is found and all are reported at once.

One rule for numbers: a number is a number. Text is never turned into one (YAML 1.1 reads `1e-4` as text; the error
says what to write), a bool is never an int, an int may stand for a float, and NaN and infinity are refused.
The metadata of a dataclass field may bound it: `min`, `max` (inclusive), `above`, `below` (exclusive), `choices`. On a
list or tuple the bounds hold for every element.
"""

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from worldmodels.errors import ConfigError
from worldmodels.spelling import suggestion
from worldmodels.strict_yaml import dump_yaml, load_yaml

__all__ = ["build", "check_keys", "dump_yaml", "load_yaml", "to_mapping"]

T = TypeVar("T")
_BAD: Any = object()
_SCALARS = (bool, int, float, str, type(None))


def build(cls: type[T], mapping: Mapping[str, Any], *, path: str = "") -> T:
    """Return an instance of the dataclass `cls` made from `mapping`; keys left out take their defaults.

    Args:
        cls: a dataclass whose fields are int, float, bool, str, Literal, dataclasses, `X | None`, list[X],
            tuple[X, ...], dict[str, X] or Any.
        mapping: plain data, or an instance of `cls` (which is then checked in the same way).
        path: where the mapping stands in the whole configuration (`world_model.encoder`); it begins every message.

    Raises:
        ConfigError: one line for every unknown or missing key, wrong type and value out of range.
    """
    problems: list[str] = []
    value = _Reader(cls, path, problems).dataclass(cls, mapping, path)
    if problems:
        raise ConfigError("\n".join(problems))
    return value


def check_keys(mapping: Mapping[str, Any], cls: type, *, path: str = "") -> None:
    """Raise ConfigError for the keys of `mapping`, at any depth, that the dataclass `cls` does not have."""
    problems: list[str] = []
    _Reader(cls, path, problems).dataclass(cls, mapping, path)
    unknown = [line for line in problems if "unknown key" in line]
    if unknown:
        raise ConfigError("\n".join(unknown))


def to_mapping(instance: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    """Return the dataclass as plain dicts, lists and scalars, ready for YAML; `build` reads it back to an equal one."""
    if not dataclasses.is_dataclass(instance) or isinstance(instance, type):
        raise ConfigError(f"expected a dataclass instance, got {_show(instance)}")
    return {field.name: _plain(getattr(instance, field.name)) for field in dataclasses.fields(instance)}


def _plain(value: Any) -> Any:  # noqa: ANN401
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, _SCALARS):
        return value
    raise ConfigError(f"expected plain data, got {_show(value)} of type {type(value).__name__}")


def _is_dataclass(kind: Any) -> bool:  # noqa: ANN401
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _places(kind: Any, path: str, above: tuple[type, ...] = ()) -> list[str]:  # noqa: ANN401
    """Return the dotted path of every key below the type `kind`, through options, lists and dicts."""
    if not _is_dataclass(kind):
        return [place for inner in get_args(kind) for place in _places(inner, path, above)]
    if kind in above:
        return []
    found = []
    for name, inner in _hints(kind).items():
        found += [_join(path, name), *_places(inner, _join(path, name), (*above, kind))]
    return found


def _name(kind: Any) -> str:  # noqa: ANN401
    if kind is type(None):
        return "null"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_name(arm) for arm in get_args(kind))
    if _is_dataclass(kind) or get_origin(kind) is dict:
        return "a mapping"
    if get_origin(kind) in (list, tuple):
        return "a list"
    return getattr(kind, "__name__", str(kind))


def _show(value: Any) -> str:  # noqa: ANN401
    """Return the value as one line of at most 80 characters."""
    if isinstance(value, int) and value.bit_length() > 300:  # Python refuses to write very long integers
        return f"an integer of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _hint(kind: Any, value: Any) -> str:  # noqa: ANN401
    """Say how to write the text `value` so that it is a `kind`; empty where there is nothing to say."""
    if not isinstance(value, str):
        return ""
    if kind is bool and value.strip().lower() in ("true", "yes", "on", "false", "no", "off"):
        return f" (write {'true' if value.strip().lower() in ('true', 'yes', 'on') else 'false'})"
    try:
        number = float(value)
    except ValueError:
        return ""
    if kind is int and number.is_integer():
        return f" (write {int(number)})"
    if kind is not float or not math.isfinite(number):
        return ""
    mantissa, exponent = value.strip().lower().partition("e")[::2]
    mantissa = mantissa.removeprefix("+")
    if not exponent:
        return f" (write {number!r} without quotes)"
    return f" (write {mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d})".replace("e+", "e+")


class _Reader:
    """Reads one mapping; appends what is wrong to `problems` and goes on."""

    def __init__(self, root: type, path: str, problems: list[str]) -> None:
        self.places = _places(root, path)
        self.problems = problems

    def fail(self, path: str, text: str) -> Any:  # noqa: ANN401
        self.problems.append(f"{path}: {text}" if path else text)
        return _BAD

    def dataclass(self, cls: Any, value: Any, path: str) -> Any:  # noqa: ANN401
        if isinstance(value, cls):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(cls)}
        if not isinstance(value, Mapping):
            return self.fail(path, f"expected a mapping, got {_show(value)}")
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
        for key in value:
            if key not in fields:
                hint = suggestion(key, siblings=list(fields), given=list(value), places=self.places, path=path)
                self.fail(path, f"unknown key {key!r}{hint}")
        hints = _hints(cls)
        before = len(self.problems)
        found = {}
        for name, field in fields.items():
            if name in value:
                found[name] = self.value(hints[name], value[name], _join(path, name), field.metadata)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                self.fail(path, f"missing key {name!r} ({_name(hints[name])})")
        if len(self.problems) > before or any(item is _BAD for item in found.values()):
            return _BAD
        try:
            return cls(**found)
        except (ConfigError, ValueError) as error:  # raised by a __post_init__ that checks a combination
            return self.fail(path, str(error))

    def value(self, kind: Any, value: Any, path: str, bounds: Mapping[str, Any]) -> Any:  # noqa: ANN401
        origin = get_origin(kind)
        if _is_dataclass(kind):
            return self.dataclass(kind, value, path)
        if origin in (Union, types.UnionType):
            return self.union(kind, value, path, bounds)
        if origin is Literal:
            return self.choice(value, get_args(kind), path)
        if origin in (list, tuple):
            return self.sequence(kind, value, path, bounds)
        if origin is dict or kind is dict:
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                return self.fail(path, f"expected a mapping with text keys, got {_show(value)}")
            inner = (*get_args(kind), Any, Any)[1]
            return {key: self.value(inner, item, _join(path, key), bounds) for key, item in value.items()}
        if kind is Any:
            return self.anything(value, path)
        return self.scalar(kind, value, path, bounds)

    def union(self, kind: Any, value: Any, path: str, bounds: Mapping[str, Any]) -> Any:  # noqa: ANN401
        arms = [arm for arm in get_args(kind) if arm is not type(None)]
        if value is None and len(arms) < len(get_args(kind)):
            return None
        if len(arms) == 1:
            return self.value(arms[0], value, path, bounds)
        for arm in arms:
            attempt = _Reader.__new__(_Reader)
            attempt.places, attempt.problems = self.places, []
            result = attempt.value(arm, value, path, bounds)
            if not attempt.problems:
                return result
            if isinstance(value, Mapping) and _is_dataclass(arm):  # the errors inside say more than "no arm fits"
                self.problems += attempt.problems
                return _BAD
        return self.fail(path, f"expected {_name(kind)}, got {_show(value)}")

    def sequence(self, kind: Any, value: Any, path: str, bounds: Mapping[str, Any]) -> Any:  # noqa: ANN401
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            return self.fail(path, f"expected a list, got {_show(value)}")
        args = get_args(kind)
        fixed = get_origin(kind) is tuple and Ellipsis not in args
        if fixed and len(value) != len(args):
            return self.fail(path, f"expected a list of {len(args)}, got {_show(list(value))}")
        kinds = args if fixed else [args[0]] * len(value)
        items = [self.value(k, v, f"{path}[{i}]", bounds) for i, (k, v) in enumerate(zip(kinds, value, strict=True))]
        return get_origin(kind)(items)

    def anything(self, value: Any, path: str) -> Any:  # noqa: ANN401
        if isinstance(value, Mapping):
            return self.value(dict[str, Any], value, path, {})
        if isinstance(value, list | tuple):
            return [self.anything(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            return self.fail(path, f"expected a finite number, got {_show(value)}")
        return value if isinstance(value, _SCALARS) else self.fail(path, f"expected plain data, got {_show(value)}")

    def choice(self, value: Any, choices: Sequence[Any], path: str) -> Any:  # noqa: ANN401
        for option in choices:
            if type(option) is type(value) and option == value:
                return value
        texts = [option for option in choices if isinstance(option, str)]
        hint = suggestion(value, siblings=texts, given=[], places=[], path="", listing=False) if texts else ""
        return self.fail(path, f"expected one of {', '.join(map(repr, choices))}, got {_show(value)}{hint}")

    def scalar(self, kind: Any, value: Any, path: str, bounds: Mapping[str, Any]) -> Any:  # noqa: ANN401
        number = type(value) in (int, float)
        if kind is float and number:
            try:
                value = float(value)
            except OverflowError:
                return self.fail(path, f"expected a finite float, got {_show(value)}")
            if not math.isfinite(value):
                return self.fail(path, f"expected a finite float, got {value}")
        elif type(value) is not kind:
            return self.fail(path, f"expected {_name(kind)}, got {_show(value)}{_hint(kind, value)}")
        if "choices" in bounds:
            return self.choice(value, tuple(bounds["choices"]), path)
        tests = {
            "min": ("at least", lambda limit: value >= limit),
            "max": ("at most", lambda limit: value <= limit),
            "above": ("more than", lambda limit: value > limit),
            "below": ("less than", lambda limit: value < limit),
        }
        for name, (words, holds) in tests.items():
            if kind in (int, float) and name in bounds and not holds(bounds[name]):
                return self.fail(path, f"expected {words} {bounds[name]}, got {_show(value)}")
        return value
