/*
 * Arguments, expressions and sizes of HMP commands; the merged help.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../hmp/commands.h"
#include "util/size.h"

#include <errno.h>
#include <string.h>

#define BACKUP "state:-s,backupfile:F,speed:o?,devlist:B?"

/* Parse @line; on error NULL and the message in *message (g_free). */
static HmpArgs *parse(const char *types, const char *line, char **message)
{
    GString *out = g_string_new(NULL);
    HmpArgs *args = hmp_args_parse("cmd", types, &line, out);

    *message = g_string_free(out, FALSE);
    g_assert_cmpint(args == NULL, ==, (*message)[0] != '\0');
    return args;
}

static void test_backup_line(void)
{
    g_autofree char *message = NULL, *message2 = NULL;
    g_autoptr(HmpArgs) args = parse(BACKUP, " -s \"/a b\" 1.5M d1,d2 ", &message);
    g_autoptr(HmpArgs) few = parse(BACKUP, "f", &message2);

    g_assert_true(hmp_args_bool(args, "state"));
    g_assert_cmpstr(hmp_args_str(args, "backupfile"), ==, "/a b");
    g_assert_cmpint(hmp_args_int(args, "speed"), ==, 3 << 19);
    g_assert_cmpstr(hmp_args_str(args, "devlist"), ==, "d1,d2");
    g_assert_false(hmp_args_has(few, "state"));
    g_assert_false(hmp_args_bool(few, "state"));
    g_assert_false(hmp_args_has(few, "speed"));
    g_assert_cmpint(hmp_args_int(few, "speed"), ==, 0);
    g_assert_null(hmp_args_str(few, "devlist"));
}

static void test_errors(void)
{
    static const struct {
        const char *types, *line, *message;
    } cases[] = {
        { BACKUP, "", "cmd: filename expected\n" },
        { BACKUP, "-s", "cmd: filename expected\n" },
        { BACKUP, "-x f", "cmd: unsupported option -x\n" },
        { BACKUP, "-", "cmd: unsupported option -\n" },
        { BACKUP, "\"abc", "unterminated string\ncmd: filename expected\n" },
        { BACKUP, "\"a\\qb\"", "unsupported escape code: '\\q'\ncmd: filename expected\n" },
        { BACKUP, "\"a\\", "unsupported escape code: '\\ '\ncmd: filename expected\n" },
        { BACKUP, "f x", "invalid size\n" },
        { BACKUP, "f -5", "invalid size\n" },
        { BACKUP, "f 99999999999999999999", "invalid size\n" },
        { BACKUP, "f 8E", "invalid size\n" },
        { BACKUP, "f 1 d e", "cmd: extraneous characters at the end of line\n" },
        { "dev:B", "", "cmd: block device name expected\n" },
        { "s:s", " ", "cmd: string expected\n" },
        { "s:S", "", "cmd: string expected\n" },
        { "on:b", "maybe", "Expected 'on' or 'off'\n" },
        { "on:b", "", "Expected 'on' or 'off'\n" },
        { "i:i", "0x100000000", "'cmd' has failed: integer is for 32-bit values\n" },
        { "i:i", "-1", "'cmd' has failed: integer is for 32-bit values\n" },
        { "m:M", "-1", "enter a positive value\n" },
        { "m:M", "0x7fffffffffffffff", "number too large\n" },
        { "l:l", "", "unexpected end of expression\n" },
        { "l:l", "1+", "unexpected end of expression\n" },
        { "l:l", "(1", "')' expected\n" },
        { "l:l", "b", "invalid char 'b' in expression\n" },
        { "l:l", "1/0", "division by zero\n" },
        { "l:l", "1%(3-3)", "division by zero\n" },
        { "l:l", "'", "character constant expected\n" },
        { "l:l", "'ab", "missing terminating ' character\n" },
        { "l:l", "$rip", "unknown register\n" },
        { "l:l", "18446744073709551616", "number too large\n" },
        { "f:-fs,x:s", "-f", "cmd: value expected for -f\n" },
        { "n:z", "x", "cmd: unknown type 'z'\n" },
        { "", "x", "cmd: extraneous characters at the end of line\n" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *message = NULL;

        g_test_message("%s: %s", cases[i].types, cases[i].line);
        g_assert_null(parse(cases[i].types, cases[i].line, &message));
        g_assert_cmpstr(message, ==, cases[i].message);
    }
}

static void test_flags(void)
{
    g_autofree char *m1 = NULL, *m2 = NULL, *m3 = NULL;
    g_autoptr(HmpArgs) args = parse("a:-a,b:-b,f:-fs,x:s?", "-b -f png y", &m1);
    g_autoptr(HmpArgs) rest = parse("a:-a,x:S?", "-a  the rest \"of it ", &m2);

    g_assert_false(hmp_args_has(args, "a"));
    g_assert_true(hmp_args_bool(args, "b"));
    g_assert_cmpstr(hmp_args_str(args, "f"), ==, "png");
    g_assert_cmpstr(hmp_args_str(args, "x"), ==, "y");
    g_assert_cmpstr(hmp_args_str(rest, "x"), ==, "the rest \"of it ");
    g_assert_null(parse("a:-a,b:-b", "-b -a", &m3)); /* in order, as QEMU */
    g_assert_cmpstr(m3, ==, "cmd: extraneous characters at the end of line\n");
}

static void test_expressions(void)
{
    static const struct {
        const char *text;
        int64_t value;
        const char *rest;
    } cases[] = {
        { "1+2*3", 7, "" },
        { "(1+2)*3", 9, "" },
        { " 0x10 + 010 x", 24, "x" },
        { "1 | 2 + 4", 7, "" }, /* | binds tighter than + */
        { "6 & 3 * 2", 6, "" },
        { "-1", -1, "" },
        { "~0 - -2", 1, "" },
        { "'a'+1", 98, "" },
        { "7/-2", -3, "" },
        { "7%4", 3, "" },
        { "0x8000000000000000/-1", INT64_MIN, "" },
        { "0x8000000000000000%-1", 0, "" },
        { "0x7fffffffffffffff+1", INT64_MIN, "" },
        { "10,20", 10, ",20" },
    };
    g_autoptr(GString) out = g_string_new(NULL);
    g_autofree char *deep = g_strnfill(100000, '(');
    const char *p = deep;
    int64_t value;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        p = cases[i].text;
        g_test_message("%s", p);
        g_assert_true(hmp_expr_parse(&p, &value, out));
        g_assert_cmpint(value, ==, cases[i].value);
        g_assert_cmpstr(p, ==, cases[i].rest);
    }
    p = deep;
    g_assert_false(hmp_expr_parse(&p, &value, out));
    g_assert_cmpstr(out->str, ==, "expression too deep\n");
}

