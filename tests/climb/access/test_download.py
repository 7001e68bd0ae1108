"""Every fault of a host ends in the right bytes, or in one error that names the file."""

import hashlib
import json
import random
import shutil
import time

import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.climb.access import download as engine
from qoq_jax.climb.access import get
from qoq_jax.climb.access.access import Access
from qoq_jax.climb.access.client import Client
from qoq_jax.climb.access.errors import DigestError, DownloadError, LoginError
from qoq_jax.climb.access.hosts import https

BODY = random.Random(0).randbytes(40_000)
HALF = len(BODY) // 2


def md5(body):
    return hashlib.md5(body).hexdigest()


def files_at(server, *names, **options):
    """A data set of plain files at a server."""
    return Access("a-set", "https", f"{server.base}/", files=names, **options)


@pytest.fixture
def run(server, tmp_path, fast):
    def one(access, wanted=(), root=tmp_path / "root", policy=fast):
        said = []
        get.download(access, root, wanted, policy=policy, log=said.append)
        return root, said

    return one


def fetches(server, path):
    """Requests for the file itself; the first one only looks at its size."""
    return server.asked(path)[1:]


def faulty(server, *faults, **options):
    """One file at /a.bin: nothing wrong with the request for its size, then these faults."""
    return server.put("/a.bin", BODY, faults=[("none",), *faults], **options)


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [("cut", HALF)],
        [("reset", HALF)],
        [("reset", 0)],
        [("cut", 0), ("reset", 100), ("cut", HALF - 100)],
        [("late", 5)],
        [("stall", HALF, 5)],
        [("status", 429, {"Retry-After": "0.05"})],
        [("status", 503, {}), ("status", 500, {}), ("cut", HALF)],
        [("status", 403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "0"})],
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, {"validator": "date"}, {"validator": ""}], ids=str)
def test_faults_end_in_the_right_bytes(server, run, faults, options):
    faulty(server, *faults, **options)
    root, _ = run(files_at(server, "a.bin"))
    assert (root / "a.bin").read_bytes() == BODY
    assert sorted(one.name for one in root.iterdir()) == ["a.bin", "manifest.json"]


@pytest.mark.parametrize("fault", [("cut", HALF), ("reset", HALF)], ids=str)
def test_a_body_without_length_is_fetched_anew(server, run, fault):
    faulty(server, fault, chunked=True, ranges=False)
    root, _ = run(files_at(server, "a.bin"))
    assert (root / "a.bin").read_bytes() == BODY


def test_the_rest_is_asked_for_under_the_condition_that_the_file_is_the_same(server, run):
    faulty(server, ("cut", HALF))
    run(files_at(server, "a.bin"))
    first, second = fetches(server, "/a.bin")
    assert "Range" not in first
    assert second["Range"] == f"bytes={HALF}-"
    assert second["If-Range"] == f'"{md5(BODY)}"'


def test_without_a_validator_nothing_is_continued(server, run):
    faulty(server, ("cut", HALF), validator="")
    run(files_at(server, "a.bin"))
    assert [asked.get("Range") for asked in fetches(server, "/a.bin")] == [None, None]


def test_a_digest_makes_up_for_a_missing_validator(server, run):
    faulty(server, ("cut", HALF), validator="")
    root, _ = run(files_at(server, f"a.bin#md5={md5(BODY)}"))
    assert fetches(server, "/a.bin")[1]["Range"] == f"bytes={HALF}-"
    assert (root / "a.bin").read_bytes() == BODY


