# The front door. `make` alone explains itself.
#
# Each target installs what it needs into .venv, once: an install is done again only when
# pyproject.toml or constraints.txt changed. PYTHON=... chooses the interpreter.

SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# uv when it is there (it is quicker), else the pip of the virtual environment
INSTALL = if command -v uv >/dev/null 2>&1; \
	then uv pip install --quiet --python $(BIN)/python -c constraints.txt -e; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e; fi
INSTALLED := $(VENV)/.installed
KAFKA := infra/kafka/target/.resolved

.PHONY: help demo test test-plain fuzz lint types contracts check faults mutation bench \
	instructions notebook kafka constraints clean

help:
	@echo 'pipeline: Kafka topics to exact, fresh features in Redis, in columns'
	@echo
	@echo '  make demo         the whole path on one machine: events, features, predictions'
	@echo '                    (no server needed; options: make demo ARGS=--help)'
	@echo '  make notebook     the notebooks in JupyterLab'
	@echo
	@echo '  make test         all tests; those that need a server or data say why they skip'
	@echo '                    (one file: make test ARGS=tests/unit/test_kernels_hash.py)'
	@echo '  make test-plain   the kernel tests with every kernel left uncompiled'
	@echo '  make fuzz         mutated bytes for every decoder, a minute each, kernels with bounds checked'
	@echo '                    (make fuzz ARGS="avro --seconds 600 --seed 7")'
	@echo '  make faults       the tests that kill, cut and stall things, long forms too; a table in'
	@echo '                    build/faults.json (make faults ARGS="--seed 7"; ARGS=--short)'
	@echo '  make mutation     faults put into the sources, one by one, that tests have to notice; a table'
	@echo '                    in build/mutation.json (make mutation ARGS="--only lease")'
	@echo '  make bench        the benchmarks, then a table of all figures in build/bench.json; half an'
	@echo '                    hour on two cores (one: make bench ARGS=decode)'
	@echo '  make instructions the guard over instruction counts of the kernels; needs valgrind'
	@echo '  make check        lint, types, contracts: what a reviewer would ask for'
	@echo
	@echo '  make kafka        fetch a real Apache Kafka broker for tests (needs java 17, mvn)'
	@echo '  make constraints  write the installed versions to constraints.txt'
	@echo '  make clean        remove .venv, caches and fetched brokers'
	@echo
	@echo 'Servers: tests use PIPELINE_TEST_REDIS=redis://... and PIPELINE_TEST_BROKERS=host:port'
	@echo 'where set, else a redis-server on PATH and the broker of `make kafka`.'

demo: $(INSTALLED)-demo
	@$(BIN)/pipeline demo $(ARGS)

test: $(INSTALLED)-test
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-plain: $(INSTALLED)-test
	@PIPELINE_JIT=off $(BIN)/python -m pytest -q tests/unit -k 'kernels or state' \
	  -W 'ignore:overflow encountered:RuntimeWarning' $(ARGS)

fuzz: $(INSTALLED)-test
	@NUMBA_BOUNDSCHECK=1 PIPELINE_CACHE=build/kernels-checked $(BIN)/python -m tests.fuzz $(ARGS)

faults: $(INSTALLED)-test
	@$(BIN)/python -m tests.faults.run $(ARGS)

mutation: $(INSTALLED)-test
	@$(BIN)/python -m tests.mutation.run $(ARGS)

bench: $(INSTALLED)-test
	@failed=; for name in $(if $(ARGS),$(ARGS),$(filter-out report figures,$(basename $(notdir $(wildcard tests/bench/[!_]*.py))))); do \
	  echo "== $$name"; $(BIN)/python -m "tests.bench.$$name" || failed="$$failed $$name"; done; \
	echo '== figures'; $(BIN)/python -m tests.bench.figures; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

instructions: $(INSTALLED)-test
	@$(BIN)/python -m tests.bench.instructions $(ARGS)

check: lint types contracts

lint: $(INSTALLED)-lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(INSTALLED)-test $(INSTALLED)-lint
	@$(BIN)/mypy

contracts: $(INSTALLED)-test $(INSTALLED)-lint
	@$(BIN)/lint-imports

notebook: $(INSTALLED)-notebook
	@$(BIN)/jupyter lab --notebook-dir=notebooks $(ARGS)

kafka: $(KAFKA)

$(KAFKA): infra/kafka/pom.xml
	@command -v mvn >/dev/null 2>&1 && command -v java >/dev/null 2>&1 || { \
	  echo 'make kafka needs Java 17 or newer and Maven: apt-get install openjdk-17-jre-headless maven' >&2; \
	  exit 1; }
	@rm -rf infra/kafka/target
	@mvn --batch-mode --quiet -Dstyle.color=never -f infra/kafka/pom.xml dependency:copy-dependencies
	@touch $@

constraints: $(INSTALLED)-test $(INSTALLED)-lint
	@{ sed -n '/^#/p' constraints.txt; \
	  if command -v uv >/dev/null 2>&1; then uv pip freeze --python $(BIN)/python; \
	  else $(BIN)/python -m pip freeze; fi \
	  | grep -E '^[A-Za-z0-9._-]+==' | sort -f; } > constraints.new
	@mv constraints.new constraints.txt
	@touch $(wildcard $(INSTALLED)-*)

clean:
	rm -rf $(VENV) infra/kafka/target build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find pipeline tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. [test] contains [demo], so a test install serves both.

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  echo 'Python 3.11 or newer was not found: install it (python.org, apt-get install python3.11' >&2; \
	  echo 'python3.11-venv, brew install python@3.11) or say make PYTHON=/path/to/python3.11' >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo '$(PYTHON) is older than Python 3.11: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@if command -v uv >/dev/null 2>&1; then uv venv --quiet --python $(PYTHON) $(VENV); \
	  else $(PYTHON) -m venv $(VENV) || { \
	  echo 'the venv module is missing: apt-get install python3.11-venv' >&2; exit 1; }; fi

$(INSTALLED)-demo $(INSTALLED)-test $(INSTALLED)-lint $(INSTALLED)-notebook: \
		$(INSTALLED)-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing pipeline[$*] into $(VENV) (once; a minute or two)' >&2
	@$(subst -e;,-e '.[$*]';,$(INSTALL))
	@touch $@
	@if [ $* = test ]; then touch $(INSTALLED)-demo; fi
