# The verbs a person types. `make run` and `make test` install what they need.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := PYTHONWARNINGS=ignore $(BIN)/pip install -q --disable-pip-version-check
SIPPY  := build/bench/bin/b2bua_simple
NATIVE := $(foreach kind,pyx pxd pxi c h,$(wildcard gateway/*/*.$(kind) gateway/*/*/*.$(kind)))

ifneq ($(words $(CURDIR)),1)
$(error "$(CURDIR)" has a space in it, which make cannot take: clone into a path without one)
endif

.PHONY: run test compiled guest lint build bpf bench quality soak reliability sanitize arm64 asterisk dist clean

run: $(VENV)/run.stamp card       ## the lab: a call, an alarm, and then your turn
	@[ "$$(id -u)" -eq 0 ] || echo "The virtual line card needs root: asking sudo."
	@[ "$$(id -u)" -eq 0 ] && exec $(BIN)/gateway lab run || exec sudo $(BIN)/gateway lab run

# Many tests measure real audio in real time. What fails beside its neighbours has to pass by
# itself right after, or it has failed.
TESTS := $(BIN)/python -m pytest -q
ALONE := guest or alone
# The files that have such tests.
marked = $(shell grep -rl --include='*.py' 'mark\.$(1)' tests)
# What is compiled is kept, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE
AGAIN := echo "Again, one at a time:" && $(TESTS) --last-failed --last-failed-no-failures=none

test: $(VENV)/test.stamp card     ## everything that must hold, under 15 minutes on two cores
	@$(MAKE) -s -j2 -Otarget compiled lint guest
	@$(TESTS) -n 6 --dist loadfile -m "not ($(ALONE))" || { [ $$? -eq 1 ] && $(AGAIN) -m "not ($(ALONE))"; }
	@$(TESTS) -m alone $(call marked,alone) || { [ $$? -eq 1 ] && $(AGAIN) -m alone; }

# Bytecode, once: not by each worker and command again, nor by the guest, which is slow. What
# cannot be compiled is told by the tests.
compiled: $(VENV)/test.stamp
	@$(TESTS) --collect-only >/dev/null || true

# Needs one core; types are checked on the other meanwhile.
guest: $(VENV)/test.stamp card
	@$(TESTS) -m guest $(call marked,guest) || { [ $$? -eq 1 ] && $(AGAIN) -m guest; }

lint: $(VENV)/test.stamp          ## types, style and who may import whom
	@nice -n 19 $(BIN)/ruff check .
	@nice -n 19 $(BIN)/ruff format --check .
	@nice -n 19 $(BIN)/mypy
	@nice -n 19 $(BIN)/lint-imports --no-cache
	@nice -n 19 $(BIN)/python -m mypy.stubtest --ignore-missing-stub --ignore-disjoint-bases gateway._codecs gateway.media._engine gateway.media._ports gateway.drivers._framer gateway.protocols.sip._timers gateway.protocols.sip._lines

build: $(VENV)/build.stamp        ## the compiled parts, in place

bpf:                              ## the kernel's relay, after a change of its source (clang, llvm)
	@$(PYTHON) hardware/bpf.py

bench: $(VENV)/test.stamp $(SIPPY) ## figures against peers in the same run
	@$(BIN)/python -m tests.bench

quality: $(VENV)/test.stamp card   ## speech through real calls: delay, MOS, digits
	@$(PIP) -e .[quality]
	@$(BIN)/python -m tests.quality

soak: $(VENV)/test.stamp          ## an hour of calls: what does it hold on to
	@$(BIN)/python -m tests.soak

# NUMBERS="4 17" for some of them, ARGS=--ci for the short ones.
reliability: $(VENV)/test.stamp   ## faults and attacks on a running gateway, in network namespaces
	@if [ "$$(id -u)" -eq 0 ]; then $(BIN)/python -m tests.reliability $(ARGS) $(NUMBERS); \
	else sudo $(BIN)/python -m tests.reliability $(ARGS) $(NUMBERS); fi

sanitize: $(VENV)/test.stamp      ## the compiled parts under the address, UB and leak sanitizers
	@tests/sanitize.sh

arm64: $(VENV)/test.stamp         ## the compiled parts on an arm64 Debian, emulated
	@hardware/lab/packages.sh arm64
	@tests/arm64/run.sh

ASTERISK := tests/interop/test_sip_asterisk*.py
# Once it is there, `make test` uses it too; it never fetches it.
asterisk: $(VENV)/test.stamp      ## calls with Asterisk, of Debian's unstable suite, in every role
	@hardware/lab/asterisk.sh
	@$(TESTS) $(ASTERISK) || { [ $$? -eq 1 ] && $(AGAIN) $(ASTERISK); }

dist: $(VENV)/test.stamp          ## the source distribution, installed with pip and run
	@tests/dist.sh

card:                             ## the lab's virtual line card
	@mkdir -p build/lab && $(MAKE) -s -C hardware/lab/card out=$(CURDIR)/build/lab

$(VENV)/bin/python:
	@hardware/lab/packages.sh run
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip

$(VENV)/run.stamp: $(VENV)/bin/python pyproject.toml setup.py $(NATIVE)
	@hardware/lab/packages.sh run
	@$(PIP) -e .[lab]
	@touch $@

# Not after the lab's: everything would be compiled twice.
$(VENV)/test.stamp: $(VENV)/bin/python pyproject.toml setup.py $(NATIVE)
	@hardware/lab/packages.sh test
	@$(PIP) -e .[test]
	@touch $(VENV)/run.stamp $@

# A peer of the calls' benchmark, in an environment of its own.
$(SIPPY):
	@$(PYTHON) -m venv build/bench
	@PYTHONWARNINGS=ignore build/bench/bin/pip install -q --disable-pip-version-check sippy==2.5.0

$(VENV)/build.stamp: $(VENV)/bin/python $(NATIVE) setup.py
	@$(PIP) "cython>=3.2,<3.4" "setuptools>=77"
	@$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

clean:                            ## everything that was built or downloaded
	@rm -rf $(VENV) build dist *.egg-info
	@find gateway -name '*.so' -delete