def test_a_host_that_ignores_ranges_is_fetched_anew(server, run):
    faulty(server, ("cut", HALF), ranges=False)
    root, _ = run(files_at(server, "a.bin"))
    assert (root / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize("validator", ["etag", "date", ""])
def test_a_file_that_changes_in_between_is_whole(server, run, validator):
    new = BODY[::-1] + b"more"
    page = server.put("/a.bin", BODY, validator=validator, chunked=True)
    page.faults = [("none",), ("cut", HALF), ("swap", new)]
    root, _ = run(files_at(server, "a.bin"))
    assert (root / "a.bin").read_bytes() == new


@pytest.mark.parametrize("validator", ["etag", "date"])
def test_a_host_that_ignores_the_condition_is_found_out(server, run, validator):
    """It sends the rest of another file, and says so in its headers."""
    new = BODY[::-1] + b"more"
    page = server.put("/a.bin", BODY, validator=validator, conditions=False, chunked=True)
    page.faults = [("none",), ("cut", HALF), ("swap", new)]
    root, _ = run(files_at(server, "a.bin"))
    assert (root / "a.bin").read_bytes() == new


def test_a_redirect_that_gives_up_encryption_is_refused(server, fast):
    access = files_at(server, "a.bin")
    with Client(https.site(access), None, fast) as client:
        with pytest.raises(DownloadError, match=r"a\.bin: .*b\.example/c, without encryption"):
            client._follow("https://a.example/a", "http://b.example/c?sign=1", "a.bin")
        assert client._follow("https://a.example/a", "/c", "a.bin") == "https://a.example/c"


def test_a_weak_etag_is_no_promise(server, run):
    faulty(server, ("cut", HALF), validator="", headers={"ETag": 'W/"same"'})
    run(files_at(server, "a.bin"))
    assert "Range" not in fetches(server, "/a.bin")[1]


def test_wrong_bytes_are_fetched_once_more_and_then_an_error(server, run, tmp_path):
    faulty(server)
    with pytest.raises(DigestError, match=r"a\.bin: MD5 is .*, the host says 0{32}"):
        run(files_at(server, f"a.bin#md5={'0' * 32}"))
    assert len(fetches(server, "/a.bin")) == 2
    assert not (tmp_path / "root" / "a.bin").exists()


def test_bytes_that_are_wrong_once_are_made_good(server, run):
    """The first half of one version and the second of another: only the digest tells."""
    page = server.put("/a.bin", b"x" * len(BODY), validator="")
    page.faults = [("none",), ("cut", HALF), ("swap", BODY)]
    root, _ = run(files_at(server, f"a.bin#md5={md5(BODY)}"))
    assert (root / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (("cut", 10), r"a\.bin: the connection failed \(it ended early\), 4 times"),
        (("late", 9), r"a\.bin: the host does not answer in time, 4 times"),
        (("status", 500, {}), r"a\.bin: 127.* answers 500 Internal Server Error, 4 times"),
        (("status", 429, {"Retry-After": "0"}), r"a\.bin: .* 429 Too Many Requests, 4 times"),
        (("status", 410, {}), r"a\.bin: .* answers 410 Gone for /a\.bin"),
        (("status", 429, {"Retry-After": "7200"}), r"a\.bin: .* asks to wait 120 minutes"),
    ],
    ids=str,
)
def test_a_fault_that_stays_is_one_error_that_names_the_file(server, run, fault, message):
    faulty(server, ("cut", 10), *[fault] * 30)
    with pytest.raises(DownloadError, match=message):
        run(files_at(server, "a.bin"))


def test_a_host_that_always_breaks_off_is_not_asked_for_ever(server, run):
    """Without ranges each attempt brings the same half, which is no progress."""
    faulty(server, *[("cut", HALF)] * 30, ranges=False)
    with pytest.raises(DownloadError, match="4 times"):
        run(files_at(server, "a.bin"))


def test_progress_is_what_keeps_a_bad_line_alive(server, run):
    """More interruptions than attempts, each with some bytes more."""
    faulty(server, *[("cut", 3000)] * 12)
    root, _ = run(files_at(server, "a.bin"))
    assert (root / "a.bin").read_bytes() == BODY


def test_a_trickle_is_cut_and_continued(server, run):
    """Each byte comes in time, and all of them would take an hour; the server would send 80."""
    faulty(server, ("trickle", 80, 0.1))
    root, _ = run(files_at(server, "a.bin"))
    assert (root / "a.bin").read_bytes() == BODY
    start = fetches(server, "/a.bin")[1]["Range"].removeprefix("bytes=").removesuffix("-")
    assert 0 < int(start) < 60


def test_all_threads_leave_a_host_alone_that_asks_for_it(server, run):
    names = [f"{i}.bin" for i in range(6)]
    for name in names:
        server.put(f"/{name}", BODY)
    access = files_at(server, *names)
    server.pages["/0.bin"].faults = [("none",), ("status", 429, {"Retry-After": "0.5"})]
    before = time.monotonic()
    root, _ = run(access)
    assert time.monotonic() - before >= 0.5
    assert all((root / name).read_bytes() == BODY for name in names)


def test_the_number_of_connections_is_polite(server, run):
    names = [f"{i}.bin" for i in range(12)]
    for name in names:
        server.put(f"/{name}", BODY)
    run(files_at(server, *names))
    assert server.most_busy <= 2


def test_a_date_in_retry_after_is_read(server, run):
    faulty(server, ("status", 503, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}))
    root, _ = run(files_at(server, "a.bin"))
    assert (root / "a.bin").read_bytes() == BODY


# ------------------------------------------------------------------------------------ redirects


def test_a_redirect_to_another_host_is_followed_and_continued(server, other, run):
    server.put("/a.bin", redirect=f"{other.base}/signed?token=x")
    other.put("/signed", BODY, faults=[("none",), ("cut", HALF)])
    root, _ = run(files_at(server, "a.bin"))
    assert (root / "a.bin").read_bytes() == BODY
    assert len(server.asked("/a.bin")) == 3, "each attempt asks for a new address"


def test_redirects_in_a_circle_are_an_error(server, run):
    server.put("/a.bin", redirect="/a.bin")
    with pytest.raises(DownloadError, match=r"a\.bin: more than 10 redirects"):
        run(files_at(server, "a.bin"))


def test_a_redirect_to_a_login_page_is_a_login_error(server, run):
    server.put("/a.bin", redirect="/login/?next=/a.bin")
    with pytest.raises(LoginError, match=r"a\.bin: .* asks for a login"):
        run(files_at(server, "a.bin"))


