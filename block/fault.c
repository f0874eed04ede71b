/*
 * The protocol `fault': a file that fails or dawdles when it is told to.  For
 * tests, and for those who want to see what their VM makes of a bad disk.
 *
 *     fault:RULE[,RULE]…:FILE        -drive file=fault:write#3=ENOSPC:disk.raw
 *
 *     RULE   = OP[#N[+]][/SECTOR[-SECTOR]]=ACTION | align=BYTES
 *     OP     = read | write | zero | discard | flush | status | any
 *     ACTION = an errno's name (EIO, ENOSPC, …) | MILLISECONDSms | wait(PATH)
 *
 *     read#3=EIO          the third read fails
 *     write#10+=ENOSPC    the tenth write and all after it fail
 *     read/2048-2055=EIO  these sectors (of 512 bytes) can't be read
 *     flush=50ms          every flush takes 50 ms longer
 *     write#1=wait(p)     the first write waits until the FIFO `p' has been
 *                         opened for writing and closed
 *     align=4096          only requests of whole 4096-byte blocks are taken
 *
 * A rule counts the requests that its OP and its sectors match, from 1.  All
 * rules look at every request; of several errors the first rule's is taken, and
 * the file is not touched then.  A FILE may be another fault: name.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "util/error.h"

#define SECTOR_BYTES 512

typedef enum {
    OP_READ = 1 << 0,
    OP_WRITE = 1 << 1,
    OP_ZERO = 1 << 2,
    OP_DISCARD = 1 << 3,
    OP_FLUSH = 1 << 4,
    OP_STATUS = 1 << 5,
    OP_ANY = (1 << 6) - 1,
} FaultOp;

typedef struct {
    unsigned ops;             /* FaultOp bits */
    uint64_t first, last;     /* which of the matching requests; 1… */
    int64_t start, end;       /* bytes */
    int err;                  /* positive, or 0 */
    unsigned delay_ms;
    char *fifo;               /* or NULL */
    _Atomic uint64_t matched;
} FaultRule;

typedef struct {
    GPtrArray *rules; /* of FaultRule; fixed once open */
    uint32_t align;
} FaultState;

/* ---- reading the rules ----------------------------------------------- */

static const struct {
    const char *name;
    unsigned ops;
} op_names[] = {
    { "read", OP_READ },       { "write", OP_WRITE }, { "zero", OP_ZERO },
    { "discard", OP_DISCARD }, { "flush", OP_FLUSH }, { "status", OP_STATUS },
    { "any", OP_ANY },
};

static const struct {
    const char *name;
    int err;
} errno_names[] = {
    { "EIO", EIO },       { "ENOSPC", ENOSPC }, { "EPERM", EPERM },
    { "ENOMEM", ENOMEM }, { "EINVAL", EINVAL }, { "EAGAIN", EAGAIN },
    { "EDQUOT", EDQUOT }, { "EFBIG", EFBIG },   { "ENOTSUP", ENOTSUP },
};

static void rule_free(void *p)
{
    FaultRule *r = p;

    g_free(r->fifo);
    g_free(r);
}

/* Is @p at @word?  Then go past it. */
static bool skip(const char **p, const char *word)
{
    size_t n = strlen(word);

    if (strncmp(*p, word, n) != 0) {
        return false;
    }
    *p += n;
    return true;
}

static bool number(const char **p, uint64_t max, uint64_t *value)
{
    char *end;

    if (!g_ascii_isdigit(**p)) {
        return false;
    }
    *value = g_ascii_strtoull(*p, &end, 10);
    *p = end;
    return *value <= max;
}

static bool parse_op(const char **p, FaultRule *r)
{
    for (size_t i = 0; i < G_N_ELEMENTS(op_names); i++) {
        if (skip(p, op_names[i].name)) {
            r->ops = op_names[i].ops;
            return true;
        }
    }
    return false;
}

static bool parse_count(const char **p, FaultRule *r)
{
    r->first = 1;
    r->last = UINT64_MAX;
    if (skip(p, "#")) {
        if (!number(p, UINT64_MAX, &r->first)) {
            return false;
        }
        if (!skip(p, "+")) {
            r->last = r->first;
        }
    }
    return true;
}

