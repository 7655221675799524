# Everything runs in .venv, which each target makes first if it has to. PYTHON chooses 3.11 or 3.12.
PYTHON ?= python3
# `make test SGLANG=0.5.23` and so on: another release than the default, in an environment of its own.
DEFAULT := 0.5.17
OTHERS := $(patsubst constraints-%.txt,%,$(wildcard constraints-*.txt))
SGLANG ?= $(DEFAULT)
ifeq ($(filter $(SGLANG),$(DEFAULT) $(OTHERS)),)
$(error SGLANG=$(SGLANG): constraints are here for $(DEFAULT) $(OTHERS))
endif
ifeq ($(SGLANG),$(DEFAULT))
VENV := .venv
CONSTRAINTS := constraints.txt
else
VENV := .venv-$(SGLANG)
CONSTRAINTS := constraints-$(SGLANG).txt
endif
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two cores: who has nothing left to do takes from the other, so that no file is long at the end.
UNIT := -m pytest tests/unit -n 2 --dist worksteal
# Here a file's tests stay together, and so do those that share servers (tests/e2e/conftest.py). One
# worker more than cores, since each waits at times for a server or for processes to end.
WITH_SGLANG := -m pytest -m "not gpu" -n 3 --dist loadfile --no-loadscope-reorder --durations=10
# To import SGLang is most of what they compute, and a fifth of that is Python's garbage collector.
SELDOM_COLLECTED := PYTHONPATH="$(CURDIR)/tests/support/starts$${PYTHONPATH:+:$$PYTHONPATH}"
# What another release may do otherwise: states, what a scheduler is asked, what a launch refuses and
# what is answered. All else is the same code, which the tests with the default release run.
ELSEWHERE := tests/e2e/test_equality.py tests/e2e/test_exactness_requests.py \
	tests/e2e/test_metrics.py tests/e2e/test_selection_at_start.py \
	tests/e2e/test_launcher_at_start.py tests/e2e/test_access.py tests/e2e/test_auto.py \
	tests/contract/test_fast.py tests/contract/test_fast_head.py tests/contract/test_prefill.py \
	tests/contract/test_installed_sglang.py tests/contract/test_streams.py \
	tests/contract/test_requests.py tests/contract/test_adaptive.py tests/contract/test_seams.py \
	tests/contract/test_cycles.py tests/contract/test_access.py tests/contract/test_metrics.py \
	tests/contract/test_weight_updates.py
# Real processes with stand-ins for SGLang, and what takes long without it.
INTEGRATION := tests/integration
# Kernels run in Triton's interpreter, which is chosen when triton is first imported.
KERNELS := tests/kernels
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Python compiles a module when it is first imported: to compile all 33,000 here takes 2 minutes. It
# has to be allowed to keep what it compiled, or each process would do it again.
unexport PYTHONDONTWRITEBYTECODE
QUIET := --disable-pip-version-check install --quiet --no-compile
# What looks at packages is none of them: it has an environment of its own.
TOOLS := .venv-tools
# `make sbom IMAGE=name` lists what an image has instead of .venv; podman does as well.
DOCKER ?= docker

.DEFAULT_GOAL := help
.PHONY: help train-env environments demo serve test test-fast test-gpu coverage lint format readme proofs licences audit sbom wheel clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

ifeq ($(SGLANG),$(DEFAULT))
train-env: .venv/.installed  ## .venv, with what training needs too: SpecForge beside the default SGLang
else
train-env:
	$(error SGLANG=$(SGLANG): training runs beside SGLang $(DEFAULT) only, leave SGLANG out)
endif

environments: .venv/.installed $(OTHERS:%=.venv-%/.installed)  ## .venv, and those of the other releases that tests are run with: 10 GB each

demo: $(INSTALLED)  ## Serve the small pair on this machine's CPU, ask it a question, stop
	@$(BIN)/python -m sglang_qwen3next_eagle3 demo

serve: $(INSTALLED)  ## The same, but keep the server until Ctrl-C
	@$(BIN)/python -m sglang_qwen3next_eagle3 demo --serve

ifeq ($(SGLANG),$(DEFAULT))
test: $(INSTALLED)  ## All tests but those that need a GPU; SGLANG=0.5.23: those of another release
	TRITON_INTERPRET=1 $(BIN)/python $(UNIT) $(INTEGRATION) $(KERNELS)
	$(SELDOM_COLLECTED) $(BIN)/python $(WITH_SGLANG) tests/e2e tests/contract
else
test: $(INSTALLED)
	$(SELDOM_COLLECTED) $(BIN)/python $(WITH_SGLANG) $(ELSEWHERE)
endif

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

# The code is one for all releases, and only .venv has these tools.
lint: .venv/.installed  ## ruff, mypy, the arrows between the rooms, the licences of what is pinned
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	@.venv/bin/python -m tests.support.licences constraints.txt > /dev/null

format: .venv/.installed  ## Let ruff sort and format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

readme: $(INSTALLED)  ## README's tables from benchmarks/results
	$(BIN)/python -m tests.support.readme

proofs: $(INSTALLED)  ## The digests of the code that is on by default, and which proofs are to be made anew
	@$(BIN)/python -m sglang_qwen3next_eagle3.overlay.sources

licences: $(INSTALLED)  ## The licence of every pinned package; fails for one that says none
	$(BIN)/python -m tests.support.licences $(CONSTRAINTS)

audit: $(INSTALLED) $(TOOLS)/.installed  ## Known vulnerabilities of all releases' pins; needs a network
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

# SGLang and its CUDA libraries are 9 GB; nothing is installed outside the constraints. They name
# every package, so that three processes bring a part each without looking for what needs what: CUDA's
# libraries, what else is large, and the rest. Whatever is missing then comes with what needs it.
LARGE := ^(torch|triton|sglang-kernel|tokenspeed-triton|tilelang)==
define bring
	@part() { grep -E '^[A-Za-z0-9]' $(1) | grep "$$@" | \
		xargs $(@D)/bin/python -m pip $(QUIET) --no-deps || true; }; \
	part '^nvidia-' & part -E '$(LARGE)' & part -vE '^nvidia-|$(LARGE)'; wait
endef

# SpecForge asks for SGLang 0.5.14 and an older transformers, and runs with ours: without its pins.
.venv/.installed: pyproject.toml constraints.txt
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "installing into $(@D) (the first time about 4 minutes, 9 GB)"
	$(call bring,constraints.txt)
	@$(@D)/bin/python -m pip $(QUIET) -c constraints.txt hatchling editables
	@$(@D)/bin/python -m pip $(QUIET) -c constraints.txt --no-build-isolation -e '.[dev,train]'
	@$(@D)/bin/python -m pip $(QUIET) -c constraints.txt --no-deps specforge
	@touch $@

# Without SpecForge, and without [serve], which names the default release.
.venv-%/.installed: pyproject.toml constraints-%.txt
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "installing SGLang $* into $(@D) (the first time about 4 minutes, 9 GB)"
	$(call bring,constraints-$*.txt)
	@$(@D)/bin/python -m pip $(QUIET) -c constraints-$*.txt hatchling editables
	@$(@D)/bin/python -m pip $(QUIET) -c constraints-$*.txt --no-build-isolation -e '.[test]' sglang==$*
	@touch $@

$(TOOLS)/.installed:
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1 cyclonedx-bom==7.5.0
	@touch $@

clean:  ## Remove what the targets made, .venv included
	rm -rf .venv .venv-* $(TOOLS) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
