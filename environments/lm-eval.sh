#!/usr/bin/env bash
# Makes .venvs/lm-eval: the real lm-evaluation-harness, which tests run `eval.lm_eval` in. It holds
# llmopt's own dependencies at the tested versions; llmopt itself is found through PYTHONPATH.
#
#   environments/lm-eval.sh            build it, or return at once when nothing here changed
#   environments/lm-eval.sh --relock   resolve anew and rewrite the pins, then build
#
# The pins are installed as they stand, without resolving. torch 2.13.0+cpu comes from wherever pip
# is set to look.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly name=lm-eval package=lm_eval==0.4.13 torch=torch==2.13.0+cpu
readonly module=lm_eval.models.huggingface
readonly venv=.venvs/$name pins=environments/$name-constraints.txt
readonly python=${PYTHON:-python3.11}

hash_inputs() { cat "environments/$name.sh" "$pins" | sha256sum; }

make_venv() {
  rm -rf "$venv"
  "$python" -m venv "$venv"
}

install() { "$venv/bin/pip" install -qq "$@"; }

list_requirements() {
  "$venv/bin/python" - <<'PY'
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
extra = [line for line in project["optional-dependencies"]["lm-eval"] if "lm_eval" not in line]
print(*project["dependencies"], *extra, sep="\n")
PY
}

relock() {
  make_venv
  list_requirements >"$venv/requirements.txt"
  grep -v '^python-dateutil==' constraints.txt >"$venv/constraints.txt" # lm_eval's wants below 3
  install --requirement "$venv/requirements.txt" --constraint "$venv/constraints.txt" \
    "$package" "$torch"
  {
    echo "# Written by environments/$name.sh --relock on Python 3.11, x86-64 Linux."
    "$venv/bin/pip" list --format=freeze | grep -vE '^(pip|setuptools)=='
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
