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
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile -q "$@"
