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

readonly name=autoround package=auto-round==0.16.1 module=auto_round
# Its llm_compressor export wants compressed-tensors.
readonly resolved_with=(torch==2.13.0+cpu transformers==5.23.0 compressed-tensors==0.19.0)
source environments/pinned-venv.sh

list_requirements() { metadata_of "$package" | grep -v '^torch$'; }

make_environment "$@"
