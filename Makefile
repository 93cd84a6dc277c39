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
LOWEST_TESTS = tests/store/test_store.py tests/store/test_search.py tests/cli/test_commands.py tests/llm/test_client.py \
	tests/models/test_loading.py tests/plugins/test_plugins.py tests/pipeline/test_prompt_file.py tests/output/test_text.py

lowest:
	rm -rf .lowest && $(PYTHON) -m venv .lowest
	$(PYTHON) tests/lowest.py > .lowest/lowest.txt
	.lowest/bin/pip install -q -c .lowest/lowest.txt 'torch==2.13.*' -e . pytest pytest-xdist hypothesis
	.lowest/bin/python -m pytest -n 2 $(LOWEST_TESTS)
