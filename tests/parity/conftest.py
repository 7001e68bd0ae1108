"""Tests against Hugging Face models on torch.

Without torch (the extra `parity`) they are left out, and pytest's header says so.
"""

import importlib.util
import pathlib
import sys

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]
# the cases are those of benchmarks/parity.py
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))


def pytest_report_header():
    return (
        ""
        if not collect_ignore_glob
        else "tests/parity is left out: torch is not installed (pip install -e '.[dev,parity]')"
    )
