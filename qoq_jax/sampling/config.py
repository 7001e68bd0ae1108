"""Section rollout of a config."""

from __future__ import annotations

import dataclasses
from typing import Literal

from qoq_jax.base.errors import ConfigError
from qoq_jax.base.fields import Positive


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """What samples responses, in RL and in evaluation."""

    # jax: this process's own sampler; vllm: a vLLM server (docs/vllm.md)
    engine: Literal["jax", "vllm"] = "jax"
    url: str = ""  # of the server, as http://HOST:8000
    # where weights are written for the server, as this process and the server both name it;
    # "" = rollout_weights in the workdir
    folder: str = ""
    connections: Positive[int] = 64  # most requests at the same time
    # seconds that one request may take, its repeats after dropped connections included
    timeout: Positive[float] = 1200.0

    def check(self) -> None:
        """Raises ConfigError when fields contradict each other."""
        if "@" in self.url:  # not shown: it may be a password
            raise ConfigError(
                "rollout.url holds a user or a password, which logs would show",
                hint="set QOQ_VLLM_API_KEY in the environment",
            )
        if self.engine == "vllm" and not self.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"rollout.engine=vllm with rollout.url = {self.url!r}",
                hint="set rollout.url to the address of `vllm serve`, as http://HOST:8000",
            )
