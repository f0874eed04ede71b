/*
 * QMP's JSON: what is read, what is refused and how, what is written.  The
 * expected errors are those of QEMU 7.2 (tests/system/qmp-parity.py compares
 * with the installed one).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../qapi/json.h"
#include <string.h>

/* ---- helpers ----------------------------------------------------------- */

static void note(GString *out, json_object *value, GError *err)
{
    g_string_append(out, out->len ? " | " : "");
    if (err) {
        g_string_append_printf(out, "!%s", err->message);
        g_error_free(err);
    } else {
        json_write(out, value, false);
        json_object_put(value);
    }
}

/* All values and errors in @text, fed in pieces of @step bytes (0: random). */
static char *read_all(const char *text, size_t len, size_t step)
{
    GString *out = g_string_new(NULL);
    JsonReader *reader = json_reader_new();
    size_t pos = 0;

    while (pos < len) {
        size_t want = step ? step : (size_t)g_test_rand_int_range(1, 40);
        size_t n = MIN(want, len - pos);
        /* A copy of its own, so that reading past it is seen. */
        g_autofree char *piece = g_memdup2(text + pos, n);
        size_t done = 0;

        while (done < n) {
            json_object *value;
            GError *err = NULL;
            size_t used;

            if (json_reader_next(reader, piece + done, n - done, &used, &value, &err)) {
                note(out, value, err);
            } else {
                g_assert_cmpuint(used, ==, n - done);
            }
            done += used;
        }
        pos += n;
    }
    if (json_reader_pending(reader)) {
        g_string_append(out, " ...");
    }
    json_reader_free(reader);
    return g_string_free(out, FALSE);
}

static void check_len(const char *text, size_t len, const char *want)
{
    static const size_t steps[] = { 1000000, 1, 2, 3, 7 };

    for (size_t i = 0; i < G_N_ELEMENTS(steps); i++) {
        g_autofree char *got = read_all(text, len, steps[i]);

        g_assert_cmpstr(got, ==, want);
    }
}

static void check(const char *text, const char *want)
{
    check_len(text, strlen(text), want);
}

/* ---- reading ------------------------------------------------------------- */

static void test_values(void)
{
    check("{}", "{}");
    check(" [ ] ", "[]");
    check("{\"a\":1,'b':[true,false,null],\"c\":{\"d\":\"e\"}}",
          "{\"a\": 1, \"b\": [true, false, null], \"c\": {\"d\": \"e\"}}");
    check("{}{}\r\n[1]\t\"x\"'y'", "{} | {} | [1] | \"x\" | \"y\"");
    check("1 true null ", "1 | true | null");
    check("12", " ..."); /* could go on */
    check("{\"a\":", " ...");
    check("", "");
    check(" \t\r\n", "");
}

static void test_numbers(void)
{
    check("[0,-0,1,-1,1234567890123]", "[0, 0, 1, -1, 1234567890123]");
    check("[9223372036854775807,9223372036854775808,18446744073709551615]",
          "[9223372036854775807, 9223372036854775808, 18446744073709551615]");
    check("[-9223372036854775808,-9223372036854775809,18446744073709551616]",
          "[-9223372036854775808, -9.2233720368547758e+18, 1.8446744073709552e+19]");
    check("[1.5,1e3,1E+2,1e-7,0.1,3.0,-0.0,2.5e-310]",
          "[1.5, 1000, 100, 9.9999999999999995e-08, 0.10000000000000001, 3, -0, "
          "2.5000000000000171e-310]");
    check("[1e400,-1e400]", "[1e999, -1e999]");
    check("01 {}", "!JSON parse error, stray '01' | {}");
    check("[-]{}", "!JSON parse error, stray '-]' | {}");
    check("[1.]{}", "!JSON parse error, stray '1.]' | {}");
    check("1e+ {}", "!JSON parse error, stray '1e+ ' | {}");
    check("--1 {}", "!JSON parse error, stray '--' | {}");
    check(".5 {}", "!JSON parse error, stray '.' | {}");
    check("+1 {}", "!JSON parse error, stray '+' | {}");
    check("1.5.5 {}", "1.5 | !JSON parse error, stray '.' | {}");
    check("0e1 {}", "0 | !JSON parse error, invalid keyword 'e' | 1 | {}");
    check("[0.0e1,10e1]", "[0, 100]");
    check("1-1 {}", "1 | -1 | {}");
}

