"""What is wrong with a job, found before anything is paid for. No JAX is imported: whether the
mesh and the batch of the command's config fit the accelerators is `qoq launch`'s and `qoq plan`'s
to see (cli/launch.py).
"""

from __future__ import annotations

import math
import re
import shlex
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.launch import flags, place, process
from qoq_jax.launch.engines import gke, skypilot, slurm, tpu_vm
from qoq_jax.launch.place import Place
from qoq_jax.launch.spec import ENGINES, Job

# Assumed GiB/s that one host writes to object storage; measure yours (docs/launch.md).
WRITE_RATE = 0.25
# Seconds beside the writing: the step or phase in flight, hashes, and the commit.
SAVE_MARGIN = 20
GOOGLE_SPOT_NOTICE = 30  # seconds (docs.cloud.google.com/compute/docs/instances/spot)

_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")  # of a label and of a service (RFC 1035)
_MOST_NAME = 40  # Kubernetes adds to it, up to 63
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")  # names of projects, zones, images, ...
_OPERATORS = frozenset(";&|<>()")
_DEVICES = {
    "tpu-vm": tpu_vm.DEVICES,
    "gke": gke.DEVICES,
    "skypilot": skypilot.DEVICES,
    "slurm": slurm.DEVICES,
}
_NEEDED = {
    "tpu-vm": ("project", "zone"),
    "gke": ("project", "zone", "cluster", "image"),
    "slurm": ("partition",),
}
_SET_BY_ENGINES = (process.COORDINATOR, process.COUNT, process.INDEX)
# The kinds of Job's fields, as an error says them.
_KINDS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    tuple[str, ...]: 'names of variables: ("HF_TOKEN",)',
    Mapping[str, str]: 'texts by name: {"NAME": "value"}',
}
# Words of a name that a secret is given by, as in WANDB_KEY, HF_TOKEN_1, db.pass, authToken.
_SECRET_WORD = (
    r"(?<![a-z])(?:[a-z]*(?:token|secret|passw(?:or)?d|credentials?|apikey|accesskey|privatekey)"
    r"|key|passphrase|pass|pwd|creds?|auth|authorization)(?![a-z])"
)
_SECRET_NAME = re.compile(_SECRET_WORD, re.IGNORECASE)
# Forms that secrets are known by.
_SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\b(AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bAIza[\w-]{30,}|\bya29\.[\w-]{10,}"  # Google
    r"|\bsk-[A-Za-z0-9_-]{16,}"
    r"|\beyJ[\w-]{10,}"  # a JSON web token (RFC 7519)
    r"|\b[Bb]earer\s+[\w.~+/-]{8,}"  # RFC 6750
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^/\s:@]+:[^/\s@]+@"  # user:password in a URL
)
# NAME=value, NAME: value and --NAME value; a value that begins with $ is a variable.
_ASSIGNED = re.compile(
    rf"{_SECRET_WORD}([\w.-]*[\"']?\s*=|[\w-]*[\"']?\s*:)\s*[\"']?[^\s\"'$]"
    rf"|(?<!\S)-[\w.-]*{_SECRET_WORD}[\w.-]*\s+[\"']?[^\s\"'$-]",
    re.IGNORECASE,
)
_COMPILER_FLAG = re.compile(
    r"--(xla|megascale)_\w+=\S*"
)  # as --xla_jf_simplifier_pass_enabled=true
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check(job: Job, engine: str) -> list[ConfigError]:
    """Everything that is wrong with a job on an engine, one line each; none of them shows a value
    that may be a secret.
    """
    if engine not in ENGINES:
        return [ConfigError(f"unknown engine {engine!r}", hint=did_you_mean(engine, ENGINES))]
    if wrong := list(_types(job)):
        return wrong
    mistaken = list(_command(job))
    found = [*_names(job), *_secrets(job), *_numbers(job), *_control(job), *mistaken]
    found += [ConfigError(fault) for fault in flags.check(job)]
    try:
        at = place.of(job)
        process.environment(job)
    except ConfigError as error:
        return [*found, error]
    found += _engine(job, engine, at)
    if not mistaken:
        found += [*_workdir(job, at), *_object_store(job, engine, at)]
    if job.grace > 0 and job.checkpoint_gib >= 0:
        found += _grace(job, at)
    return found


def save_seconds(gib: float, at: Place) -> int:
    """Seconds that the last save of a checkpoint needs: every host writes its part at once,

        GiB / hosts / WRITE_RATE + SAVE_MARGIN

    0 where the checkpoint's size is not known (0).
    """
    return math.ceil(gib / at.all_hosts / WRITE_RATE + SAVE_MARGIN) if gib else 0


