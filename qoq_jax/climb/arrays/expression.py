"""Gene expression: GEO (curated data sets as SOFT, series as matrices) and Expression Atlas.
Layouts: docs/datasets/genomics.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.climb.arrays import text
from qoq_jax.climb.arrays.record import Array, Item, Reader, Record
from qoq_jax.climb.convert.folder import Folder

# Of a sample's annotations the first that is there is its label, as the released CLIMB asks.
ASKED = ("cell type", "strain", "disease state", "genotype/variation", "tissue", "agent")
_MISSING = frozenset(("", "null", "na", "nan", "none"))
_TABLES = {
    "-tpms.tsv": "TPM",
    "-fpkms.tsv": "FPKM",
    "-normalized-expressions.tsv": "normalised intensity",
}
_GENE_COLUMNS = ("Gene ID", "Gene Name", "DesignElementAccession")
_QUARTILES = 5  # a baseline cell: minimum, quartiles, maximum

# ---------------------------------------------------------------------------------------------- GEO


# Not GDS1001_full.soft, which has the same samples with columns on the genes.
_GEO = re.compile(r"(?:(GDS\d+)\.soft|(GSE\d+)(?:-GPL\d+)?_series_matrix\.txt)(?:\.gz)?")


def geo(folder: Folder) -> Iterator[Item]:
    """One item per data set (GDS) or series (GSE), one record per sample."""
    for path in folder.match("*.soft*", "*_series_matrix.txt*"):
        name = path.rpartition("/")[2]
        found = _GEO.fullmatch(name)
        if found is None:
            continue
        group, parse = found[1] or found[2], _soft if found[1] else _matrix

        def read(
            where: str = os.path.join(folder.root, path),
            group: str = group,
            parse: Callable[[str, str], Iterator[Record]] = parse,
        ) -> Iterator[Record]:
            yield from parse(where, group)

        yield Item(name.partition(".")[0], group, read)


def _soft(path: str, dataset: str) -> Iterator[Record]:
    """Samples of a GDS*.soft file, annotated by its subsets."""
    about: dict[str, dict[str, str]] = {}
    common, subset = {}, {}
    source = text.lines(path)
    for line in source:
        key, _, content = (part.strip() for part in line.partition("="))
        if line.startswith("^SUBSET"):
            subset = {}
        elif line.startswith("!subset_"):
            subset[key.removeprefix("!subset_")] = content
            if {"type", "description", "sample_id"} <= set(subset):
                for sample in subset["sample_id"].split(","):
                    about.setdefault(sample.strip(), {})[subset["type"]] = subset["description"]
                subset = {}
        elif key in ("!dataset_value_type", "!dataset_sample_organism"):
            common[key.removeprefix("!dataset_")] = content
        elif line.startswith("!dataset_table_begin"):
            break
    else:
        raise DataError("has no !dataset_table_begin", where=path, hint="is it whole?")
    table = _rows(source, "!dataset_table_end", path)
    yield from _samples(dataset, table, about, common, path)


def _matrix(path: str, series: str) -> Iterator[Record]:
    """Samples of a GSE*_series_matrix.txt file, annotated by "key: value" characteristics."""
    samples: list[str] = []
    about: dict[str, dict[str, str]] = {}
    source = text.lines(path)
    for line in source:
        key, *cells = _cells(line)
        if key == "!Sample_geo_accession":
            samples = cells
        elif key == "!Sample_organism_ch1" or key.startswith("!Sample_characteristics"):
            for sample, cell in zip(samples, cells):
                name, colon, content = cell.partition(":")
                if key == "!Sample_organism_ch1":
                    name, colon, content = "sample_organism", ":", cell
                if colon:
                    about.setdefault(sample, {})[name.strip().lower()] = content.strip()
        elif key == "!series_matrix_table_begin":
            break
    else:
        raise DataError("has no !series_matrix_table_begin", where=path, hint="is it whole?")
    table = _rows(source, "!series_matrix_table_end", path)
    yield from _samples(series, table, about, {}, path)


def _samples(
    group: str,
    table: tuple[list[str], list[list[str]]],
    about: dict[str, dict[str, str]],
    common: dict[str, str],
    path: str,
) -> Iterator[Record]:
    """One record per column of a table whose first columns are ID_REF and perhaps IDENTIFIER."""
    header, rows = table
    if not header or header[0] != "ID_REF":
        raise DataError("its table does not begin with ID_REF", where=path)
    first = 2 if header[1:2] == ["IDENTIFIER"] else 1
    names = {"probe": tuple(row[0] for row in rows)}
    if first == 2:
        names["gene"] = tuple(row[1] for row in rows)
    values = _values([row[first:] for row in rows], path)
    if values.shape[1] == 0:
        raise DataError("its table has no sample", where=path)
    for i, sample in enumerate(header[first:]):
        metadata = common | about.get(sample, {})
        labels = tuple(metadata[key] for key in ASKED if metadata.get(key))[:1]
        column = np.ascontiguousarray(values[:, i])
        yield Record(f"{group}:{sample}", group, labels, {"values": column}, names, metadata)


def _cells(line: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split("\t")]


def _rows(lines: Iterator[str], end: str, path: str) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of a table by tabs up to the line `end`, which a file that is cut lacks."""
    header: list[str] = []
    rows = []
    for line in lines:
        if line.startswith(end):
            break
        cells = _cells(line)
        if not header:
            header = cells
        elif len(cells) != len(header):
            what = f"row {len(rows) + 1} has {len(cells)} cells, the header {len(header)}"
            raise DataError(what, where=path, hint="download the file again")
        else:
            rows.append(cells)
    else:
        raise DataError(f"has no {end}: it is cut short", where=path, hint="download it again")
    if not rows:
        raise DataError("its table has no row", where=path)
    return header, rows


