# shellcheck shell=bash
# Sourced by the launch scripts: a virtual environment with qoq_jax in it, installed once for each state of setup.py.
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

# install_into_venv [EXTRAS]: creates $VENV and installs the repository with these extras, unless that
# is done already.
install_into_venv() {
  local extras=${1:+[$1]} stamp="$VENV/.installed-${1:-core}" state
  state=$(cat setup.py constraints.txt | cksum)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ]; then return; fi
  "$PYTHON" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' || {
    echo "qoq_jax needs Python 3.11 to 3.13, but $PYTHON is $("$PYTHON" --version 2>&1); set PYTHON=python3.12, say" >&2
    exit 2
  }
  echo "installing qoq_jax into $VENV (a minute or two, once)"
  # An interrupted first start can leave a python without pip.
  "$VENV/bin/python" -m pip --version > /dev/null 2>&1 || "$PYTHON" -m venv --clear "$VENV"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extras"
  echo "$state" > "$stamp"
}
