#!/usr/bin/env bash
# Makes .venvs/onnxruntime-genai: the exporter that benchmarks/onnx_peers.py compares with. A benchmark
# tool only.
#
#   environments/onnxruntime-genai.sh            build it, or return at once when nothing here changed
#   environments/onnxruntime-genai.sh --relock   resolve anew and rewrite the pins, then build
#
# torch 2.13.0+cpu comes from wherever pip is set to look.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly name=onnxruntime-genai module=onnxruntime_genai.models.builder
readonly -a packages=(onnxruntime-genai==0.18.0 torch==2.13.0 onnxruntime==1.32.0 onnx onnx_ir transformers==5.23.0 sentencepiece)
readonly venv=.venvs/$name pins=environments/$name-constraints.txt
readonly python=${PYTHON:-python3.11}

hash_inputs() { cat "environments/$name.sh" "$pins" | sha256sum; }

make_venv() {
  rm -rf "$venv"
  "$python" -m venv "$venv"
}

install() { "$venv/bin/pip" install -qq "$@"; }

relock() {
  make_venv
  install "${packages[@]}"
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
