"""Renderers of climb-mini, one module per domain: in `DATASETS`, `plan` decides a case and `draw`
shows it.
"""

from __future__ import annotations

from qoq_jax.climb.mini.render import (
    chest_xray,
    ct,
    dermoscopy,
    ecg,
    fundus,
    mammography,
    mri,
    multimodal,
    pathology,
    ultrasound,
)
from qoq_jax.climb.mini.render.canvas import Dataset, Media, Scene

_MODULES = (
    ct,
    chest_xray,
    ecg,
    mri,
    mammography,
    dermoscopy,
    pathology,
    ultrasound,
    fundus,
    multimodal,
)
DATASETS: dict[str, Dataset] = {d.name: d for module in _MODULES for d in module.DATASETS}

__all__ = ["DATASETS", "Dataset", "Media", "Scene"]
