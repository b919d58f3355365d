# Two commands: `make serve` serves the embedded model, `make chat` talks to it in the terminal.
# Everything lives in .venv; it is made once, and again only when what it depends on changes.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
CPU_WHEELS := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help venv serve chat lint types test fixtures clean

help:  ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

venv: .venv/.installed  ## Make the environment and nothing else.

serve: .venv/.installed  ## Serve the embedded model on http://127.0.0.1:8000 (more flags: ARGS=...).
	@$(BIN)/quire serve $(ARGS)

chat: .venv/.installed  ## Talk to the embedded model in the terminal.
	@$(BIN)/quire chat $(ARGS)

lint: .venv/.developer  ## Style and form.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.developer .view/quire  ## Types, strictly.
	$(BIN)/mypy

test: lint types  ## Lint, types and the whole test suite.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

fixtures: .venv/.developer  ## Quantized checkpoints by AutoAWQ, AutoGPTQ, GPTQModel and llm-compressor, anew, in build/fixtures.
	tests/quant/tools/rebuild.sh $(BIN)/python build/fixtures

clean:  ## Remove what the other targets made.
	rm -rf .venv .view build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.view/quire:
	@mkdir -p .view && ln -sfn .. .view/quire

# The first python of at least 3.11; torch first, because without an NVIDIA device its CPU build is
# a tenth of the size, and only the place it comes from tells the two apart.
.venv/.installed: pyproject.toml constraints.txt
	@set -e; \
	for python in "$(PYTHON)" python3.14 python3.13 python3.12 python3.11 none; do \
	  test "$$python" != none || { \
	    echo "quire needs Python 3.11 or newer; install one, or say: make PYTHON=/path/to/python" >&2; \
	    exit 1; }; \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; \
	done; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "making .venv with $$python"; \
	  rm -rf .venv; "$$python" -m venv .venv || { rm -rf .venv; exit 1; }; }; \
	echo "installing, once; it may take minutes (the log is .venv/install.log)"; \
	exec 3>&2 >.venv/install.log 2>&1; \
	trap 'test $$? -eq 0 || { tail -n 20 .venv/install.log; echo "the installation failed"; } >&3' EXIT; \
	$(PIP) install -c constraints.txt pip setuptools wheel; \
	echo "  torch" >&3; \
	if nvidia-smi -L || test "$$(uname -s)" != Linux; then \
	  $(PIP) install -c constraints.txt $(TORCH); \
	else \
	  $(PIP) install -c constraints.txt --no-deps --retries 0 --timeout 15 \
	    --index-url $(CPU_WHEELS) $(TORCH) || $(PIP) install -c constraints.txt $(TORCH); \
	fi; \
	echo "  quire and its other libraries" >&3; \
	$(PIP) install -c constraints.txt --no-build-isolation -e .; \
	echo "  a first run, which compiles kernels for this machine" >&3; \
	$(BIN)/python -m quire generate Hello --max-tokens 1 </dev/null || \
	  echo "  which failed; the log says why" >&3; \
	touch $@

.venv/.developer: .venv/.installed
	@echo "installing what the tests need"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
