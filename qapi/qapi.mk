# What the schema makes.  Included by the Makefile.
#
# SPDX-License-Identifier: GPL-2.0-or-later

QAPI_GEN := scripts/qapi-gen.py $(wildcard qapi/gen/*.py)
QAPI_MODULES := types commands events introspect
QAPI_FILES = $(foreach m,$(QAPI_MODULES),$(BUILD)/qapi/$(1)qapi-$(m).h $(BUILD)/qapi/$(1)qapi-$(m).c)
QAPI_MAIN := $(call QAPI_FILES,)
QAPI_TEST := $(call QAPI_FILES,test-)

GENERATED += $(QAPI_MAIN)
OBJECTS += $(QAPI_MODULES:%=$(BUILD)/obj/qapi/qapi-%.o)

$(QAPI_MAIN) &: $(wildcard qapi/*.json) $(QAPI_GEN)
	@echo "  GEN   qapi"
	@scripts/qapi-gen.py qapi/qapi-schema.json -o $(BUILD)/qapi
$(QAPI_TEST) &: $(wildcard tests/qapi/*.json) $(QAPI_GEN)
	@scripts/qapi-gen.py tests/qapi/test-schema.json -o $(BUILD)/qapi -p test-

$(BUILD)/obj/qapi/qapi-%.o: $(BUILD)/qapi/qapi-%.c $(BUILD)/config-host.mak
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(COMPILE) -c -o $@ $<

# Whatever is compiled may include what is generated.
$(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tests/*/*.c)): | $(GENERATED) $(QAPI_TEST)

.PHONY: qmp-reference
qmp-reference: docs/qmp-reference.md
docs/qmp-reference.md: $(wildcard qapi/*.json) $(QAPI_GEN)
	scripts/qapi-gen.py qapi/qapi-schema.json --docs $@
