"""Regions of slides and intervals of videos: shards hold them, and neither slide nor video."""

import json
import sys

import numpy as np
import pytest
from helpers import object_store, slides, videos
from helpers.rows import TOKENIZER, config

from qoq_jax.base import objects
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.shards import plan, write
from qoq_jax.data import check, media, readers, shards, sources
from qoq_jax.data import rows as schema
from qoq_jax.data.readers import parts
from qoq_jax.data.sample import process

KINDS = {
    "jpeg": {},
    "rgb": {"rgb": True},
    "big": {"big": True, "order": ">"},
    "deflate": {"compression": slides.DEFLATE},
    "rgb_2000": {"compression": slides.RGB_2000},
    "ycbcr_2000": {"compression": slides.YCBCR_2000},
}
REGIONS = (
    "#x=13,y=40,width=100,height=90",
    "#x=64,y=32,width=32,height=64,level=0",
    "#x=40,y=60,width=50,height=30,level=1",
)
INTERVALS = ("#start=0,end=4", "#start=1.04,end=2.52", "#start=0.48,end=0.56")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A row per kind of slide, with regions, one with a mask, and a row with intervals."""
    monkeypatch.setenv("QOQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "cv2", videos.fake_cv2())
    root = tmp_path / "data"
    root.mkdir()
    common = {"dataset": "d", "problem": "One of: A, B.", "answer": "A", "labels": ["A", "B"]}
    rows = []
    for name, options in KINDS.items():
        slides.make_slide(root / f"{name}.svs", slides.picture(150, 200), **options)
        media_of = {"images": [f"{name}.svs{region}" for region in REGIONS]}
        rows.append(common | media_of | {"id": name, "domain": "pathology"})
    classes = np.arange(150 * 200).reshape(150, 200).astype(np.uint8) % 3
    slides.make_slide(root / "mask.tif", classes, slides.DEFLATE)
    rows[0]["segmentation_path"] = f"mask.tif{REGIONS[0]}"
    (root / "v.mp4").write_bytes(b"RIFF")
    shown = {"videos": [f"v.mp4{interval}" for interval in INTERVALS]}
    rows.append(common | shown | {"id": "video", "domain": "endoscopy"})
    text = "".join(json.dumps(row | {"patient": row["id"]}) + "\n" for row in rows)
    (root / "train.jsonl").write_text(text)
    return root


def made(root, out, **options):
    tasks = plan.plan(str(root), str(out), 1 << 30, **options)
    for task in tasks:
        write.shard(task, str(root), str(out))
    return write.finish(tasks, str(out))


def pixels(root, row, frames=4):
    """All that the readers read of a row."""
    with media.opened(root) as folder:
        found = [readers.read_image(schema.resolve(folder, path)) for path in row.images]
        for path in row.videos:
            found.append(readers.read_frames(schema.resolve(folder, path), frames))
        if row.segmentation_path:
            found.append(readers.read_mask(schema.resolve(folder, row.segmentation_path)))
    return found


def test_what_is_read_from_shards_has_the_bits_of_the_folder(folder, tmp_path):
    out = tmp_path / "out"
    made(folder, out)
    here, there = sources.load(folder, "train"), sources.load(out, "train")
    assert here.fingerprint == there.fingerprint == sources.fingerprint(there, out)
    held = {path for number in range(len(there)) for path in shards.find(out).record(number)[1]}
    assert held == {path for row in here for path in parts.media_of(row)}  # and no slide whole
    for path in [*folder.glob("*.svs"), *folder.glob("*.tif"), folder / "v.mp4"]:
        path.rename(tmp_path / path.name)  # a pod has none
    assert check.run(str(out / "train.jsonl")) == 0
    for row in there:
        found = pixels(out, row)
        wanted = pixels(tmp_path, row)
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
        if row.images:  # the frames of the made-up video are too small for a model
            one, other = (process(row, root, TOKENIZER, config()) for root in (out, tmp_path))
            assert np.array_equal(one["patches"], other["patches"])


def test_shards_of_parts_at_a_url(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "FIRST_WAIT", 0.001)
    object_store.empty_memory()
    made(folder, tmp_path / "out")
    objects.upload_tree(str(tmp_path / "out"), "memory://bucket/cut")
    for row in sources.load("memory://bucket/cut", "train"):
        found, wanted = (pixels(root, row) for root in ("memory://bucket/cut", folder))
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_slide_that_a_row_names_whole_is_there_whole(folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    whole = rows[-1] | {"id": "whole", "videos": ["v.mp4"]}
    text = "".join(json.dumps(row) + "\n" for row in (rows[-1], whole))
    (folder / "train.jsonl").write_text(text)
    made(folder, tmp_path / "out")
    with media.opened(tmp_path / "out") as opened:
        assert schema.resolve(opened, "v.mp4").read_bytes() == b"RIFF"


@pytest.mark.parametrize(
    "field, name", [("images", "jpeg.svs#x=0,y=0,width=8,height=8"), ("videos", "v.mp4")]
)
def test_what_the_shards_do_not_hold_is_not_there(folder, tmp_path, field, name):
    made(folder, tmp_path / "out")
    read = readers.read_image if field == "images" else readers.read_frames
    with (
        media.opened(tmp_path / "out") as opened,
        pytest.raises(DataError, match="no such file"),
    ):
        read(schema.resolve(opened, name))


def test_another_number_of_frames_is_refused_by_name(folder, tmp_path):
    out = tmp_path / "out"
    before = made(folder, out)
    row = sources.load(out, "train")[-1]
    with pytest.raises(DataError, match=r"hold 4 frames of it, not 8.*--frames 8"):
        pixels(out, row, frames=8)
    assert made(folder, out, frames=8) != before  # the plan is another
    found, wanted = (pixels(root, row, frames=8) for root in (out, folder))
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    with pytest.raises(ConfigError, match="--frames 0"):
        made(folder, out, frames=0)


def test_an_interval_that_the_video_has_not_ends_the_run_with_its_name(folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    rows[-1]["videos"] = ["v.mp4#start=1,end=5"]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"v\.mp4#start=1,end=5: has 4\.00 s"):
        made(folder, tmp_path / "out")