static void test_sizes(void)
{
    static const struct {
        const char *text;
        char suffix;
        int result;
        uint64_t bytes;
    } cases[] = {
        { "0", 'B', 0, 0 },
        { "10", 'M', 0, 10 << 20 },
        { "10", 'B', 0, 10 },
        { "10b", 'M', 0, 10 },
        { "1k", 'M', 0, 1024 },
        { "1K", 'B', 0, 1024 },
        { "256m", 'B', 0, 256 << 20 },
        { "1G", 'B', 0, 1 << 30 },
        { "2T", 'B', 0, 2ull << 40 },
        { "1P", 'B', 0, 1ull << 50 },
        { "15E", 'B', 0, 15ull << 60 },
        { "1.5M", 'B', 0, 3 << 19 },
        { "1.5", 'M', 0, 3 << 19 },
        { "0.5k", 'B', 0, 512 },
        { "1.k", 'B', 0, 1024 },
        { "1.", 'B', 0, 1 },
        { "0.33333333333333333333333k", 'B', 0, 341 },
        { "0x1000", 'B', 0, 4096 },
        { "0x10", 'M', 0, 16 << 20 },
        { "0x1E", 'B', 0, 30 },
        { " 5", 'B', 0, 5 },
        { "18446744073709551615", 'B', 0, UINT64_MAX },
        { "18446744073709551616", 'B', -ERANGE, 0 },
        { "16E", 'B', -ERANGE, 0 },
        { "99999999999999999999999k", 'B', -ERANGE, 0 },
        { "", 'B', -EINVAL, 0 },
        { "k", 'B', -EINVAL, 0 },
        { ".5k", 'B', -EINVAL, 0 },
        { "1.5", 'B', -EINVAL, 0 },
        { "1.5b", 'B', -EINVAL, 0 },
        { "-1", 'B', -EINVAL, 0 },
        { "+1", 'B', -EINVAL, 0 },
        { "1kk", 'B', -EINVAL, 0 },
        { "1 k", 'B', -EINVAL, 0 },
        { "0x", 'B', -EINVAL, 0 },
        { "0x1k", 'B', -EINVAL, 0 },
        { "0x1.8", 'B', -EINVAL, 0 },
        { "1e3", 'B', -EINVAL, 0 },
        { "nan", 'B', -EINVAL, 0 },
    };
    const char *end;
    uint64_t bytes;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_test_message("%s", cases[i].text);
        bytes = 0;
        g_assert_cmpint(size_parse(cases[i].text, cases[i].suffix, NULL, &bytes), ==,
                        cases[i].result);
        g_assert_cmpuint(bytes, ==, cases[i].bytes);
    }
    g_assert_cmpint(size_parse("5M,x", 'B', &end, &bytes), ==, 0);
    g_assert_cmpstr(end, ==, ",x");
}

