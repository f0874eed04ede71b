/*
 * The line editor; see readline.h.
 *
 * What it writes to the screen is what QEMU 7.2's monitor writes, byte for
 * byte, as long as the line is ASCII: after each key that changed the text,
 * cursor to the start of the line, the whole text, erase to the end, cursor
 * back to its place.  (Programs that drive a monitor have learned to read
 * that; lines of more than LONG_LINE bytes are drawn with less.)  Keys that QEMU ignores have the meaning they have in a shell: C-b,
 * C-f, C-k, C-u, C-n, C-p, Home and End as xterm sends them, and escape
 * sequences with parameters are swallowed whole.  Text is UTF-8: a character
 * is inserted, stepped over and deleted as a whole; bytes that are no UTF-8
 * are characters of one column.
 *
 * States of the input: NORMAL ─ESC→ ESCAPE ─[→ CSI ─final byte→ NORMAL
 *                                         └─O→ SS3 ─any byte──→ NORMAL
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "readline.h"

#include <glib.h>
#include <stdlib.h>
#include <string.h>

#define LONG_LINE 512

typedef enum { STATE_NORMAL, STATE_ESCAPE, STATE_CSI, STATE_SS3 } InputState;

struct Readline {
    const ReadlineOps *ops;
    void *opaque;
    char *prompt;
    bool secret;
    bool ready;
    bool completing;

    GString *text;      /* at most READLINE_MAX_LINE bytes */
    size_t cursor;      /* byte index into text, at a character */
    GString *shown;     /* what is on the screen */
    size_t shown_column; /* where the screen's cursor is */

    InputState state;
    unsigned param;     /* number of a CSI sequence, the first one */
    bool more_params;
    char partial[4];    /* a UTF-8 character that is not complete */
    size_t partial_len;

    GPtrArray *history; /* char *, oldest first */
    int entry;          /* that is being shown; -1: none */
};

Readline *readline_new(const ReadlineOps *ops, void *opaque)
{
    Readline *rl = g_new0(Readline, 1);

    rl->ops = ops;
    rl->opaque = opaque;
    rl->prompt = g_strdup("");
    rl->text = g_string_new(NULL);
    rl->shown = g_string_new(NULL);
    rl->history = g_ptr_array_new_with_free_func(g_free);
    rl->entry = -1;
    return rl;
}

void readline_free(Readline *rl)
{
    if (rl) {
        g_free(rl->prompt);
        g_string_free(rl->text, TRUE);
        g_string_free(rl->shown, TRUE);
        g_ptr_array_unref(rl->history);
        g_free(rl);
    }
}

/* ---- the screen --------------------------------------------------------- */

static void put(Readline *rl, const char *text)
{
    rl->ops->write(rl->opaque, text, strlen(text));
}

static void put_times(Readline *rl, const char *text, size_t n)
{
    while (n--) {
        put(rl, text);
    }
}

/* The character at byte @i: its length, and its columns. */
static size_t char_at(const GString *s, size_t i, size_t *columns)
{
    gunichar c = g_utf8_get_char_validated(s->str + i, (gssize)(s->len - i));

    *columns = 1;
    if (c == (gunichar)-1 || c == (gunichar)-2) {
        return 1;
    }
    if (g_unichar_iszerowidth(c)) {
        *columns = 0;
    } else if (g_unichar_iswide(c)) {
        *columns = 2;
    }
    return (size_t)(g_utf8_next_char(s->str + i) - (s->str + i));
}

static size_t column_of(const Readline *rl, const GString *s, size_t end)
{
    size_t column = 0, columns;

    for (size_t i = 0; i < end; i += char_at(s, i, &columns)) {
        char_at(s, i, &columns);
        column += rl->secret ? 1 : columns;
    }
    return column;
}

static void put_line(Readline *rl)
{
    if (rl->secret) {
        put_times(rl, "*", column_of(rl, rl->text, rl->text->len));
    } else {
        rl->ops->write(rl->opaque, rl->text->str, rl->text->len);
    }
}

/* Text was added at the end of a long line: drawing all of it again for each
 * byte of something pasted would be megabytes. */