static bool parse_sectors(const char **p, FaultRule *r)
{
    uint64_t from, to, max = INT64_MAX / SECTOR_BYTES - 1;

    r->start = 0;
    r->end = INT64_MAX;
    if (skip(p, "/")) {
        if (!number(p, max, &from)) {
            return false;
        }
        to = from;
        if (skip(p, "-") && !number(p, max, &to)) {
            return false;
        }
        r->start = from * SECTOR_BYTES;
        r->end = (to + 1) * SECTOR_BYTES;
    }
    return true;
}

static bool parse_action(const char *p, FaultRule *r)
{
    uint64_t ms;

    for (size_t i = 0; i < G_N_ELEMENTS(errno_names); i++) {
        if (strcmp(p, errno_names[i].name) == 0) {
            r->err = errno_names[i].err;
            return true;
        }
    }
    if (skip(&p, "wait(")) {
        size_t n = strlen(p);

        if (n < 2 || p[n - 1] != ')') {
            return false;
        }
        r->fifo = g_strndup(p, n - 1);
        return true;
    }
    if (!number(&p, 3600 * 1000, &ms)) {
        return false;
    }
    r->delay_ms = ms;
    return strcmp(p, "ms") == 0;
}

static bool parse_align(const char *p, FaultState *s)
{
    uint64_t align;

    if (!number(&p, 65536, &align) || *p || !align || (align & (align - 1))) {
        return false;
    }
    s->align = align;
    return true;
}

static bool parse_rule(const char *text, FaultState *s)
{
    const char *p = text;
    FaultRule *r;

    if (skip(&p, "align=")) {
        return parse_align(p, s);
    }
    r = g_new0(FaultRule, 1);
    g_ptr_array_add(s->rules, r);
    return parse_op(&p, r) && parse_count(&p, r) && parse_sectors(&p, r) &&
           skip(&p, "=") && parse_action(p, r);
}

static bool parse_rules(const char *text, FaultState *s, GError **errp)
{
    g_auto(GStrv) rules = g_strsplit(text, ",", -1);

    for (size_t i = 0; rules[i]; i++) {
        if (!parse_rule(rules[i], s)) {
            error_set(errp, "fault: can't make sense of the rule '%s'",
                      rules[i]);
            return false;
        }
    }
    return true;
}

/* ---- applying them --------------------------------------------------- */

static void wait_for_fifo(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char c;

    if (fd >= 0) {
        while (read(fd, &c, 1) > 0) {
        }
        close(fd);
    }
}

static int apply_rule(FaultRule *r, FaultOp op, int64_t offset, int64_t bytes)
{
    uint64_t nth;

    if (!(r->ops & op) || offset >= r->end || offset + bytes <= r->start) {
        return 0;
    }
    if (op == OP_FLUSH && r->end != INT64_MAX) {
        return 0; /* a flush is of no sector */
    }
    nth = atomic_fetch_add(&r->matched, 1) + 1;
    if (nth < r->first || nth > r->last) {
        return 0;
    }
    if (r->delay_ms) {
        g_usleep(r->delay_ms * 1000ul);
    }
    if (r->fifo) {
        wait_for_fifo(r->fifo);
    }
    return -r->err;
}

static int fault(BlockNode *bs, FaultOp op, int64_t offset, int64_t bytes)
{
    FaultState *s = bs->opaque;
    int ret = 0;

    for (guint i = 0; i < s->rules->len; i++) {
        int err = apply_rule(g_ptr_array_index(s->rules, i), op, offset, bytes);

        ret = ret ? ret : err;
    }
    return ret;
}

/* Does the layer above keep its promise? */
static bool aligned(BlockNode *bs, int64_t offset, int64_t bytes,
                    const void *buf)
{
    FaultState *s = bs->opaque;
    uint64_t end = offset + bytes;

    return (((uint64_t)offset | (uintptr_t)buf) & (s->align - 1)) == 0 &&
           ((end & (s->align - 1)) == 0 || (int64_t)end == bdrv_length(bs));
}

static int fault_pread(BlockNode *bs, int64_t offset, int64_t bytes, void *buf)
{
    int ret = fault(bs, OP_READ, offset, bytes);

    if (ret == 0) {
        ret = aligned(bs, offset, bytes, buf)
                  ? bdrv_pread(bs->file, offset, bytes, buf) : -EINVAL;
    }
    return ret;
}

