"""Each host's own layout, as its interface gives it, from a local server."""

import csv
import hashlib
import io
import json
import tarfile
import zipfile

import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.climb.access import get
from qoq_jax.climb.access.access import Access
from qoq_jax.climb.access.client import AGENT
from qoq_jax.climb.access.errors import DigestError, DownloadError, LoginError
from qoq_jax.climb.access.hosts import git, huggingface, isic, kaggle, physionet, tcia, zenodo


def sha256(body):
    return hashlib.sha256(body).hexdigest()


def md5(body):
    return hashlib.md5(body).hexdigest()


def blob(body):
    return hashlib.sha1(b"blob %d\0%s" % (len(body), body)).hexdigest()


def zipped(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return packed.getvalue()


def dumps(value):
    return json.dumps(value).encode()


@pytest.fixture
def run(tmp_path, fast):
    """Downloads; returns the files by path, the manifest left out, and what was said."""

    def one(access, wanted=()):
        said, root = [], tmp_path / "root"
        get.download(access, root, wanted, policy=fast, log=said.append)
        found = {
            p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.*") if p.is_file()
        }
        found.pop("manifest.json")
        return found, "\n".join(said)

    return one


# ------------------------------------------------------------------------------------ PhysioNet

PROJECT = {"RECORDS.txt": b"a\n", "x/1.dat": b"one", "x/2 b.dat": b"two", "y/1.dat": b"three"}


@pytest.fixture
def project(server, monkeypatch):
    monkeypatch.setattr(physionet, "BASE", server.base)

    def put(login=""):
        sums = "".join(f"{sha256(body)} {path}\n" for path, body in PROJECT.items()).encode()
        for path, body in {**PROJECT, "SHA256SUMS.txt": sums}.items():
            server.put(f"/files/proj/1.0.3/{path}", body, login=login)
        return sums

    return put


OPEN = Access("a-set", "physionet-open", "proj", "1.0.3")
CLOSED = Access("a-set", "physionet-credentialed", "proj", "1.0.3")


def test_physionet(project, run):
    sums = project()
    assert run(OPEN)[0] == {**PROJECT, "SHA256SUMS.txt": sums}


def test_a_project_of_many_files_comes_as_one_zip(project, server, run, monkeypatch):
    sums = project()
    monkeypatch.setattr(physionet, "_MANY", 3)
    top = "a-long-title-1.0.3"
    packed = zipped({f"{top}/{path}": body for path, body in PROJECT.items()})
    server.put("/content/proj/get-zip/1.0.3/", packed, faults=[("none",), ("cut", 300)])
    found, said = run(OPEN)
    assert found == {**PROJECT, "SHA256SUMS.txt": sums}
    assert "4 files in one zip" in said
    count = len(server.requests)
    assert run(OPEN)[0] == found
    assert len(server.requests) == count + 2, "the sums, and the size of the zip"
    monkeypatch.setattr(physionet, "_LARGEST_ZIP", 10)
    assert run(OPEN)[0] == found
    assert not [path for _, path, _ in server.requests if path.endswith(".dat")], "all were there"


def test_a_zip_with_other_files_than_the_sums_say(project, server, run, monkeypatch):
    project()
    monkeypatch.setattr(physionet, "_MANY", 3)
    server.put("/content/proj/get-zip/1.0.3/", zipped({f"t/{path}": b"?" for path in PROJECT}))
    with pytest.raises(DigestError, match=r"proj-1\.0\.3\.zip: RECORDS\.txt: SHA256 is"):
        run(OPEN)


def test_a_project_without_a_zip(project, run, monkeypatch):
    sums = project()
    monkeypatch.setattr(physionet, "_MANY", 3)
    assert run(OPEN)[0] == {**PROJECT, "SHA256SUMS.txt": sums}


def test_some_files_of_physionet(project, run):
    project()
    assert set(run(OPEN, ["x/*", "y/1.d?t"])[0]) == set(PROJECT) - {"RECORDS.txt"} | {
        "SHA256SUMS.txt"
    }


def test_a_folder_of_a_project(project, run):
    project()
    access = Access("a-set", "physionet-open", "proj", "1.0.3", files=("x/",))
    assert set(run(access)[0]) == {"x/1.dat", "x/2 b.dat", "SHA256SUMS.txt"}
    with pytest.raises(ConfigError, match=r"no file fits y/\* x/ \(hint: there are 4 files"):
        run(access, ["y/*"])


def test_a_file_that_is_not_what_physionet_lists(project, server, run):
    project()
    server.put("/files/proj/1.0.3/y/1.dat", b"other")
    with pytest.raises(DigestError, match=r"y/1\.dat: SHA256 is"):
        run(OPEN)


def test_a_credentialed_project(project, server, run, monkeypatch):
    sums = project(login="me:secret")
    monkeypatch.setenv("PHYSIONET_USERNAME", "me")
    monkeypatch.setenv("PHYSIONET_PASSWORD", "secret")
    assert run(CLOSED)[0] == {**PROJECT, "SHA256SUMS.txt": sums}
    agents = {headers["User-Agent"] for _, _, headers in server.requests}
    assert agents == {AGENT}, "our own name, never that of a program on PhysioNet's list"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"check user name and password"),
        (403, r"sign the data use agreement .*/content/proj/1\.0\.3/"),
        (403, r"wget .*--cut-dirs=3 .*/files/proj/1\.0\.3/, then use --check"),
    ],
)
def test_a_project_that_refuses(project, server, run, monkeypatch, status, message):
    project()
    monkeypatch.setenv("PHYSIONET_USERNAME", "me")
    monkeypatch.setenv("PHYSIONET_PASSWORD", "secret")
    server.pages["/files/proj/1.0.3/SHA256SUMS.txt"].faults = [("status", status, {})]
    with pytest.raises(LoginError, match=message):
        run(CLOSED)


