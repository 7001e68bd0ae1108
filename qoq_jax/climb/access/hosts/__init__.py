"""The hosts: each file has `site(access)`, how to behave there, and `listing(access, client,
wanted)`, what there is to download.

    physionet.py      open and credentialed projects
    kaggle.py         data sets and competitions
    tcia.py           collections of The Cancer Imaging Archive, by the NBIA interface
    zenodo.py         records
    isic.py           collections of the ISIC archive, and the folders of its challenges
    git.py            repositories on GitHub, with Git LFS
    huggingface.py    data sets on Hugging Face (also of kind git)
    https.py          files at any address
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qoq_jax.base.errors import ConfigError
from qoq_jax.climb.access.access import Access, Listing, Site
from qoq_jax.climb.access.client import Client
from qoq_jax.climb.access.hosts import (
    git,
    https,
    huggingface,
    isic,
    kaggle,
    physionet,
    tcia,
    zenodo,
)


class Host(Protocol):
    """What a file of this folder has."""

    def site(self, access: Access) -> Site:
        """How to behave towards the host of a data set."""

    def listing(self, access: Access, client: Client, wanted: Sequence[str]) -> Listing:
        """What there is to download, of what the user wants; asks the host."""


def of(access: Access) -> Host:
    """The host of a data set.

    Raises:
      ConfigError: its kind has none: it is given on request.
    """
    if access.kind == "git" and huggingface.is_there(access):
        return huggingface
    hosts: dict[str, Host] = {
        "physionet-open": physionet,
        "physionet-credentialed": physionet,
        "kaggle-dataset": kaggle,
        "kaggle-competition": kaggle,
        "tcia": tcia,
        "zenodo": zenodo,
        "isic": isic,
        "git": git,
        "https": https,
    }
    if access.kind not in hosts:
        raise ConfigError("is given on request, no program can fetch it", where=access.name)
    return hosts[access.kind]
