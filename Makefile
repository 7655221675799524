# Everything runs in .venv, which each target makes first if it has to. PYTHON chooses 3.11 or 3.12.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two cores: who has nothing left to do takes from the other, so that no file is long at the end.
UNIT := -m pytest tests/unit -n 2 --dist worksteal
# Here a file's tests stay together, and so do all that share servers (tests/e2e/conftest.py).
WITH_SGLANG := -m pytest -m "not gpu" tests/e2e tests/contract -n 2 --dist loadfile --no-loadscope-reorder
# Real processes with stand-ins for SGLang, and what takes long without it.
INTEGRATION := tests/integration
# Kernels run in Triton's interpreter, which is chosen when triton is first imported.
KERNELS := tests/kernels
PIP := $(BIN)/python -m pip --disable-pip-version-check
# What looks at packages is none of them: it has an environment of its own.
TOOLS := .venv-tools
# `make sbom IMAGE=name` lists what an image has instead of .venv; podman does as well.
DOCKER ?= docker

.DEFAULT_GOAL := help
.PHONY: help train-env demo serve test test-fast test-gpu coverage lint format readme licences audit sbom wheel clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

train-env: $(INSTALLED)  ## .venv with what training needs too: SpecForge beside SGLang

demo: $(INSTALLED)  ## Serve the small pair on this machine's CPU, ask it a question, stop
	@$(BIN)/python -m sglang_qwen3next_eagle3 demo

serve: $(INSTALLED)  ## The same, but keep the server until Ctrl-C
	@$(BIN)/python -m sglang_qwen3next_eagle3 demo --serve

test: $(INSTALLED)  ## All tests but those that need a GPU
	TRITON_INTERPRET=1 $(BIN)/python $(UNIT) $(INTEGRATION) $(KERNELS)
	$(BIN)/python $(WITH_SGLANG) --durations=10

test-fast: $(INSTALLED)  ## The unit tests: under a minute, no SGLang
	$(BIN)/python $(UNIT)

coverage: $(INSTALLED)  ## The share of the package's lines that tests without SGLang run
	@rm -f .coverage .coverage.*
	TRITON_INTERPRET=1 $(BIN)/coverage run $(UNIT) $(INTEGRATION) $(KERNELS) -q
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report
	@$(BIN)/coverage report --format=total --omit='*/overlay/fast/kernels/*' | sed 's/$$/ % without the kernels/'

test-gpu: $(INSTALLED)  ## By hand, on a machine with an H200
	$(BIN)/python -m pytest -m gpu tests/gpu -s

lint: $(INSTALLED)  ## ruff, mypy, the arrows between the rooms, the licences of what is pinned
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/python -m tests.support.licences > /dev/null

format: $(INSTALLED)  ## Let ruff sort and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

readme: $(INSTALLED)  ## README's tables from benchmarks/results
	$(BIN)/python -m tests.support.readme

licences: $(INSTALLED)  ## The licence of every pinned package; fails for one that says none
	$(BIN)/python -m tests.support.licences

audit: $(INSTALLED) $(TOOLS)/.installed  ## Known vulnerabilities of the pinned packages; needs a network
	$(BIN)/python -m tests.support.audit $(TOOLS)/bin/pip-audit

sbom: $(INSTALLED) $(TOOLS)/.installed  ## dist/sbom.json: the Python packages of .venv, or of IMAGE=name
	@mkdir -p dist
ifdef IMAGE
	$(DOCKER) run --rm --network none --entrypoint python3 $(IMAGE) -m pip list --format freeze > dist/packages.txt
	$(TOOLS)/bin/cyclonedx-py requirements dist/packages.txt --output-reproducible -o dist/sbom.json
else
	$(TOOLS)/bin/cyclonedx-py environment $(BIN)/python --output-reproducible -o dist/sbom.json
endif
	$(BIN)/python -m tests.support.sbom dist/sbom.json

wheel: $(INSTALLED)  ## dist/*.whl
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# SGLang and its CUDA libraries are 9 GB; nothing is installed outside constraints.txt. SpecForge
# asks for SGLang 0.5.14 and an older transformers, and runs with ours: it comes without its pins.
$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (the first time about 4 minutes, 9 GB)"
	@$(PIP) install --quiet -c constraints.txt hatchling editables
	@$(PIP) install --quiet -c constraints.txt --no-build-isolation -e '.[dev,train]'
	@$(PIP) install --quiet -c constraints.txt --no-deps specforge
	@touch $@

$(TOOLS)/.installed:
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1 cyclonedx-bom==7.5.0
	@touch $@

clean:  ## Remove what the targets made, .venv included
	rm -rf $(VENV) $(TOOLS) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