# --------------------------------------------------------------------------------------- Kaggle

IMAGES = {"train/a b.png": b"a", "train/c.png": b"c", "train.csv": b"id\n" * 99}
SET = Access("a-set", "kaggle-dataset", "owner/name")
RULES = Access("a-set", "kaggle-competition", "the-race")


@pytest.fixture
def at_kaggle(server, other, monkeypatch):
    """The interface at one host, the bytes at another, as it is."""
    monkeypatch.setattr(kaggle, "BASE", server.base)
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    monkeypatch.setenv("KAGGLE_KEY", "key")
    login = {"login": "me:key"}
    for api, names, whole, one in (
        ("datasets/list/owner/name", "datasetFiles", "datasets/download/owner/name", None),
        ("competitions/data/list/the-race", "files", "competitions/data/download-all/the-race", 1),
    ):
        one = "competitions/data/download/the-race" if one else whole
        rows = [{"name": name, "totalBytes": 10} for name in IMAGES]
        first = {names: rows[:2], "nextPageToken": "more"}
        server.put(f"/api/v1/{api}?pageSize=200", dumps(first), **login)
        last = {names: rows[2:], "nextPageToken": ""}
        server.put(f"/api/v1/{api}?pageSize=200&pageToken=more", dumps(last), **login)
        server.put(f"/api/v1/{whole}", redirect=f"{other.base}/all?sign=1", **login)
        for name in IMAGES:
            address = f"{other.base}/{name.replace(' ', '%20')}"
            server.put(f"/api/v1/{one}/{name}", redirect=address, **login)
    other.put("/all", zipped({**IMAGES, "__MACOSX/._x.png": b""}))
    for name, body in IMAGES.items():
        other.put(f"/{name}", body)


@pytest.mark.parametrize("access", [SET, RULES], ids=lambda one: one.kind)
def test_kaggle(at_kaggle, other, run, access):
    other.pages["/all"].faults = [("cut", 99)]
    assert run(access)[0] == IMAGES
    assert "Range" in other.asked("/all?sign=1")[1]


@pytest.mark.parametrize("access", [SET, RULES], ids=lambda one: one.kind)
def test_some_files_of_kaggle(at_kaggle, run, access):
    assert run(access, ["train/*"])[0] == {k: v for k, v in IMAGES.items() if "/" in k}


