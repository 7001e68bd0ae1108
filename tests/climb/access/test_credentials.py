"""Logins are found where it is said, go to one host alone, and are never shown."""

import io
import json
import logging
import pickle
import traceback

import pytest
import requests

from qoq_jax.base.errors import ConfigError, QoqError
from qoq_jax.climb.access import credentials, get
from qoq_jax.climb.access.access import Access
from qoq_jax.climb.access.client import Client, shown
from qoq_jax.climb.access.errors import LoginError
from qoq_jax.climb.access.hosts import kaggle, physionet

HOST = "physionet.org"
CANARY = "canary-4f1e77"


def write(path, text, mode=0o600):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def sent(login):
    return login.header.reveal()


def test_a_login_of_the_environment(monkeypatch):
    place = credentials.environment(HOST, "A_USER", "A_PASSWORD")
    assert place.find() is None
    monkeypatch.setenv("A_USER", "me")
    with pytest.raises(ConfigError, match="A_PASSWORD is not set"):
        place.find()
    monkeypatch.setenv("A_PASSWORD", "päss:word")
    assert sent(place.find()) == "Basic bWU6cMOkc3M6d29yZA=="


def test_a_login_of_netrc(nobody):
    write(nobody / ".netrc", f"machine {HOST} login me password x\ndefault login d password y\n")
    assert sent(credentials.netrc_entry(HOST).find()) == "Basic bWU6eA=="
    assert credentials.netrc_entry("elsewhere.org").find() is None, "default is of no host"


