#!/usr/bin/env bash
# Makes .venvs/triton: the Triton compiler beside the packages of .venv, for tests of the GPU kernel.
#
#   environments/triton.sh     build it, or return at once when nothing here changed
#
# CUDA builds of torch bring triton along; the CPU build that tests use does not, and the wheel is
# large. It interprets kernels and compiles them for GPUs that are not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly name=triton package=triton==3.9.0
readonly venv=.venvs/$name main=.venv/bin/python

hash_inputs() { { cat "environments/$name.sh"; "$main" --version; pwd; } | sha256sum; }

build() {
  rm -rf "$venv"
  "$main" -m venv "$venv"
  "$venv/bin/pip" install -qq --no-deps "$package"
  "$main" -c 'import site; print(site.getsitepackages()[0])' \
    >"$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')/llmopt-environment.pth"
  "$venv/bin/python" -c 'import torch, triton'
  hash_inputs >"$venv/.stamp"
}

mkdir -p .venvs
exec 9>".venvs/$name.lock"
flock 9
if [[ $(cat "$venv/.stamp" 2>/dev/null) != "$(hash_inputs)" ]]; then build; fi
