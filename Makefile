# Everything runs in .venv, which `make setup` makes; each target sets up what it needs.
BIN := .venv/bin
PYTHON ?= python3

.PHONY: setup demo test check format

setup:
	@PYTHON=$(PYTHON) tools/setup

# The main job on real input: set-up, a real teacher, a trained student, a report. Exit 3 is a verdict: a release is
# withheld, and everything else is made.
demo: setup
	@$(BIN)/python assets/faq/get_model.py
	@$(BIN)/distill run faq || [ $$? -eq 3 ]
	@$(BIN)/distill report faq

test: setup
	@$(BIN)/python assets/faq/get_model.py
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not demo"
	@$(BIN)/pytest -q -m demo

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
