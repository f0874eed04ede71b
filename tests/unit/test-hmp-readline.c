/*
 * The line editor: keys in, screen and lines out.  The expected bytes of keys
 * that QEMU knows were read off QEMU 7.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../hmp/readline.h"

#include <glib.h>
#include <string.h>

typedef struct {
    Readline *rl;
    GString *screen;
    GPtrArray *lines;
    const char *const *words; /* offered to Tab */
    size_t typed;
    char *before;
} Fixture;

static void on_write(void *opaque, const char *text, size_t len)
{
    Fixture *f = opaque;

    g_string_append_len(f->screen, text, (gssize)len);
}

static void on_line(void *opaque, const char *line)
{
    Fixture *f = opaque;

    g_ptr_array_add(f->lines, g_strdup(line));
    readline_start(f->rl, "> ", false);
}

static void on_complete(void *opaque, const char *before)
{
    Fixture *f = opaque;
    const char *const none[] = { NULL };
    const char *const *words = f->words ? f->words : none;
    size_t n = 0;

    g_free(f->before);
    f->before = g_strdup(before);
    while (words[n]) {
        n++;
    }
    readline_completed(f->rl, words, n, f->typed);
}

static const ReadlineOps ops = { on_write, on_line, on_complete };

static void setup(Fixture *f, gconstpointer data)
{
    f->screen = g_string_new(NULL);
    f->lines = g_ptr_array_new_with_free_func(g_free);
    f->rl = readline_new(&ops, f);
    readline_start(f->rl, "> ", false);
}

static void teardown(Fixture *f, gconstpointer data)
{
    readline_free(f->rl);
    g_string_free(f->screen, TRUE);
    g_ptr_array_unref(f->lines);
    g_free(f->before);
}

static void feed_len(Fixture *f, const char *keys, size_t len)
{
    while (len) {
        size_t n = readline_feed(f->rl, keys, len);

        g_assert_cmpuint(n, >, 0);
        keys += n;
        len -= n;
    }
}

static void feed(Fixture *f, const char *keys)
{
    feed_len(f, keys, strlen(keys));
}

/* What @keys change on the screen. */
static const char *shown(Fixture *f, const char *keys)
{
    g_string_truncate(f->screen, 0);
    feed(f, keys);
    return f->screen->str;
}

static const char *last_line(Fixture *f)
{
    return f->lines->len ? f->lines->pdata[f->lines->len - 1] : NULL;
}

#define L "\033[D"

static void test_bytes(Fixture *f, gconstpointer data)
{
    g_assert_cmpstr(f->screen->str, ==, "> ");
    g_assert_cmpstr(shown(f, "ab"), ==, "a\033[K" L "ab\033[K");
    g_assert_cmpstr(shown(f, " cd"), ==, L L "ab \033[K" L L L "ab c\033[K"
                    L L L L "ab cd\033[K");
    g_assert_cmpstr(shown(f, L), ==, L);
    g_assert_cmpstr(shown(f, "\1"), ==, L L L L);
    g_assert_cmpstr(shown(f, "\5"), ==, "\033[C\033[C\033[C\033[C\033[C");
    g_assert_cmpstr(shown(f, L "\4"), ==, L L L L L "ab c\033[K");
    g_assert_cmpstr(shown(f, "d" L), ==, L L L L "ab cd\033[K" L);
    g_assert_cmpstr(shown(f, "\b"), ==, L L L L "ab d\033[K" L);
    g_assert_cmpstr(shown(f, "\f"), ==, "\033[2J\033[1;1H> ab d\033[K" L);
    g_assert_cmpstr(shown(f, "\033OH"), ==, L L L);
    g_assert_cmpstr(shown(f, "\033OF"), ==, "\033[C\033[C\033[C\033[C");
    g_assert_cmpstr(shown(f, "\027"), ==, L L L L "ab \033[K");
    g_assert_cmpstr(shown(f, "\r"), ==, "\r\n> ");
    g_assert_cmpstr(last_line(f), ==, "ab ");
}