def test_a_redirect_to_no_web_address_is_an_error(server, run):
    server.put("/a.bin", redirect="file:///etc/passwd")
    with pytest.raises(DownloadError, match="file address"):
        run(files_at(server, "a.bin"))


def test_a_packed_body_is_refused_unless_the_file_itself_is_packed(server, run):
    faulty(server, headers={"Content-Encoding": "gzip"})
    with pytest.raises(DownloadError, match=r"a\.bin: is sent packed \(gzip\)"):
        run(files_at(server, "a.bin"))
    server.put("/b.csv.gz", BODY, headers={"Content-Encoding": "x-gzip"})
    root, _ = run(files_at(server, "b.csv.gz"))
    assert (root / "b.csv.gz").read_bytes() == BODY


# ----------------------------------------------------------------------- what is there already


def test_a_finished_file_is_not_fetched_again(server, run):
    faulty(server)
    run(files_at(server, "a.bin"))
    count = len(server.requests)
    run(files_at(server, "a.bin"))
    assert len(server.requests) == count + 1, "only its size is asked for"


def test_a_finished_file_that_was_cut_is_fetched_again(server, run):
    faulty(server)
    root, _ = run(files_at(server, "a.bin"))
    (root / "a.bin").write_bytes(BODY[:10])
    run(files_at(server, "a.bin"))
    assert (root / "a.bin").read_bytes() == BODY


def test_a_file_that_the_host_has_replaced_is_fetched_again(server, run):
    faulty(server)
    run(files_at(server, "a.bin"))
    server.put("/a.bin", BODY * 2)
    root, _ = run(files_at(server, "a.bin"))
    assert (root / "a.bin").read_bytes() == BODY * 2


def test_what_the_user_put_there_is_taken_over_when_it_is_right(server, run, tmp_path):
    faulty(server)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.bin").write_bytes(BODY)
    run(files_at(server, f"a.bin#md5={md5(BODY)}"))
    assert fetches(server, "/a.bin") == []


def test_what_the_user_put_there_is_replaced_when_it_is_wrong(server, run, tmp_path):
    faulty(server)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.bin").write_bytes(BODY[::-1])
    root, _ = run(files_at(server, f"a.bin#md5={md5(BODY)}"))
    assert (root / "a.bin").read_bytes() == BODY


def test_the_manifest_has_sizes_and_hashes(server, run):
    faulty(server)
    root, _ = run(files_at(server, f"a.bin#md5={md5(BODY)}", version="3"))
    manifest = json.loads((root / "manifest.json").read_text())
    assert (manifest["name"], manifest["kind"], manifest["version"]) == ("a-set", "https", "3")
    sha = hashlib.sha256(BODY).hexdigest()
    assert manifest["files"]["a.bin"] == {"size": len(BODY), "sha256": sha, "md5": md5(BODY)}


def test_a_folder_of_another_data_set_is_refused(server, run):
    faulty(server)
    run(files_at(server, "a.bin", version="1"))
    with pytest.raises(ConfigError, match="holds a-set 1, not a-set 2"):
        run(files_at(server, "a.bin", version="2"))


def test_one_bad_file_leaves_the_others(server, run, tmp_path):
    faulty(server)
    with pytest.raises(DownloadError, match=r"b\.bin"):
        run(files_at(server, "a.bin", "b.bin"))
    server.put("/b.bin", BODY[:99])
    root, _ = run(files_at(server, "a.bin", "b.bin"))
    assert (root / "b.bin").read_bytes() == BODY[:99]


# ------------------------------------------------------------------------------------------- disk


def test_a_full_disk_is_noticed_before_the_first_byte(server, run, monkeypatch, tmp_path):
    faulty(server)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(engine.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=r"needs .* of disk, 1\.0 kB are free"):
        run(files_at(server, "a.bin"))
    assert fetches(server, "/a.bin") == []


def test_a_disk_that_fills_up_is_an_error_and_the_bytes_stay(server, run, monkeypatch):
    monkeypatch.setattr(engine, "_LARGE", len(BODY))
    faulty(server)
    keep = engine.Downloader._keep

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.Downloader, "_keep", full)
    with pytest.raises(DownloadError, match=r"a\.bin: cannot be written \(No space left"):
        run(files_at(server, "a.bin"))
    monkeypatch.setattr(engine.Downloader, "_keep", keep)
    count = len(server.requests)
    root, _ = run(files_at(server, "a.bin"))
    assert (root / "a.bin").read_bytes() == BODY
    assert len(server.requests) == count + 1, "all bytes were there"


@pytest.mark.parametrize("name", ["../a.bin", "/a.bin", "manifest.json", ".download/a.bin"])
def test_a_name_that_leads_elsewhere_is_refused(server, run, name):
    server.put("/a.bin", BODY)
    server.put(f"/x/{name.strip('/')}", BODY)
    access = Access("a-set", "https", f"{server.base}/x/y/", files=(name,))
    server.pages |= {f"/x/y/{name}": server.pages["/a.bin"], "/x/a.bin": server.pages["/a.bin"]}
    with pytest.raises(DownloadError, match="may not give to a file"):
        run(access)