static void test_strings(void)
{
    check("'it\\'s' \"it\\'s\" 'say \"x\"'", "\"it's\" | \"it's\" | \"say \\\"x\\\"\"");
    check("\"\\b\\f\\n\\r\\t\\/\\\\\\\"\"", "\"\\b\\f\\n\\r\\t/\\\\\\\"\"");
    check("\"\\u00e4\\ud83d\\ude00\303\244\360\237\230\200\x7f\"",
          "\"\\u00E4\\uD83D\\uDE00\\u00E4\\uD83D\\uDE00\\u007F\"");
    check("\"a\\u0000b\"", "\"a\\u0000b\"");
    check("\"\300\200\"", "\"\\u0000\""); /* modified UTF-8 */
    check("\"\\x\"{}", "!JSON parse error, invalid escape sequence in string | {}");
    check("\"\\u12\"{}", "!JSON parse error, \\u12\" is not a valid Unicode character | {}");
    check("'\\u'{}", "!JSON parse error, \\u' is not a valid Unicode character | {}");
    check("\"\\uZZZZ\"{}",
          "!JSON parse error, \\uZZZZ is not a valid Unicode character | {}");
    check("\"\\ud800\"{}",
          "!JSON parse error, \\ud800 is not a valid Unicode character | {}");
    check("\"\\ud800\\u0041\"{}",
          "!JSON parse error, \\ud800 is not a valid Unicode character | {}");
    check("\"\\ude00\"{}",
          "!JSON parse error, \\ude00 is not a valid Unicode character | {}");
    check("\"\\uffff\"{}",
          "!JSON parse error, \\uffff is not a valid Unicode character | {}");
    check("\"\\ufdd0\"{}",
          "!JSON parse error, \\ufdd0 is not a valid Unicode character | {}");
    check("{\"a\\u0000b\":1}", "{\"a\\u0000b\": 1}");
}

static void test_bad_utf8(void)
{
    static const char *const bad[] = {
        "\355\240\200",     /* a surrogate */
        "\364\220\200\200", /* beyond the last */
        "\341\200",         /* cut off */
        "\200",             /* no beginning */
        "\340\200\200",     /* overlong */
        "\357\277\276",     /* no character */
        "\303(",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *text = g_strdup_printf("[\"%s\"]{}", bad[i]);

        check(text, "!JSON parse error, invalid UTF-8 sequence in string | {}");
    }
    check("\"\377\"}{}", "!JSON parse error, stray '\"\377' | "
                         "!JSON parse error, expecting value | {}");
}

