"""Hand-written features of EEG, connectomes and gait, which a logistic regression reads."""

from __future__ import annotations

import numpy as np

from qoq_jax.climb.arrays import montage
from qoq_jax.climb.mini import connectome_simulator

_BANDS = ((0.5, 1.0), (1.0, 3.0), (3.0, 7.0), (7.0, 13.0), (13.0, 30.0))
_LEFT = [i for i, name in enumerate(montage.BIPOLAR) if int(name[-1]) % 2]
_RIGHT = [i for i in range(len(montage.BIPOLAR)) if i not in _LEFT]


def eeg(signal: np.ndarray, rate: float = 200.0) -> np.ndarray:
    """Of bipolar channels [16, time]: power in bands, the sharpest line of the spectrum and the
    kurtosis, each as the mean over both sides and as their difference.
    """
    power = np.abs(np.fft.rfft(signal * np.hanning(signal.shape[1]), axis=1)) ** 2
    frequency = np.fft.rfftfreq(signal.shape[1], 1 / rate)
    columns = [
        np.log(power[:, (frequency >= low) & (frequency < high)].mean(axis=1) + 1e-3)
        for low, high in _BANDS
    ]
    for low, high in ((0.8, 3.2), (2.5, 7.0)):
        part = power[:, (frequency >= low) & (frequency < high)]
        columns.append(np.log(part.max(axis=1) / (part.mean(axis=1) + 1e-9) + 1e-3))
    centred = signal - signal.mean(axis=1, keepdims=True)
    slope = np.diff(centred, axis=1)
    columns.append(np.log((slope**4).mean(axis=1) / ((slope**2).mean(axis=1) ** 2 + 1e-9) + 1e-3))
    table = np.stack(columns)  # [feature, channel]
    left, right = table[:, _LEFT].mean(axis=1), table[:, _RIGHT].mean(axis=1)
    return np.concatenate([(left + right) / 2, np.abs(left - right)])


def connectome(adjacency: np.ndarray) -> np.ndarray:
    """Mean correlation within and between networks [28], which the site changes too."""
    networks = len(connectome_simulator.NETWORKS)
    member = np.eye(networks)[connectome_simulator.NETWORK_OF]
    counts = np.outer(member.sum(axis=0), member.sum(axis=0))
    means = member.T @ np.arctanh(np.clip(adjacency, -0.99, 0.99)) @ member / counts
    return means[np.triu_indices(networks)]


def gait(motion: np.ndarray) -> np.ndarray:
    """Means of the accelerometers, spreads of all channels, and the pace of the right shin."""
    shin = motion[:, 11] - motion[:, 11].mean()
    padded = np.abs(np.fft.rfft(shin * np.hanning(len(shin)), 1024))
    pace = np.argmax(padded[:50]) / 50
    accelerometers = [6 * i + axis for i in range(6) for axis in range(3)]
    means = motion[:, accelerometers].mean(axis=0)
    return np.concatenate([means, np.log(motion.std(axis=0)), [pace]])