/* keys → the line that Enter gives */
static void test_lines(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *keys, *line;
    } cases[] = {
        { "abc", "abc" },
        { "abc\b\177", "a" },
        { "\b\4\027\025\013" L "\033[C\033[3~a", "a" },
        { "abc\1x", "xabc" },
        { "abc\1\6x", "axbc" },
        { "abc\2x", "abxc" },
        { "abc\1\4", "bc" },
        { "abc" L L "\013", "a" },
        { "abc" L "\025", "c" },
        { "one two  three\027\027", "one " },
        { "  lead\027", "  " },
        { "abc\033[Hx\033[Fy", "xabcy" },
        { "abc\033[1~x\033[4~y", "xabcy" },
        { "abc\033[7~x\033[8~y", "xabcy" },
        { "abc\033[1;5Dx", "abxc" },
        { "abc\033[?25lx\033[200~y", "abcxy" },
        { "abc\033x\033\033y", "abcy" }, /* ESC and one key: nothing */
        { "a\3\7\17\21\22\23\24\26\30\31\32\34\35\36\37z", "az" },
        { "a\233Db", "ba" }, /* CSI in one byte */
        { "\303\244\303\266\b", "\303\244" },
        { "\303\244\303\266" L "x", "\303\244x\303\266" },
        { "\342\202\254\1\4x", "x" },
        { "\360\237\230\200" "a" L "\b", "a" },
        { "\377\376" "a" L L "x", "\377x\376" "a" },
        { "\303" "a", "\303" "a" }, /* half a character */
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *keys = g_strescape(cases[i].keys, NULL);

        g_test_message("%s", keys);
        feed(f, cases[i].keys);
        feed(f, "\n");
        g_assert_cmpstr(last_line(f), ==, cases[i].line);
        feed(f, "\1\013");
    }
}

static void test_history(Fixture *f, gconstpointer data)
{
    feed(f, "\033[A\033[A\033[Bx\r");
    g_assert_cmpstr(last_line(f), ==, "x");
    feed(f, "one\rtwo\rthree\r");
    feed(f, "\033[A\033[A\r");
    g_assert_cmpstr(last_line(f), ==, "two");
    /* two has become the youngest */
    g_assert_cmpstr(readline_history(f->rl, 0), ==, "x");
    g_assert_cmpstr(readline_history(f->rl, 1), ==, "one");
    g_assert_cmpstr(readline_history(f->rl, 2), ==, "three");
    g_assert_cmpstr(readline_history(f->rl, 3), ==, "two");
    g_assert_null(readline_history(f->rl, 4));
    feed(f, "\020\020\020\016\r");
    g_assert_cmpstr(last_line(f), ==, "three");
    /* an old one changed: a new entry, the old one stays */
    feed(f, "\020!\r");
    g_assert_cmpstr(readline_history(f->rl, 3), ==, "three");
    g_assert_cmpstr(readline_history(f->rl, 4), ==, "three!");
    /* down behind the youngest: empty */
    feed(f, "\020\016\r");
    g_assert_cmpstr(last_line(f), ==, "");
    g_assert_null(readline_history(f->rl, 5));
}

static void test_history_is_bounded(Fixture *f, gconstpointer data)
{
    for (int i = 0; i < 200; i++) {
        g_autofree char *line = g_strdup_printf("line %d\r", i);

        feed(f, line);
    }
    g_assert_cmpstr(readline_history(f->rl, 0), ==, "line 136");
    g_assert_cmpstr(readline_history(f->rl, 63), ==, "line 199");
    g_assert_null(readline_history(f->rl, 64));
    for (int i = 0; i < 100; i++) {
        feed(f, "\020");
    }
    feed(f, "\r");
    g_assert_cmpstr(last_line(f), ==, "line 136");
}

