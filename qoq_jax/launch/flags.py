"""Flags of the compiler for a job."""

from __future__ import annotations

from qoq_jax.launch.spec import Job


def flags_for(job: Job) -> dict[str, str]:
    """Environment variables that hold the flags of a job."""
    del job
    return {}
