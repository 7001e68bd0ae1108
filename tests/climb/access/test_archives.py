"""Archives that mean no harm are unpacked; the others write nothing outside, and say why."""

import hashlib
import io
import shutil
import stat
import tarfile
import threading
import zipfile

import pytest

from qoq_jax.climb.access import archives
from qoq_jax.climb.access.access import File
from qoq_jax.climb.access.archives import Limits, Unpacker
from qoq_jax.climb.access.client import Stopped
from qoq_jax.climb.access.errors import ArchiveError, ByHandError, DamagedError, DigestError


def zipped(members, **options):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", **options) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return packed.getvalue()


def tarred(members, extra=(), mode="w:gz"):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
        for info in extra:
            archive.addfile(info)
    return packed.getvalue()


def link(name, to, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


@pytest.fixture
def unpack(tmp_path):
    """Unpacks into tmp_path/root; returns the files by path."""
    root, work = tmp_path / "root", tmp_path / "work"
    work.mkdir()

    def one(body, name="a.zip", limits=None, stop=None, **options):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        (tmp_path / "archive").write_bytes(body)
        noted = {}
        file = File(name, "", **{"unpack": "", **options})
        unpacker = Unpacker(
            file, root, work, noted.__setitem__, taken=noted.get, stop=stop, limits=limits
        )
        unpacker.run(tmp_path / "archive")
        found = {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }
        assert {path: entry.size for path, entry in noted.items()} == {
            path: len(content) for path, content in found.items()
        }
        return found

    yield one
    assert {path.name for path in tmp_path.iterdir()} <= {"root", "work", "archive"}


FILES = {"a.csv": b"1,2\n", "train/b.png": b"pixels", "train/c/d.png": b""}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.zip", zipped(FILES)),
        ("a.zip", zipped(FILES, compression=zipfile.ZIP_DEFLATED)),
        ("a.zip", zipped(FILES, compression=zipfile.ZIP_LZMA)),
        ("a.tar", tarred(FILES, mode="w")),
        ("a.tar.gz", tarred(FILES)),
        ("a.tar.bz2", tarred(FILES, mode="w:bz2")),
        ("a.tar.xz", tarred(FILES, mode="w:xz")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_all_forms_are_unpacked(unpack, name, body):
    assert unpack(body, name) == FILES


def test_into_a_folder_without_the_top_of_the_archive(unpack):
    body = zipped({"top-1/a": b"a", "top-1/x/b": b"b", "top": b"not in the top folder"})
    assert unpack(body, unpack="here", strip=1) == {"here/a": b"a", "here/x/b": b"b"}


def test_what_macos_adds_is_left_out(unpack):
    body = zipped({"a": b"a", "__MACOSX/._a": b"x", ".DS_Store": b"x", "b/._c": b"x"})
    assert unpack(body) == {"a": b"a"}


def test_an_archive_inside_is_unpacked_where_it_is(unpack):
    inner = zipped({"part_1/a.png": b"a"})
    body = zipped({"images/part_1.zip": inner, "metadata.csv": b"m"})
    assert unpack(body) == {"images/part_1/a.png": b"a", "metadata.csv": b"m"}


def test_only_once(unpack):
    inner = zipped({"deep.zip": b"as it is"})
    assert unpack(zipped({"one.zip": inner})) == {"deep.zip": b"as it is"}


HARMFUL = {
    "above": "../out",
    "inside": "a/../../out",
    "absolute": "/tmp/out",
    "windows": "C:/out",
    "backslash": "..\\out",
    "line": "a\nb",
    "long": "x" * 300,
}


@pytest.mark.parametrize("name", HARMFUL.values(), ids=HARMFUL)
@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_name_that_leads_elsewhere_is_refused(unpack, tmp_path, make, name):
    with pytest.raises(ArchiveError, match="would be written elsewhere"):
        unpack(make({name: b"x"}), "a.zip" if make is zipped else "a.tar.gz")
    assert not list((tmp_path / "root").iterdir())


@pytest.mark.parametrize(
    "info",
    [
        link("a", "/etc/passwd"),
        link("a", "../../out"),
        link("a", "/etc/passwd", tarfile.LNKTYPE),
        link("a", "", tarfile.FIFOTYPE),
        link("a", "", tarfile.CHRTYPE),
    ],
    ids=["absolute", "above", "hard", "pipe", "device"],
)
def test_a_link_out_and_a_device_are_refused(unpack, tmp_path, info):
    with pytest.raises(ArchiveError, match="is a link"):
        unpack(tarred({}, [info]), "a.tar.gz")
    assert not list((tmp_path / "root").iterdir())


def test_a_link_inside_becomes_a_copy(unpack, tmp_path):
    body = tarred({"x/a": b"a"}, [link("x/b", "a"), link("c", "x/a", tarfile.LNKTYPE)])
    assert unpack(body, "a.tar.gz") == {"x/a": b"a", "x/b": b"a", "c": b"a"}
    assert not any(path.is_symlink() for path in (tmp_path / "root").rglob("*"))


@pytest.mark.parametrize("to", ["a", "nowhere"])
def test_a_link_to_nothing_is_damage(unpack, to):
    with pytest.raises(DamagedError):
        unpack(tarred({}, [link("a", to)]), "a.tar.gz")


def test_a_link_in_a_zip_is_refused(unpack):
    info = zipfile.ZipInfo("a")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ArchiveError, match="is a link"):
        unpack(zipped({info: "/etc/passwd"}))


SMALL = Limits(files=3, ratio=10, small=1000)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.zip", zipped({"a": bytes(10**6)}, compression=zipfile.ZIP_DEFLATED)),
        ("a.tar.gz", tarred({"a": bytes(10**6)})),
        ("a.zip", zipped({"b.zip": zipped({"a": bytes(10**6)}, compression=8)}, compression=8)),
    ],
    ids=["zip", "tar", "zip in a zip"],
)
def test_a_bomb_is_refused(unpack, name, body):
    with pytest.raises(ArchiveError, match="10 times its size"):
        unpack(body, name, SMALL)


