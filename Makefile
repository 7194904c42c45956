# Every target makes .venv on first use. `make` alone lists the targets.
SHELL := /bin/bash
BIN := .venv/bin
READY := .venv/.ready
DEMO ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage lab docs readme export hooks clean

help:
	@echo "make setup     make .venv, what every other target does first, too"
	@echo "make demo      train two small denoisers on embedded data and compare them (result in $(DEMO))"
	@echo "make test      everything that CI runs"
	@echo "make coverage  which lines of the library the pages and the tests run (half an hour)"
	@echo "make lab       open the notebooks in JupyterLab, at the page start"
	@echo "make export    format the notebooks and write the library from them (ruff, nbdev)"
	@echo "make readme    write README.md from nbs/index.ipynb"
	@echo "make docs      build the web site into _docs (needs Quarto)"
	@echo "make hooks     install nbdev's git hooks (they also write to your home folder)"
	@echo "make clean     remove what was built; .venv and runs stay"

$(READY): settings.ini setup.py pyproject.toml constraints.txt tools/venv.sh
	@bash tools/venv.sh

setup: $(READY)

demo: $(READY)
	@$(BIN)/mri-diffusion run compare -p preset laptop --out $(DEMO)

test: $(READY)
	@$(BIN)/python tools/run_tests.py

coverage: $(READY)
	@$(BIN)/python tools/run_coverage.py

lab: $(READY)
	@$(BIN)/jupyter lab --notebook-dir=nbs --LabApp.default_url=/lab/tree/start.ipynb

export: $(READY)
	@$(BIN)/python tools/reading.py
	@$(BIN)/ruff format --quiet nbs tests tools setup.py
	@$(BIN)/nbdev_export
	@$(BIN)/python tools/methods.py
	@$(BIN)/nbdev_clean

readme: $(READY)
	@$(BIN)/python tools/readme.py

docs: $(READY)
	@command -v quarto >/dev/null || { echo "make docs needs Quarto, which is not on the PATH: install it from https://quarto.org/docs/get-started and run make docs again (without it: make lab shows the same pages)" >&2; exit 2; }
	@rm -rf _proc
	@$(BIN)/python tools/readme.py
	@PYTHONPATH=$(CURDIR)/tools $(BIN)/nbdev_docs
	@$(BIN)/python tools/readme.py
	@$(BIN)/python tools/llms.py _docs

hooks: $(READY)
	@$(BIN)/nbdev_install_hooks

clean:
	@rm -rf _proc _docs build dist .pytest_cache .ruff_cache .quarto mri_diffusion.egg-info
	@find nbs mri_diffusion tests tools -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