static void test_words(void)
{
    g_auto(GStrv) words = hmp_args_words(" a \"b c\\\"\" d\\e ");

    g_assert_cmpuint(g_strv_length(words), ==, 3);
    g_assert_cmpstr(words[0], ==, "a");
    g_assert_cmpstr(words[1], ==, "b c\"");
    g_assert_cmpstr(words[2], ==, "d\\e");
    g_assert_null(hmp_args_words("a \"b"));
}

static const char qemu_help[] =
    "announce_self [interfaces] -- Trigger\n"
    "block_stream device -- copy data\n"
    "cont|c  -- resume emulation\n"
    "drive_add [-n] slot\n"
    "[file=file][,if=type]\n"
    "[,snapshot=on|off] -- add drive\n"
    "help|? [cmd] -- show the help\n"
    "migrate [-d] uri -- migrate to URI\n"
    "\t\t\t -b for migration\n"
    "\t\t\t\n"
    "a line out of order -- belongs to migrate\n"
    "x /fmt addr -- dump\n";

static void test_help_merge(void)
{
    static const HmpCommand ours[] = {
        { .name = "block_stream", .params = "device [base]", .help = "ours" },
        { .name = "backup", .params = "file", .help = "new" },
        { .name = "?|help", .params = "[cmd]", .help = "ours too" },
        { .name = "zz", .params = "", .help = "last" },
        { .name = NULL },
    };
    g_autofree char *text = hmp_help_merge(qemu_help, ours, "");
    g_auto(GStrv) names = NULL;
    g_autofree char *joined = NULL;

    g_assert_cmpstr(text, ==,
        "?|help [cmd] -- ours too\n"
        "announce_self [interfaces] -- Trigger\n"
        "backup file -- new\n"
        "block_stream device [base] -- ours\n"
        "cont|c  -- resume emulation\n"
        "drive_add [-n] slot\n"
        "[file=file][,if=type]\n"
        "[,snapshot=on|off] -- add drive\n"
        "migrate [-d] uri -- migrate to URI\n"
        "\t\t\t -b for migration\n"
        "\t\t\t\n"
        "a line out of order -- belongs to migrate\n"
        "x /fmt addr -- dump\n"
        "zz  -- last\n");
    names = hmp_help_names(text, "");
    joined = g_strjoinv(" ", names);
    g_assert_cmpstr(joined, ==, "? help announce_self backup block_stream cont c "
                    "drive_add migrate x zz");
}

static void test_help_merge_info(void)
{
    static const HmpCommand ours[] = {
        { .name = "backup", .params = "", .help = "show backup status" },
        { .name = "history", .params = "", .help = "lines" },
        { .name = NULL },
    };
    g_autofree char *text = hmp_help_merge("info block [-n] -- one\ninfo cpus  -- two\n",
                                           ours, "info ");
    g_auto(GStrv) names = hmp_help_names(text, "info ");
    g_autofree char *joined = g_strjoinv(" ", names);

    g_assert_cmpstr(joined, ==, "backup block cpus history");
    g_assert_true(g_str_has_prefix(text, "info backup  -- "));
}

static void test_table(void)
{
    g_assert_cmpstr(hmp_find_command(hmp_commands, "?")->name, ==, "help|?");
    g_assert_cmpstr(hmp_find_command(hmp_commands, "help")->name, ==, "help|?");
    g_assert_null(hmp_find_command(hmp_commands, "hel"));
    g_assert_null(hmp_find_command(hmp_commands, "help|?"));
    g_assert_null(hmp_find_command(hmp_commands, ""));
    g_assert_null(hmp_find_command(hmp_commands, "back"));
    for (const HmpCommand *cmd = hmp_commands; cmd->name; cmd++) {
        g_assert_nonnull(cmd->run);
        g_assert_nonnull(cmd->args_type);
        g_assert_nonnull(cmd->params);
        g_assert_nonnull(cmd->help);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hmp/args/backup-line", test_backup_line);
    g_test_add_func("/hmp/args/errors", test_errors);
    g_test_add_func("/hmp/args/flags", test_flags);
    g_test_add_func("/hmp/args/expressions", test_expressions);
    g_test_add_func("/hmp/args/words", test_words);
    g_test_add_func("/hmp/size", test_sizes);
    g_test_add_func("/hmp/help/merge", test_help_merge);
    g_test_add_func("/hmp/help/info", test_help_merge_info);
    g_test_add_func("/hmp/table", test_table);
    return g_test_run();
}