static void test_completion(Fixture *f, gconstpointer data)
{
    static const char *const one[] = { "backup", NULL };
    static const char *const two[] = { "backup_cancel", "backup", NULL };
    static const char *const folder[] = { "/tmp/", NULL };

    feed(f, "ba");
    g_assert_cmpstr(shown(f, "\t"), ==, ""); /* nothing is offered */
    f->words = two;
    f->typed = 2;
    g_assert_cmpstr(shown(f, "\t"), ==,
                    "\r\nbackup         backup_cancel  \r\n> backup\033[K");
    g_assert_cmpstr(f->before, ==, "ba");
    f->words = one;
    f->typed = 6;
    g_assert_cmpstr(shown(f, "\t"), ==, L L L L L L "backup \033[K");
    f->words = folder;
    f->typed = 2;
    feed(f, "/t\t\r");
    g_assert_cmpstr(last_line(f), ==, "backup /tmp/");
    /* only what is before the cursor counts, what is behind stays */
    f->words = one;
    f->typed = 1;
    feed(f, "bx" L "\t\r");
    g_assert_cmpstr(f->before, ==, "b");
    g_assert_cmpstr(last_line(f), ==, "backup x");
}

/* While a completion is looked up, and after a line, keys stay outside. */
static void on_line_stop(void *opaque, const char *line)
{
}

static void on_complete_later(void *opaque, const char *before)
{
}

static void test_stops(Fixture *f, gconstpointer data)
{
    static const ReadlineOps later = { on_write, on_line_stop, on_complete_later };
    static const char *const word[] = { "abc", NULL };
    Readline *rl = readline_new(&later, f);

    g_assert_cmpuint(readline_feed(rl, "abc", 3), ==, 0); /* not started */
    readline_start(rl, "> ", false);
    g_assert_cmpuint(readline_feed(rl, "a\tx\ry", 5), ==, 2);
    g_assert_false(readline_ready(rl));
    readline_completed(rl, word, 1, 1);
    g_assert_cmpuint(readline_feed(rl, "x\ry", 3), ==, 2);
    readline_completed(rl, word, 1, 1); /* nobody asked */
    g_assert_cmpuint(readline_feed(rl, "y", 1), ==, 0);
    g_assert_cmpstr(readline_history(rl, 0), ==, "abc x");
    readline_free(rl);
}

static void test_secret(Fixture *f, gconstpointer data)
{
    readline_start(f->rl, "Password: ", true);
    g_assert_cmpstr(shown(f, "ab" L "x\r"), ==,
                    "*\033[K" L "**\033[K" L L "***\033[K" L "\r\n> ");
    g_assert_cmpstr(last_line(f), ==, "axb");
    g_assert_null(readline_history(f->rl, 0));
}

static void test_long_line(Fixture *f, gconstpointer data)
{
    g_autofree char *big = g_malloc(100001);

    memset(big, 'x', 100000);
    big[100000] = '\r';
    feed_len(f, big, 100001);
    g_assert_cmpuint(strlen(last_line(f)), ==, READLINE_MAX_LINE);
    g_assert_cmpuint(f->screen->len, <, 2000000);
}

static void test_random_bytes(Fixture *f, gconstpointer data)
{
    static const char *const words[] = { "alpha", "alps", "x/", "", NULL };

    f->words = words;
    for (int i = 0; i < 200000; i++) {
        char c = g_test_rand_bit() ? (char)g_test_rand_int_range(0, 256)
                                   : "\033[ODCABHF~13;\t\r\b ab\303\244"[
                                         g_test_rand_int_range(0, 21)];

        f->typed = (size_t)g_test_rand_int_range(0, 8);
        feed_len(f, &c, 1);
        if (f->screen->len > 100000) {
            g_string_truncate(f->screen, 0);
        }
        if (f->lines->len > 100) {
            g_ptr_array_set_size(f->lines, 0);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, fn) \
    g_test_add("/hmp/readline/" name, Fixture, NULL, setup, fn, teardown)
    ADD("bytes-as-qemu", test_bytes);
    ADD("lines", test_lines);
    ADD("history", test_history);
    ADD("history-is-bounded", test_history_is_bounded);
    ADD("completion", test_completion);
    ADD("stops", test_stops);
    ADD("secret", test_secret);
    ADD("long-line", test_long_line);
    ADD("random-bytes", test_random_bytes);
    return g_test_run();
}
