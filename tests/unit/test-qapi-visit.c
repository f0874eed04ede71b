/*
 * Generated code: arguments in, results out, with tests/qapi/test-schema.json,
 * which has every kind of definition.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qapi/test-qapi-types.h"
#include "../../qapi/json.h"
#include <string.h>

/* Under other names than the server test, which has the functions too. */
#include "qapi/test-qapi-types.c"

static json_object *parse(const char *text)
{
    json_object *value = NULL;
    JsonReader *reader = json_reader_new();
    g_autofree char *full = g_strdup_printf("%s ", text);
    size_t used;

    g_assert_true(json_reader_next(reader, full, strlen(full), &used, &value, NULL));
    json_reader_free(reader);
    return value;
}

/* "Everything" read and written again, or the error with a ! before it. */
static char *echo(const char *text)
{
    json_object *value = parse(text);
    QapiInput in = { .value = value };
    g_autoptr(Everything) all = NULL;
    g_autoptr(GError) err = NULL;
    GString *out = g_string_new(NULL);

    if (qapi_input_Everything(&in, &all, &err)) {
        json_object *back = qapi_output_Everything(all);

        g_assert_no_error(err);
        json_write(out, back, false);
        json_object_put(back);
    } else {
        g_assert_null(all);
        g_string_printf(out, "!%s", err->message);
    }
    json_object_put(value);
    return g_string_free(out, FALSE);
}

static void same(const char *text)
{
    g_autofree char *got = echo(text);

    g_assert_cmpstr(got, ==, text);
}

static void fails(const char *text, const char *message)
{
    g_autofree char *got = echo(text), *want = g_strconcat("!", message, NULL);

    g_assert_cmpstr(got, ==, want);
}

static void test_round_trip(void)
{
    same("{}");
    same("{\"dot\": {\"x\": 1, \"y\": -2, \"colour\": \"light-blue\", \"tags\": [\"a\", \"\"], "
         "\"near\": [{\"x\": 3, \"y\": 4}]}}");
    same("{\"dot\": {\"x\": 1, \"y\": 2, \"colour\": \"red\", \"tags\": []}}");
    same("{\"shapes\": [{\"kind\": \"circle\", \"name\": \"c\", \"radius\": 3}, "
         "{\"kind\": \"square\", \"side\": 4, \"label\": \"l\"}, {\"kind\": \"nothing\"}]}");
    same("{\"ref\": {\"x\": 1, \"y\": 2, \"colour\": \"red\"}}");
    same("{\"refs\": [\"name\", 3, 1.5, true, [\"a\"], null]}");
    same("{\"colours\": [\"red\", \"light-blue\"], \"flags\": [true, false]}");
    same("{\"anything\": {\"a\": [null, {\"b\": 18446744073709551615}]}}");
}

static void test_integers(void)
{
    same("{\"numbers\": {\"i8\": -128, \"i16\": -32768, \"i32\": -2147483648, "
         "\"i64\": -9223372036854775808}}");
    same("{\"numbers\": {\"i8\": 127, \"i16\": 32767, \"i32\": 2147483647, "
         "\"i64\": 9223372036854775807, \"u8\": 255, \"u16\": 65535, \"u32\": 4294967295, "
         "\"u64\": 18446744073709551615, \"size\": 9223372036854775808}}");
    same("{\"numbers\": {\"real\": 1.5}}");
    fails("{\"numbers\":{\"i8\":128}}", "Parameter 'i8' expects int8_t");
    fails("{\"numbers\":{\"i16\":-32769}}", "Parameter 'i16' expects int16_t");
    fails("{\"numbers\":{\"i32\":2147483648}}", "Parameter 'i32' expects int32_t");
    fails("{\"numbers\":{\"i64\":9223372036854775808}}",
          "Invalid parameter type for 'numbers.i64', expected: integer");
    fails("{\"numbers\":{\"i64\":1.0}}",
          "Invalid parameter type for 'numbers.i64', expected: integer");
    fails("{\"numbers\":{\"i64\":\"1\"}}",
          "Invalid parameter type for 'numbers.i64', expected: integer");
    fails("{\"numbers\":{\"u8\":256}}", "Parameter 'u8' expects uint8_t");
    fails("{\"numbers\":{\"u8\":-1}}", "Parameter 'u8' expects uint8_t");
    fails("{\"numbers\":{\"u64\":\"x\"}}", "Parameter 'numbers.u64' expects uint64");
    fails("{\"numbers\":{\"size\":18446744073709551616}}",
          "Parameter 'numbers.size' expects uint64");
    fails("{\"numbers\":{\"real\":\"x\"}}",
          "Invalid parameter type for 'numbers.real', expected: number");
}

/* QEMU takes a negative number where it wants an unsigned one of 64 bits. */
static void test_negative_unsigned(void)
{
    g_autofree char *got = echo("{\"numbers\":{\"u64\":-1}}");

    g_assert_cmpstr(got, ==, "{\"numbers\": {\"u64\": 18446744073709551615}}");
}

