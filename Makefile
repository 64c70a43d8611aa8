# Everything is installed into .venv from the lock; a second call installs nothing again.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/ready
# The same with the lowest versions that pyproject.toml admits, and on the newest Python that TensorFlow has a wheel for.
OLDEST := .venv-oldest/ready
NEWEST := .venv-newest/ready
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --custom-compile-command "make lock" pyproject.toml
# Two processes, each with a Ray of its own; a file's tests stay together, for they share what they have set up.
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder
TESTS := $(SIDE_BY_SIDE) -m "not gpu and not chaos and not sim and not measured and not docs"

.PHONY: setup demo docs check fast test test-oldest test-newest test-docs measured chaos soak bench bench-quick lock clean

setup: $(READY)

$(READY) $(NEWEST): requirements-dev.lock
$(OLDEST): requirements-oldest.lock
$(OLDEST): VERSION := 3.11
$(NEWEST): VERSION := 3.13
$(OLDEST) $(NEWEST): PYTHON = $(or $(found),$(error no python$(VERSION) found; PYTHON=/path/to/python$(VERSION) names one))
# A shim of pyenv may stand for no Python, so what is taken has answered; the newest of those that pyenv keeps.
found = $(shell for python in python$(VERSION) $$(ls -d $(HOME)/.pyenv/versions/$(VERSION).*/bin/python 2> /dev/null | sort -rV); \
	do $$python -c "" 2> /dev/null && echo $$python && break; done)

$(READY) $(OLDEST) $(NEWEST): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v < (3, 14) and "icefloe needs Python 3.11 to 3.13, \
	and %s is %d.%d: type make setup PYTHON=python3.11" % (sys.executable, v[0], v[1]))'
	@echo "installing into $(@D): some minutes, once"
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $(filter %.lock,$^)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(READY)
	$(BIN)/python examples/digits/digits.py

docs: $(READY)
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/draw_architecture.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict engine jobs
	$(MAKE) fast

fast: $(READY)
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not ray and not tf and not store and not chaos and not gpu and not sim and not docs and not browser"

test: $(READY)
	$(BIN)/pytest $(TESTS)

test-oldest: $(OLDEST)
	$(<D)/bin/pytest $(TESTS)

test-newest: $(NEWEST)
	$(<D)/bin/pytest $(TESTS)

measured: $(READY)
	$(BIN)/pytest -m measured

test-docs: $(READY)
	$(BIN)/pytest $(SIDE_BY_SIDE) -m docs

chaos: $(READY)
	$(BIN)/pytest $(SIDE_BY_SIDE) tests/chaos tests/sim tests/end_to_end/test_stores.py

soak: $(READY)
	$(BIN)/python tests/model/fuzz.py 300 1
	$(BIN)/python tests/chaos/soak.py 10 1

bench: $(READY)
	$(BIN)/python bench/efficiency.py
	$(BIN)/python bench/bad_rows.py
	$(BIN)/python bench/encodings.py
	$(BIN)/python bench/driver.py
	$(BIN)/python bench/memory.py
	$(BIN)/python bench/precision.py

bench-quick: $(READY)
	$(BIN)/python bench/efficiency.py --quick

lock: $(READY)
	$(LOCK) --output-file requirements.lock
	$(LOCK) --extra dev --output-file requirements-dev.lock
	$(LOCK) --extra gpu --output-file requirements-gpu.lock
	$(LOCK) --extra dev --resolution lowest-direct --upgrade --output-file requirements-oldest.lock

clean:
	rm -rf .venv .venv-oldest .venv-newest out .pytest_cache .mypy_cache .ruff_cache .hypothesis
