"""Flags of the compiler for a job: sets by accelerator (xla_flags.toml), and the names that the
libraries know (flag_names.json, written by launch/flag_names.py).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import shlex
import tomllib
from collections.abc import Mapping

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.launch.spec import Job

_HERE = pathlib.Path(__file__).parent
# The variable that a library reads when it starts.
LIBRARIES = {"LIBTPU_INIT_ARGS": "libtpu", "XLA_FLAGS": "jaxlib"}
NONE = "none"


@dataclasses.dataclass(frozen=True)
class FlagSet:
    """Flags that go together.

    Attributes:
      variable: that holds them, a key of LIBRARIES.
      devices: names of accelerators whose set it is.
      source: the published run that it is taken from.
      values: of each flag.
    """

    variable: str
    devices: tuple[str, ...]
    source: str
    values: Mapping[str, str]

    @property
    def text(self) -> str:
        """The value of the variable."""
        return " ".join(f"--{name}={value}" for name, value in self.values.items())


@functools.cache
def sets() -> dict[str, FlagSet]:
    """All sets, by name."""
    return {
        name: FlagSet(one["variable"], tuple(one["devices"]), one["source"], one["values"])
        for name, one in _table()["sets"].items()
    }


@functools.cache
def about() -> dict[str, dict[str, str]]:
    """Reason and source of each flag of the sets."""
    return _table()["flags"]


def flags_for(job: Job) -> dict[str, str]:
    """The variables of a job that hold flags: {} for `xla_flags="none"`, and where an accelerator
    has no set.

    Raises:
      ConfigError: a set that does not exist, or of another library than the job's accelerators
        have.
    """
    device = job.topology.partition(":")[0]
    if job.xla_flags == NONE:
        return {}
    if not job.xla_flags:
        return {one.variable: one.text for one in sets().values() if device in one.devices}
    if job.xla_flags not in sets():
        hint = did_you_mean(job.xla_flags, [*sets(), NONE])
        raise ConfigError(f"no set of flags {job.xla_flags!r}", hint=hint)
    chosen = sets()[job.xla_flags]
    own = {one.variable for one in sets().values() if device in one.devices}
    if own and chosen.variable not in own:
        raise ConfigError(
            f"set of flags {job.xla_flags!r} is for {', '.join(chosen.devices)}",
            where=f"topology {job.topology}",
            hint=f'leave xla_flags empty, or "{NONE}"',
        )
    return {chosen.variable: chosen.text}


def lint(text: str, variable: str) -> list[str]:
    """What is wrong with flags: one line for each that the library does not know. Such a flag ends
    every process when JAX starts.

    Args:
      text: "--NAME=VALUE --NAME ..."
      variable: that holds it, a key of LIBRARIES.
    """
    library = LIBRARIES[variable]
    known = names(library)
    try:
        words = shlex.split(text)
    except ValueError as error:
        return [f"{variable}: {str(error).lower()}"]
    found = []
    for word in words:
        name = word.removeprefix("--").partition("=")[0]
        if not word.startswith("--"):
            found.append(f"{variable}: {word!r} is no flag (hint: write --NAME=VALUE)")
        elif name not in known:
            elsewhere = [other for other, lib in LIBRARIES.items() if name in names(lib)]
            hint = (
                f"it belongs into {elsewhere[0]}"
                if elsewhere
                else did_you_mean(name, known, "see qoq_jax/launch/xla_flags.toml", cutoff=0.8)
            )
            found.append(f"{variable}: {library} has no flag {name} (hint: {hint})")
    return found


def check(job: Job) -> list[str]:
    """`lint` of the flags in a job's own environment."""
    return [fault for name in LIBRARIES if name in job.env for fault in lint(job.env[name], name)]


@functools.cache
def names(library: str) -> frozenset[str]:
    """All names of flags that a library knows: "libtpu" or "jaxlib"."""
    table = json.loads((_HERE / "flag_names.json").read_text(encoding="utf-8"))
    return frozenset(table[library]["names"])


@functools.cache
def _table() -> dict:
    return tomllib.loads((_HERE / "xla_flags.toml").read_text(encoding="utf-8"))
