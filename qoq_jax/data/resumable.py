"""What endless batches of a Grain iterator share: samples that could not be read, and a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data.pipeline import Reading


def own_share(batch: int, reading: Reading, what: str) -> slice:
    """The rows of a global batch that a process reads.

    Raises:
      ConfigError: they do not divide over the processes.
    """
    if batch % reading.process_count:
        raise ConfigError(
            f"a batch of {batch} {what} does not divide over {reading.process_count} processes"
        )
    share = batch // reading.process_count
    return slice(reading.process_index * share, (reading.process_index + 1) * share)


class ResumableBatches:
    """Batches that continue exactly from a state.

    Args:
      iterator: of Grain.
      fingerprint: of all that decides the batches.
      samples: how many there are.
      reading: a sample that cannot be read ends the run ("raise"), or is left out up to a limit.
      what: the samples in errors, as "ECGs".

    Attributes:
      fingerprint: as given.
      quarantined: name -> reason, of the samples left out so far.
    """

    def __init__(
        self, iterator: Any, fingerprint: str, samples: int, reading: Reading, what: str
    ) -> None:
        self._iterator, self.fingerprint, self._what = iterator, fingerprint, what
        self.quarantined: dict[str, str] = {}
        self._strict = reading.on_error == "raise"
        self._limit = 0 if self._strict else max(1, int(reading.max_bad * samples))

    def __iter__(self) -> Self:
        return self

    def quarantine(self, bad: Mapping[str, DataError]) -> None:
        """Counts samples that could not be read.

        Raises:
          DataError: the first of them, or that there are too many.
        """
        if bad and self._strict:
            raise next(iter(bad.values()))
        self.quarantined |= {name: str(error) for name, error in bad.items()}
        self.check_limit(self.quarantined)

    def check_limit(self, quarantined: Mapping[str, str]) -> None:
        """Raises DataError when these are more bad samples than a run may leave out."""
        if len(quarantined) > self._limit:
            name, reason = list(quarantined.items())[-1]
            raise DataError(
                f"{len(quarantined)} {self._what} could not be read, the limit is {self._limit}; "
                f"the last: {reason}",
                where=name,
                hint="correct the data, or raise data.max_bad_fraction",
            )

    def get_state(self) -> dict[str, Any]:
        """JSON-able: the next batch after `set_state` equals the next batch now."""
        return {
            "fingerprint": self.fingerprint,
            "iterator": self._iterator.get_state(),
            "quarantined": dict(self.quarantined),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues from a state.

        Raises:
          DataError: the state belongs to other samples, another seed or another config.
        """
        if state["fingerprint"] != self.fingerprint:
            raise DataError(
                f"the saved data state belongs to other {self._what}, another seed or another "
                "config",
                hint="resume with the data and config of the run, or start a new run",
            )
        self._iterator.set_state(state["iterator"])
        self.quarantined = dict(state["quarantined"])