static void test_wrong_types(void)
{
    fails("{\"dot\":3}", "Invalid parameter type for 'dot', expected: object");
    fails("{\"dot\":null}", "Invalid parameter type for 'dot', expected: object");
    fails("{\"shapes\":{}}", "Invalid parameter type for 'shapes', expected: array");
    fails("{\"shapes\":[3]}", "Invalid parameter type for 'shapes[0]', expected: object");
    fails("{\"flags\":[true,1]}", "Invalid parameter type for 'flags[1]', expected: boolean");
    fails("{\"dot\":{\"x\":1,\"y\":2,\"colour\":3}}",
          "Invalid parameter type for 'dot.colour', expected: string");
    fails("{\"dot\":{\"x\":1,\"y\":2,\"colour\":\"green\"}}",
          "Parameter 'colour' does not accept value 'green'");
    fails("{\"colours\":[\"green\"]}", "Parameter 'null' does not accept value 'green'");
    fails("{\"dot\":{\"x\":1,\"y\":2,\"colour\":\"red\",\"tags\":[\"a\",2]}}",
          "Invalid parameter type for 'dot.tags[1]', expected: string");
    fails("{\"dot\":{\"x\":1,\"y\":2,\"colour\":\"red\",\"near\":[{\"x\":1,\"y\":2},{\"x\":1,\"y\":[]}]}}",
          "Invalid parameter type for 'dot.near[1].y', expected: integer");
}

static void test_missing_and_unexpected(void)
{
    fails("{\"dot\":{}}", "Parameter 'dot.x' is missing");
    fails("{\"dot\":{\"x\":1,\"y\":2}}", "Parameter 'dot.colour' is missing");
    fails("{\"shapes\":[{\"name\":\"n\"}]}", "Parameter 'shapes[0].kind' is missing");
    fails("{\"shapes\":[{\"kind\":\"circle\"}]}", "Parameter 'shapes[0].radius' is missing");
    fails("{\"foo\":1}", "Parameter 'foo' is unexpected");
    fails("{\"dot\":{\"x\":1,\"y\":2,\"colour\":\"red\",\"z\":3}}",
          "Parameter 'dot.z' is unexpected");
    fails("{\"shapes\":[{\"kind\":\"circle\",\"radius\":1,\"side\":2}]}",
          "Parameter 'shapes[0].side' is unexpected");
    fails("{\"shapes\":[{\"kind\":\"nothing\",\"side\":2}]}",
          "Parameter 'shapes[0].side' is unexpected");
}

static void test_alternates(void)
{
    static const char *const ok[] = { "\"x\"", "1", "1.5", "false", "[]", "null" };

    for (size_t i = 0; i < G_N_ELEMENTS(ok); i++) {
        g_autofree char *text = g_strdup_printf("{\"ref\": %s}", ok[i]);

        same(text);
    }
    fails("{\"ref\":{\"x\":1}}", "Parameter 'ref.y' is missing");
    fails("{\"ref\":[1]}", "Invalid parameter type for 'ref[0]', expected: string");
}

/* QEMU names only the last part of the path here. */
static void test_alternate_refuses(void)
{
    same("{\"names\": \"a\"}");
    same("{\"names\": [\"a\", \"b\"]}");
    fails("{\"names\":3}", "Invalid parameter type for 'names', expected: NameOrNames");
    fails("{\"names\":null}", "Invalid parameter type for 'names', expected: NameOrNames");
    fails("{\"nested\":[{\"nested\":[{\"names\":{}}]}]}",
          "Invalid parameter type for 'names', expected: NameOrNames");
    fails("{\"nested\":[{\"nested\":[{\"names\":[1]}]}]}",
          "Invalid parameter type for 'nested[0].nested[0].names[0]', expected: string");
}

static void test_enums(void)
{
    GError *err = NULL;

    g_assert_cmpstr(Colour_str(COLOUR_LIGHT_BLUE), ==, "light-blue");
    g_assert_cmpstr(Colour_str(99), ==, "?");
    g_assert_cmpint(COLOUR__MAX, ==, 2);
    g_assert_cmpint(qapi_enum_find(&Colour_lookup, "red"), ==, COLOUR_RED);
    g_assert_cmpint(qapi_enum_find(&Colour_lookup, "re"), ==, -1);
    g_assert_cmpint(qapi_enum_parse(&Colour_lookup, NULL, COLOUR_RED, &err), ==, COLOUR_RED);
    g_assert_no_error(err);
    g_assert_cmpint(qapi_enum_parse(&Colour_lookup, "x", COLOUR_RED, &err), ==, -1);
    g_assert_cmpstr(err->message, ==, "invalid parameter value: x");
    g_error_free(err);
}

/* Made in C, with the list helper, and freed. */
static void test_made_in_c(void)
{
    g_autoptr(Everything) all = g_new0(Everything, 1);
    ColourList **tail = &all->colours;
    json_object *out;
    g_autoptr(GString) text = g_string_new(NULL);

    all->has_colours = true;
    QAPI_LIST_APPEND(tail, COLOUR_RED);
    QAPI_LIST_APPEND(tail, COLOUR_LIGHT_BLUE);
    all->ref = g_new0(DotOrName, 1);
    all->ref->type = DOT_OR_NAME_NAME;
    all->ref->u.name = g_strdup("n");
    out = qapi_output_Everything(all);
    json_write(text, out, false);
    g_assert_cmpstr(text->str, ==, "{\"ref\": \"n\", \"colours\": [\"red\", \"light-blue\"]}");
    json_object_put(out);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/round-trip", test_round_trip);
    g_test_add_func("/qapi/integers-keep-their-range", test_integers);
    g_test_add_func("/qapi/negative-unsigned-as-in-qemu", test_negative_unsigned);
    g_test_add_func("/qapi/wrong-types-are-named", test_wrong_types);
    g_test_add_func("/qapi/missing-and-unexpected", test_missing_and_unexpected);
    g_test_add_func("/qapi/alternates", test_alternates);
    g_test_add_func("/qapi/alternate-refuses", test_alternate_refuses);
    g_test_add_func("/qapi/enums", test_enums);
    g_test_add_func("/qapi/made-in-c", test_made_in_c);
    return g_test_run();
}
