"""The checkout's source as syntax trees: what a file imports and what it calls, for the tests that read code."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("worldmodels", "envs", "agents")


def python_files(*folders: str) -> list[Path]:
    """Every Python file below the named folders of the checkout, sorted; a folder that is missing holds none."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    """The path as it is written in messages, from the checkout's root."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`np.random.rand` as `numpy.random.rand`, by the file's imports; `?` stands for what is no plain name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def imported_names(module: ast.Module) -> dict[str, str]:
    """Local name -> what it stands for, of every import anywhere in the module, functions included."""
    names: dict[str, str] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.split(".")[0]
                names[local] = alias.name if alias.asname else local
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def calls(module: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the full name of what is called."""
    names = imported_names(module)
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            yield dotted(node.func, names), node


def imports(module: ast.Module, package: str = "") -> list[tuple[str, int]]:
    """Every module that the code imports, with its line; `package` is the one that relative imports start from.

    `from a import b` counts as `a` where `b` is known to be no module: where `a` is a module of the checkout without
    one of that name. Else it counts as `a.b`. An import by a written-out name (`import_module("a")`) counts as well.
    """
    found: list[tuple[str, int]] = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found += [(_module_or_parent(base, alias.name), node.lineno) for alias in node.names]
    for name, call in calls(module):
        if name in ("importlib.import_module", "__import__") and call.args and isinstance(call.args[0], ast.Constant):
            found.append((str(call.args[0].value), call.lineno))
    return found


def file_imports(path: Path) -> list[tuple[str, int]]:
    """`imports` of one file of the checkout."""
    return imports(tree(path), ".".join(path.relative_to(ROOT).parent.parts))


def within(module: str, *roots: str) -> bool:
    """Whether a module is one of the roots or below one."""
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def _module_or_parent(base: str, name: str) -> str:
    folder = ROOT.joinpath(*base.split("."))
    is_attribute = (
        base
        and (folder.is_dir() or folder.with_suffix(".py").is_file())
        and not ((folder / name).is_dir() or (folder / f"{name}.py").is_file())
    )
    return base if is_attribute else f"{base}.{name}".lstrip(".")
