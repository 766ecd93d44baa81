# The doors to this repository. Python 3.11 or later and make are all that it takes; `make test-full` says what
# else it needs. Written for every make, that of macOS (3.81) included.

VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
SETUP = setup.cfg pyproject.toml
PYTHONS = $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11)

# Where pyenv keeps several Pythons, its commands run only those that are named; name the newest of each version.
TOX = if command -v pyenv >/dev/null 2>&1; then \
	    PYENV_VERSION=`for minor in 11 12 13; do \
	        pyenv versions --bare | grep "^3\.$$minor\.[0-9]*$$" | sort -t. -k3n | tail -n 1; \
	    done | paste -s -d : -`; \
	    export PYENV_VERSION; \
	fi; $(BIN)/tox

.PHONY: help demo quick test test-browser test-full mutants chaos soak lint docs links bench release clean

help:
	@echo 'make demo       the example shop: orders travel from the database through a broker to their handlers'
	@echo 'make quick      tests without services: SQLite, memory broker (3 minutes on 2 cores)'
	@echo 'make test       make quick, then PostgreSQL, and real processes with a broker (5 minutes)'
	@echo 'make test-browser  the admin in a real browser (needs Chromium and its driver)'
	@echo 'make test-full  all supported Pythons and Djangos, MariaDB, Apache Kafka, browser, style, types, package'
	@echo '                (needs Python 3.11, 3.12 and 3.13, MariaDB, Java 17, Maven, npm and Chromium)'
	@echo 'make mutants    breaks each guarantee in many ways: a test must notice each'
	@echo 'make chaos      kills, stops and cuts off everything under load, and checks what must have happened'
	@echo '                (CHAOS_SECONDS=1800 CHAOS_SEED=1; needs Java 17 and Maven)'
	@echo 'make soak       an hour at half of the highest rate, and whether anything grows (needs an idle machine)'
	@echo 'make lint       style, types and import order only'
	@echo 'make docs       the documentation as a site, in .cache/docs (needs Python 3.13)'
	@echo 'make links      the links of the documentation to other sites still work (needs the network)'
	@echo 'make bench      how fast it is here, beside raw loops (needs an idle machine)'
	@echo 'make release VERSION=0.1.0  dates, commits and tags a version that is ready (DRY_RUN=1 only checks)'
	@echo 'make clean      remove all that these have made'
	@echo ''
	@echo 'PYTHON=python3.12 make ... uses that Python for $(VENV).'

demo: $(VENV)/demo.installed
	@$(BIN)/python example_project/demo.py

# Tests start hundreds of processes: without bytecode, each would compile all that it imports.
export PYTHONDONTWRITEBYTECODE =

# Processes that each run a share of the tests: those of services wait more than they compute.
PYTEST = $(BIN)/python -m pytest -o cache_dir=.pytest_cache/$@ --dist loadgroup
CORE = tests/services/databases --ignore tests/services/databases/test_postgresql.py \
    tests/services/processes/test_pipeline.py tests/services/processes/test_kills.py

quick: $(VENV)/test.installed
	@$(PYTEST) -n auto tests/unit tests/pipeline

test: quick
	@$(PYTEST) -n 6 --database postgresql $(CORE)

# SCREENSHOTS=docs/screenshots keeps the pictures of the documentation, AXE=axe.min.js checks with another axe-core.
test-browser: $(VENV)/browser.installed
	@$(PYTEST) $(SCREENSHOTS:%=--screenshots %) $(AXE:%=--axe %) tests/services/browser

# What starts processes and brokers comes last, with nothing beside it; its result is the last line.
test-full: $(VENV)/tox.installed
	@$(TOX) run-parallel --parallel 3 --skip-env services
	@$(TOX) run --notest -e services
	@$(TOX) -qq run --skip-pkg-install -e services

# FAULT=reconciler takes only faults whose name or file contains that word.
mutants: $(VENV)/test.installed
	@$(BIN)/python -m tests.mutants $(FAULT)

# .venv/bin/python -m tests.chaos --help names the options, such as CHAOS_BACKEND=confluent.
chaos: $(VENV)/chaos.installed
	@$(BIN)/python -m tests.chaos

# .venv/bin/python -m tests.soak --help names the options, such as --seconds.
soak: $(VENV)/test.installed
	@$(BIN)/python -m tests.soak

lint: $(VENV)/tox.installed
	@$(TOX) run -e lint,types,imports

docs links: $(VENV)/tox.installed
	@$(TOX) run -e $@

bench: $(VENV)/bench.installed
	@$(BIN)/python -m benchmarks

# Pushes nothing. DRY_RUN=1 only checks. Nothing is uploaded before .github/workflows/release.yml has run all tests.
release: quick
	@$(BIN)/python .ci/release.py $(VERSION) $(DRY_RUN:%=--dry-run)

clean:
	rm -rf $(VENV) .tox .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	rm -rf build dist django_kafka_outbox.egg-info htmlcov mutants .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that an installation is complete; a changed setup.cfg makes it anew.

$(VENV)/made:
	@problem='No Python 3.11 or later was found (tried: $(PYTHONS)): install one, or name it: PYTHON=/path/to/python make ...'; \
	for python in $(PYTHONS); do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	    if $$python -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	        echo "Making $(VENV) with `$$python --version`."; \
	        $$python -m venv --clear $(VENV) && touch $@; \
	        exit $$?; \
	    fi; \
	    problem="$$python cannot make virtual environments, it lacks ensurepip: install it (Debian, Ubuntu: apt-get install python3-venv) and try again."; \
	done; \
	echo "$$problem" >&2; exit 1

$(VENV)/demo.installed: $(VENV)/made $(SETUP)
	$(PIP) install -e '.[devbroker]'
	@touch $@

$(VENV)/test.installed: $(VENV)/made $(SETUP)
	$(PIP) install -e '.[test]'
	@touch $@

$(VENV)/browser.installed: $(VENV)/made $(SETUP)
	$(PIP) install -e '.[test,browser]'
	@touch $@

$(VENV)/chaos.installed: $(VENV)/made $(SETUP)
	$(PIP) install -e '.[test,chaos]'
	@touch $@

$(VENV)/bench.installed: $(VENV)/made $(SETUP)
	$(PIP) install -e '.[test,confluent]'
	@touch $@

$(VENV)/tox.installed: $(VENV)/made
	$(PIP) install 'tox>=4'
	@touch $@
