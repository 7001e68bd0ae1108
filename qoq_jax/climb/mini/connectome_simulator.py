"""A simulator of functional connectomes: correlations of regions whose signals share networks.

The signal of a region is that of its network, that of the whole brain, and its own. Groups of
people differ in how strongly the regions of a network share its signal, and in how strongly the
default mode and the salience network oppose each other, with an overlap between people:

    Case       less of both in the default mode network, as reported for ABIDE (Di Martino et al.,
               Mol Psychiatry 2014)
    Older      the same, less pronounced (Andrews-Hanna et al., Neuron 2007)
    Parkinson  less in the somatomotor network (Tessitore et al., Front Neurol 2014)

Control, Younger and Comparison are without these. Sites differ in the length of a scan, in the
signal of the whole brain and in noise, which changes every correlation and says nothing of the
group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

# The seven networks of Yeo et al., J Neurophysiol 2011, with so many regions each.
NETWORKS = {
    "visual": 12,
    "somatomotor": 12,
    "dorsal attention": 8,
    "salience": 8,
    "limbic": 6,
    "frontoparietal": 8,
    "default mode": 16,
}
REGIONS = sum(NETWORKS.values())
#: [region], the number of its network.
NETWORK_OF = np.repeat(np.arange(len(NETWORKS)), list(NETWORKS.values()))
_NAMES = tuple(NETWORKS)
_DEFAULT, _SALIENCE = _NAMES.index("default mode"), _NAMES.index("salience")


@dataclasses.dataclass(frozen=True)
class Group:
    """People on average. strength: of a network's signal in its regions, over the usual. oppose:
    share of the default mode network's signal, turned over, in that of the salience network.
    """

    strength: Mapping[str, float]
    oppose: float


_WITHOUT = Group({"default mode": 1.0}, 0.35)
GROUPS = {
    "Case": Group({"default mode": 0.72}, 0.1),
    "Control": _WITHOUT,
    "Older": Group({"default mode": 0.78}, 0.17),
    "Younger": _WITHOUT,
    "Parkinson": Group({"default mode": 1.0, "somatomotor": 0.68}, 0.35),
    "Comparison": Group({"default mode": 1.0, "somatomotor": 1.0}, 0.35),
}


@dataclasses.dataclass(frozen=True)
class Site:
    """A scanner. times: points of a scan. whole: of the brain's common signal. noise: of a region's
    own, both over the signal of a network.
    """

    name: str
    times: int
    whole: float
    noise: float


SITES = (
    Site("A", 120, 0.35, 1.1),
    Site("B", 180, 0.60, 1.0),
    Site("C", 240, 0.25, 1.4),
    Site("D", 150, 0.80, 0.9),
)
OTHER_SITES = (
    Site("E", 100, 0.45, 1.5),
    Site("F", 200, 0.70, 1.3),
)


def simulate(label: str, site: Site, rng: np.random.Generator) -> np.ndarray:
    """Pearson correlations [region, region] float32 of a person of `GROUPS` at a site."""
    group = GROUPS[label]
    strength = np.clip(rng.normal(0.75, 0.1, len(NETWORKS)), 0.2, None)
    for name, mean in group.strength.items():
        strength[_NAMES.index(name)] *= np.clip(rng.normal(mean, 0.15), 0.2, None)
    oppose = np.clip(rng.normal(group.oppose, 0.12), 0, 0.8)
    network = _smooth(rng, len(NETWORKS), site.times)
    network[_SALIENCE] = np.sqrt(1 - oppose**2) * network[_SALIENCE] - oppose * network[_DEFAULT]
    signal = strength[NETWORK_OF, None] * network[NETWORK_OF]
    whole = site.whole * rng.uniform(0.6, 1.4)
    signal = signal + whole * _smooth(rng, 1, site.times)
    own = site.noise * rng.uniform(0.85, 1.15, (REGIONS, 1))
    signal = signal + own * _smooth(rng, REGIONS, site.times)
    return np.corrcoef(signal).astype(np.float32)


def _smooth(rng: np.random.Generator, count: int, times: int) -> np.ndarray:
    """Slow noise [count, times] with a standard deviation of about 1: neighbours correlate by half,
    as those of a haemodynamic response two seconds apart.
    """
    noise = rng.normal(size=(count, times + 2))
    return (noise[:, :-2] + 2 * noise[:, 1:-1] + noise[:, 2:]) / np.sqrt(6)
