"""Reads the catalogue: TOML tables to frozen dataclasses, every field checked.

    load()["ptb-xl"].access.source          # "ptb-xl"
    find("ptbxl")                           # ConfigError: did you mean 'ptb-xl'?
    licences()["CC-BY-4.0"].commercial      # "yes"

A mistake in a table is a `DataError` that names the file, the row and the field.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from qoq_jax.base.errors import ConfigError, DataError, did_you_mean
from qoq_jax.data import rows

# Domains of rows come first; sets of the others are read as arrays with labels, not as QA rows.
DOMAINS = (
    *rows.DOMAINS,
    "eeg",
    "brain_network",
    "molecule",
    "gait",
    "genomics",
)
Access = Literal[
    "physionet-open",
    "physionet-credentialed",
    "kaggle-dataset",
    "kaggle-competition",
    "tcia",
    "zenodo",
    "isic",
    "git",
    "https",
    "request",
]
Dimensionality = Literal["2d", "volume", "video", "ecg", "eeg", "imu", "graph", "table", "mixed"]
Task = Literal["single-label", "multi-label", "segmentation", "instructions", "open"]
Answer = Literal["yes", "no", "ask"]
_FOLDER = importlib.resources.files("qoq_jax.climb.catalogue")


@dataclasses.dataclass(frozen=True)
class Licence:
    """What a licence allows, as read by its text; no legal advice.

    Attributes:
      id: SPDX identifier, or "LicenseRef-..." where SPDX has none.
      commercial: whether data under it may train a model that is sold. "ask": the text does not
        say, or says it per case.
      redistribution: whether copies may be passed on.
      share_alike: whether what is derived and passed on must carry the same licence.
      reason: the words of the licence that decide, in one line.
    """

    id: str
    title: str
    url: str
    commercial: Answer
    redistribution: Answer
    share_alike: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class Check:
    """What a complete folder holds.

    Attributes:
      path: a pattern relative to the data set's folder; `*` stands for all but "/".
      count: how many files fit it at least; None for one.
    """

    path: str
    count: int | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """How to get a data set.

    Attributes:
      kind: the route; one of `Access`.
      source: what the route needs: a PhysioNet project, a Kaggle owner/slug or competition, a
        TCIA collection, a Zenodo record, a git URL, or the folder URL that `files` are in. For
        "request", the page of the form.
      version: of the source, "" where it has none.
      files: files or folders (with a final "/") below the source; () for all.
      bytes: size of the download, None when not known.
      steps: what a person has to do first, or by hand.
      checks: what is there afterwards.
    """

    kind: Access
    source: str
    version: str = ""
    files: tuple[str, ...] = ()
    bytes: int | None = None
    steps: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


@dataclasses.dataclass(frozen=True)
class Window:
    """A CT window in Hounsfield units, and where it comes from."""

    name: str
    level: int
    width: int
    source: str


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One data set of CLIMB, or a companion that one of them needs.

    Attributes:
      name: a stable key, as in `dataset` of a row.
      title, homepage: of the source.
      domain: one of `DOMAINS`.
      modality: in words. dimensionality: the form of one record.
      task: what the labels ask. also: other tasks that the labels allow.
      labels: the unified vocabulary, in order; () where there is none.
      source_labels: the source's own spelling, where it differs.
      records, train, test: as the CLIMB paper counts; None where it gives no number. unit: what it
        counts. records_note: where these numbers and the source's disagree.
      patients: people, None when not known. patient_key: the column or part of a name that groups
        records of one of them; what is grouped where there is no such key.
      split: "source" for the source's own split, "patient" for a seeded one by `patient_key`.
      split_note: how.
      licence: key of `licences()`; the stricter one where CLIMB (`climb_licence`) differs.
      citation: keys of citations.bib.
      qoq_med: whether it is one of QoQ-Med's thirty classification sets.
      regions: "masks", "boxes" or both, where the source draws findings.
      windows: of a CT set.
      unsure: field -> why its value is not certain.
      companion: not a set of CLIMB, but needed by one.
      access: how to get it.
    """

    name: str
    title: str
    domain: str
    modality: str
    dimensionality: Dimensionality
    task: Task
    records: int | None
    unit: str
    patient_key: str
    split: Literal["source", "patient"]
    split_note: str
    licence: str
    homepage: str
    citation: tuple[str, ...]
    access: Source
    labels: tuple[str, ...] = ()
    source_labels: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    train: int | None = None
    test: int | None = None
    records_note: str = ""
    patients: int | None = None
    climb_licence: str = ""
    qoq_med: bool = False
    regions: tuple[Literal["masks", "boxes"], ...] = ()
    windows: tuple[Window, ...] = ()
    unsure: Mapping[str, str] = dataclasses.field(default_factory=dict)
    companion: bool = False

    @property
    def adds_up(self) -> bool:
        """Whether train and test records of the paper make its total."""
        parts = (self.train, self.test)
        return None in parts or sum(parts) == self.records


