# The ways in: `make demo` serves a project made from this template, `make test` checks it, and
# `make bench` measures it beside its peers.

# The first Python on the machine that is new enough; name another with `make PYTHON=...`.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
PORT ?= 8000
ARGS ?=

.PHONY: help demo test bench clean
help:
	@echo "make demo [PORT=8000]   render the template into demo/ and serve it, with reload"
	@echo "make test [ARGS=...]    run all the tests; ARGS go to pytest"
	@echo "make bench [QUICK=1]    measure it beside its peers; ARGS go to benchmarks, --help among them"
	@echo "make clean              remove what these made, demo/ and your edits in it included"

demo: demo/.venv/installed
	cd demo && .venv/bin/python manage.py migrate --verbosity 0
	cd demo && .venv/bin/uvicorn project.asgi:application --reload --port $(PORT)

test: .venv/test
	.venv/bin/python -m pytest $(ARGS)

bench: benchmarks/.venv/installed
	benchmarks/.venv/bin/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

clean:
	rm -rf .venv benchmarks/.venv benchmarks/results demo

# Once demo/ is there it is yours: it is not rendered again.
demo/pyproject.toml: | .venv/cookiecutter
	.venv/bin/cookiecutter --default-config --no-input . project_slug=demo

demo/.venv/installed: demo/pyproject.toml
	$(python-found)
	"$(PYTHON)" -m venv demo/.venv
	cd demo && .venv/bin/pip install --quiet -e '.[dev]'
	touch $@

.venv/created:
	$(python-found)
	"$(PYTHON)" -m venv .venv
	touch $@

.venv/cookiecutter: | .venv/created
	.venv/bin/pip install --quiet 'cookiecutter>=2.7'
	touch $@

# uv, which the tests use as well, is ten times as quick as pip.
.venv/test: tests/requirements.txt | .venv/created
	.venv/bin/pip install --quiet 'uv>=0.9'
	.venv/bin/python -m uv pip install --quiet --python .venv/bin/python -r tests/requirements.txt
	touch $@

benchmarks/.venv/installed: benchmarks/requirements.txt
	$(python-found)
	"$(PYTHON)" -m venv benchmarks/.venv
	benchmarks/.venv/bin/pip install --quiet -r benchmarks/requirements.txt
	touch $@

define python-found
@test -n "$(PYTHON)" || { \
	echo "No Python 3.11 or newer was found: make PYTHON=/path/to/python" >&2; exit 1; }
endef
