"""The label of an echocardiogram: how well the left ventricle pumps, in three classes."""

from __future__ import annotations

from qoq_jax.base.errors import DataError

EJECTION = ("Reduced", "Mildly reduced", "Preserved")  # from the worst to the best


def ejection_fraction(percent: float | None) -> str:
    """The class of a left ventricular ejection fraction.

    40 % or less is reduced, under 50 % mildly reduced, 50 % or more preserved: the classes of heart
    failure of Bozkurt et al., Universal Definition and Classification of Heart Failure (2021),
    which are for whole per cent; between 40 and 41 lies in the middle one.

    Raises:
      DataError: it is not known, or no fraction of 0 to 100 %.
    """
    if percent is None or not 0 < percent < 100:
        raise DataError("its ejection fraction is not between 0 and 100 %")
    if percent <= 40:
        return EJECTION[0]
    return EJECTION[1] if percent < 50 else EJECTION[2]
