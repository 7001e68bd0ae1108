#!/usr/bin/env bash
# The whole path on one machine: install, clinical data, SFT, DRPO, evaluation, report.
# Started again after Ctrl-C or kill -9 it continues where it was; when all is done it only prints where the report is.
#   bash launch/quickstart.sh [--config.rl.steps=100 ...]
# Environment: PYTHON (default python3), VENV (default .venv).
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/venv.sh

install_into_venv ''
exec "$VENV/bin/qoq" train --config=configs/quickstart.py "$@"