def test_a_file_that_kaggle_sends_as_a_zip(at_kaggle, other, run):
    other.put("/train.csv", zipped({"train.csv": IMAGES["train.csv"]}))
    assert run(SET, ["*.csv"])[0] == {"train.csv": IMAGES["train.csv"]}


def test_the_md5_that_googles_storage_sends(at_kaggle, other, run):
    import base64

    value = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    other.pages["/all"].headers["x-goog-hash"] = f"crc32c=AAAAAA==, md5={value}"
    with pytest.raises(DigestError, match=r"name\.zip: MD5 is"):
        run(SET)


@pytest.mark.parametrize(
    ("access", "status", "message"),
    [
        (RULES, 403, r"accept the rules at .*/competitions/the-race/rules"),
        (SET, 403, r"/datasets/owner/name whether your account may"),
        (SET, 401, r"make a new key at .*/settings"),
        (SET, 404, r"/datasets/owner/name whether it still exists"),
    ],
)
def test_kaggle_refuses(at_kaggle, server, run, access, status, message):
    whole = "datasets/download/owner/name"
    if access is RULES:
        whole = "competitions/data/download-all/the-race"
    server.pages[f"/api/v1/{whole}"].faults = [("status", status, {})]
    with pytest.raises(DownloadError, match=message):
        run(access)


def test_a_version_of_a_data_set(at_kaggle, server, other, run):
    server.put("/api/v1/datasets/download/owner/name?datasetVersionNumber=3", zipped({"v.3": b"3"}))
    assert run(Access("a-set", "kaggle-dataset", "owner/name", "3"))[0] == {"v.3": b"3"}


# ----------------------------------------------------------------------------------------- TCIA

SERIES = [
    {
        "SeriesInstanceUID": f"1.2.{i}",
        "StudyInstanceUID": f"1.{i}",
        "PatientID": f"P_{i}",
        "Collection": "SET-1",
        "Modality": "MG",
        "ImageCount": 1,
        "FileSize": 5,
    }
    for i in (1, 2)
]


@pytest.fixture
def at_tcia(server, monkeypatch):
    monkeypatch.setattr(tcia, "BASE", f"{server.base}/v4")
    server.put("/v4/getSeries?Collection=SET-1", dumps(SERIES))
    for row in SERIES:
        body = b"DICOM of " + row["PatientID"].encode()
        sums = f'"Filename","MD5Hash"\n"00000001.dcm","{md5(body)}"\n'.encode()
        packed = zipped({"00000001.dcm": body, "md5hashes.csv": sums})
        address = f"/v4/getImageWithMD5Hash?SeriesInstanceUID={row['SeriesInstanceUID']}"
        server.put(address, packed, chunked=True, ranges=False, validator="")


TCIA = Access("a-set", "tcia", "SET-1")


def test_tcia(at_tcia, run):
    found, _ = run(TCIA)
    folders = [f"SET-1/P_{i}/1.{i}/1.2.{i}" for i in (1, 2)]
    assert [found[f"{folder}/00000001.dcm"] for folder in folders] == [
        b"DICOM of P_1",
        b"DICOM of P_2",
    ]
    table = list(csv.DictReader(io.StringIO(found["metadata.csv"].decode())))
    assert [row["File Location"] for row in table] == [f"./{folder}" for folder in folders]
    assert [(row["Series UID"], row["Subject ID"]) for row in table] == [
        ("1.2.1", "P_1"),
        ("1.2.2", "P_2"),
    ]


def test_a_series_that_breaks_off_or_that_the_archive_ends_early(at_tcia, server, run):
    first, second = (f"/v4/getImageWithMD5Hash?SeriesInstanceUID=1.2.{i}" for i in (1, 2))
    server.pages[first].faults = [("reset", 30)]
    whole = server.pages[second].body
    server.pages[second].body = zipped({"00000001.dcm": b"DICOM of P_2"})  # no list of MD5
    server.pages[second].faults = [("none",), ("swap", whole)]
    assert len([path for path in run(TCIA)[0] if path.endswith(".dcm")]) == 2


