#!/usr/bin/env bash
# Makes .venvs/llmcompressor: a peer that benchmarks/ compares with, and that made some of the
# checkpoints in tests/peers/. No test needs it.
#
#   environments/llmcompressor.sh            build it, or return at once when nothing here changed
#   environments/llmcompressor.sh --relock   resolve anew and rewrite the pins, then build
#
# llmcompressor 0.14 wants transformers 5.17 at most, so it can't share llmopt's environment. The
# pins are installed as they stand, without resolving. torch 2.13.0+cpu comes from wherever pip is
# set to look.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly name=llmcompressor package=llmcompressor==0.14.0.1 module=llmcompressor.modifiers.gptq
readonly resolved_with=(torch==2.13.0+cpu)
source environments/pinned-venv.sh

list_requirements() { metadata_of "$package" | grep -v '^torch<='; }

make_environment "$@"
