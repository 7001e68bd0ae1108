"""climb-mini: reproducible, split by patient, imbalanced as asked; what the words say is in the
picture.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.mini import build as synthetic
from qoq_jax.climb.mini.render import DATASETS
from qoq_jax.data import readers
from qoq_jax.data import rows as schema

SIZE = 60
DIGEST = "c0e5f9e74c5308a5cabc89acb807c425b45884c6d20943a1602cc4151a1e2466"


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    root = tmp_path_factory.mktemp("climb") / "mini"
    return root, synthetic.build(root, seed=1, size=SIZE, workers=0)


def rows_of(root: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (root / f"{split}.jsonl").read_text().splitlines()]


def tree(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file()
    }


def test_rows_are_valid_and_media_are_readable(mini):
    root, manifest = mini
    seen = set()
    for split in synthetic.SPLITS:
        rows = rows_of(root, split)
        assert len(rows) == manifest["rows"][split]
        for i, obj in enumerate(rows):
            row = schema.validate_row(obj, f"{split}:{i}")
            assert row.split == split and row.source == "climb-mini"
            assert set(row.answers) <= set(row.labels)
            assert 4 <= len(row.reasoning.split()) <= 24
            assert all(label in row.problem for label in row.labels)
            if row.dataset in seen:
                continue
            seen.add(row.dataset)
            shapes = [readers.read_image(root / p).shape for p in row.images]
            shapes += [readers.read_frames(root / p).shape[1:] for p in row.videos]
            for path in row.time_series:
                assert readers.read_ecg(root / path).shape == (8, 2500)
            if row.segmentation_path:
                assert readers.read_mask(root / row.segmentation_path).shape == shapes[0][:2]
    assert seen == set(DATASETS)


def test_boxes_enclose_the_masks_and_normal_cases_have_none(mini):
    root, _ = mini
    normal = {
        "Normal",
        "No Finding",
        "No PE",
        "No Hemorrhage",
        "No Tumor",
        "No DR",
        "BI-RADS 1",
        "benign colon",
        "benign lung",
    }
    for row in rows_of(root, "test"):
        if row["domain"] in ("ecg", "multimodal") or set(row["answer"].split(", ")) & normal:
            assert "bbox" not in row and "segmentation_path" not in row
            continue
        mask = readers.read_mask(root / row["segmentation_path"])
        inside = np.zeros_like(mask)
        for x1, y1, x2, y2 in row["bbox"]:
            assert 0 <= x1 < x2 <= mask.shape[1] and 0 <= y1 < y2 <= mask.shape[0]
            assert min(x2 - x1, y2 - y1) >= 8  # still several pixels in a 112-pixel picture
            inside[y1:y2, x1:x2] = True
        assert mask.any() and not (mask & ~inside).any()
        assert set(row["bbox_labels"]) == set(row["answer"].split(", "))


def test_no_patient_is_in_two_splits():
    specs = synthetic.specs(0, 4000)
    where = {}
    for spec in specs:
        assert where.setdefault(spec.patient, spec.split) == spec.split
    assert len({s.id for s in specs}) == len(specs)
    assert max(Counter(s.patient for s in specs).values()) > 1


@pytest.mark.parametrize(
    ("imbalance", "giant"), [("climb", "ct"), ("climb_without_rspect", "chest_xray")]
)
def test_imbalance_of_train_and_balance_of_test(imbalance, giant):
    assert sum(synthetic.SHARES[imbalance].values()) == pytest.approx(1)
    counts = synthetic.counts(4000, imbalance)
    domains = Counter()
    for name, rows in counts["train"].items():
        domains[DATASETS[name].domain] += rows
    assert sum(domains.values()) == 4000
    assert domains[giant] > 2000 and min(domains.values()) < 40
    for spec_split, least in (("test", 55), ("validation", 25)):
        per_domain = Counter()
        for name, rows in counts[spec_split].items():
            per_domain[DATASETS[name].domain] += rows
        assert len(per_domain) == 10 and min(per_domain.values()) >= least
    balanced = synthetic.counts(4000, "balanced")["train"]
    assert sum(balanced.values()) == 4000
    per_domain = Counter()
    for name, rows in balanced.items():
        per_domain[DATASETS[name].domain] += rows
    assert max(per_domain.values()) - min(per_domain.values()) <= 2
    test = [s for s in synthetic.specs(0, 4000, imbalance) if s.split == "test"]
    for name, data in DATASETS.items():
        if not data.pairs:
            table = Counter((s.labels[0]) for s in test if s.dataset == name)
            assert max(table.values()) - min(table.values()) <= 1
        levels = Counter(s.difficulty for s in test if s.dataset == name)
        assert max(levels.values()) - min(levels.values()) <= 1


@pytest.mark.slow
def test_same_seed_gives_the_same_bytes_whatever_the_workers(mini, tmp_path):
    root, manifest = mini
    again = synthetic.build(tmp_path / "again", seed=1, size=SIZE, workers=2)
    assert again == manifest
    assert tree(tmp_path / "again") == tree(root)
    assert synthetic.fingerprint(2, SIZE, "climb") != manifest["fingerprint"]


def test_second_build_returns_at_once_and_a_killed_one_resumes(mini, tmp_path, monkeypatch):
    root, manifest = mini

    def forbidden(*_):
        raise AssertionError("drawn again")

    drawn = []
    original = synthetic.render_row

    def dies(spec, seed):
        drawn.append(spec.id)
        if len(drawn) > 50:
            raise KeyboardInterrupt
        return original(spec, seed)

    target = tmp_path / "mini [1]"
    (tmp_path / f".{target.name}.partial-of-another-seed").mkdir()
    monkeypatch.setattr(synthetic, "render_row", dies)
    with pytest.raises(KeyboardInterrupt):
        synthetic.build(target, seed=1, size=SIZE, workers=0)
    assert not target.exists()
    resumed = []
    monkeypatch.setattr(
        synthetic, "render_row", lambda s, seed: (resumed.append(s.id), original(s, seed))[1]
    )
    synthetic.build(target, seed=1, size=SIZE, workers=0)
    assert tree(target) == tree(root)
    assert 0 < len(resumed) <= sum(manifest["rows"].values()) - 40
    monkeypatch.setattr(synthetic, "render_row", forbidden)
    assert synthetic.build(target, seed=1, size=SIZE, workers=0) == manifest
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(ConfigError, match="too small"):
        synthetic.build(tmp_path / "a", size=3)
    with pytest.raises(ConfigError, match="imbalance"):
        synthetic.build(tmp_path / "a", imbalance="none")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    with pytest.raises(DataError, match="not a climb-mini folder"):
        synthetic.build(tmp_path / "mine", size=SIZE, workers=0)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="hint"):
        synthetic.build(tmp_path / "file" / "mini", size=SIZE, workers=0)


def test_reasoning_names_the_place_where_the_lesion_is(mini):
    """Side words against the drawn mask, in domains where left and right are plain."""
    for name, split_x in (
        ("brain-mri-mini", "Glioma Tumor"),
        ("chexpert-mini", "Lung Lesion"),
        ("covid-cxr-mini", "Bacterial Pneumonia"),
    ):
        data = DATASETS[name]
        for i in range(12):
            rng = np.random.default_rng(i)
            scene = data.plan(rng, (split_x,), 1 + i % 3)
            media = data.draw(scene, np.random.default_rng(100 + i), rng)
            box = synthetic.box_of(media.regions[0][1])
            centre = (box[0] + box[2]) / 2 / media.pixels.shape[-1]
            assert ("left" in scene.reasoning) == (
                centre > 0.5
            )  # the patient's left is on the viewer's right


def test_lesion_contrast_falls_with_difficulty():
    """The same case, drawn easy and hard: the lesion differs from its surroundings less."""
    for name, label in (
        ("covid-cxr-mini", "Bacterial Pneumonia"),
        ("mammo-mini", "BI-RADS 3"),
        ("chexpert-mini", "Lung Lesion"),
    ):
        data, contrast = DATASETS[name], []
        for difficulty in (1, 2, 3):
            values = []
            for i in range(6):
                rng = np.random.default_rng(i)
                scene = data.plan(rng, (label,), difficulty)
                media = data.draw(scene, np.random.default_rng(i), rng)
                mask = media.regions[0][1]
                pixels = media.pixels.astype(float)
                around = np.roll(mask, 16, axis=-1) & ~mask & (pixels > 10)
                values.append(pixels[mask].mean() - pixels[around].mean())
            contrast.append(np.mean(values))
        assert contrast[0] > contrast[1] > contrast[2], (name, contrast)


def test_corpus_covers_all_labels_with_few_words():
    texts = list(synthetic.corpus(1500, seed=0))
    answers = " ".join(answer for _, answer, _ in texts)
    for data in DATASETS.values():
        assert all(label in answers for label in data.labels)
    words = {word for _, _, reasoning in texts for word in reasoning.replace(",", "").split()}
    assert len(words) < 260
    assert list(synthetic.corpus(20, seed=3)) == list(synthetic.corpus(20, seed=3))


def test_rows_of_a_seed_are_those_of_this_version():
    """Caches are kept by `synthetic.VERSION`: raise it together with this digest."""
    seen = {}
    for spec in synthetic.specs(1, SIZE):
        seen.setdefault(spec.dataset, synthetic.render_row(spec, 1)[0])
    text = json.dumps([seen[name] for name in sorted(seen)], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == DIGEST
