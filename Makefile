# `make demo` and `make test` set up everything they need in a virtual environment of their own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Packages whose model files the demo and the tests run; nothing else of them is used.
SPEECH := silero-vad==6.2.3
MODELS := $(SPEECH) magika==1.0.3 rapidocr-onnxruntime==1.4.4

RESULTS := conformance/results

.PHONY: demo test check bench conformance clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: check
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tests.check_wheel

bench: $(VENV)/.test
	$(PIP) install --editable '.[test,bench]'
	$(BIN)/python benchmarks/run.py

# After an interruption it goes on where it was. conformance/results/README.md tells more.
conformance: $(VENV)/.test
	$(BIN)/onnxref conformance run --backend numpy --backend numba --backend onnxruntime --backend onnx.reference \
		--suite all --resume --out $(RESULTS)/baseline.jsonl
	$(BIN)/onnxref conformance report $(RESULTS)/baseline.jsonl \
		--markdown $(RESULTS)/scoreboard.md --html $(RESULTS)/scoreboard.html
	gzip -9 -n -f $(RESULTS)/baseline.jsonl
	find $(RESULTS) -name scoreboard.html -size +1000k -delete

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[all]'
	$(PIP) install --no-deps $(SPEECH)
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[test,check]'
	$(PIP) install --no-deps $(MODELS)
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