def test_a_damaged_image_of_tcia(at_tcia, server, run):
    sums = f"Filename,MD5Hash\n1.dcm,{md5(b'one')}\n"
    page = server.pages["/v4/getImageWithMD5Hash?SeriesInstanceUID=1.2.1"]
    page.body = zipped({"1.dcm": b"two", "md5hashes.csv": sums})
    with pytest.raises(DigestError, match=r"1\.2\.1\.zip: .*1\.dcm: MD5 is"):
        run(TCIA)


def test_one_patient_of_tcia(at_tcia, run):
    assert [path for path in run(TCIA, ["*/P_2/*"])[0] if path.endswith(".dcm")] == [
        "SET-1/P_2/1.2/1.2.2/00000001.dcm"
    ]


def test_tables_that_lie_beside_a_collection(at_tcia, other, run):
    """Their host is another one, and they are part of the data set."""
    other.put("/uploads/cases.csv", b"patient_id\n")
    address = f"{other.base}/uploads/cases.csv#sha256={sha256(b'patient_id' + bytes([10]))}"
    access = Access("a-set", "tcia", "SET-1", files=(address,))
    assert set(run(access, ["*.csv"])[0]) == {"cases.csv"}
    found, _ = run(access)
    assert found["cases.csv"] == b"patient_id\n"
    assert len([path for path in found if path.endswith(".dcm")]) == 2


def test_a_collection_that_is_not_there(at_tcia, server, run):
    server.put("/v4/getSeries?Collection=OTHER", b"[]")
    with pytest.raises(DownloadError, match="no collection 'OTHER'"):
        run(Access("a-set", "tcia", "OTHER"))


# --------------------------------------------------------------------------------------- Zenodo


@pytest.fixture
def record(server, monkeypatch):
    monkeypatch.setattr(zenodo, "BASE", server.base)
    held = {"a.zip": zipped({"x/1.csv": b"1"}), "b 1.csv": b"b", "data.rar": b"Rar!"}
    rows = [
        {
            "id": key,
            "key": key,
            "size": len(body),
            "checksum": f"md5:{md5(body)}",
            "links": {"self": f"{server.base}/elsewhere"},
        }
        for key, body in held.items()
    ]
    server.put("/api/records/77", dumps({"id": 77, "files": rows}))
    for key, body in held.items():
        server.put(f"/api/records/77/files/{key}/content", body)


def test_zenodo(record, run):
    found, said = run(Access("a-set", "zenodo", "77"))
    assert found == {"x/1.csv": b"1", "b 1.csv": b"b", "data.rar": b"Rar!"}
    assert "to be unpacked by hand (7z x): data.rar" in said


def test_a_file_that_is_not_what_zenodo_lists(record, server, run):
    server.put("/api/records/77/files/b 1.csv/content", b"x")
    with pytest.raises(DigestError, match=r"b 1\.csv: MD5 is"):
        run(Access("a-set", "zenodo", "77"))


@pytest.mark.parametrize(
    "body", [b"<html>", b"{}", b"[]", b'{"files": [{"key": "a"}]}', b"[" * 9999]
)
def test_an_interface_that_has_moved(record, server, run, body):
    server.put("/api/records/77", body)
    with pytest.raises(DownloadError, match="the record"):
        run(Access("a-set", "zenodo", "77"))


# ----------------------------------------------------------------------------------------- ISIC


def test_a_collection_of_isic(server, other, monkeypatch, run):
    monkeypatch.setattr(isic, "BASE", f"{server.base}/api/v2")
    rows = [
        {
            "isic_id": f"ISIC_{i}",
            "attribution": "A hospital",
            "copyright_license": "CC-0",
            "metadata": {"clinical": {"sex": "female"}, "acquisition": {"pixels_x": i}},
            "files": {"full": {"url": f"{other.base}/images/{i}.JPG?sign=2", "size": 6}},
        }
        for i in (1, 2)
    ]
    pages = ("/api/v2/images/search/?collections=65&limit=100", "/api/v2/images/search/?cursor=2")
    server.put(pages[0], dumps({"results": rows[:1], "next": server.base + pages[1]}))
    server.put(pages[1], dumps({"results": rows[1:], "next": None}))
    for i in (1, 2):
        other.put(f"/images/{i}.JPG", b"pixel%d" % i)
    found, _ = run(Access("a-set", "isic", "65"))
    assert (found["ISIC_1.jpg"], found["ISIC_2.jpg"]) == (b"pixel1", b"pixel2")
    table = list(csv.DictReader(io.StringIO(found["metadata.csv"].decode())))
    assert table[1] == {
        "isic_id": "ISIC_2",
        "attribution": "A hospital",
        "copyright_license": "CC-0",
        "sex": "female",
        "pixels_x": "2",
    }


