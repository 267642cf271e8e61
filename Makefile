# `make demo` and `make test` set up everything they need in a virtual environment of their own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Packages whose model files the demo and the tests run; nothing else of them is used.
SPEECH := silero-vad==6.2.3
MODELS := $(SPEECH) magika==1.0.3 rapidocr-onnxruntime==1.4.4

RESULTS := conformance/results

# Wheels for a machine with a GPU and without a network.
CUDA ?= cuda13
WHEELS ?= gpu-wheels

.PHONY: demo test test-emulated test-gpu gpu-wheels check bench bench-gpu conformance clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: check
	$(BIN)/python -m pytest -n auto --dist worksteal

# All official cases and all kernels for all architectures, without a GPU: minutes to half an hour.
test-emulated: $(VENV)/.test
	ONNXREF_EMULATE=all $(BIN)/python -m pytest -n auto --dist worksteal tests/gpu

# On a machine with an NVIDIA GPU; see docs/gpu.md, also for machines without a network.
test-gpu: $(VENV)/.gpu
	$(BIN)/python -m tests.gpu.on_card

bench-gpu: $(VENV)/.gpu
	$(BIN)/python benchmarks/gpu.py

gpu-wheels: | $(BIN)/python
	$(PIP) download --dest $(WHEELS) '.[test-cpu,$(CUDA)]' 'setuptools>=77' wheel pip
	$(PIP) download --no-deps --dest $(WHEELS) $(MODELS)

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

# From the folder of wheels where there is one, else from the package index.
$(VENV)/.gpu: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install $(if $(wildcard $(WHEELS)),--no-index --find-links $(WHEELS)) 'setuptools>=77' wheel
	$(PIP) install $(if $(wildcard $(WHEELS)),--no-index --find-links $(WHEELS)) --no-build-isolation \
		--editable '.[test-cpu,$(CUDA)]'
	$(PIP) install --no-deps $(if $(wildcard $(WHEELS)),--no-index --find-links $(WHEELS)) $(MODELS)
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[test,check]'
	$(PIP) install --no-deps $(MODELS)
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
