# Two commands for a fresh machine: `make demo` and `make test`. Each makes its own .venv with all it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check table clean
demo: .venv/ready
	$(BIN)/stgraph demo --out runs/demo

test: .venv/ready
	$(BIN)/pytest -n auto

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/mypy

table: .venv/ready
	$(BIN)/python benchmarks/accuracy.py

# torch first and pinned: an unpinned torch may bring gigabytes of GPU libraries along.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch .venv/ready

clean:
	rm -rf .venv build *.egg-info
