"""YAML files as plain data: no tags, no duplicate keys, no bombs.

The scalars are those of YAML 1.2's core schema (true/false, null, decimal integers, floats with a point); every other
plain word is text. So `yes`, `1:30`, `010` and dates stay what they look like. `1e-4` is text too: write `1.0e-4`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from worldmodels.errors import ConfigError

MAX_BYTES = 250_000  # the scanner reads about 1 MB a second
MAX_NODES = 10_000  # of the file once its aliases are written out: a large configuration has a few hundred
MAX_DEPTH = 50
_PREFIX = "tag:yaml.org,2002:"


class _Limited(yaml.SafeLoader):
    """Composes nodes (never objects), counting them as it goes."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way
    _depth = 0
    _count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401
        self._depth += 1
        self._count += 1
        mark = self.peek_event().start_mark
        if self._depth > MAX_DEPTH:
            raise ConfigError(f"nested deeper than {MAX_DEPTH} levels at line {mark.line + 1}")
        if self._count > MAX_NODES:
            raise ConfigError(f"more than {MAX_NODES} values at line {mark.line + 1}")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Plain(yaml.SafeDumper):
    """Writes shared lists out in full instead of with anchors, and quotes text that any YAML reader may misread."""

    yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401, ARG002
        return True


_WORDS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?([0-9][0-9_]*\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
for _kind, (_pattern, _starts) in _WORDS.items():
    for _class in (_Limited, _Plain):
        _class.add_implicit_resolver(_PREFIX + _kind, re.compile(f"^(?:{_pattern})$"), list(_starts))
_Plain.add_implicit_resolver(_PREFIX + "float", re.compile("^[-+]?[0-9.]+[eE][-+]?[0-9]+$"), list("-+0123456789."))


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in the YAML file at `path`; an empty file is an empty mapping.

    Raises:
        ConfigError: the file cannot be read or is not a mapping, repeats a key, holds a tag, or breaks a limit; the
            message names file and line.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes")
    try:
        return parse_yaml(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_yaml(text: str) -> dict[str, Any]:
    """Return the mapping that `text` holds; see `load_yaml`."""
    try:
        loader = _Limited(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"not YAML: {error.problem}{line}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {error}") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError("expected a mapping at the top")
    _expanded_size(node, {}, ())
    return _value(node)


def dump_yaml(mapping: Mapping[str, Any]) -> str:
    """Return `mapping` (plain data) as YAML text that `load_yaml` reads back to an equal one."""
    return yaml.dump(dict(mapping), Dumper=_Plain, sort_keys=False, width=120)


def _expanded_size(node: yaml.Node, sizes: dict[int, int], above: tuple[int, ...]) -> int:
    """Return the number of values below `node` with every alias written out; refuse cycles and too many."""
    if id(node) in above:
        raise ConfigError(f"alias that contains itself at line {node.start_mark.line + 1}")
    if id(node) not in sizes:
        children = node.value if isinstance(node, yaml.SequenceNode) else ()
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        sizes[id(node)] = 1 + sum(_expanded_size(child, sizes, (*above, id(node))) for child in children)
        if sizes[id(node)] > MAX_NODES:
            raise ConfigError(f"aliases expand to more than {MAX_NODES} values at line {node.start_mark.line + 1}")
    return sizes[id(node)]


def _value(node: yaml.Node) -> Any:  # noqa: ANN401
    line = node.start_mark.line + 1
    kind = node.tag.removeprefix(_PREFIX)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, at = _value(key_node), key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"key {key!r} is not text at line {at}")
            if key == "<<" and key_node.style is None:
                raise ConfigError(f"merge keys are not supported, at line {at}")
            if key in found:
                raise ConfigError(f"duplicate key {key!r} at line {at}")
            found[key] = _value(value_node)
        return found
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_value(child) for child in node.value]
    if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
        try:
            return _SCALARS[kind](node.value)
        except ValueError as error:
            raise ConfigError(f"{node.value[:80]!r} is not a {kind} at line {line}") from error
    raise ConfigError(f"unsupported tag at line {line}: {node.tag[:80]}")


def _float(text: str) -> float:
    """Return the number of a YAML float, whose infinity and NaN begin with a point."""
    words = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
    return float(words.get(text.lower(), text.replace("_", "")))


_SCALARS = {
    "str": str,
    "int": lambda text: int(text.replace("_", "")),
    "float": _float,
    "bool": lambda text: text.lower() == "true",
    "null": lambda text: None,
}