def test_another_netrc(nobody, monkeypatch, tmp_path):
    path = write(tmp_path / "mine", f"machine {HOST} login me password x\n")
    monkeypatch.setenv("NETRC", str(path))
    assert credentials.netrc_entry(HOST).find().found == str(path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_netrc_that_others_may_read_is_refused(nobody, mode):
    write(nobody / ".netrc", f"machine {HOST} login me password {CANARY}\n", mode)
    with pytest.raises(ConfigError, match=r"mode 0\d+.*chmod 600") as caught:
        credentials.netrc_entry(HOST).find()
    assert CANARY not in str(caught.value)
    assert credentials.netrc_entry("elsewhere.org").find() is None, "it holds nothing for that host"


def test_a_damaged_netrc_does_not_show_what_it_holds(nobody):
    write(nobody / ".netrc", f"machine {HOST} login me passwort {CANARY}\n")
    with pytest.raises(ConfigError, match="cannot be parsed") as caught:
        credentials.netrc_entry(HOST).find()
    shown_text = "".join(traceback.format_exception(caught.value))
    assert CANARY not in shown_text.replace(str(nobody), "")


def test_kaggles_file(nobody):
    place = credentials.kaggle_file("www.kaggle.com")
    assert place.find() is None
    path = write(nobody / ".kaggle" / "kaggle.json", json.dumps({"username": "me", "key": "x"}))
    assert sent(place.find()) == "Basic bWU6eA=="
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        place.find()
    write(path, f'{{"key": "{CANARY}"')
    with pytest.raises(ConfigError, match="is not the file of Kaggle's") as caught:
        place.find()
    assert CANARY not in str(caught.value)


def test_the_first_place_wins(nobody, monkeypatch):
    write(nobody / ".kaggle" / "kaggle.json", json.dumps({"username": "me", "key": "x"}))
    access = Access("a", "kaggle-dataset", "o/n")
    assert sent(credentials.first(kaggle.site(access).places)) == "Basic bWU6eA=="
    monkeypatch.setenv("KAGGLE_API_TOKEN", "token")
    assert sent(credentials.first(kaggle.site(access).places)) == "Bearer token"


def test_a_secret_is_not_printed_and_not_pickled():
    login = credentials.bearer(HOST, CANARY, "here")
    assert CANARY not in f"{login} {login!r} {login.header} {vars(login)}"
    with pytest.raises(TypeError):
        pickle.dumps(login)


def test_an_address_is_shown_without_signature_and_login():
    assert shown("https://me:x@a.org/b/c?X-Signature=y#z") == "https://a.org/b/c"


# ------------------------------------------------------------------------------ on their way


@pytest.fixture
def credentialed(server, monkeypatch):
    """A project at the server that wants a login, which the environment has."""
    monkeypatch.setattr(physionet, "BASE", server.base)
    monkeypatch.setenv("PHYSIONET_USERNAME", "me")
    monkeypatch.setenv("PHYSIONET_PASSWORD", CANARY)
    return Access("a-set", "physionet-credentialed", "proj", "1.0")


def test_a_login_goes_to_its_own_host_only(server, other, credentialed, tmp_path, fast):
    """The files are served by another host, as Kaggle's are."""
    body, sums = b"data", b"3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7  a\n"
    server.put("/files/proj/1.0/SHA256SUMS.txt", sums, login=f"me:{CANARY}")
    server.put("/files/proj/1.0/a", redirect=f"{other.base}/a?Signature=x", login=f"me:{CANARY}")
    other.put("/a", body)
    get.download(credentialed, tmp_path / "root", policy=fast)
    assert all("Authorization" in headers for _, _, headers in server.requests)
    assert [headers.get("Authorization") for _, _, headers in other.requests] == [None]


def test_a_login_is_not_sent_without_encryption(fast):
    """But to this machine itself, as in the tests."""
    site = physionet.site(Access("a", "physionet-credentialed", "p", "1"))
    login = credentials.basic("elsewhere.example", "me", CANARY, "here")
    with Client(site, login, fast) as client:
        seen = []
        session = client._session()
        session.request = lambda *_, headers, **__: seen.append(headers) or _response()
        for scheme in ("http", "https"):
            with client.open(f"{scheme}://elsewhere.example/a", "a"):
                pass
    assert ["Authorization" in headers for headers in seen] == [False, True]


def _response():
    response = requests.Response()
    response.status_code, response.raw = 200, io.BytesIO()
    return response


def test_a_login_in_an_address_is_refused():
    for source, file in (
        (f"https://me:{CANARY}@a.example/", "b"),
        ("https://a.example", f"https://{CANARY}@c.example/d"),
    ):
        with pytest.raises(ConfigError, match="an address has a login in it") as caught:
            Access("a", "https", source, files=(file,))
        assert CANARY not in str(caught.value)


def test_netrc_is_read_for_no_other_host(server, tmp_path, nobody, fast):
    """As the client library would by itself, from a file of any mode."""
    write(nobody / ".netrc", f"machine 127.0.0.1 login me password {CANARY}\n", 0o644)
    server.put("/a", b"data")
    get.download(Access("s", "https", server.base, files=("a",)), tmp_path / "x", policy=fast)
    assert not [headers for _, _, headers in server.requests if "Authorization" in headers]


def test_a_redirect_to_an_address_with_a_login_is_refused(server, tmp_path, fast):
    server.put("/a", redirect=f"https://me:{CANARY}@a.example/")
    with pytest.raises(ConfigError, match="has a login in its address") as caught:
        get.download(
            Access("s", "https", server.base, files=("a",)), tmp_path / "root", policy=fast
        )
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("case", ["wrong", "forbidden", "server error", "redirect", "not json"])
def test_a_planted_secret_is_in_no_error_log_or_file(
    server, other, credentialed, tmp_path, fast, caplog, capsys, case
):
    """The canary is the password, the name in a signature, and a cookie."""
    caplog.set_level(logging.DEBUG)
    page = server.put("/files/proj/1.0/SHA256SUMS.txt", b"0" * 64 + b"  a\n")
    page.headers["Set-Cookie"] = f"sessionid={CANARY}"
    if case == "wrong":
        page.login = "me:other"
    elif case == "forbidden":
        page.faults = [("status", 403, {})]
    elif case == "server error":
        page.faults = [("status", 503, {})] * 9
    else:
        server.put("/files/proj/1.0/a", redirect=f"{other.base}/a?Signature={CANARY}")
        if case == "redirect":
            other.put("/a", b"wrong bytes")
    said = []
    with pytest.raises(QoqError) as caught:
        get.download(credentialed, tmp_path / "root", policy=fast, log=said.append)
    written = [p.read_bytes() for p in (tmp_path / "root").rglob("*") if p.is_file()]
    kept = "".join(traceback.format_exception(caught.value)) + str(said) + str(written)
    kept += "".join(record.getMessage() for record in caplog.records)
    assert CANARY not in kept + "".join(capsys.readouterr())


def test_a_missing_login_names_the_places(credentialed, monkeypatch, tmp_path, fast):
    monkeypatch.delenv("PHYSIONET_USERNAME")
    monkeypatch.delenv("PHYSIONET_PASSWORD")
    with pytest.raises(LoginError, match=r"PHYSIONET_USERNAME and PHYSIONET_PASSWORD, or .*netrc"):
        get.download(credentialed, tmp_path / "root", policy=fast)
    assert not (tmp_path / "root").exists()
