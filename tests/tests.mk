# The tests.  Included by the Makefile.
#
# SPDX-License-Identifier: GPL-2.0-or-later

.PHONY: check check-unit check-system check-headers check-asan check-tsan

# Unit tests are GLib's and speak TAP; prove runs them.
check-unit: $(UNIT)
	prove --jobs 2 --exec '' $(UNIT)

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
check-tsan:
	./configure --build=build-tsan --enable-tsan --enable-werror
	$(MAKE) BUILD=build-tsan check-unit