def _values(rows: Sequence[Sequence[str]], path: str) -> np.ndarray:
    """float32 [row, column]; NaN where a cell is empty. Of five numbers the third, the median."""

    def number(cell: str) -> float:
        cell = cell.strip()
        if cell.lower() in _MISSING:
            return np.nan
        if "," in cell:
            parts = cell.split(",")
            if len(parts) != _QUARTILES:
                raise ValueError(cell)
            cell = parts[_QUARTILES // 2]
        return float(cell)

    try:
        table = [[number(cell) for cell in row] for row in rows]
    except ValueError:
        raise DataError("its table holds a cell that is no number", where=path) from None
    return np.array(table, np.float32).reshape(len(rows), -1)


# --------------------------------------------------------------------------------- Expression Atlas


def atlas(folder: Folder) -> Iterator[Item]:
    """One record per table of an experiment: genes by its groups of assays, or by its assays."""
    for ending, unit in _TABLES.items():
        for path in folder.match(f"*{ending}"):
            name = path.rpartition("/")[2]
            found = re.match(r"(E-[A-Z]+-\d+)", name)
            if found is None or "-transcripts-" in name:  # rows of those are no genes
                continue
            where, stem, experiment = (
                os.path.join(folder.root, path),
                name.removesuffix(".tsv"),
                found[1],
            )

            def read(
                where: str = where, stem: str = stem, experiment: str = experiment, unit: str = unit
            ) -> Iterator[Record]:
                sdrf = text.beside(where, f"{experiment}.condensed-sdrf.tsv")
                metadata = {"unit": unit} | (_annotations(sdrf) if os.path.isfile(sdrf) else {})
                names, values = _genes(where)
                yield Record(stem, experiment, (), {"values": values}, names, metadata)

            yield Item(stem, experiment, read)


def _genes(path: str) -> tuple[dict[str, tuple[str, ...]], np.ndarray]:
    """({axis: names}, float32 [gene, column]) of a table whose first columns name the gene."""
    rows = [line.split("\t") for line in text.lines(path) if not line.startswith("#")]
    header, rows = (rows[0], rows[1:]) if rows else ([], [])
    if not header or header[0] != _GENE_COLUMNS[0]:
        raise DataError(f"its first column is not {_GENE_COLUMNS[0]!r}", where=path)
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            what = f"line {number} has {len(row)} cells, the header {len(header)}"
            raise DataError(what, where=path, hint="download the file again")
    kept = [i for i, name in enumerate(header) if name not in _GENE_COLUMNS]
    if not kept or not rows:
        raise DataError("has no column of numbers, or no gene", where=path)
    values = _values([[row[i] for i in kept] for row in rows], path)
    names = {"gene": tuple(row[0] for row in rows), "column": tuple(header[i] for i in kept)}
    return names, values


def _annotations(path: str) -> dict[str, str]:
    """{property: its values, with semicolons} of a condensed SDRF: experiment, array, assay,
    "factor" or "characteristic", property, value, ontology term.
    """
    found: dict[str, set[str]] = {}
    for line in text.lines(path):
        cells = line.split("\t")
        if len(cells) < 6:
            raise DataError(f"a line has {len(cells)} cells, not 6 or 7", where=path)
        found.setdefault(cells[4], set()).add(cells[5])
    return {name: "; ".join(sorted(values)) for name, values in sorted(found.items())}


READERS = (
    Reader(
        "geo",
        {"values": Array(("probe",), "float32", "as metadata[value_type]", "NaN is missing")},
        geo,
    ),
    Reader(
        "expression-atlas",
        {
            "values": Array(
                ("gene", "column"), "float32", "as metadata[unit]", "NaN is missing; medians"
            )
        },
        atlas,
    ),
)