static void test_grammar(void)
{
    check("}{}", "!JSON parse error, expecting value | {}");
    check("{]{}", "!JSON parse error, expecting value | {}");
    check("{,}{}", "!JSON parse error, expecting value | {}");
    check("{\"a\"}{}", "!JSON parse error, missing : in object pair | {}");
    check("{\"a\"]{}", "!JSON parse error, missing : in object pair | {}");
    check("{\"a\" 1}{}", "!JSON parse error, missing : in object pair | {}");
    check("{\"a\":}{}", "!JSON parse error, expecting value | {}");
    check("{\"a\"::2}{}", "!JSON parse error, expecting value | {}");
    check("{\"a\":1,}{}", "!JSON parse error, expecting value | {}");
    check("{\"a\":1 \"b\":2}{}", "!JSON parse error, expected separator in dict | {}");
    check("{\"a\":1]{}", "!JSON parse error, expected separator in dict | {}");
    check("{1:2}{}", "!JSON parse error, key is not a string in object | {}");
    check("{[1]:2}{}", "!JSON parse error, key is not a string in object | {}");
    check("{{}:2}{}", "!JSON parse error, key is not a string in object | {}");
    check("{null:2}{}", "!JSON parse error, key is not a string in object | {}");
    check("{\"a\":1,\"a\":2}{}", "!JSON parse error, duplicate key | {}");
    check("[1,]{}", "!JSON parse error, expecting value | {}");
    check("[1 2]{}", "!JSON parse error, expected separator in list | {}");
    check("[}{}", "!JSON parse error, expecting value | {}");
    check("[1}{}", "!JSON parse error, expected separator in list | {}");
    check("[1:2]{}", "!JSON parse error, expected separator in list | {}");
    /* The rest of the value is part of the mistake. */
    check("{\"a\":[1,2,{\"b\":}],\"c\":[4,5]}{}", "!JSON parse error, expecting value | {}");
    /* Not balanced yet. */
    check("{\"x\":[1,2}{}", " ...");
    check("{[}]:2}{}", "!JSON parse error, expecting value | !JSON parse error, expecting "
                       "value | 2 | !JSON parse error, expecting value | {}");
}

static void test_words_and_stray(void)
{
    check("foo bar {}", "!JSON parse error, invalid keyword 'foo' | "
                        "!JSON parse error, invalid keyword 'bar' | {}");
    check("{\"a\":nul}{}", "!JSON parse error, invalid keyword 'nul' | {}");
    check("[1a]{}", "!JSON parse error, expected separator in list | {}");
    check("a1 {}", "!JSON parse error, invalid keyword 'a' | 1 | {}");
    check("TRUE {}", "!JSON parse error, stray 'T' | {}");
    check("/* no */ {}", "!JSON parse error, stray '/' | {}");
    check("# no\n{}", "!JSON parse error, stray '#' | {}");
    check("%d {}", "!JSON parse error, stray '%' | {}");
    check("\"abc\n\"{}", "!JSON parse error, stray '\"abc\n' | {}");
    check("{\"a\":\"b\tc\"}{}", "!JSON parse error, stray '\"b\t' | "
                                "!JSON parse error, expecting value | {}");
    check_len("\0{}", 3, "!JSON parse error, stray '' | {}");
    check("\357\273\277{}", "!JSON parse error, stray '\357' | {}");
}

/* After a stray byte, which ones begin something new? */
static void test_recovery(void)
{
    for (int c = 1; c < 256; c++) {
        char text[] = { 'N', c, 'x', ' ', 0 };
        g_autofree char *got = read_all(text, 4, 4);
        bool again = strchr(got, '|') != NULL;
        bool want = (c < 0x20 && c != '\t') || c >= 0xfe || strchr("}],:", c);

        if (c != '{' && c != '[') { /* those would wait for their end */
            g_assert_cmpint(again, ==, want);
        }
    }
    check("N{}", "!JSON parse error, stray 'N' | {}");
    check("N[]", "!JSON parse error, stray 'N' | []");
}

static void test_pending(void)
{
    JsonReader *reader = json_reader_new();
    json_object *value;
    size_t used;

    g_assert_false(json_reader_pending(reader));
    g_assert_false(json_reader_next(reader, " {", 2, &used, &value, NULL));
    g_assert_true(json_reader_pending(reader));
    g_assert_true(json_reader_next(reader, "} ", 2, &used, &value, NULL));
    g_assert_cmpuint(used, ==, 1);
    json_object_put(value);
    g_assert_false(json_reader_pending(reader));
    g_assert_false(json_reader_next(reader, "'x", 2, &used, &value, NULL));
    g_assert_true(json_reader_pending(reader));
    json_reader_free(reader); /* with something unfinished */
}

/* ---- limits --------------------------------------------------------------- */

