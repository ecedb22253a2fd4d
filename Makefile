# What a person or a CI machine does with this repository. Everything is installed into .venv; the servers that the demo
# and the tests run are taken from PATH and, where that is possible, installed by demo/setup.sh when missing.

PYTHON ?= python3
# Files of tests side by side: one more than cores, for they wait a lot; each may start servers of its own, so not many.
TEST_WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min((os.cpu_count() or 1) + 1, 8))')
VENV := .venv
OLDEST := .venv-oldest
STAMP := $(VENV)/.installed
comma := ,
# Python from 3.11 on and every platform; hashes, and no address of an index.
LOCK = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock'
NODE := tests/unit/grafana/node
NODE_STAMP := $(NODE)/node_modules/.package-lock.json
RULES = $(wildcard alert_rules/*.rules.yml)
RULE_TESTS = $(wildcard alert_rules/tests/*.yml)

.PHONY: help setup venv demo test test-oldest crash lint lock dist audit bench bench-rca scenarios clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: ## install the servers that the demo and the tests need, where missing
	@PYTHON='$(PYTHON)' sh demo/setup.sh $(SETUP)

venv: $(STAMP) ## create .venv with the package, its extras and the tools of development

# The install is editable: only what pyproject.toml says can make it out of date.
$(STAMP): pyproject.toml | setup
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'Python 3.11 or newer is needed; this is' "$$($(PYTHON) --version 2>&1)". \
	      'Name another one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[apprise,docker,kubernetes,postgresql,state]' --group dev --group docs
	@touch $@

# Grafana's own code, which says what the dashboards show. Without it those tests skip, and fail in CI.
$(NODE_STAMP): $(NODE)/package-lock.json | setup
	@npm --prefix $(NODE) ci --loglevel=error || \
	    { echo 'The packages of $(NODE) cannot be installed: the dashboards will not be checked.' >&2; test -z '$(CI)'; }

demo: setup venv ## run the main job on real servers; KEEP=1 leaves it running
	@$(VENV)/bin/shf demo $(if $(KEEP),--keep)

test: SETUP = test
test: setup venv $(NODE_STAMP) ## run all tests, with real Prometheus, Alertmanager, Docker and PostgreSQL: [TEST_WORKERS=3]
	$(VENV)/bin/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

# What is written from the schemas of the newest pydantic: others put some things in other words.
OF_THE_NEWEST := tests/unit/api/test_openapi.py::test_the_committed_copy_is_what_the_code_makes \
                 tests/unit/test_documentation_site.py::test_reference_is_what_the_code_says

test-oldest: SETUP = test
test-oldest: setup venv $(NODE_STAMP) ## run the unit tests with the oldest packages that pyproject.toml allows
	$(VENV)/bin/uv venv --quiet --clear --python 3.11 $(OLDEST)
	$(VENV)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct \
	    --editable '.[apprise,docker,kubernetes,postgresql,state]' --group dev --group docs
	$(VENV)/bin/uv pip install --quiet --python $(OLDEST)/bin/python pip # with which a test installs a plugin
	PATH="$(CURDIR)/$(OLDEST)/bin:$$PATH" python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder tests/unit \
	    $(addprefix --deselect ,$(OF_THE_NEWEST))

crash: SETUP = test
crash: setup venv $(NODE_STAMP) ## kill real processes at every point, floods and storms; CRASH_SEEDS=50 for the whole matrix
	CRASH_SEEDS='$(or $(CRASH_SEEDS),4)' $(VENV)/bin/python -m pytest -m '' tests/crash
	GUARDRAIL_SEQUENCES=10000 $(VENV)/bin/python -m pytest tests/unit/guardrails/test_never_exceeded.py
	$(VENV)/bin/python -m pytest -m slow tests/e2e
	$(VENV)/bin/python -m pytest -m slow tests/unit/grafana

lint: setup venv ## check style, types, layers and rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	promtool check rules $(RULES)
	promtool test rules $(RULE_TESTS)

lock: venv ## write locks/ anew from pyproject.toml; UPGRADE=1 takes the newest versions
	$(LOCK) $(if $(UPGRADE),--upgrade) --all-extras pyproject.toml --output-file locks/image.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group build --output-file locks/build.txt

dist: venv ## build what is released: wheel, sdist and the bill of materials of the image, checked, into dist/
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --group release
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(VENV)/bin/uv build --quiet --build-constraints locks/build.txt --require-hashes
	$(VENV)/bin/twine check --strict dist/*.whl dist/*.tar.gz
	$(VENV)/bin/check-wheel-contents dist/*.whl
	$(VENV)/bin/cyclonedx-py requirements --output-reproducible --of JSON --output-file dist/sbom.cdx.json locks/image.txt

audit: venv ## ask the package index for known vulnerabilities of what is locked; fails also where it cannot tell
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --group release
	$(VENV)/bin/pip-audit --strict --require-hashes --disable-pip --requirement locks/image.txt || \
	    { echo 'Not clean: vulnerabilities are listed above; or, where it says that something could not be audited or' \
	      'reached, the index has no advisories for it, and nothing is known of any package.' >&2; exit 1; }

bench: SETUP = test
bench: setup venv ## measure everything on real servers and write docs/benchmarks.md: [ONLY=store,soak,...] [QUICK=1]; an hour and a half
	$(if $(ONLY),,$(VENV)/bin/python bench/rules.py --services 250 --services 1000)
	$(VENV)/bin/python bench/report.py --out docs $(addprefix --only ,$(subst $(comma), ,$(ONLY))) $(if $(QUICK),--quick)

bench-rca: venv ## judge the diagnosis on labelled cases: DATA=DIR PREDICTIONS=FILE [REPORT=FILE] [PART=first|second|both]
	@test -n '$(DATA)' -a -n '$(PREDICTIONS)' || { echo 'usage: make bench-rca DATA=DIR PREDICTIONS=FILE' >&2; exit 2; }
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --group bench || \
	    echo 'fse-baro cannot be installed: BARO is left out.' >&2
	$(VENV)/bin/python -m bench.rca --data '$(DATA)' --predictions '$(PREDICTIONS)' \
	    $(if $(REPORT),--report '$(REPORT)') $(if $(PART),--part '$(PART)')

scenarios: setup venv ## break running services and judge what the fabric diagnoses: [REPEATS=10] [SEED=1] [ONLY=name,...] [REPORT=FILE] [RESUME=1] [LANES=4]
	$(VENV)/bin/python -m bench.scenarios --repeats '$(or $(REPEATS),10)' --seed '$(or $(SEED),1)' \
	    --only '$(ONLY)' --results '$(or $(RESULTS),scenarios.jsonl)' $(if $(REPORT),--report '$(REPORT)') $(if $(RESUME),--resume) $(if $(LANES),--lanes '$(LANES)')

clean: ## remove the virtual environments and caches
	rm -rf $(VENV) $(OLDEST) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
