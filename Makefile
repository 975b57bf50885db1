# Everything a contributor runs. Environments are made once and reused; see CONTRIBUTING.md.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.stamp
WORKERS ?= 2  # processes of the tests, each computing on one thread

.PHONY: setup tritonserver demo test test-full test-vllm vllm-env lm-eval-env triton-env gptqmodel-env llmcompressor-env autoround-env optimum-onnx-env onnxruntime-genai-env check format reference freeze

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

# The server that repositories are tried with: fetched once, into ~/.cache/llmopt or $LLMOPT_CACHE.
tritonserver: setup
	$(BIN)/llmopt doctor --get tritonserver || echo 'without it the tests that need it are skipped'

demo: setup tritonserver
	$(BIN)/llmopt run recipes/quickstart.yaml

test: setup tritonserver
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not full and not vllm'

test-full: setup tritonserver lm-eval-env triton-env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m full

vllm-env:
	bash environments/vllm.sh

lm-eval-env:
	bash environments/lm-eval.sh

triton-env: setup
	bash environments/triton.sh

gptqmodel-env:
	bash environments/gptqmodel.sh

llmcompressor-env:
	bash environments/llmcompressor.sh

autoround-env:
	bash environments/autoround.sh

optimum-onnx-env:
	bash environments/optimum-onnx.sh

onnxruntime-genai-env:
	bash environments/onnxruntime-genai.sh

test-vllm: setup vllm-env
	$(BIN)/python -m pytest -m vllm

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/llmopt validate recipes/*.yaml
	for set in apparel-ja general-ja general-en; do $(BIN)/llmopt calibration lint $$set || exit; done
	$(BIN)/llmopt schema | diff - schema/recipe-v1.json
	$(BIN)/python -m llmopt.recipe.reference | diff - docs/recipe-reference.md

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Writes what is generated from the code: editor schema, recipe reference, rules and checks.
reference: setup
	$(BIN)/llmopt schema > schema/recipe-v1.json
	$(BIN)/python -m llmopt.recipe.reference > docs/recipe-reference.md
	$(BIN)/python -m llmopt.serving.rules_table > docs/serving-preflight.md
	$(BIN)/python -m tests.triton.verdicts_page > docs/triton-checks.md

# Writes the versions of the present environment as the tested set.
freeze: setup
	{ echo '# The tested set, written by `make freeze`.'; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -v '^llmopt'; } > constraints.txt
