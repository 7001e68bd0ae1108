#!/usr/bin/env bash
# Installs qoq_jax with its test tools into a virtual environment and runs the test suite.
#   bash launch/test.sh [pytest arguments]
# Environment: PYTHON (default python3), VENV (default .venv-test).
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv-test}
source launch/venv.sh

install_into_venv dev,samples,parity
exec "$VENV/bin/python" -m pytest -n 2 -q "$@"
