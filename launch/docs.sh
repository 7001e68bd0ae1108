#!/usr/bin/env bash
# Builds the documentation site, API reference included, into site/: open site/index.html.
# Environment: PYTHON (default python3), VENV (default .venv-docs).
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv-docs}
source launch/venv.sh

install_into_venv docs
export NO_MKDOCS_2_WARNING=1
exec "$VENV/bin/python" -m mkdocs build --quiet "$@"
