"""Writes qoq_jax/launch/flag_names.json: the names of compiler flags that libtpu and jaxlib know.

    python launch/flag_names.py PYTHON...     # of environments with jax, or with jax[tpu]

A flag that the library does not know ends the process when JAX starts, so `qoq launch` looks names
up before anything is paid for. The libraries hold the names of their flags as strings; where
several environments are given, a name must be in all of them. Names of fields that are no flags
slip through, names that do not exist do not.
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
NAME = re.compile(rb"(?<=\0)(?:xla|megascale)_[a-z0-9_]+(?=\0)")
FIND = """
import importlib.metadata as m, importlib.util as u, json
found = {}
for name, file in (("jaxlib", "libjax_common.so"), ("libtpu", "libtpu.so")):
    spec = u.find_spec(name)
    if spec:
        found[name] = [m.version(name), spec.submodule_search_locations[0] + "/" + file]
print(json.dumps(found))
"""


def main() -> None:
    libraries = {}
    for python in sys.argv[1:] or [sys.executable]:
        found = json.loads(
            subprocess.run([python, "-c", FIND], capture_output=True, check=True).stdout
        )
        for library, (version, path) in found.items():
            names = {name.decode() for name in NAME.findall(pathlib.Path(path).read_bytes())}
            entry = libraries.setdefault(library, {"versions": [], "names": names})
            if version not in entry["versions"]:
                entry["versions"].append(version)
            entry["names"] &= names
    for entry in libraries.values():
        entry["names"] = sorted(entry["names"])
        print(*entry["versions"], len(entry["names"]), "names")
    path = ROOT / "qoq_jax" / "launch" / "flag_names.json"
    path.write_text(json.dumps(libraries, indent=0) + "\n")


if __name__ == "__main__":
    main()