def graces(job: Job, gib: float, program: float) -> list[ConfigError]:
    """Whether the last save fits into the program's grace, and that into the job's.

    Args:
      gib: of a checkpoint, as the plan of the command's config has it.
      program: faults.grace of that config, in seconds.
    """
    at = place.of(job)
    gib = max(gib, job.checkpoint_gib)
    needed = save_seconds(gib, at)
    if program < needed:
        return [
            ConfigError(
                f"faults.grace = {program:g} s, and a checkpoint of {gib:.3g} GiB on "
                f"{at.all_hosts} hosts takes about {needed} s to save",
                hint=f"--config.faults.grace={needed}, and grace={needed + SAVE_MARGIN} or more",
            )
        ]
    if program >= job.grace:
        return [
            ConfigError(
                f"faults.grace = {program:g} s is not below grace = {job.grace} s: the program is "
                "killed before it gives up",
                hint=f"grace={math.ceil(program) + SAVE_MARGIN}",
            )
        ]
    return []


def notes(job: Job, engine: str) -> list[str]:
    """What is no mistake and should be known, one line each; of a job that `check` passes."""
    found = []
    at = place.of(job)
    needed = save_seconds(job.checkpoint_gib, at)
    if job.spot and engine != "slurm" and needed > GOOGLE_SPOT_NOTICE:
        found.append(
            f"spot machines of Google Cloud are gone after {GOOGLE_SPOT_NOTICE} s and a save takes "
            f"about {needed} s: the steps since the last checkpoint are lost"
        )
    if engine == "skypilot" and len(at.shape) == 3 and at.slice_chips > 64:
        found.append(f"SkyPilot asks for {at.slice_chips} chips: the shape may not be {at.grid}")
    if engine == "skypilot":
        found.append("SkyPilot does not count restarts: max_restarts is not a limit there")
    return found


def _types(job: Job) -> Iterator[ConfigError]:
    """Fields that are of another kind than spec.py says; no value is shown, since it may be a
    secret.
    """
    for name, kind in typing.get_type_hints(Job).items():
        value = getattr(job, name)
        if not _fits(value, kind):
            given = type(value).__name__
            yield ConfigError(f"{name} is of type {given}", hint=f"{name} is {_KINDS[kind]}")


def _fits(value: object, kind: object) -> bool:
    """Whether a value is of a field's kind; True and False are no numbers."""
    if kind == Mapping[str, str]:
        texts = [*value.keys(), *value.values()] if isinstance(value, Mapping) else [None]
        return all(isinstance(one, str) for one in texts)
    if kind == tuple[str, ...]:
        return isinstance(value, tuple | list) and all(isinstance(one, str) for one in value)
    if kind in (int, float):
        numbers = int if kind is int else int | float
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, kind)


def _names(job: Job) -> Iterator[ConfigError]:
    if not _NAME.fullmatch(job.name) or len(job.name) > _MOST_NAME:
        yield ConfigError(
            f"name {job.name!r}",
            hint=f"lower case letters, digits and '-', a letter first, at most {_MOST_NAME}",
        )
    for field in ("image", "project", "zone", "cluster", "partition", "account", "runtime"):
        value = getattr(job, field)
        if value and not _PLAIN.fullmatch(value):
            yield ConfigError(f"{field} has characters that none of its kind has")
    if job.reservation and not _PLAIN.fullmatch(job.reservation):
        yield ConfigError("reservation has characters that none of its kind has")
    for name in [*job.env, *job.secrets]:
        if not _VARIABLE.fullmatch(name):
            yield ConfigError(
                "an environment variable's name is not one",
                hint="letters, digits and _, no digit first; a secret is given by its name",
            )
    for name in _SET_BY_ENGINES:
        if name in job.env:
            yield ConfigError(
                f"env sets {name}",
                hint="leave it out: the engine gives all processes an address of their private "
                "network",
            )
    for name in sorted({*job.env} & {*job.secrets}):
        yield ConfigError(f"{name} is in env and in secrets", hint="leave it in secrets")
    if job.xla_flags != "none":
        for name in sorted({"XLA_FLAGS", "LIBTPU_INIT_ARGS"} & {*job.env}):
            yield ConfigError(f"env sets {name}", hint='with xla_flags="none"')


def _secrets(job: Job) -> Iterator[ConfigError]:
    hint = "give its variable's name in secrets; your shell or the engine's store has the value"
    for field in ("name", "command", "image", "workdir", "reservation"):
        value = getattr(job, field)
        # No name of an image is a secret's: "auth:1" is one.
        if _SECRET.search(value) or (field != "image" and _ASSIGNED.search(value)):
            yield ConfigError(f"{field} seems to hold a secret", hint=hint)
    for name, value in job.env.items():
        named = _SECRET_NAME.search(name) and value
        if named or _SECRET.search(value) or _ASSIGNED.search(_COMPILER_FLAG.sub("", value)):
            known = name if _VARIABLE.fullmatch(name) else "a variable"
            yield ConfigError(f"env: {known} seems to hold a secret", hint=hint)


def _control(job: Job) -> Iterator[ConfigError]:
    """No engine carries NUL, and terminals, YAML and shells read the others each in its own way."""
    for name, value in [("command", job.command), ("workdir", job.workdir), *job.env.items()]:
        if _CONTROL.search(value):
            field = name if name in ("command", "workdir") else f"env: {name!r}"
            yield ConfigError(f"{field} has a control character", hint="as NUL, a tab or a line")


