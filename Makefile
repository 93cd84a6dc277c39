PYTHON ?= python

.PHONY: check format lint types test slow lowest

check: lint types test

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest

slow:
	$(PYTHON) -m pytest --slow

# The lowest versions of what pyproject.toml asks for, torch aside, in an environment of their own.
LOWEST_TESTS = tests/test_store.py tests/test_search.py tests/test_cli.py tests/test_llm.py \
	tests/test_loading.py tests/test_plugins.py tests/test_prompt_file.py tests/test_output.py

lowest:
	rm -rf .lowest && $(PYTHON) -m venv .lowest
	$(PYTHON) tests/lowest.py > .lowest/lowest.txt
	.lowest/bin/pip install -q -c .lowest/lowest.txt 'torch==2.13.*' -e . pytest pytest-xdist hypothesis
	.lowest/bin/python -m pytest -n 2 $(LOWEST_TESTS)
