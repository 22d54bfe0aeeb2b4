.PHONY: check lint test fast

check: ## What CI does: lint, types, all tests, both TFX lines.
	bash .ci/run

lint: ## Format, lint and types.
	python3 -m uv run ruff format .
	python3 -m uv run ruff check --fix .
	python3 -m uv run mypy
	python3 -m uv run mypy local_runner.py

test: ## All tests on the default TFX line.
	python3 -m uv run pytest

fast: ## Unit tests only.
	python3 -m uv run pytest -m "not e2e and not bench"