def test_too_many_files_are_refused(unpack):
    with pytest.raises(ArchiveError, match="holds over 3 files"):
        unpack(zipped(dict.fromkeys("abcd", b"")), limits=SMALL)


def test_a_size_that_lies_is_damage(unpack):
    """The table says 4 bytes, and the member has a million."""
    body = bytearray(zipped({"a": bytes(10**6)}, compression=zipfile.ZIP_DEFLATED))
    at = body.index(b"PK\x01\x02") + 24
    body[at : at + 4] = (4).to_bytes(4, "little")
    with pytest.raises(DamagedError):
        unpack(bytes(body))


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_cut_archive_is_damage(unpack, name, part):
    body = (zipped if name == "a.zip" else tarred)({"a": b"x" * 5000, "b": bytes(range(256)) * 9})
    with pytest.raises(DamagedError, match=name.replace(".", r"\.")):
        unpack(body[: int(len(body) * part)], name)


def test_flipped_bytes_never_end_in_a_wrong_file(unpack):
    good = {"a": bytes(range(256)) * 4, "b": b"text " * 50}
    for name, body in (("a.zip", zipped(good, compression=8)), ("a.tar.gz", tarred(good))):
        for at in range(0, len(body), 7):
            bad = bytearray(body)
            bad[at] ^= 0xFF
            try:
                found = unpack(bytes(bad), name)
            except ArchiveError:
                continue
            assert set(found.values()) <= set(good.values()), at


def test_a_password_is_for_the_user(unpack):
    body = bytearray(zipped({"a": b"secret"}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(mark) + offset] |= 1
    with pytest.raises(ByHandError, match=r"needs a password \(hint: it is kept"):
        unpack(bytes(body))


def test_an_unknown_method_is_for_the_user(unpack):
    body = bytearray(zipped({"a": b"text"}))
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = body.index(mark) + offset
        body[at : at + 2] = (9).to_bytes(2, "little")  # Deflate64
    with pytest.raises(ByHandError, match="a method that Python does not know"):
        unpack(bytes(body))


def test_members_are_compared_with_their_digests(unpack):
    blob = hashlib.sha1(b"blob 1\0a").hexdigest()
    members = {"a": f"git:{blob}"}
    assert unpack(zipped({"a": b"a", "b": b"b"}), members=members) == {"a": b"a"}
    with pytest.raises(DigestError, match=r"a\.zip: a: GIT is"):
        unpack(zipped({"a": b"b"}), members=members)
    with pytest.raises(ArchiveError, match="lacks a"):
        unpack(zipped({"b": b"b"}), members=members)


def md5(body):
    return hashlib.md5(body).hexdigest()


def test_members_are_compared_with_the_list_inside(unpack):
    sums = f"Filename,MD5Hash\n1.dcm,{md5(b'one')}\n".encode()
    assert unpack(zipped({"1.dcm": b"one", "s.csv": sums}), sums="s.csv") == {
        "1.dcm": b"one",
        "s.csv": sums,
    }
    with pytest.raises(DigestError, match=r"1\.dcm: MD5 is"):
        unpack(zipped({"1.dcm": b"two", "s.csv": sums}), sums="s.csv")
    with pytest.raises(ArchiveError, match=r"holds 2\.dcm"):
        unpack(zipped({"2.dcm": b"two", "s.csv": sums}), sums="s.csv")
    with pytest.raises(DamagedError, match=r"lacks s\.csv"):
        unpack(zipped({"1.dcm": b"one"}), sums="s.csv")


def test_an_md5_without_its_first_zeros_is_one(unpack):
    body = next(b"%d" % i for i in range(1000) if md5(b"%d" % i).startswith("0"))
    sums = f"Filename,MD5Hash\n1.dcm,{md5(body).lstrip('0')}\n".encode()
    assert "1.dcm" in unpack(zipped({"1.dcm": body, "s.csv": sums}), sums="s.csv")


def test_two_archives_with_different_files_of_one_name_are_refused(tmp_path):
    noted = {}
    for name, body, fails in (("a", b"1", False), ("b", b"1", False), ("c", b"2", True)):
        (tmp_path / "archive").write_bytes(zipped({"x": body}))
        file = File(f"{name}.zip", "", unpack="")
        one = Unpacker(file, tmp_path, tmp_path, noted.__setitem__, taken=noted.get)
        if fails:
            with pytest.raises(ArchiveError, match=r"holds another x than b\.zip"):
                one.run(tmp_path / "archive")
        else:
            one.run(tmp_path / "archive")
    assert (tmp_path / "x").read_bytes() == b"1"


def test_it_can_be_stopped(unpack):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        unpack(zipped({"a": b"a"}), stop=stop)


@pytest.mark.parametrize(
    ("path", "folder"),
    [("a.zip", ""), ("x/A.TAR.GZ", "x"), ("a.nii.gz", None), ("a.rar", None), ("a.csv", None)],
)
def test_what_is_unpacked_and_where(path, folder):
    assert archives.destination(path) == folder