def test_a_challenge_of_isic(server, run):
    server.put("/2020/Training.zip", zipped({"train/1.jpg": b"1"}))
    server.put("/2020/Truth.csv", b"t")
    files = ("Training.zip", "Truth.csv")
    found, _ = run(Access("a-set", "isic", f"{server.base}/2020/", files=files))
    assert found == {"train/1.jpg": b"1", "Truth.csv": b"t"}


# ----------------------------------------------------------------------------------- git hosts

REPOSITORY = {"README.md": b"read me\n", "videos/a.mp4": b"film", "masks/1.png": b"mask"}
COMMIT, TREE = "c" * 40, "d" * 40
LARGE = b"large file" * 100
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
    sha256(LARGE).encode(),
    len(LARGE),
)


def tarball(members, top):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
        info = tarfile.TarInfo(f"{top}/link")
        info.type, info.linkname = tarfile.SYMTYPE, "../../elsewhere"
        archive.addfile(info)
    return packed.getvalue()


@pytest.fixture
def repository(server, monkeypatch):
    monkeypatch.setattr(git, "BASE", server.base)
    monkeypatch.setattr(git, "API", f"{server.base}/api")

    def put(members, ref="HEAD"):
        rows = [
            {"path": p, "type": "blob", "mode": "100644", "sha": blob(b), "size": len(b)}
            for p, b in members.items()
        ]
        rows += [{"path": "link", "type": "blob", "mode": "120000", "sha": "0", "size": 3}]
        rows += [{"path": "masks", "type": "tree", "mode": "040000", "sha": "0"}]
        commit = {"sha": COMMIT, "commit": {"tree": {"sha": TREE}}}
        server.put(f"/api/repos/o/r/commits/{ref}", dumps(commit))
        tree = {"sha": TREE, "truncated": False, "tree": rows}
        server.put(f"/api/repos/o/r/git/trees/{TREE}", dumps(tree))
        body = tarball(members, f"r-{COMMIT}")
        server.put(f"/o/r/archive/{COMMIT}.tar.gz", body, chunked=True, ranges=False, validator="")
        return Access("a-set", "git", f"{server.base}/o/r")

    return put


def test_a_repository(repository, server, run):
    access = repository(REPOSITORY)
    server.pages[f"/o/r/archive/{COMMIT}.tar.gz"].faults = [("reset", 50)]
    found, said = run(access)
    assert found == REPOSITORY
    assert f"commit {COMMIT}" in said


def test_some_files_of_a_repository(repository, run):
    assert run(repository(REPOSITORY), ["*.png"])[0] == {"masks/1.png": b"mask"}


def test_a_tag(repository, server, run):
    repository(REPOSITORY, "v1.4")
    access = Access("a-set", "git", f"{server.base}/o/r", "1.4")
    assert "the newest" not in run(access)[1]


def test_a_version_that_is_no_tag(repository, server, run):
    repository(REPOSITORY)
    said = run(Access("a-set", "git", f"{server.base}/o/r", "2"))[1]
    assert "the newest: 2 is no branch or tag" in said


def test_a_file_that_is_not_what_the_commit_says(repository, server, run):
    access = repository(REPOSITORY)
    body = tarball({**REPOSITORY, "masks/1.png": b"else"}, "r")
    server.put(f"/o/r/archive/{COMMIT}.tar.gz", body)
    with pytest.raises(DigestError, match=r"masks/1\.png: GIT is"):
        run(access)


