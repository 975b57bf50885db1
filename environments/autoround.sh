#!/usr/bin/env bash
# Makes .venvs/autoround: the peer that made some of the checkpoints in tests/peers/. No test needs it.
#
#   environments/autoround.sh            build it, or return at once when nothing here changed
#   environments/autoround.sh --relock   resolve anew and rewrite the pins, then build
#
# The pins are installed as they stand, without resolving. torch 2.13.0+cpu comes from wherever pip
# is set to look.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly name=autoround package=auto-round==0.16.1 torch=torch==2.13.0+cpu module=auto_round
readonly transformers=transformers==5.23.0
readonly compressed_tensors=compressed-tensors==0.19.0 # its llm_compressor export wants it
readonly venv=.venvs/$name pins=environments/$name-constraints.txt
readonly python=${PYTHON:-python3.11}

hash_inputs() { cat "environments/$name.sh" "$pins" | sha256sum; }

make_venv() {
  rm -rf "$venv"
  "$python" -m venv "$venv"
}

install() { "$venv/bin/pip" install -qq "$@"; }

list_requirements() {
  "$venv/bin/python" - "${package%%==*}" <<'PY' | grep -v '^torch$'
import sys
from importlib.metadata import requires

print(*(line for line in requires(sys.argv[1]) if "extra ==" not in line), sep="\n")
PY
}

relock() {
  make_venv
  install --no-deps "$package" "$torch"
  list_requirements >"$venv/requirements.txt"
  install --requirement "$venv/requirements.txt" "$torch" "$transformers" \
    "$compressed_tensors"
  {
    echo "# Written by environments/$name.sh --relock on Python 3.11, x86-64 Linux."
    "$venv/bin/pip" list --format=freeze | grep -v '^pip=='
  } >"$pins"
}

build() {
  make_venv
  install --no-deps --requirement "$pins"
  "$venv/bin/python" -c "import $module" >"$venv/import.log" 2>&1 || {
    cat "$venv/import.log" >&2
    return 1
  }
  hash_inputs >"$venv/.stamp"
}

case ${1:-} in
  '' | --relock) ;;
  *) echo "usage: environments/$name.sh [--relock]" >&2 && exit 2 ;;
esac
mkdir -p .venvs
exec 9>".venvs/$name.lock"
flock 9
if [[ ${1:-} == --relock ]]; then relock; fi
if [[ $(cat "$venv/.stamp" 2>/dev/null) != "$(hash_inputs)" ]]; then build; fi