static int fault_pwrite(BlockNode *bs, int64_t offset, int64_t bytes,
                        const void *buf, int flags)
{
    int ret = fault(bs, OP_WRITE, offset, bytes);

    if (ret == 0) {
        ret = aligned(bs, offset, bytes, buf)
                  ? bdrv_pwrite(bs->file, offset, bytes, buf, flags) : -EINVAL;
    }
    return ret;
}

static int fault_pwrite_zeroes(BlockNode *bs, int64_t offset, int64_t bytes,
                               int flags)
{
    int ret = fault(bs, OP_ZERO, offset, bytes);

    if (ret == 0) {
        ret = aligned(bs, offset, bytes, NULL)
                  ? bdrv_pwrite_zeroes(bs->file, offset, bytes, flags) : -EINVAL;
    }
    return ret;
}

static int fault_pdiscard(BlockNode *bs, int64_t offset, int64_t bytes)
{
    int ret = fault(bs, OP_DISCARD, offset, bytes);

    if (ret == 0) {
        ret = aligned(bs, offset, bytes, NULL)
                  ? bdrv_pdiscard(bs->file, offset, bytes) : -EINVAL;
    }
    return ret;
}

static int fault_flush(BlockNode *bs)
{
    int ret = fault(bs, OP_FLUSH, 0, INT64_MAX);

    return ret == 0 ? bdrv_flush(bs->file) : ret;
}

static int fault_block_status(BlockNode *bs, int64_t offset, int64_t bytes,
                              int64_t *pnum)
{
    int ret = fault(bs, OP_STATUS, offset, bytes);

    return ret == 0 ? bdrv_block_status(bs->file, offset, bytes, pnum) : ret;
}

static bool fault_truncate(BlockNode *bs, int64_t size, GError **errp)
{
    return bdrv_truncate(bs->file, size, errp);
}

/* ---- opening --------------------------------------------------------- */

/* Where the rules end: at the first colon outside of parentheses. */
static const char *end_of_rules(const char *p)
{
    int depth = 0;

    for (; *p && (*p != ':' || depth > 0); p++) {
        depth += (*p == '(') - (*p == ')');
    }
    return *p ? p : NULL;
}

const char *bdrv_fault_file(const char *filename)
{
    const char *colon = end_of_rules(filename);

    return colon ? colon + 1 : NULL;
}

static void fault_close(BlockNode *bs)
{
    FaultState *s = bs->opaque;

    g_ptr_array_unref(s->rules);
}

static bool fault_open(BlockNode *bs, int flags, GError **errp)
{
    FaultState *s = bs->opaque;
    const char *colon = end_of_rules(bs->filename);
    g_autofree char *rules = NULL;

    if (!colon) {
        error_set(errp, "'fault:%s': expected fault:RULES:FILE", bs->filename);
        return false;
    }
    rules = g_strndup(bs->filename, colon - bs->filename);
    s->rules = g_ptr_array_new_with_free_func(rule_free);
    s->align = 1;
    if (parse_rules(rules, s, errp)) {
        bs->file = bdrv_open_protocol(colon + 1, flags, errp);
    }
    if (!bs->file) {
        fault_close(bs);
        return false;
    }
    s->align = MAX(s->align, bs->file->request_alignment);
    bs->request_alignment = s->align;
    bs->memory_alignment = MAX(s->align, bs->file->memory_alignment);
    return true;
}

static bool fault_create(const char *filename, int64_t size,
                         const char *backing_file, const char *backing_format,
                         GError **errp)
{
    const char *colon = end_of_rules(filename), *path;
    const BlockDriver *protocol;

    if (!colon) {
        error_set(errp, "'fault:%s': expected fault:RULES:FILE", filename);
        return false;
    }
    protocol = bdrv_find_protocol(colon + 1, &path, errp);
    return protocol && protocol->create(path, size, NULL, NULL, errp);
}

const BlockDriver bdrv_fault = {
    .format_name = "fault",
    .is_protocol = true,
    .instance_size = sizeof(FaultState),
    .open = fault_open,
    .close = fault_close,
    .create = fault_create,
    .pread = fault_pread,
    .pwrite = fault_pwrite,
    .pwrite_zeroes = fault_pwrite_zeroes,
    .pdiscard = fault_pdiscard,
    .flush = fault_flush,
    .block_status = fault_block_status,
    .truncate = fault_truncate,
    .supports_fua = true,
};
