"""What a sweep runs, as a config file says it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What to run.

    Attributes:
      runs: config arg -> arg of the run whose weights it starts from, listed before it; "" = its
        own. A run that others start from is a start: it is run once, with seed 0, ends with stage
        sft and is not compared.
      baseline: arg that the others are compared with, seed by seed.
      seeds: runs of each arg that is not a start.
      baselines: arg -> another baseline, for runs that share more with it (their training data,
        say).
      charts: title -> args whose learning curves go into one chart; {} = all of them in one.
    """

    runs: dict[str, str]
    baseline: str
    seeds: int = 5
    baselines: dict[str, str] = dataclasses.field(default_factory=dict)
    charts: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def baseline_of(self, name: str) -> str:
        """The run that `name` is compared with; "" for starts and for baselines themselves."""
        found = self.baselines.get(name, self.baseline)
        return (
            ""
            if name == found or name in self.starts() or name in self.baselines.values()
            else found
        )

    def starts(self) -> list[str]:
        return [name for name in self.runs if name in self.runs.values()]

    def behind(self, name: str) -> list[str]:
        """The starts that a run needs, the first to be made first."""
        start = self.runs[name]
        return [*self.behind(start), start] if start else []


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: its arg, seed, folder and the folder of the run it starts from ("" = none)."""

    name: str
    seed: int
    folder: str
    start: str