static bool update_tail(Readline *rl)
{
    if (rl->secret || rl->text->len <= LONG_LINE ||
        rl->text->len <= rl->shown->len ||
        memcmp(rl->text->str, rl->shown->str, rl->shown->len) != 0 ||
        rl->shown_column != column_of(rl, rl->shown, rl->shown->len)) {
        return false;
    }
    put(rl, rl->text->str + rl->shown->len);
    return true;
}

/* Make the screen show the line as it is now. */
static void update(Readline *rl)
{
    size_t column;

    if (!g_string_equal(rl->text, rl->shown) && update_tail(rl)) {
        g_string_assign(rl->shown, rl->text->str);
        rl->shown_column = column_of(rl, rl->text, rl->text->len);
    } else if (!g_string_equal(rl->text, rl->shown)) {
        put_times(rl, "\033[D", rl->shown_column);
        put_line(rl);
        put(rl, "\033[K");
        g_string_assign(rl->shown, rl->text->str);
        rl->shown_column = column_of(rl, rl->text, rl->text->len);
    }
    column = column_of(rl, rl->text, rl->cursor);
    if (column > rl->shown_column) {
        put_times(rl, "\033[C", column - rl->shown_column);
    } else {
        put_times(rl, "\033[D", rl->shown_column - column);
    }
    rl->shown_column = column;
}

static void show_prompt(Readline *rl)
{
    put(rl, rl->prompt);
    g_string_truncate(rl->shown, 0);
    rl->shown_column = 0;
    rl->state = STATE_NORMAL;
}

/* ---- editing ------------------------------------------------------------ */

static size_t previous(const Readline *rl)
{
    size_t columns;

    for (size_t n = MIN(rl->cursor, 4); n > 1; n--) {
        if (char_at(rl->text, rl->cursor - n, &columns) == n) {
            return rl->cursor - n;
        }
    }
    return rl->cursor - MIN(rl->cursor, 1);
}

static size_t next(const Readline *rl)
{
    size_t columns;

    return rl->cursor < rl->text->len
               ? rl->cursor + char_at(rl->text, rl->cursor, &columns)
               : rl->cursor;
}

static void erase(Readline *rl, size_t from, size_t to)
{
    g_string_erase(rl->text, (gssize)from, (gssize)(to - from));
    rl->cursor = from;
}

static void insert(Readline *rl, const char *bytes, size_t len)
{
    if (rl->text->len + len <= READLINE_MAX_LINE) {
        g_string_insert_len(rl->text, (gssize)rl->cursor, bytes, (gssize)len);
        rl->cursor += len;
    }
}

/* Where the word before the cursor starts. */
static size_t word_start(const Readline *rl)
{
    size_t i = rl->cursor;

    while (i > 0 && g_ascii_isspace(rl->text->str[i - 1])) {
        i--;
    }
    while (i > 0 && !g_ascii_isspace(rl->text->str[i - 1])) {
        i--;
    }
    return i;
}

static void replace_line(Readline *rl, const char *line)
{
    g_string_assign(rl->text, line);
    rl->cursor = rl->text->len;
}

/* ---- history -------------------------------------------------------------- */

static void history_up(Readline *rl)
{
    if (rl->entry == -1) {
        rl->entry = (int)rl->history->len;
    }
    if (rl->entry > 0) {
        rl->entry--;
        replace_line(rl, rl->history->pdata[rl->entry]);
    } else if (rl->history->len == 0) {
        rl->entry = -1;
    }
}

static void history_down(Readline *rl)
{
    if (rl->entry == -1) {
        return;
    }
    if (rl->entry + 1 < (int)rl->history->len) {
        replace_line(rl, rl->history->pdata[++rl->entry]);
    } else {
        rl->entry = -1;
        replace_line(rl, "");
    }
}

