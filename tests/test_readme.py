"""The documents: README's Python runs, links and names of files lead somewhere."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# A file anywhere in the text, or a folder as code: launch/test.sh, `train/rl.py`, `qoq_jax/hf/`.
PATH = re.compile(
    r"(?<![\w./~<-])((?:[\w-]+/)+[\w-]+\.(?:py|sh|md|ipynb|npz|json|yml|toml))\b"
    r"|`((?:[\w-]+/)+)`"
)
# Folders that a path of this repository starts with; one of the package may leave out qoq_jax/.
# What git ignores is of runs (runs/), not of the repository.
IGNORED = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
TOPS = [path.name for path in ROOT.iterdir() if path.is_dir() and f"{path.name}/" not in IGNORED]
ROOMS = [path.name for path in (ROOT / "qoq_jax").iterdir() if path.is_dir()]


def relative(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def test_readme_has_the_two_examples():
    assert len(BLOCKS) == 2


def test_the_ten_lines_of_readme_run(tmp_path, monkeypatch, capsys):
    """With random weights in place of a run, and a picture of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "skin.jpg")
    monkeypatch.chdir(tmp_path)
    assert '"runs/quickstart"' in BLOCKS[0]
    exec(BLOCKS[0].replace('"runs/quickstart"', '"nano"'), {})
    assert ", 1024)" in capsys.readouterr().out, "the shape of the logits"


def test_the_drpo_of_readme_runs(capsys):
    names = {}
    exec(BLOCKS[1], names)
    assert names["advantages"].shape == names["rewards"].shape
    assert not names["advantages"][3].any(), "equal rewards: nothing to learn"


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_to_files(document):
    links = [link.partition("#")[0] for link in LINK.findall(document.read_text(encoding="utf-8"))]
    files = [
        link for link in links if link and "://" not in link and not link.startswith("mailto:")
    ]
    assert not [link for link in files if not (document.parent / link).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_files_that_are_named_exist(document):
    """But for templates as models/encoders/NAME.py."""
    found = PATH.findall(document.read_text(encoding="utf-8"))
    named = [file or folder for file, folder in found if "NAME" not in file]
    ours = [path for path in named if path.split("/")[0] in (*TOPS, *ROOMS)]
    starts = [ROOT, ROOT / "qoq_jax", ROOT / "tests", document.parent]
    assert not [path for path in ours if not any((start / path).exists() for start in starts)]
