/*
 * Fuzz target: what people and programs may send to a human monitor, and what
 * a command line may hold.  The input is keys for the line editor (through the
 * telnet filter, with completions that come at once); each line that comes out
 * is taken apart by every args_type, as an expression, a size, a chardev and an
 * address.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../../hmp/args.h"
#include "../../hmp/readline.h"
#include "../../util/telnet.h"
#include "fuzz.h"
#include "util/chardev.h"
#include "util/size.h"
#include "util/socket.h"

#include <string.h>

#define SEED(text) { text, sizeof(text) - 1 }

static const struct {
    const char *text;
    size_t len;
} seeds[] = {
    SEED("help\rinfo \tst\b\033[A\033[D\033[C\001\002\005\006\013\014\016\020\025\027\r"),
    SEED("backup -s \"/tmp/a \\\"b\" 1.5G virtio0,virtio1\r\033OH\033[3~x\033[1;5D\r"),
    SEED("(1+2)*3/0x10 & 'a' | -7 % ~2\r" "18446744073709551616E\r0x1E\r0.333k\r"),
    SEED("socket,id=m,path=/a,,b,server=on,wait=off,reconnect=1\r"),
    SEED("tcp:[::1]:4444,server,nowait,to=5,ipv4=off\rtelnet::1\runix:/x,abstract=on\r"),
    SEED("\377\375\001\377\372\030\000xterm\377\360\377\377\303\244\233D\r\0\r\n"),
};

typedef struct {
    Readline *rl;
    size_t written;
} Target;

static void try_line(const char *line)
{
    static const char *const types[] = {
        "state:-s,backupfile:F,speed:o?,devlist:B?", "a:i,b:l?,c:M", "x:-xs,y:b,z:S?",
        "a:s,b:s?",
    };
    g_autoptr(GString) out = g_string_new(NULL);
    g_auto(GStrv) words = hmp_args_words(line);
    const char *p;
    int64_t value;
    uint64_t bytes;

    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        p = line;
        hmp_args_free(hmp_args_parse("cmd", types[i], &p, out));
    }
    p = line;
    hmp_expr_parse(&p, &value, out);
    size_parse(line, 'M', NULL, &bytes);
    chardev_parse(line, false, NULL, NULL, NULL);
    chardev_parse(line, true, NULL, NULL, NULL);
    socket_address_free(socket_address_parse(line, NULL));
}

static void on_write(void *opaque, const char *text, size_t len)
{
    ((Target *)opaque)->written += len;
}

static void on_line(void *opaque, const char *line)
{
    Target *t = opaque;

    try_line(line);
    readline_start(t->rl, "(qemu) ", strlen(line) == 7);
}

static void on_complete(void *opaque, const char *before)
{
    static const char *const words[] = { "backup", "backup_cancel", "/etc/", "" };
    Target *t = opaque;
    size_t len = strlen(before);

    readline_completed(t->rl, words + len % 3, len % 5 % 3, len % 9);
}

static const ReadlineOps ops = { on_write, on_line, on_complete };

GPtrArray *fuzz_seeds(void)
{
    GPtrArray *all = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);

    for (size_t i = 0; i < G_N_ELEMENTS(seeds); i++) {
        GByteArray *b = g_byte_array_new();

        g_byte_array_append(b, (const guint8 *)seeds[i].text,
                            (guint)seeds[i].len);
        g_ptr_array_add(all, b);
    }
    return all;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *keys = g_memdup2(data, size);
    Target t = { .rl = readline_new(&ops, &t) };
    TelnetState telnet = { 0 };
    size_t len = telnet_decode(&telnet, keys, size), done = 0;

    readline_start(t.rl, "(qemu) ", false);
    while (done < len) {
        done += readline_feed(t.rl, keys + done, len - done);
        if (t.written > 1 << 24) {
            break; /* enough of it */
        }
    }
    readline_free(t.rl);
    return 0;
}