static char *nested(unsigned depth)
{
    GString *s = g_string_new(NULL);

    for (unsigned i = 0; i < depth; i++) {
        g_string_append_c(s, '[');
    }
    for (unsigned i = 0; i < depth; i++) {
        g_string_append_c(s, ']');
    }
    return g_string_free(s, FALSE);
}

static void test_depth(void)
{
    g_autofree char *ok = nested(1024), *deep = nested(1025);
    g_autofree char *got_ok = read_all(ok, strlen(ok), 4096);
    g_autofree char *got_deep = read_all(deep, strlen(deep), 4096);

    g_assert_cmpstr(got_ok, ==, ok);
    g_assert_true(g_str_has_prefix(got_deep, "!JSON nesting depth limit exceeded | "
                                             "!JSON parse error, expecting value"));
}

/* Feed @unit again and again until something comes back or @max bytes. */
static char *flood(const char *start, const char *unit, size_t max)
{
    JsonReader *reader = json_reader_new();
    GString *out = g_string_new(NULL), *block = g_string_new(NULL);
    size_t used, total = 0;
    json_object *value = NULL;
    GError *err = NULL;

    json_reader_next(reader, start, strlen(start), &used, &value, NULL);
    while (block->len < 1 << 20) {
        g_string_append(block, unit);
    }
    while (total < max) {
        if (json_reader_next(reader, block->str, block->len, &used, &value, &err)) {
            note(out, value, err);
            break;
        }
        total += used;
    }
    json_reader_free(reader);
    g_string_free(block, TRUE);
    return g_string_free(out, FALSE);
}

static void test_size(void)
{
    g_autofree char *one = flood("\"", "abcdefgh", (size_t)80 << 20);
    g_autofree char *count = flood("[", "1,", (size_t)80 << 20);
    g_autofree char *many = flood("[", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                       "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",",
                                  (size_t)80 << 20);

    g_assert_cmpstr(one, ==, "!JSON token size limit exceeded");
    g_assert_cmpstr(count, ==, "!JSON token count limit exceeded");
    g_assert_cmpstr(many, ==, "!JSON token size limit exceeded");
}

/* ---- writing ---------------------------------------------------------------- */

static void check_write(json_object *value, bool pretty, const char *want)
{
    g_autoptr(GString) out = g_string_new(NULL);

    json_write(out, value, pretty);
    g_assert_cmpstr(out->str, ==, want);
    json_object_put(value);
}

static void test_pretty(void)
{
    json_object *value = json_tokener_parse(
        "{\"a\":[],\"b\":{},\"c\":[1,{\"x\":\"y\"}]}");

    check_write(value, true,
                "{\r\n    \"a\": [\r\n    ],\r\n    \"b\": {\r\n    },\r\n    \"c\": [\r\n"
                "        1,\r\n        {\r\n            \"x\": \"y\"\r\n        }\r\n    ]\r\n}");
    check_write(json_object_new_int(3), true, "3");
}

static void test_write_strings(void)
{
    check_write(json_object_new_string_len("a\0b", 3), false, "\"a\\u0000b\"");
    check_write(json_object_new_string("\001\033\x7f/"), false,
                "\"\\u0001\\u001B\\u007F/\"");
    check_write(json_object_new_string("x\377y\303"), false, "\"x\\uFFFDy\\uFFFD\"");
    /* A sequence that can't be is one mistake, not several. */
    check_write(json_object_new_string("\355\240\200|\374\200\200\200\200\200|\200\200"),
                false, "\"\\uFFFD|\\uFFFD|\\uFFFD\\uFFFD\"");
    check_write(json_object_new_double(__builtin_nan("")), false, "null");
}

/* ---- at random ---------------------------------------------------------------- */

/* Anything, in any pieces: the same result, no crash; what is written is read
 * back as the same. */
