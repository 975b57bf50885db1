# Sourced by environments/NAME.sh of a peer: an environment of pinned packages in .venvs/NAME.
#
# Wants from the script: name, package, module (what must be importable), resolved_with (an array:
# what stands fast when pins are resolved anew) and list_requirements (prints what the package
# needs; it may use metadata_of). Pins are installed as they stand, without resolving.
readonly venv=.venvs/$name pins=environments/$name-constraints.txt
readonly python=${PYTHON:-python3.11}

hash_inputs() { cat environments/pinned-venv.sh "environments/$name.sh" "$pins" | sha256sum; }

make_venv() {
  rm -rf "$venv"
  "$python" -m venv "$venv"
}

install() { "$venv/bin/pip" install -qq "$@"; }

metadata_of() {
  "$venv/bin/python" - "${1%%==*}" <<'PY'
import sys
from importlib.metadata import requires

print(*(line for line in requires(sys.argv[1]) if "extra ==" not in line), sep="\n")
PY
}

relock() {
  make_venv
  install --no-deps "$package"
  list_requirements >"$venv/requirements.txt"
  install --requirement "$venv/requirements.txt" "${resolved_with[@]}"
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

# Builds the environment unless nothing changed since; with --relock resolves its pins before.
make_environment() {
  case ${1:-} in
    '' | --relock) ;;
    *) echo "usage: environments/$name.sh [--relock]" >&2 && exit 2 ;;
  esac
  mkdir -p .venvs
  exec 9>".venvs/$name.lock"
  flock 9
  if [[ ${1:-} == --relock ]]; then relock; fi
  if [[ $(cat "$venv/.stamp" 2>/dev/null) != "$(hash_inputs)" ]]; then build; fi
}
