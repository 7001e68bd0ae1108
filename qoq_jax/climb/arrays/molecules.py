"""Graphs of proteins: PROTEINS in the text files of TUDataset, PPI as GraphSAGE published it.
Layouts: docs/datasets/molecule.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from qoq_jax.base import files as json_files
from qoq_jax.base.errors import DataError
from qoq_jax.climb.arrays import text
from qoq_jax.climb.arrays.record import Array, Item, Reader, Record, label_of
from qoq_jax.climb.convert.folder import Folder

_PPI_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
PPI_FEATURES, PPI_TARGETS = 50, 121


def proteins(folder: Folder) -> Iterator[Item]:
    """One record per protein: secondary structure elements as nodes, neighbours as edges."""
    base = os.path.join(folder.root, folder.parent("*PROTEINS_A.txt"))

    def path(name: str) -> str:
        return f"{base}PROTEINS_{name}.txt"

    graph = text.integers(path("graph_indicator"), ",", 1)[:, 0] - 1
    labels = text.integers(path("graph_labels"), ",", 1)[:, 0]
    kinds = text.integers(path("node_labels"), ",", 1)[:, 0]
    features = text.numbers(path("node_attributes"), ",", 1).astype(np.float32)
    edges = text.integers(path("A"), ",", 2).T - 1
    if len({len(graph), len(kinds), len(features)}) != 1:
        what = f"has {len(kinds)} nodes, graph_indicator {len(graph)}, attributes {len(features)}"
        raise DataError(what, where=path("node_labels"))
    if (np.diff(graph) < 0).any() or set(np.unique(graph)) != set(range(len(labels))):
        what = f"does not number the {len(labels)} graphs of graph_labels from 1 on, in order"
        raise DataError(what, where=path("graph_indicator"))
    if edges.min() < 0 or edges.max() >= len(graph):
        raise DataError(f"has an edge to a node that is not one of {len(graph)}", where=path("A"))
    if (graph[edges[0]] != graph[edges[1]]).any():
        raise DataError("has an edge between two graphs", where=path("A"))
    if set(map(tuple, edges.T.tolist())) != set(map(tuple, edges[::-1].T.tolist())):
        what = "has an edge in one direction only: it is cut short"
        raise DataError(what, where=path("A"), hint="download it again")
    known = np.unique(kinds)
    features = np.concatenate([features, kinds[:, None] == known], axis=1, dtype=np.float32)
    names = ("attribute", *(f"label {kind}" for kind in known))
    starts = np.searchsorted(graph, np.arange(len(labels) + 1))
    edges = edges[:, np.argsort(graph[edges[0]], kind="stable")]
    cuts = np.searchsorted(graph[edges[0]], np.arange(len(labels) + 1))
    for i, label in enumerate(labels):
        named = (label_of("proteins", int(label), path("graph_labels")),)
        arrays = {
            "nodes": features[starts[i] : starts[i + 1]],
            "edges": (edges[:, cuts[i] : cuts[i + 1]] - starts[i]).astype(np.int32),
        }
        identity = str(i + 1)
        record = Record(identity, identity, named, arrays, {"feature": names})
        yield Item(identity, identity, lambda record=record: iter((record,)))


def ppi(folder: Folder) -> Iterator[Item]:
    """One record per tissue; its nodes are proteins, each with 121 targets of 0 and 1."""
    for part, split in _PPI_SPLITS.items():
        path = os.path.join(folder.root, folder.one(f"{part}_graph.json", f"*/{part}_graph.json"))
        graph = text.open_npy(text.beside(path, f"{part}_graph_id.npy"), (None,), "iu")
        count = len(graph)
        nodes = text.open_npy(text.beside(path, f"{part}_feats.npy"), (count, PPI_FEATURES), "f")
        targets = text.open_npy(
            text.beside(path, f"{part}_labels.npy"), (count, PPI_TARGETS), "fiu"
        )
        if not np.isin(targets, (0, 1)).all():
            where = text.beside(path, f"{part}_labels.npy")
            raise DataError("holds other values than 0 and 1", where=where)
        edges = _links(path, count)
        if (graph[edges[0]] != graph[edges[1]]).any():
            raise DataError("has an edge between two tissues", where=path)
        for tissue in np.unique(graph):
            mine = np.flatnonzero(graph == tissue)
            inside = edges[:, graph[edges[0]] == tissue]

            def read(
                mine: np.ndarray = mine,
                inside: np.ndarray = inside,
                tissue: str = str(tissue),
                nodes: np.ndarray = nodes,
                targets: np.ndarray = targets,
            ) -> Iterator[Record]:
                arrays = {
                    "nodes": np.asarray(nodes[mine], np.float32),
                    "edges": np.searchsorted(mine, inside).astype(np.int32),
                    "targets": np.asarray(targets[mine], np.uint8),
                }
                yield Record(tissue, tissue, (), arrays)

            yield Item(str(tissue), str(tissue), read, split)


def _links(path: str, nodes: int) -> np.ndarray:
    """int64 [2, edge] of a graph in node-link JSON; both directions of one without direction."""
    content = json_files.read_json(path, finite=False)
    try:
        if [node["id"] for node in content["nodes"]] != list(range(nodes)):
            raise DataError(f"its nodes are not numbered from 0 to {nodes - 1}", where=path)
        pairs = [(link["source"], link["target"]) for link in content["links"]]
        edges = np.array(pairs).reshape(-1, 2).T
        directed = content.get("directed", False)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"is no graph in node-link form ({type(error).__name__})", where=path
        ) from None
    if not edges.size or edges.dtype.kind != "i" or edges.min() < 0 or edges.max() >= nodes:
        raise DataError("has no links, or one to a node that is not there", where=path)
    if not directed:
        edges = np.concatenate([edges, edges[::-1]], axis=1)
    return np.unique(edges, axis=1)


_EDGES = Array((2, "edge"), "int32", "", "from and to, nodes counted from 0, each direction")
READERS = (
    Reader(
        "proteins",
        {
            "nodes": Array(("node", "feature"), "float32", "", "attribute, then label as one-hot"),
            "edges": _EDGES,
        },
        proteins,
    ),
    Reader(
        "ppi",
        {
            "nodes": Array(("node", PPI_FEATURES), "float32", "", "features of a protein"),
            "edges": _EDGES,
            "targets": Array(("node", PPI_TARGETS), "uint8", "", "gene ontology sets, 0 or 1"),
        },
        ppi,
    ),
)