@functools.cache
def load() -> Mapping[str, Dataset]:
    """All data sets by name, in the order of `DOMAINS` and of the files."""
    found: dict[str, Dataset] = {}
    for domain in DOMAINS:
        file = _FOLDER / "sets" / f"{domain}.toml"
        for name, fields in _read(file).items():
            where = f"{file.name}: {name}"
            if name in found:
                raise DataError("the name is taken by another file", where=where)
            row = _build(Dataset, {"name": name, "domain": domain} | fields, where)
            _check(row, where)
            found[name] = row
    return types.MappingProxyType(found)


@functools.cache
def licences() -> Mapping[str, Licence]:
    """What each licence allows, by its identifier."""
    file = _FOLDER / "licences.toml"
    return types.MappingProxyType(
        {
            name: _build(Licence, {"id": name} | fields, f"{file.name}: {name}")
            for name, fields in _read(file).items()
        }
    )


def find(name: str) -> Dataset:
    """The data set of that name, or ConfigError with the nearest one."""
    known = load()
    if name not in known:
        near = did_you_mean(name.lower().replace("_", "-"), known, "see qoq data list")
        raise ConfigError(f"no data set {name!r} in the catalogue", hint=near)
    return known[name]


def _read(file: Any) -> dict[str, dict[str, Any]]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"not TOML: {error}", where=file.name) from error


# ------------------------------------------------------------------------------------------- fields


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build(kind: type, fields: Any, where: str) -> Any:
    """A dataclass from a TOML table; the types of its fields say what they may hold."""
    if not isinstance(fields, dict):
        raise DataError(f"must be a table, found {fields!r}", where=where)
    hints = _hints(kind)
    for name in fields:
        if name not in hints:
            hint = did_you_mean(name, hints)
            raise DataError("unknown field", where=f"{where}: {name}", hint=hint)
    for field in dataclasses.fields(kind):
        needed = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if needed and field.name not in fields and not _may_be_none(hints[field.name]):
            raise DataError("is missing", where=f"{where}: {field.name}")
    given = {name: _value(hints[name], value, f"{where}: {name}") for name, value in fields.items()}
    absent = {name: None for name in hints if name not in given and _is_optional(kind, name)}
    return kind(**given, **absent)


def _may_be_none(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _is_optional(kind: type, name: str) -> bool:
    """A field without a default that TOML, which has no null, leaves out for None."""
    field = kind.__dataclass_fields__[name]
    return field.default is dataclasses.MISSING and _may_be_none(_hints(kind)[name])


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _value(inner[0], value, where)
    if origin is Literal:
        if value not in inner:
            raise DataError(f"{value!r} is unknown", where=where, hint=did_you_mean(value, inner))
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise DataError(f"must be a list, found {value!r}", where=where)
        return tuple(_value(inner[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if hint == Mapping[str, str]:
        if not isinstance(value, dict):
            raise DataError(f"must be a table, found {value!r}", where=where)
        return {name: _value(str, why, f"{where}.{name}") for name, why in value.items()}
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    # bool is an int to Python.
    if type(value) is not hint or value == "":
        raise DataError(f"must be of type {hint.__name__}, found {value!r}", where=where)
    return value


def _check(row: Dataset, where: str) -> None:
    """What the types do not say."""

    def fail(field: str, what: str, hint: str | None = None) -> typing.NoReturn:
        raise DataError(what, where=f"{where}: {field}", hint=hint)

    if row.name != row.name.lower() or not row.name.replace("-", "").isalnum():
        fail("name", "must be kebab-case")
    if not row.adds_up and not row.records_note:
        fail("records_note", "train and test do not make records, and nothing says why")
    if len(set(row.labels)) != len(row.labels):
        fail("labels", "a label is listed twice")
    if (
        row.task in ("single-label", "multi-label")
        and not row.labels
        and "labels" not in row.unsure
    ):
        fail("labels", f"a {row.task} set needs labels, or unsure.labels says why there are none")
    for field, licence in (("licence", row.licence), ("climb_licence", row.climb_licence)):
        if licence and licence not in licences():
            fail(field, f"{licence!r} is not in licences.toml", did_you_mean(licence, licences()))
    _check_address(row.homepage, f"{where}: homepage", ("https", "http"))
    if row.access.kind in ("git", "https", "isic", "request"):
        _check_address(row.access.source, f"{where}: access.source", ("https",))
    if row.access.kind == "request" and not row.access.steps:
        fail("access.steps", "a set on request needs the steps to it")
    for field in row.unsure:
        if not hasattr(row.access if field.startswith("access.") else row, field.split(".")[-1]):
            fail("unsure", f"{field!r} is no field", did_you_mean(field, _hints(Dataset)))


def _check_address(url: str, where: str, schemes: tuple[str, ...]) -> None:
    parts = urlsplit(url)
    if parts.scheme not in schemes or "." not in parts.netloc or set(url) & set(' "<>'):
        raise DataError(f"{url!r} is no {schemes[0]} address", where=where)
