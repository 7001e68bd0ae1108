"""Test session set-up: eight CPU devices, no silent rank promotion, warnings are errors."""

import os
import signal

# A shell's background job ignores SIGINT, and so would all processes of the tests; those of Ctrl-C
# are about it.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is most of the suite's time and speed of the result is none of its business.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
).strip()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_threefry_partitionable", True)


@pytest.fixture(scope="session", autouse=True)
def eight_devices():
    """Multi-device tests must run on eight devices; they never skip."""
    assert jax.device_count() == 8, f"expected 8 forced CPU devices, found {jax.device_count()}"