/* A line that is there already moves to the end. */
static void history_add(Readline *rl, const char *line)
{
    guint at;

    if (!line[0]) {
        return;
    }
    if (g_ptr_array_find_with_equal_func(rl->history, line, g_str_equal, &at)) {
        g_ptr_array_remove_index(rl->history, at);
    } else if (rl->history->len == READLINE_MAX_HISTORY) {
        g_ptr_array_remove_index(rl->history, 0);
    }
    g_ptr_array_add(rl->history, g_strdup(line));
    rl->entry = -1;
}

const char *readline_history(const Readline *rl, unsigned i)
{
    return i < rl->history->len ? rl->history->pdata[i] : NULL;
}

/* ---- completion ------------------------------------------------------------ */

static int compare_words(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static size_t common_prefix(const char *const *words, size_t n)
{
    size_t len = strlen(words[0]);

    for (size_t i = 1; i < n; i++) {
        size_t j = 0;

        while (j < len && words[i][j] == words[0][j]) {
            j++;
        }
        len = j;
    }
    return len;
}

/* The words in columns, as wide as QEMU makes them. */
static void show_words(Readline *rl, const char *const *words, size_t n)
{
    size_t width = 8, per_line, used = 0;

    for (size_t i = 0; i < n; i++) {
        width = MAX(width, strlen(words[i]));
    }
    width = MIN(width + 2, 80);
    per_line = 80 / width;
    put(rl, "\r\n");
    for (size_t i = 0; i < n; i++) {
        g_autofree char *cell = g_strdup_printf("%-*s", (int)width, words[i]);

        put(rl, cell);
        if (++used == per_line || i == n - 1) {
            put(rl, "\r\n");
            used = 0;
        }
    }
}

void readline_completed(Readline *rl, const char *const *words, size_t n,
                        size_t typed)
{
    g_autofree const char **sorted = NULL;
    size_t len;

    if (!rl->completing) {
        return;
    }
    rl->completing = false;
    n = MIN(n, READLINE_MAX_COMPLETIONS);
    if (n == 0) {
        return;
    }
    sorted = g_memdup2(words, n * sizeof(*words));
    qsort(sorted, n, sizeof(*sorted), compare_words);
    len = common_prefix(sorted, n);
    if (len > typed) {
        insert(rl, sorted[0] + typed, len - typed);
    }
    if (n > 1) {
        show_words(rl, sorted, n);
        show_prompt(rl);
    } else if (len && sorted[0][len - 1] != '/') {
        insert(rl, " ", 1);
    }
    update(rl);
}

static void ask_completion(Readline *rl)
{
    g_autofree char *before = g_strndup(rl->text->str, rl->cursor);

    rl->completing = true;
    rl->ops->complete(rl->opaque, before);
}

/* ---- keys -------------------------------------------------------------------- */

static void finish_line(Readline *rl)
{
    g_autofree char *line = g_strdup(rl->text->str);

    if (!rl->secret) {
        history_add(rl, line);
    }
    put(rl, "\r\n");
    readline_stop(rl);
    rl->ops->line(rl->opaque, line);
}

/* The keys of C-a … C-z and DEL; false: not one of them. */
static bool handle_control(Readline *rl, unsigned char c)
{
    switch (c) {
    case 'A' & 31: rl->cursor = 0; break;
    case 'B' & 31: rl->cursor = previous(rl); break;
    case 'D' & 31: erase(rl, rl->cursor, next(rl)); break;
    case 'E' & 31: rl->cursor = rl->text->len; break;
    case 'F' & 31: rl->cursor = next(rl); break;
    case 'K' & 31: erase(rl, rl->cursor, rl->text->len); break;
    case 'L' & 31:
        put(rl, "\033[2J\033[1;1H");
        show_prompt(rl);
        break;
    case 'N' & 31: history_down(rl); break;
    case 'P' & 31: history_up(rl); break;
    case 'U' & 31: erase(rl, 0, rl->cursor); break;
    case 'W' & 31: erase(rl, word_start(rl), rl->cursor); break;
    case '\b':
    case 127: erase(rl, previous(rl), rl->cursor); break;
    case 27: rl->state = STATE_ESCAPE; break;
    default:
        return false;
    }
    return true;
}

static size_t utf8_length(unsigned char lead)
{
    return lead >= 0xf0 && lead <= 0xf4 ? 4
           : lead >= 0xe0 && lead < 0xf0 ? 3
           : lead >= 0xc2 && lead < 0xe0 ? 2 : 1;
}

static void flush_partial(Readline *rl)
{
    insert(rl, rl->partial, rl->partial_len);
    rl->partial_len = 0;
}

static void handle_normal(Readline *rl, unsigned char c)
{
    if (rl->partial_len) {
        if ((c & 0xc0) == 0x80) {
            rl->partial[rl->partial_len++] = (char)c;
            if (rl->partial_len == utf8_length((unsigned char)rl->partial[0])) {
                flush_partial(rl);
            }
            return;
        }
        flush_partial(rl);
    }
    if (c == '\r' || c == '\n') {
        finish_line(rl);
    } else if (c == '\t') {
        ask_completion(rl);
    } else if (c == 0x9b) { /* CSI in one byte */
        rl->state = STATE_CSI;
        rl->param = 0;
        rl->more_params = false;
    } else if (!handle_control(rl, c) && c >= 32) {
        rl->partial[rl->partial_len++] = (char)c;
        if (utf8_length(c) == 1) {
            flush_partial(rl);
        }
    }
}

static void handle_csi_final(Readline *rl, unsigned char c)
{
    switch (c) {
    case 'A': history_up(rl); break;
    case 'B': history_down(rl); break;
    case 'C': rl->cursor = next(rl); break;
    case 'D': rl->cursor = previous(rl); break;
    case 'F': rl->cursor = rl->text->len; break;
    case 'H': rl->cursor = 0; break;
    case '~':
        if (rl->param == 1 || rl->param == 7) {
            rl->cursor = 0;
        } else if (rl->param == 3) {
            erase(rl, rl->cursor, next(rl));
        } else if (rl->param == 4 || rl->param == 8) {
            rl->cursor = rl->text->len;
        }
        break;
    }
}

static void handle_csi(Readline *rl, unsigned char c)
{
    if (c >= '0' && c <= '9') {
        if (!rl->more_params && rl->param < 1000) {
            rl->param = rl->param * 10 + (c - '0');
        }
    } else if (c >= 0x20 && c <= 0x3f) {
        rl->more_params = true; /* separators and what is private */
    } else {
        rl->state = STATE_NORMAL;
        if (c >= 0x40 && c <= 0x7e) {
            handle_csi_final(rl, c);
        }
    }
}

static void handle_byte(Readline *rl, unsigned char c)
{
    switch (rl->state) {
    case STATE_NORMAL:
        handle_normal(rl, c);
        break;
    case STATE_ESCAPE:
        rl->state = c == '[' ? STATE_CSI : c == 'O' ? STATE_SS3 : STATE_NORMAL;
        rl->param = 0;
        rl->more_params = false;
        break;
    case STATE_CSI:
        handle_csi(rl, c);
        break;
    case STATE_SS3:
        rl->state = STATE_NORMAL;
        if (c >= 'A' && c <= 'H') {
            handle_csi_final(rl, c);
        }
        break;
    }
}

void readline_start(Readline *rl, const char *prompt, bool secret)
{
    readline_stop(rl);
    if (prompt != rl->prompt) {
        g_free(rl->prompt);
        rl->prompt = g_strdup(prompt);
    }
    rl->secret = secret;
    rl->ready = true;
    show_prompt(rl);
}

void readline_stop(Readline *rl)
{
    rl->ready = false;
    rl->completing = false;
    g_string_truncate(rl->text, 0);
    g_string_truncate(rl->shown, 0);
    rl->cursor = rl->shown_column = rl->partial_len = 0;
    rl->state = STATE_NORMAL;
}

bool readline_ready(const Readline *rl)
{
    return rl->ready && !rl->completing;
}

size_t readline_feed(Readline *rl, const char *buf, size_t len)
{
    size_t n = 0;

    while (n < len && readline_ready(rl)) {
        handle_byte(rl, (unsigned char)buf[n++]);
        if (readline_ready(rl)) {
            update(rl);
        }
    }
    return n;
}