def _numbers(job: Job) -> Iterator[ConfigError]:
    for field, least in (("grace", 1), ("max_restarts", 0), ("checkpoint_gib", 0), ("hours", 0)):
        value = getattr(job, field)
        if not least <= value < math.inf:
            yield ConfigError(f"{field} = {value}", hint=f"at least {least}")
    if job.spot and job.reservation:
        yield ConfigError("spot and reservation", hint="a reservation is not preemptible")


def _command(job: Job) -> Iterator[ConfigError]:
    hint = "one command; what needs more goes into a script, variables into env"
    if set("\n#`") & set(job.command):
        yield ConfigError("command has a line break, a '#' or a '`'", hint=hint)
        return
    try:
        lexer = shlex.shlex(job.command, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError as error:
        yield ConfigError(f"command: {str(error).lower()}", hint="close the quotation")
        return
    if not words:
        yield ConfigError("command is empty", hint="as 'qoq train --config=...'")
    elif any(_OPERATORS.issuperset(word) for word in words if word):
        # The engines put `exec` before it, so that SIGTERM reaches it.
        yield ConfigError("command is more than one", hint=hint)
    elif _VARIABLE.fullmatch(words[0].partition("=")[0]) and "=" in words[0]:
        yield ConfigError("command begins with a variable", hint=hint)


def _engine(job: Job, engine: str, at: Place) -> Iterator[ConfigError]:
    if engine == "local":
        return
    if at.device not in _DEVICES[engine]:
        others = [name for name, devices in _DEVICES.items() if at.device in devices]
        yield ConfigError(
            f"{engine} has no {at.device}",
            hint=f"engine {' or '.join(others)}" if others else "engine local",
        )
        return
    needed = _NEEDED.get(engine, ())
    if engine == "skypilot" and at.kind == "gpu":
        needed = ("image",)
    for field in needed:
        if not getattr(job, field):
            yield ConfigError(f"engine {engine} needs {field}")
    if engine == "skypilot" and at.slices > 1:
        yield ConfigError("SkyPilot joins no TPU slices", hint="engine gke or tpu-vm")
    if engine == "skypilot" and job.reservation:
        yield ConfigError(
            "SkyPilot takes reservations from ~/.sky/config.yaml",
            hint="gcp.specific_reservations there, and no reservation here",
        )
    if engine == "slurm" and job.spot:
        yield ConfigError("SLURM has no spot machines", hint="name a preemptible partition")
    detected = at.kind == "tpu" or engine == "slurm"
    fits = process.finds_the_others(job.command) or process.shares_out(job.command)
    if detected and at.all_hosts > 1 and not fits:
        yield ConfigError(
            f"on several hosts of {engine} only qoq train, qoq evaluate and qoq sweep --jobs run",
            hint="the first two take --distributed, the third needs nothing (docs/pods.md)",
        )


def _workdir(job: Job, at: Place) -> Iterator[ConfigError]:
    """The workdir that the run has, of the command or of the job. That of a command for one host
    may be relative.
    """
    hint = "a gs:// or s3:// URL, or the absolute path of a folder that all hosts share"
    where = process.workdir(job)
    absolute = re.match(r"(gs|s3)://[^/\s]+|/", where)
    if not where:
        if at.all_hosts > 1:
            yield ConfigError(f"workdir is not set, and {at} has {at.all_hosts} hosts", hint=hint)
    elif not absolute and (at.all_hosts > 1 or where == job.workdir or "://" in where):
        yield ConfigError(f"workdir {where!r}", hint=hint)
    elif "://" in where and process.is_sweep(job.command):
        hint = "the absolute path of a folder that all hosts share"
        yield ConfigError(f"workdir {where!r}: the folder of a sweep is no bucket", hint=hint)
    elif re.search(r"[\s,:]", where.partition("://")[2] or where):
        yield ConfigError(f"workdir {where!r}", hint="no spaces, commas or colons")


def _object_store(job: Job, engine: str, at: Place) -> Iterator[ConfigError]:
    """A run of several processes has no checkpoints on s3:// (docs/remote.md). On all engines a
    machine of several is a process at least.
    """
    several = at.devices > 1 if engine == "local" else at.all_hosts > 1
    if several and process.workdir(job).startswith("s3://"):
        yield ConfigError(
            "a workdir on s3:// is for one process",
            hint="a gs:// URL, or the absolute path of a folder that all hosts share",
        )


def _grace(job: Job, at: Place) -> Iterator[ConfigError]:
    needed = save_seconds(job.checkpoint_gib, at)
    if needed > job.grace:
        yield ConfigError(
            f"grace = {job.grace} s, and a checkpoint of {job.checkpoint_gib:g} GiB on "
            f"{at.all_hosts} hosts takes about {needed} s to save",
            hint=f"grace={needed}",
        )
