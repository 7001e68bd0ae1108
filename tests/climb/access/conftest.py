import pytest
from helpers.http_server import Server

from qoq_jax.climb.access.client import Policy

# Small: a test's server is near and its files are short.
FAST = Policy(
    timeout=0.4, slowest=16, attempts=4, progress=1000, first_wait=0.01, longest_wait=0.02
)


@pytest.fixture
def fast():
    return FAST


@pytest.fixture
def server():
    with Server() as one:
        yield one


@pytest.fixture
def other():
    """Another host: the same address with another port."""
    with Server() as one:
        yield one


@pytest.fixture(autouse=True)
def nobody(tmp_path_factory, monkeypatch):
    """No logins and proxies of the person who runs the tests."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in (
        *("NETRC", "PHYSIONET_USERNAME", "PHYSIONET_PASSWORD", "KAGGLE_USERNAME", "KAGGLE_KEY"),
        *("KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "HF_TOKEN", "GITHUB_TOKEN"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
    ):
        monkeypatch.delenv(name, raising=False)
    return home
