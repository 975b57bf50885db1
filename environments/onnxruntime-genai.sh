#!/usr/bin/env bash
# Makes .venvs/onnxruntime-genai: the builder that benchmarks/onnx_peers.py compares with. No test
# needs it.
#
#   environments/onnxruntime-genai.sh            build it, or return at once when nothing here changed
#   environments/onnxruntime-genai.sh --relock   resolve anew and rewrite the pins, then build
#
# torch 2.13.0+cpu comes from wherever pip is set to look.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly name=onnxruntime-genai package=onnxruntime-genai==0.18.0
readonly module=onnxruntime_genai.models.builder
# What its builder imports, and its metadata does not name.
readonly resolved_with=(
  torch==2.13.0+cpu onnxruntime==1.32.0 onnx==1.23.2 onnx-ir==1.1.0 transformers==5.23.0 sentencepiece
)
source environments/pinned-venv.sh

list_requirements() { metadata_of "$package"; }

make_environment "$@"
