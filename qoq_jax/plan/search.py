"""Meshes that fit, ranked by the least time of the run's steps."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from qoq_jax.base.errors import ConfigError
from qoq_jax.plan import case as case_lib
from qoq_jax.plan.change import Changes, changed
from qoq_jax.plan.devices import Topology
from qoq_jax.plan.instant import StagePlan, plan_stage
from qoq_jax.train.config import Config

# What costs least first: it decides between layouts of the same time.
REMAT = ("none", "dots", "full", "offload")
_EXTRAS: tuple[dict, ...] = (
    {},
    {"rl.offload_reference": True},
    {"rl.offload_reference": True, "optimizer.offload": True},
)
SECTION = {"sft": "sft", "align": "rl", "rl": "rl"}  # whose `accumulate` a stage reads


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way to lay a config over a topology.

    Attributes:
      changes: of the config.
      plans: of its stages.
    """

    changes: Changes
    plans: tuple[StagePlan, ...]

    @property
    def seconds(self) -> float:
        """Least seconds of all steps of the run."""
        return sum(one.steps * one.step_seconds for one in self.plans)

    @property
    def peak(self) -> float:
        """Bytes of a device at the fullest moment of the run."""
        return max(one.peak for one in self.plans)

    @property
    def fits(self) -> bool:
        """Whether all stages do, with the margin of the formula."""
        return all(one.verdict == "fits" for one in self.plans)


def search(cfg: Config, topology: Topology) -> list[Layout]:
    """Layouts that fit, the fastest first; without any, those that are tight. Where none fits, the
    reference goes to the host's memory, then the optimiser's moments too.

    Raises:
      ConfigError: a stage is not of the multimodal model.
    """
    case_lib.check_stages(cfg)
    tight: list[Layout] = []
    for extra in _EXTRAS:
        found = []
        for changes in _layouts(cfg, topology):
            layout = _best_parts(cfg, topology, changes | extra)
            if layout is not None:
                (found if layout.fits else tight).append(layout)
        if found:
            return sorted(found, key=_rank)
    return sorted(tight, key=_rank)


def smallest(cfg: Config, topology: Topology) -> Layout | None:
    """The layout with the lowest peak, whether it fits or not: as much as possible in the host's
    memory, and as many micro-batches as go. None where no mesh divides the rows.
    """
    found = []
    for changes in _layouts(cfg, topology):
        if changes["model.remat"] != REMAT[-1]:
            continue
        changes = changes | _EXTRAS[-1]
        for section in dict.fromkeys(SECTION[name] for name in cfg.stages):
            changes[f"{section}.accumulate"] = max(_parts(cfg, changes, section), default=1)
        if plans := _plans(cfg, topology, changes, list(cfg.stages)):
            found.append(Layout(changes, tuple(plans)))
    return min(found, key=lambda one: one.peak, default=None)


def _rank(layout: Layout) -> tuple:
    parts = sum(one.case.stage.accumulate for one in layout.plans)
    remat = REMAT.index(layout.changes["model.remat"])
    # times that differ by less than a part in a hundred are equal; then what costs least
    return (float(f"{layout.seconds:.2g}"), remat, parts, layout.seconds, layout.peak)


def _layouts(cfg: Config, topology: Topology) -> Iterator[dict]:
    """Meshes, layouts of sampling, and remat policies."""
    size, model = topology.size, case_lib.model_of(cfg, topology.device.kind)
    heads = model.decoder.num_kv_heads
    tensors = [n for n in range(1, heads + 1) if heads % n == 0 and size % n == 0]
    rl = any(SECTION[name] == "rl" for name in cfg.stages)
    for tensor, sequence in itertools.product(tensors, _sequences(cfg, size)):
        if size % (tensor * sequence):
            continue
        rest = size // (tensor * sequence)
        for fsdp in (n for n in range(1, rest + 1) if rest % n == 0):
            data = rest // fsdp
            if data % topology.slices or cfg.data.media_rows % (data * fsdp):
                continue
            for ways, remat in itertools.product([*([0] if not rl else [0, *tensors])], REMAT):
                by_tokens = {"mesh.sequence": sequence} if sequence != cfg.mesh.sequence else {}
                yield {
                    "mesh.data": data,
                    "mesh.fsdp": fsdp,
                    **by_tokens,
                    "mesh.tensor": tensor,
                    "mesh.rollout_tensor": ways,
                    "model.remat": remat,
                }


def _sequences(cfg: Config, size: int) -> list[int]:
    """Devices of a row: as the config has it, and where there are fewer rows than devices all that
    go. With as many rows as devices, cutting them by tokens moves more and saves nothing.
    """
    given = max(cfg.mesh.sequence, 1)
    if cfg.data.media_rows % size == 0:
        return [given]
    return [n for n in range(1, size + 1) if size % n == 0 or n == given]


def _best_parts(cfg: Config, topology: Topology, changes: Changes) -> Layout | None:
    """The layout with as few micro-batches as fit; None where no number does."""
    changes, plans = dict(changes), []
    for section in dict.fromkeys(SECTION[name] for name in cfg.stages):
        names = [name for name in cfg.stages if SECTION[name] == section]
        chosen: list[StagePlan] | None = None
        for number in _parts(cfg, changes, section):
            tried = changes | {f"{section}.accumulate": number}
            new = _plans(cfg, topology, tried, names)
            if new is None:
                return None
            if all(one.spare >= 0 for one in new):
                chosen = new
                changes = tried
            if chosen and all(one.verdict == "fits" for one in chosen):
                break
        if chosen is None:
            return None
        plans += chosen
    return Layout(changes, tuple(plans))


def _parts(cfg: Config, changes: Changes, section: str) -> list[int]:
    """Numbers of micro-batches that the rows of a mesh can be cut into."""
    ways = changes["mesh.data"] * changes["mesh.fsdp"]
    ways *= cfg.rl.minibatches if section == "rl" else 1
    return [n for n in range(1, 65) if cfg.data.media_rows % (n * ways) == 0]


def _plans(
    cfg: Config, topology: Topology, changes: Changes, names: list[str]
) -> list[StagePlan] | None:
    new = changed(cfg, changes)
    try:
        return [plan_stage(case_lib.make(new, topology, name)) for name in names]
    except ConfigError:
        return None
