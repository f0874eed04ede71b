# The tests.  Included by the Makefile; docs/testing.md explains.
#
# SPDX-License-Identifier: GPL-2.0-or-later

.PHONY: check check-build check-command check-unit check-system check-headers check-asan check-tsan check-system-asan \
	check-system-tsan check-long \
	bench demo deps-check deps-demo guest

SYSTEM := $(sort $(wildcard tests/system/*.py tests/system/*.sh))
JOBS ?= $(shell nproc)
# run-test: nothing on stdin, a time limit, and nothing may be left behind.
PROVE = BUILD=$(abspath $(BUILD)) prove --timer --jobs $(JOBS) --exec tests/run-test
# Recipes that come after the packages have been installed start afresh.
AGAIN = $(MAKE) --no-print-directory -j $(JOBS) BUILD=$(BUILD)

deps-check deps-demo: deps-%:
	@scripts/install-deps $*

# Everything, ended by prove's summary.  The slow ones first, so that the last
# minute is not spent waiting for one of them.
check: check-build
	$(PROVE) $(SYSTEM) $(UNIT)
check-build: deps-check
	@$(AGAIN) all tools guest check-headers $(UNIT) $(FUZZ)
# For .ci/run, whose last word must be prove's and not make's.
check-command:
	@echo '$(PROVE) $(SYSTEM) $(UNIT)'

# Unit tests are GLib's and speak TAP; prove runs them.
check-unit: $(UNIT)
	$(PROVE) $(UNIT)

check-system: all tools guest $(FUZZ)
	$(PROVE) $(SYSTEM)

# The same tests with many more rounds, and those that are only for this.
check-long: deps-check
	@$(AGAIN) all tools guest $(UNIT) $(FUZZ)
	SIDECAR_TEST_LONG=1 SIDECAR_TIMEOUT_SCALE=20 $(PROVE) $(SYSTEM) $(UNIT)

# The small guest of the system tests (a kernel and an initramfs).
guest:
	@scripts/make-test-guest --build $(BUILD)

demo: deps-demo
	@$(AGAIN) all
	@BUILD=$(abspath $(BUILD)) scripts/demo

bench: deps-check
	@$(AGAIN) all tools guest $(BENCH)
	@BUILD=$(abspath $(BUILD)) tests/bench/run.py

# Every public header compiles alone.
HEADERS := $(shell find include -name '*.h')
check-headers: $(BUILD)/config-host.mak $(GENERATED)
	@for h in $(HEADERS); do \
	    printf '#include "%s"\n' "$${h#include/}" | \
	    $(CC) $(CPPFLAGS) $(INCLUDES) $(CFLAGS) -fsyntax-only -x c - || exit 1; \
	done

check-asan:
	./configure --build=build-asan --enable-asan --enable-ubsan --enable-werror
	$(MAKE) BUILD=build-asan check-unit
# GLib's slices change hands between threads by locks that TSan does not see; and
# it does not start where the kernel spreads addresses too far.
check-tsan:
	./configure --build=build-tsan --enable-tsan --enable-werror
	G_SLICE=always-malloc setarch -R $(MAKE) BUILD=build-tsan check-unit

# The system tests with a sidecar and a vma that watch themselves.
SAN_asan := --enable-asan --enable-ubsan
SAN_tsan := --enable-tsan
check-system-asan check-system-tsan: check-system-%:
	./configure --build=build-$* $(SAN_$*) --enable-werror
	SIDECAR_TIMEOUT_SCALE=8 G_SLICE=always-malloc setarch -R \
	    $(MAKE) BUILD=build-$* check-system
