"""Test session set-up: eight CPU devices, no silent rank promotion, warnings are errors."""

import gc
import os
import signal
import sys
import tempfile

import pytest
from helpers.flags import FASTER

# A shell's background job ignores SIGINT, and so would all processes of the tests; those of Ctrl-C
# are about it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# JAX reads these when it is imported, and nothing imports it before this file is read.
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is most of the suite's time and speed of the result is none of its business.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_llvm_disable_expensive_passes=true",
        *FASTER,
    ]
).strip()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_configure(config):
    """What this process and the commands that it starts have compiled is not compiled again."""
    # Not shared by workers: JAX writes the files in place, and another process could read a half.
    folder = tempfile.TemporaryDirectory(prefix="qoq-compiled-")
    config.add_cleanup(folder.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture(scope="session", autouse=True)
def eight_devices():
    """Multi-device tests must run on eight devices; they never skip."""
    import jax

    jax.config.update("jax_numpy_rank_promotion", "raise")
    assert jax.device_count() == 8, f"expected 8 forced CPU devices, found {jax.device_count()}"


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
    """After the tests of a file: forgets what is compiled before the kernel's limit ends us.

    XLA maps some ten pieces of memory for each program, and Linux allows a process 65,530
    (vm.max_map_count). The mapping after that fails, and the process ends with SIGSEGV.
    """
    yield
    if "jax" in sys.modules and _memory_maps() > 12_000:
        sys.modules["jax"].clear_caches()
        gc.collect()


def _memory_maps() -> int:
    with open("/proc/self/maps", "rb") as file:
        return sum(1 for _ in file)
