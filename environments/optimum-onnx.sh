#!/usr/bin/env bash
# Makes .venvs/optimum-onnx: the exporter that benchmarks/onnx_peers.py compares with. No test needs it.
#
#   environments/optimum-onnx.sh            build it, or return at once when nothing here changed
#   environments/optimum-onnx.sh --relock   resolve anew and rewrite the pins, then build
#
# It needs an older transformers than llmopt. torch 2.13.0+cpu comes from wherever pip is set to look.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly name=optimum-onnx package=optimum-onnx==0.1.0 module=optimum.exporters.onnx
readonly resolved_with=(torch==2.13.0+cpu onnxruntime==1.32.0 accelerate==1.15.0)
source environments/pinned-venv.sh

list_requirements() { metadata_of "$package"; }

make_environment "$@"