def test_large_files_of_a_repository(repository, server, other, run):
    access = repository({**REPOSITORY, "big.zip": POINTER})
    href = f"{other.base}/objects/1?sign=3"
    row = {"oid": sha256(LARGE), "size": len(LARGE), "actions": {"download": {"href": href}}}
    server.put("/o/r.git/info/lfs/objects/batch", dumps({"objects": [row]}))
    other.put("/objects/1", LARGE, faults=[("cut", 300)])
    assert run(access)[0] == {**REPOSITORY, "big.zip": LARGE}
    count = len(server.requests)
    assert run(access)[0]["big.zip"] == LARGE
    assert len(server.requests) == count + 2, "commit and tree; nothing is fetched again"


def test_a_large_file_that_is_not_given(repository, server, run):
    access = repository({"big.zip": POINTER})
    row = {"oid": sha256(LARGE), "size": len(LARGE), "error": {"code": 404, "message": "gone"}}
    server.put("/o/r.git/info/lfs/objects/batch", dumps({"objects": [row]}))
    with pytest.raises(DownloadError, match=r"big\.zip: .* does not give \(gone\)"):
        run(access)


def test_another_git_host(run):
    with pytest.raises(ConfigError, match=r"not on a git host .* clone it by hand"):
        run(Access("a-set", "git", "https://git.example/o/r"))


def test_hugging_face(server, other, monkeypatch, run):
    monkeypatch.setattr(huggingface, "BASE", server.base)
    name = "/api/datasets/o/n"
    server.put(f"{name}/revision/main", dumps({"sha": COMMIT}))
    small = {"type": "file", "path": "a.json", "size": 3, "oid": blob(b"one")}
    large = {"type": "file", "path": "x/b.bin", "size": len(LARGE), "oid": "0" * 40}
    large["lfs"] = {"oid": sha256(LARGE), "size": len(LARGE)}
    folder = {"type": "directory", "path": "x", "size": 0, "oid": "0" * 40}
    following = f"{server.base}{name}/tree/{COMMIT}?recursive=true&cursor=2"
    first = server.put(f"{name}/tree/{COMMIT}?recursive=true", dumps([folder, small]))
    first.headers["Link"] = f'<{following}>; rel="next"'
    server.put(f"{name}/tree/{COMMIT}?recursive=true&cursor=2", dumps([large]))
    server.put(f"/datasets/o/n/resolve/{COMMIT}/a.json", b"one")
    server.put(f"/datasets/o/n/resolve/{COMMIT}/x/b.bin", redirect=f"{other.base}/b")
    other.put("/b", LARGE, faults=[("cut", 500)])
    found, said = run(Access("a-set", "git", f"{server.base}/datasets/o/n"))
    assert found == {"a.json": b"one", "x/b.bin": LARGE}
    assert COMMIT in said


# ---------------------------------------------------------------------------------------- https


def test_a_file_whose_address_has_no_name(server, run):
    """As figshare serves a whole record."""
    page = server.put("/articles/48/versions/1", zipped({"list.csv": b"l"}))
    page.headers["Content-Disposition"] = 'attachment; filename="../48.zip"'
    access = Access("a-set", "https", f"{server.base}/articles/48/versions/", "1", files=("1",))
    assert run(access)[0] == {"list.csv": b"l"}


def test_more_than_anyone_downloads_at_once(server, run):
    access = Access("a-set", "https", f"{server.base}/pub/")
    with pytest.raises(ConfigError, match="name files below that address with --files"):
        run(access)
    server.put("/pub/E-1/E-1.tsv", b"t")
    assert run(access, ["E-1/E-1.tsv"])[0] == {"E-1/E-1.tsv": b"t"}


def test_some_of_the_files(server, run):
    server.put("/a.csv", b"a")
    access = Access("a-set", "https", f"{server.base}/", files=("a.csv", "b.zip"))
    assert run(access, ["*.csv"])[0] == {"a.csv": b"a"}
    with pytest.raises(ConfigError, match=r"no file fits \*\.tsv"):
        run(access, ["*.tsv"])
