/*
 * Fuzz target: what a QMP client may send.  Values are read from the bytes in
 * pieces whose size the first byte says, taken apart as requests, read as
 * arguments of every kind of type, written, and read again.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../qapi/json.h"
#include "../../qapi/qmp-protocol.h"
#include "fuzz.h"
#include "qapi/qapi-types.h"
#include "qapi/test-qapi-types.h"

#include "qapi/test-qapi-types.c"

static const char *const seeds[] = {
    "\x07{\"execute\":\"qmp_capabilities\"}{'execute':'query-backup','id':'it\\'s'}",
    "\xff{\"execute\":\"backup\",\"arguments\":{\"backup-file\":\"/x\",\"config-file\":[\"a\"],"
    "\"speed\":18446744073709551615,\"devlist\":\"a,b\"},\"id\":[1,{\"b\":null}]}",
    "\x03{\"execute\":\"echo\",\"arguments\":{\"dot\":{\"x\":1,\"y\":-2,\"colour\":\"red\","
    "\"near\":[{\"x\":3,\"y\":4}]},\"shapes\":[{\"kind\":\"circle\",\"radius\":3}],"
    "\"refs\":[\"n\",3,1.5,true,[],null],\"colours\":[\"light-blue\"],\"flags\":[true]}}",
    "\x20[1.5,1e3,-0,0.1,123456789012345678901234567890,-9223372036854775808] \"\\ud83d\\ude00"
    "\\u0000\xc3\xa4\xc0\x80\" 'x\\'y' {\"numbers\":{\"i8\":127,\"u64\":-1}}",
    "\x01[[[[{\"a\":[}]foo N,{} 1.5.5 \"\xff\" tru} {\"a\":1,\"a\":2}",
};

GPtrArray *fuzz_seeds(void)
{
    GPtrArray *all = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);

    for (size_t i = 0; i < G_N_ELEMENTS(seeds); i++) {
        GByteArray *b = g_byte_array_new();

        g_byte_array_append(b, (const guint8 *)seeds[i], (guint)strlen(seeds[i]));
        g_ptr_array_add(all, b);
    }
    return all;
}

static void try_arguments(json_object *args)
{
    QapiInput in = { .value = args };
    g_autoptr(BackupArguments) backup = NULL;
    g_autoptr(Everything) all = NULL;

    if (qapi_input_BackupArguments(&in, &backup, NULL)) {
        json_object_put(qapi_output_BackupArguments(backup));
    }
    if (qapi_input_Everything(&in, &all, NULL)) {
        json_object_put(qapi_output_Everything(all));
    }
}

/* @value as text, and what is read from it (which must be one value). */
static json_object *there_and_back(json_object *value, GString *text)
{
    JsonReader *reader = json_reader_new();
    json_object *copy = NULL;
    size_t used;

    g_string_truncate(text, 0);
    json_write(text, value, false);
    g_string_append_c(text, ' ');
    if (!json_reader_next(reader, text->str, text->len, &used, &copy, NULL)) {
        abort();
    }
    json_reader_free(reader);
    return copy;
}

/* The first time -0.0 becomes -0, which is 0; after that nothing changes. */
static void try_text(json_object *value)
{
    g_autoptr(GString) text = g_string_new(NULL), again = g_string_new(NULL);
    json_object *one, *two, *three;

    json_write(text, value, true);
    one = there_and_back(value, text);
    two = there_and_back(one, text);
    three = there_and_back(two, again);
    if (strcmp(text->str, again->str) != 0) {
        abort();
    }
    json_object_put(one);
    json_object_put(two);
    json_object_put(three);
}

static void try_value(json_object *value)
{
    QmpRequest request;

    if (qmp_parse_request(value, &request, NULL)) {
        try_arguments(request.args);
    }
    if (json_object_is_type(value, json_type_object)) {
        try_arguments(value);
    }
    try_text(value);
    json_object_put(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    JsonReader *reader = json_reader_new();
    size_t piece = size ? 1 + data[0] : 1;

    for (size_t pos = 1; pos < size;) {
        size_t n = MIN(piece, size - pos), used;
        json_object *value = NULL;
        GError *err = NULL;

        if (json_reader_next(reader, (const char *)data + pos, n, &used, &value, &err)) {
            if (err) {
                g_error_free(err);
            } else {
                try_value(value);
            }
        }
        pos += used;
    }
    json_reader_free(reader);
    return 0;
}
