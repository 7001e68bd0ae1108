"""What names files of the package from outside of it still finds them."""

import ast
import importlib
import json
import pathlib

import pytest

from benchmarks import mutations

ROOT = pathlib.Path(__file__).parents[1]


def notebook_imports():
    """(module, name) of each import of the package in the notebook."""
    book = json.loads((ROOT / "notebooks" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    return [
        (node.module, alias.name)
        for text in cells
        if not text.startswith("%")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("qoq_jax")
        for alias in node.names
    ]


@pytest.mark.parametrize(("module", "name"), notebook_imports())
def test_the_notebook_imports_what_is_there(module, name):
    found = importlib.import_module(module)
    assert hasattr(found, name) or importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize("name", mutations.MUTATIONS)
def test_a_mutation_is_up_to_date(name):
    assert mutations.stale(name) == []
