"""timm without torchvision, and weights that show, for parity tests and benchmarks.

timm imports torchvision for transforms, data sets and one norm, none of which its models need.
torchvision's wheels belong to the CUDA builds of torch, and beside a CPU build they fail at import.
So timm is imported beside stand-ins whose every name is an empty class; they are gone afterwards,
because other libraries ask whether torchvision is there.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types

import torch

_NAMES = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.models",
    "torchvision.models.feature_extraction",
    "torchvision.ops",
    "torchvision.ops.misc",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.utils",
)


class _Attributes(type):
    """A class whose every attribute is its own name: members of an Enum."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Absent(types.ModuleType):
    """A module in which every name is an empty class."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Attributes(name, (), {})


def loud(model):
    """The torch model with every weight drawn: as they are made, scales of branches are 0 or 1e-5,
    and what a branch computes would not show.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            fan_in = weight[0].numel() if weight.ndim > 1 else 0
            torch.nn.init.normal_(weight, *((0, fan_in**-0.5) if fan_in else (0.5, 0.3)))
    return model.eval()


@functools.cache
def timm():
    """The module timm, whose models can be made and run."""
    absent = {name: _Absent(name) for name in _NAMES}
    for name in _NAMES[1:]:
        parent, _, child = name.rpartition(".")
        setattr(absent[parent], child, absent[name])
    before = {name: sys.modules.get(name) for name in _NAMES}
    sys.modules.update(absent)
    try:
        return importlib.import_module("timm")
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
