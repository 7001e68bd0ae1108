#!/usr/bin/env bash
# Installs qoq_jax with its test tools into a virtual environment and runs the linter and the tests.
#   bash launch/test.sh [pytest arguments]
# Environment: PYTHON (default python3), VENV (default .venv-test).
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv-test}
source launch/venv.sh

install_into_venv dev,parity
# Without what it depends on: torchvision fails beside a torch without CUDA.
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt timm
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
if ! command -v chromium > /dev/null; then
  echo "no chromium: the tests in a browser are left out (apt-get install chromium)"
  set -- --ignore=tests/report/test_browser.py "$@"
fi
# After the death of a worker pytest-xdist 3.8 may wait for ever (pytest-xdist issue 1378): without
# a replacement the run ends, and names the test.
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile --max-worker-restart 0 -q "$@"
