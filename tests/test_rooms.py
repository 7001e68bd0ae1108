"""The layout of the package: imports run one way, files and functions stay short."""

from __future__ import annotations

import ast
import functools
import graphlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "qoq_jax"
# A room imports only from itself and from those before it. Section rl of a config holds the
# rewards' section, and the report is what a run ends with, so rewards and report come early.
ROOMS = (
    "base",
    "parallel",
    "models",
    "data",
    "hf",
    "climb",
    "rewards",
    "rl",
    "sampling",
    "evaluation",
    "report",
    "train",
    "transfer",
    "plan",
    "launch",
    "sweep",
    "cli",
)
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 600, 80, 8


@functools.cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def imports_of(name: str) -> set[str]:
    """Files of the package that a file imports, wherever in it: at its top or in a function."""
    found = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            # `from package import file` means the file; `from file import name` the file before.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [one if one in FILES else node.module for one in names]
        else:
            continue
        found |= {one for one in names if one in FILES}
    return found - {name}


def room_of(name: str) -> str | None:
    """None for the files of the package's top, which users import and no room does."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


def functions():
    for name in FILES:
        for node in ast.walk(tree_of(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}:{node.lineno} {node.name}", node


def test_every_folder_is_a_room():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_no_room_above_it(room):
    upwards = [
        f"{name} imports {other}"
        for name in FILES
        if room_of(name) == room
        for other in sorted(imports_of(name))
        if room_of(other) is None or ROOMS.index(room_of(other)) > ROOMS.index(room)
    ]
    assert not upwards


def test_no_circle_among_files():
    try:
        graphlib.TopologicalSorter({name: imports_of(name) for name in FILES}).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_import_is_hidden_from_the_running_program():
    """But at the package's top, which loads nothing until it is asked to."""
    assert [
        name
        for name in FILES
        if room_of(name)
        and any(getattr(node, "id", "") == "TYPE_CHECKING" for node in ast.walk(tree_of(name)))
    ] == []


def test_files_are_short():
    lengths = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_functions_are_short():
    lengths = {what: node.end_lineno - node.lineno + 1 for what, node in functions()}
    assert {what: n for what, n in lengths.items() if n > MOST_FUNCTION_LINES} == {}


def test_functions_take_few_parameters():
    counts = {
        what: len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
        for what, node in functions()
    }
    assert {what: n for what, n in counts.items() if n > MOST_PARAMETERS} == {}
