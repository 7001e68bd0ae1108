"""How fast the downloader is when the network is not what limits it.

    python benchmarks/download.py [--folder FOLDER]

Needs no extra. A server on this machine, in the same process, gives one file of 1 GiB, 5,000 of
1 kB in PhysioNet's form, the same again when all are there, and a list of 377,000 files (as many as
MIMIC-CXR-JPG has), of which a dry run is made.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import resource
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from helpers.http_server import Server

from qoq_jax.climb.access import get
from qoq_jax.climb.access.access import Access
from qoq_jax.climb.access.hosts import physionet

SMALL = b"x" * 1000


def sums(paths):
    digest = hashlib.sha256(SMALL).hexdigest()
    return "".join(f"{digest} {path}\n" for path in paths).encode()


def timed(what, run, *arguments, **options):
    before = time.perf_counter()
    run(*arguments, log=lambda _: None, **options)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {time.perf_counter() - before:.1f} s, peak memory {memory:.0f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="where to write; default: the folder of temporary files")
    folder = parser.parse_args().folder
    with Server() as server, tempfile.TemporaryDirectory(dir=folder) as name:
        root = pathlib.Path(name)
        physionet.BASE = server.base
        paths = [
            f"files/p10/p10000032/s{i:08d}/02aa804e-bde0afdd-112c0b34-7bc16630-{i:08x}.jpg"
            for i in range(377_000)
        ]
        server.put("/files/list/1/SHA256SUMS.txt", sums(paths))
        timed("377,000 listed", get.dry_run, Access("list", "physionet-open", "list", "1"), root)
        small = [f"{i % 100}/{i}.dat" for i in range(5000)]
        for path in small:
            server.put(f"/files/small/1/{path}", SMALL)
        server.put("/files/small/1/SHA256SUMS.txt", sums(small))
        access = Access("small", "physionet-open", "small", "1")
        timed("5,000 of 1 kB", get.download, access, root / "small")
        timed("5,000 that are there", get.download, access, root / "small")
        server.put("/big", os.urandom(1 << 20) * 1024)
        access = Access("big", "https", f"{server.base}/", files=("big",))
        timed("one of 1 GiB", get.download, access, root / "big")


if __name__ == "__main__":
    main()
