# Commands of the project; `make help` lists them. They need Python 3.10 or newer and make. Everything is installed into
# .venv from requirements.lock, but for Debian packages: `make apt` installs them, and nothing else changes the system.
.DEFAULT_GOAL := help
.PHONY: help install apt needs-demo needs-test path demo lab checkout test live bench faults lock clean
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { echo $$p; break; }; done)
PY := .venv/bin/python
UV := .venv/bin/uv

# A machine without a home that can be written (some CI) gets one in build/.
ifneq ($(shell [ -n "$$HOME" ] && [ -d "$$HOME" ] && [ -w "$$HOME" ] && echo yes),yes)
export HOME := $(CURDIR)/build/home
$(shell mkdir -p build/home)
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A virtual environment that happens to be active is not ours.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 16

# ---- installation -----------------------------------------------------------------------------------------------

$(PY):
	@test -n "$(PYTHON)" || { echo "no Python 3.10 or newer on PATH; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@rm -rf .venv
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || sh tools/debian_packages.sh no-ensurepip=python3-venv
	$(PYTHON) -m venv .venv

# The stamp lies in .venv, so that a removed .venv is made again.
.venv/installed: $(PY) requirements.lock pyproject.toml
	@sed -n '/^uv==/,/# via/p' requirements.lock > .venv/uv.txt
	@$(PY) -m pip install --quiet --require-hashes -r .venv/uv.txt
	@echo "installing what requirements.lock names into .venv"
	@$(UV) pip install --quiet --python $(PY) --require-hashes -r requirements.lock
	@$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@

install: .venv/installed ## make .venv and install what requirements.lock names, and the project itself

lock: .venv/installed ## write requirements.lock anew from pyproject.toml
	$(UV) pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header \
		--extra local --group dev pyproject.toml -o requirements.lock

# ---- Debian packages --------------------------------------------------------------------------------------------

apt: ## install the Debian packages that are missing (as root), or name them
	@[ -z "$(PYTHON)" ] || $(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		sh tools/debian_packages.sh --install no-ensurepip=python3-venv
	@sh tools/debian_packages.sh --install bwrap=bubblewrap slirp4netns=slirp4netns
	@sh tools/debian_packages.sh --install chromium=chromium || true

needs-demo:
	@sh tools/debian_packages.sh bwrap=bubblewrap slirp4netns=slirp4netns

# Chromium is for the browser tests alone; without it they are skipped.
needs-test: needs-demo
	@sh tools/debian_packages.sh chromium=chromium || true

# ---- the lessons ------------------------------------------------------------------------------------------------

# Ray hands its workers' command to a shell without quotes.
path:
	@test -z "$(word 2,$(CURDIR))" || { \
		echo "this folder's path has a space, and Ray cannot start workers from there: move the clone" >&2; exit 1; }

checkout: path .venv/installed
	@$(PY) -m demo.prepare_checkout build/SkyRL

demo: needs-demo checkout ## run the lessons on this machine; leaves the executed notebooks and their HTML in build/
	@$(PY) -m demo.run_lesson notebooks/01_first_cell.ipynb
	@$(PY) -m demo.run_lesson notebooks/02_python_on_the_cluster.ipynb
	@$(PY) -m demo.run_lesson notebooks/03_long_runs.ipynb

lab: needs-demo checkout ## JupyterLab with the extension loaded, in the lessons' checkout
	@$(PY) -m demo.lab $(ARGS)

# ---- tests ------------------------------------------------------------------------------------------------------

test: needs-test checkout ## linters, types, architecture and the whole test suite
	@$(PY) -m tools.run_tests

live: path .venv/installed ## the contract suite on your Modal account (cents); leaves build/live_report.md, without secrets
	@$(PY) -m tools.live $(ARGS)

bench: needs-demo path .venv/installed ## measure side by side with %%bash and raw execs; writes bench/RESULTS.md
	@$(PY) -m bench $(ARGS)

faults: needs-demo path .venv/installed ## break connections and processes, as often as bench/RELIABILITY.md says; writes it
	@$(PY) -m bench.reliability $(ARGS)

clean: ## remove .venv and build/, with the local volumes of the lessons
	@for state in build/demo-state build/lab-state; do \
		[ ! -d $$state ] || $(PY) -m skyrl_magic.loopback --stop --state-dir $$state || true; done
	rm -rf .venv build