static void test_random(void)
{
    static const char *const words[] = {
        "{", "}", "[", "]", ":", ",", "\"a\"", "'b'", "1", "-2.5e3", "true", "null", "nul",
        " ", "\n", "\"", "\\", "\\u00", "\"\\ud83d\\ude00\"", "N", "\377", "\303\244",
        "18446744073709551615", "{\"k\":", "[1,", "]}", "\t", "e", ".", "-", "0",
    };

    for (int round = 0; round < 20000; round++) {
        g_autoptr(GString) text = g_string_new(NULL);
        int n = g_test_rand_int_range(1, 25);
        g_autofree char *whole = NULL, *pieces = NULL;

        for (int i = 0; i < n; i++) {
            g_string_append(text, words[g_test_rand_int_range(0, G_N_ELEMENTS(words))]);
        }
        if (round % 4 == 0) {
            text->str[g_test_rand_int_range(0, text->len)] = g_test_rand_int_range(0, 256);
        }
        whole = read_all(text->str, text->len, 1000);
        pieces = read_all(text->str, text->len, 0);
        g_assert_cmpstr(whole, ==, pieces);
    }
}

static int64_t random_int64(void)
{
    return (int64_t)((uint64_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int());
}

static json_object *random_value(int depth)
{
    json_object *value;

    switch (g_test_rand_int_range(0, depth ? 8 : 6)) {
    case 0: return NULL;
    case 1: return json_object_new_boolean(g_test_rand_bit());
    case 2: return json_object_new_int64(random_int64());
    case 3: return json_object_new_double(g_test_rand_double_range(-1e9, 1e9));
    case 4: return json_object_new_string("x\303\244\360\237\230\200\\\"'\n");
    case 5: return json_object_new_uint64(UINT64_MAX - g_test_rand_int_range(0, 9));
    case 6:
        value = json_object_new_array();
        for (int i = g_test_rand_int_range(0, 4); i; i--) {
            json_object_array_add(value, random_value(depth - 1));
        }
        return value;
    default:
        value = json_object_new_object();
        for (int i = g_test_rand_int_range(0, 4); i; i--) {
            char key[] = { 'a' + i, 0 };

            json_object_object_add(value, key, random_value(depth - 1));
        }
        return value;
    }
}

static void test_round_trip(void)
{
    for (int round = 0; round < 2000; round++) {
        json_object *value = random_value(4);
        g_autoptr(GString) text = g_string_new(NULL), pretty = g_string_new(NULL);
        g_autofree char *one = NULL, *two = NULL;

        json_write(text, value, false);
        json_write(pretty, value, true);
        g_string_append_c(text, ' ');
        g_string_append_c(pretty, ' ');
        one = read_all(text->str, text->len, 0);
        two = read_all(pretty->str, pretty->len, 0);
        g_string_truncate(text, text->len - 1);
        g_assert_cmpstr(one, ==, text->str);
        g_assert_cmpstr(two, ==, text->str);
        for (char *p = text->str; *p; p++) {
            g_assert_true(*p >= 0x20 && *p < 0x7f);
        }
        json_object_put(value);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json/read/values", test_values);
    g_test_add_func("/json/read/numbers", test_numbers);
    g_test_add_func("/json/read/strings", test_strings);
    g_test_add_func("/json/read/bad-utf8-is-refused", test_bad_utf8);
    g_test_add_func("/json/read/grammar", test_grammar);
    g_test_add_func("/json/read/words-and-stray-bytes", test_words_and_stray);
    g_test_add_func("/json/read/recovers-as-qemu-does", test_recovery);
    g_test_add_func("/json/read/knows-what-is-unfinished", test_pending);
    g_test_add_func("/json/limits/depth", test_depth);
    g_test_add_func("/json/limits/size-and-count", test_size);
    g_test_add_func("/json/write/pretty", test_pretty);
    g_test_add_func("/json/write/ascii-only", test_write_strings);
    g_test_add_func("/json/random/any-pieces-same-result", test_random);
    g_test_add_func("/json/random/written-is-read-back", test_round_trip);
    return g_test_run();
}
