"""The page of a data set: numbers of all rows, sizes and boxes of those looked at, a contact sheet
without names of patients.
"""

import json
import re

import numpy as np
import pytest
from PIL import Image

from qoq_jax.base.errors import DataError
from qoq_jax.cli import main
from qoq_jax.data import stats
from qoq_jax.report import dataset

CANARY = "DOE^JANE"


@pytest.fixture
def root(tmp_path):
    Image.fromarray(np.full((40, 80, 3), 90, np.uint8)).save(tmp_path / "a.png")
    np.savez(tmp_path / "v.npz", frames=np.full((6, 30, 50, 3), 20, np.uint8))
    seconds = np.arange(2500) / 250
    signal = (0.5 * np.sin(seconds * 8) * np.arange(1, 9)[:, None] / 8).astype(np.float32)
    leads = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]
    np.savez(tmp_path / "e.npz", signal=signal, fs=250.0, leads=leads)
    common = {"problem": "One of: Normal, <b>Odd</b>.", "labels": ["Normal", "<b>Odd</b>"]}
    xray = common | {"dataset": "films", "domain": "chest_xray", "images": ["a.png"]}
    rows = {
        "train": [
            xray | {"id": f"{CANARY.lower()}_{i}.png", "answer": "Normal", "patient": CANARY}
            for i in range(3)
        ]
        + [
            xray
            | {"id": "box", "answer": "<b>Odd</b>", "bbox": [[20, 0, 40, 40]], "patient": "p2"},
            common
            | {"id": "clip", "dataset": "clips", "domain": "ct", "videos": ["v.npz"]}
            | {"answer": "Normal"},
        ],
        "test": [
            common
            | {"id": "heart", "dataset": "beats", "domain": "ecg", "time-series": ["e.npz"]}
            | {"answer": "Normal", "patient": "p3"}
        ],
    }
    for split, lines in rows.items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_numbers(root):
    ecg, xray, ct = stats.collect(root, looked_at=10, shown=2)
    assert [d.name for d in (ecg, xray, ct)] == ["ecg", "chest_xray", "ct"]
    assert xray.rows == {"train": 4} and xray.patients == {"train": 2} and xray.unnamed == 0
    assert ct.unnamed == 1 and ct.media == {"1 video": 1} and ecg.media == {"1 ECG": 1}
    assert xray.labels == {"films": {"Normal": 3, "<b>Odd</b>": 1}}
    assert (xray.boxed, xray.boxes, xray.masked) == (1, 1, 0)
    assert xray.sizes == [(80, 40)] * 4 and ct.sizes == [(50, 30)]
    assert xray.places == [(0.25, 0.0, 0.5, 1.0)]
    assert {row.answer for _, row in xray.samples} == {"Normal", "<b>Odd</b>"}  # labels first
    assert len(stats.collect(root, looked_at=2, shown=1)[1].sizes) == 2


def test_the_page_shows_every_domain_and_no_patient(root, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main.main(["data", "stats", str(root), "--html", str(page)]) == 0
    assert "chest_xray: 4" in capsys.readouterr().out
    html = page.read_text()
    assert (
        CANARY not in html
        and CANARY.lower() not in html
        and "<b>Odd</b>" not in html
        and "<script" not in html
    )
    for words in ("6 rows of 3 domains, 3 patients", "ECG of 8 leads", "4 picture(s)", "1 gold"):
        assert words in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)


def test_media_that_cannot_be_read_are_listed(root, tmp_path):
    (root / "a.png").write_bytes(b"\x89PNG broken")
    domains = dataset.write_page(root, tmp_path / "page.html")
    assert len(domains[1].unreadable) == 4 and domains[1].sizes == []
    html = (tmp_path / "page.html").read_text()
    assert "Media that cannot be read" in html and "a.png" in html


def test_maps_of_boxes_and_bars():
    drawn = dataset.box_map("CT", [(0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 0.5, 0.5)])
    shades = re.findall(r'fill-opacity="([\d.]+)"', drawn)
    half = dataset.CELLS**2 // 2  # the left half is inside of a box, its upper part of two
    assert len(shades) == half and shades.count("1.00") == half // 2 == shades.count("0.50")
    assert "median 37.5%" in drawn
    drawn = dataset.bars("labels", {"a": 3, "b" * 50: 1}, 460)
    assert "3 (75%)" in drawn and "b" * 50 not in drawn.split("aria-label")[1].split(">", 1)[1]


def test_a_folder_without_rows(tmp_path):
    with pytest.raises(DataError, match=r"no train\.jsonl"):
        stats.collect(tmp_path, 1, 1)
