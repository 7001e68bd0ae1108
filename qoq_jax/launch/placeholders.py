"""Names in the job files of launch/jobs that stand for the user's own."""

from __future__ import annotations

import dataclasses
import re

from qoq_jax.base.errors import ConfigError
from qoq_jax.launch.spec import Job

NAMES = ("my-project", "my-bucket", "my-cluster", "my-partition", "my-account")
_ANY = re.compile(rf"(?<![\w-])({'|'.join(NAMES)})(?![\w-])")


def check(job: Job) -> list[ConfigError]:
    """One error for each field that still holds a placeholder."""
    found = []
    for field in dataclasses.fields(job):
        value = getattr(job, field.name)
        texts = value.values() if field.name == "env" else [value]
        for text in texts:
            if isinstance(text, str) and (match := _ANY.search(text)):
                hint = "it is a placeholder; put your own name there"
                found.append(ConfigError(f"{field.name} has {match[1]!r}", hint=hint))
    return found
