"""Tests against Hugging Face models on torch.

Without torch (the extra `parity`) they are left out, and pytest's header says so.
"""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]


def pytest_report_header():
    return (
        ""
        if not collect_ignore_glob
        else "tests/parity is left out: torch is not installed (pip install -e '.[dev,parity]')"
    )
