# qemu-sidecar: make help says what there is.
#
# SPDX-License-Identifier: GPL-2.0-or-later

BUILD ?= build
-include $(BUILD)/config-host.mak

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

FOLDERS := util block vma backup qapi hmp emulator migration
MAINS := qemu-sidecar.c vma/main.c
SOURCES := $(filter-out $(MAINS),$(wildcard $(FOLDERS:%=%/*.c)))
OBJECTS := $(SOURCES:%.c=$(BUILD)/obj/%.o)
LIBRARY := $(BUILD)/libsidecar.a
PROGRAMS := $(patsubst %,$(BUILD)/%,$(if $(wildcard qemu-sidecar.c),qemu-sidecar) $(if $(wildcard vma/main.c),vma))
UNIT := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test-*.c))
UNIT_HELPERS := $(filter-out $(wildcard tests/unit/test-*.c),$(wildcard tests/unit/*.c))
BENCH := $(patsubst tests/bench/%.c,$(BUILD)/bench/%,$(wildcard tests/bench/*.c))
FUZZ := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz-*.c))
TOOLS := $(patsubst tests/tools/%.c,$(BUILD)/tools/%,$(wildcard tests/tools/*.c))

AGENT := $(BUILD)/qemu-sidecar-agent.so

INCLUDES := -I$(BUILD) -Iinclude
GENERATED :=
-include qapi/qapi.mk

COMPILE = $(CC) $(CPPFLAGS) $(INCLUDES) $(CFLAGS) -MMD -MP
LINK = $(CC) $(LDFLAGS) -o $@ $(filter %.o %.a,$^) $(LIBS)

.PHONY: all tools help
all: $(PROGRAMS) $(AGENT)
tools: $(TOOLS)

help:
	@echo 'make              build/qemu-sidecar and build/vma'
	@echo 'make demo         the main job, on a real Debian guest with PostgreSQL'
	@echo 'make check        all tests (check-unit, check-system, check-headers)'
	@echo 'make check-asan   unit tests under ASan and UBSan;  check-tsan: under TSan'
	@echo 'make check-long   the long loops'
	@echo 'make bench        ratios against other tools, as a table'
	@echo 'make clean        removes what was built;  distclean: the whole of build/'
	@echo 'make install      to PREFIX (./configure --prefix=...), DESTDIR honoured'

# Configure by itself when nobody has; again when configure changed.  This runs
# before the recipe of any goal, so those that promise to work on a machine with
# nothing installed get their packages here.
$(BUILD)/config-host.mak: configure VERSION
	@$(if $(filter check% demo bench,$(MAKECMDGOALS)),scripts/install-deps build,:)
	@if [ -f $@ ]; then eval "./configure $(CONFIGURE_ARGS)"; else ./configure --build=$(BUILD); fi

$(OBJECTS) $(MAINS:%.c=$(BUILD)/obj/%.o): $(BUILD)/config-host.mak | $(GENERATED)

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(COMPILE) -c -o $@ $<

$(LIBRARY): $(OBJECTS)
	@echo "  AR    $@"
	@rm -f $@
	@ar rcs $@ $(OBJECTS)

$(BUILD)/qemu-sidecar: $(BUILD)/obj/qemu-sidecar.o $(LIBRARY)
	@echo "  LINK  $@"
	@$(LINK)

$(BUILD)/vma: $(BUILD)/obj/vma/main.o $(LIBRARY)
	@echo "  LINK  $@"
	@$(LINK)

# Preloaded into QEMU: no library, no sanitizer, nothing exported but what it wraps.
$(AGENT): emulator/agent/agent.c emulator/agent/uffd.h include/emulator/agent.h $(BUILD)/config-host.mak
	@echo "  AGENT $@"
	@$(CC) -D_GNU_SOURCE $(INCLUDES) $(filter-out -fsanitize% -fno-sanitize%,$(CFLAGS)) \
	    -fPIC -shared -fvisibility=hidden -o $@ $<

$(BUILD)/tests/test-dirty-log: | $(AGENT) $(BUILD)/tools/agent-child

$(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o $(UNIT_HELPERS:%.c=$(BUILD)/obj/%.o) $(LIBRARY)
	@mkdir -p $(@D)
	@$(LINK)
$(BUILD)/bench/%: $(BUILD)/obj/tests/bench/%.o $(LIBRARY)
	@mkdir -p $(@D)
	@$(LINK)
$(BUILD)/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o $(LIBRARY)
	@mkdir -p $(@D)
	@$(LINK)
$(BUILD)/tools/%: $(BUILD)/obj/tests/tools/%.o $(LIBRARY)
	@mkdir -p $(@D)
	@$(LINK)

.SECONDARY:

-include tests/tests.mk

.PHONY: install clean distclean
install: TO = $(DESTDIR)$(PREFIX)
install: all
	install -d "$(TO)/bin" "$(TO)/share/man/man1" "$(TO)/lib/qemu-sidecar"
	install -m 755 $(PROGRAMS) "$(TO)/bin"
	install -m 644 $(AGENT) "$(TO)/lib/qemu-sidecar"
	install -m 644 docs/man/*.1 "$(TO)/share/man/man1"

clean:
	rm -rf $(BUILD)/obj $(BUILD)/tests $(BUILD)/tools $(BUILD)/bench $(BUILD)/fuzz $(LIBRARY) $(PROGRAMS) $(AGENT) $(GENERATED)

# Guests and downloaded packages too.
distclean: clean
	rm -rf $(addprefix $(BUILD)/,config-host.h config-host.mak qapi guest demo cache)
	-@rmdir $(BUILD) 2>/dev/null

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
