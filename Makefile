# Everything is installed into .venv from the lock; a second call installs nothing again.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/ready
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --custom-compile-command "make lock" pyproject.toml
# Two processes, each with a Ray of its own; a file's tests stay together, for they share what they have set up.
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo check fast test measured chaos soak bench bench-quick lock clean

setup: $(READY)

$(READY): requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "icefloe needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(READY)
	$(BIN)/python examples/digits/digits.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict engine jobs
	$(MAKE) fast

fast: $(READY)
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not ray and not tf and not store and not chaos and not gpu and not sim"

test: $(READY)
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not gpu and not chaos and not sim and not measured"

measured: $(READY)
	$(BIN)/pytest -m measured

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

clean:
	rm -rf .venv out .pytest_cache .mypy_cache .ruff_cache .hypothesis
