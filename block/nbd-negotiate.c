/*
 * The NBD handshake; see nbd-negotiate.h.
 *
 * What QEMU 7.2's client does, as watched on the wire: flags with FIXED and
 * NO_ZEROES, STRUCTURED_REPLY, SET_META_CONTEXT "base:allocation" (with
 * x-dirty-bitmap instead), GO asking for BLOCK_SIZE.  A refusal of
 * STRUCTURED_REPLY or SET_META_CONTEXT is survived, of GO not.  libnbd adds
 * requests for NAME and DESCRIPTION only when its user wants them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "nbd-negotiate.h"

#define CONTEXT_NAME "base:allocation"
#define CONTEXT_NAMESPACE "base:"

/* A cursor over the data of one option. */
typedef struct {
    const uint8_t *p;
    size_t left;
} OptionData;

static void out_u16(GByteArray *out, uint16_t v)
{
    uint8_t b[2];

    nbd_put16(b, v);
    g_byte_array_append(out, b, sizeof(b));
}

static void out_u32(GByteArray *out, uint32_t v)
{
    uint8_t b[4];

    nbd_put32(b, v);
    g_byte_array_append(out, b, sizeof(b));
}

static void out_u64(GByteArray *out, uint64_t v)
{
    uint8_t b[8];

    nbd_put64(b, v);
    g_byte_array_append(out, b, sizeof(b));
}

static void out_str(GByteArray *out, const char *s)
{
    g_byte_array_append(out, (const uint8_t *)s, (guint)strlen(s));
}

/* The head of an option reply with @len bytes of data, which the caller adds. */
static void out_reply(GByteArray *out, uint32_t option, uint32_t reply, size_t len)
{
    out_u64(out, NBD_OPTION_REPLY_MAGIC);
    out_u32(out, option);
    out_u32(out, reply);
    out_u32(out, (uint32_t)len);
}

static void out_error(GByteArray *out, uint32_t option, uint32_t reply,
                      const char *message)
{
    out_reply(out, option, reply, strlen(message));
    out_str(out, message);
}

static bool take_u16(OptionData *d, uint16_t *v)
{
    if (d->left < 2) {
        return false;
    }
    *v = nbd_get16(d->p);
    d->p += 2;
    d->left -= 2;
    return true;
}

static bool take_u32(OptionData *d, uint32_t *v)
{
    if (d->left < 4) {
        return false;
    }
    *v = nbd_get32(d->p);
    d->p += 4;
    d->left -= 4;
    return true;
}

/* A string of the protocol as a C string; NULL if it is cut short, too long or
 * has a NUL inside. */
static char *take_string(OptionData *d)
{
    uint32_t len;
    char *s;

    if (!take_u32(d, &len) || len > d->left || len > NBD_MAX_NAME ||
        memchr(d->p, 0, len)) {
        return NULL;
    }
    s = g_strndup((const char *)d->p, len);
    d->p += len;
    d->left -= len;
    return s;
}

/* ---- the options ---------------------------------------------------- */

static NbdNegotiateResult finish(NbdNegotiation *n, const char *name,
                                 const NbdExportInfo *info)
{
    n->state = NBD_NEGOTIATE_IN_DONE;
    g_free(n->name);
    n->name = g_strdup(name);
    n->session.structured = n->structured;
    n->session.read_only = info->flags & NBD_FLAG_READ_ONLY;
    n->session.base_allocation = n->structured && n->meta_export &&
                                 strcmp(n->meta_export, name) == 0;
    return NBD_NEGOTIATE_DONE;
}

static uint16_t transmission_flags(const NbdNegotiation *n,
                                   const NbdExportInfo *info)
{
    return info->flags | (n->structured ? NBD_FLAG_SEND_DF : 0);
}

/* The one option that cannot be refused: an unknown name ends it all. */
static NbdNegotiateResult opt_export_name(NbdNegotiation *n, OptionData d,
                                          GByteArray *out)
{
    g_autofree char *name = NULL;
    NbdExportInfo info;
    static const uint8_t zeroes[124];

    if (d.left > NBD_MAX_NAME || memchr(d.p, 0, d.left)) {
        return NBD_NEGOTIATE_CLOSE;
    }
    name = g_strndup((const char *)d.p, d.left);
    if (!n->ops->find(n->opaque, name, &info)) {
        return NBD_NEGOTIATE_CLOSE;
    }
    out_u64(out, info.size);
    out_u16(out, transmission_flags(n, &info));
    if (!(n->client_flags & NBD_FLAG_C_NO_ZEROES)) {
        g_byte_array_append(out, zeroes, sizeof(zeroes));
    }
    return finish(n, name, &info);
}

typedef struct {
    GByteArray *out;
    uint32_t option;
} ListState;

static void list_one(void *opaque, const char *name)
{
    ListState *list = opaque;
    size_t len = strlen(name);

    out_reply(list->out, list->option, NBD_REP_SERVER, 4 + len);
    out_u32(list->out, (uint32_t)len);
    out_str(list->out, name);
}

static void opt_list(NbdNegotiation *n, OptionData d, GByteArray *out)
{
    ListState list = { out, n->option };

    if (d.left) {
        out_error(out, n->option, NBD_REP_ERR_INVALID, "LIST takes no data");
        return;
    }
    n->ops->list(n->opaque, list_one, &list);
    out_reply(out, n->option, NBD_REP_ACK, 0);
}

static void opt_structured_reply(NbdNegotiation *n, OptionData d, GByteArray *out)
{
    if (d.left) {
        out_error(out, n->option, NBD_REP_ERR_INVALID,
                  "STRUCTURED_REPLY takes no data");
        return;
    }
    n->structured = true;
    out_reply(out, n->option, NBD_REP_ACK, 0);
}

static void out_info(NbdNegotiation *n, uint16_t type, const char *name,
                     const NbdExportInfo *info, GByteArray *out)
{
    switch (type) {
    case NBD_INFO_EXPORT:
        out_reply(out, n->option, NBD_REP_INFO, 12);
        out_u16(out, type);
        out_u64(out, info->size);
        out_u16(out, transmission_flags(n, info));
        break;
    case NBD_INFO_NAME:
        out_reply(out, n->option, NBD_REP_INFO, 2 + strlen(name));
        out_u16(out, type);
        out_str(out, name);
        break;
    case NBD_INFO_BLOCK_SIZE:
        out_reply(out, n->option, NBD_REP_INFO, 14);
        out_u16(out, type);
        out_u32(out, info->min_block);
        out_u32(out, info->preferred_block);
        out_u32(out, info->max_block);
        break;
    default: /* we have no descriptions; what we do not know needs no answer */
        break;
    }
}

/* INFO and GO: name, u16 number of wishes, that many u16. */
static NbdNegotiateResult opt_go(NbdNegotiation *n, OptionData d, GByteArray *out)
{
    g_autofree char *name = take_string(&d);
    unsigned wanted = 0;
    NbdExportInfo info;
    uint16_t count, type;

    if (!name || !take_u16(&d, &count) || d.left != 2U * count) {
        out_error(out, n->option, NBD_REP_ERR_INVALID,
                  "lengths in INFO or GO do not add up");
        return NBD_NEGOTIATE_MORE;
    }
    if (!n->ops->find(n->opaque, name, &info)) {
        out_error(out, n->option, NBD_REP_ERR_UNKNOWN, "no such export");
        return NBD_NEGOTIATE_MORE;
    }
    while (take_u16(&d, &type)) {
        wanted |= type < 32 ? 1U << type : 0;
    }
    /* Each at most once, however often it was asked for; EXPORT always. */
    wanted &= ~(1U << NBD_INFO_EXPORT);
    for (type = 1; type < 32; type++) {
        if (wanted & (1U << type)) {
            out_info(n, type, name, &info, out);
        }
    }
    out_info(n, NBD_INFO_EXPORT, name, &info, out);
    out_reply(out, n->option, NBD_REP_ACK, 0);
    return n->option == NBD_OPT_GO ? finish(n, name, &info) : NBD_NEGOTIATE_MORE;
}

/* Does this query name our one context?  LIST may ask for a whole namespace. */
static bool query_matches(const char *query, bool listing)
{
    return strcmp(query, CONTEXT_NAME) == 0 ||
           (listing && strcmp(query, CONTEXT_NAMESPACE) == 0);
}

/* The queries; false if they are malformed.  *match: one asks for ours. */
static bool take_queries(OptionData *d, bool listing, bool *match)
{
    uint32_t count;

    if (!take_u32(d, &count)) {
        return false;
    }
    *match = listing && count == 0; /* all there are */
    for (; count > 0; count--) {
        g_autofree char *query = take_string(d);

        if (!query) {
            return false;
        }
        *match |= query_matches(query, listing);
    }
    return d->left == 0;
}

/* LIST_META_CONTEXT and SET_META_CONTEXT: export, u32 count, queries.  A SET
 * replaces what an earlier one selected, even when it fails. */
static void opt_meta_context(NbdNegotiation *n, OptionData d, GByteArray *out)
{
    bool listing = n->option == NBD_OPT_LIST_META_CONTEXT;
    g_autofree char *name = take_string(&d);
    NbdExportInfo info;
    bool match = false;

    if (!listing) {
        g_clear_pointer(&n->meta_export, g_free);
    }
    if (!name || !take_queries(&d, listing, &match)) {
        out_error(out, n->option, NBD_REP_ERR_INVALID,
                  "lengths in a META_CONTEXT option do not add up");
        return;
    }
    if (!n->structured) {
        out_error(out, n->option, NBD_REP_ERR_INVALID,
                  "STRUCTURED_REPLY must come first");
        return;
    }
    if (!n->ops->find(n->opaque, name, &info)) {
        out_error(out, n->option, NBD_REP_ERR_UNKNOWN, "no such export");
        return;
    }
    if (match) {
        out_reply(out, n->option, NBD_REP_META_CONTEXT, 4 + strlen(CONTEXT_NAME));
        out_u32(out, listing ? 0 : NBD_CONTEXT_ID);
        out_str(out, CONTEXT_NAME);
        if (!listing) {
            n->meta_export = g_steal_pointer(&name);
        }
    }
    out_reply(out, n->option, NBD_REP_ACK, 0);
}

static NbdNegotiateResult run_option(NbdNegotiation *n, OptionData d,
                                     GByteArray *out)
{
    n->state = NBD_NEGOTIATE_IN_OPTION;
    switch (n->option) {
    case NBD_OPT_EXPORT_NAME:
        return opt_export_name(n, d, out);
    case NBD_OPT_ABORT:
        out_reply(out, n->option, NBD_REP_ACK, 0);
        return NBD_NEGOTIATE_CLOSE;
    case NBD_OPT_LIST:
        opt_list(n, d, out);
        return NBD_NEGOTIATE_MORE;
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return opt_go(n, d, out);
    case NBD_OPT_STRUCTURED_REPLY:
        opt_structured_reply(n, d, out);
        return NBD_NEGOTIATE_MORE;
    default: /* begin_option lets nothing else through */
        opt_meta_context(n, d, out);
        return NBD_NEGOTIATE_MORE;
    }
}

/* ---- the machine ---------------------------------------------------- */

/* A header has come: shall its data be collected, skipped, or is it over? */
static NbdNegotiateResult begin_option(NbdNegotiation *n, const uint8_t *header)
{
    if (nbd_get64(header) != NBD_OPTION_MAGIC) {
        return NBD_NEGOTIATE_CLOSE;
    }
    n->option = nbd_get32(header + 8);
    n->left = nbd_get32(header + 12);
    n->state = NBD_NEGOTIATE_IN_DATA;
    switch (n->option) {
    case NBD_OPT_EXPORT_NAME:
        return n->left > NBD_MAX_NAME ? NBD_NEGOTIATE_CLOSE : NBD_NEGOTIATE_MORE;
    case NBD_OPT_ABORT:
    case NBD_OPT_LIST:
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
    case NBD_OPT_STRUCTURED_REPLY:
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        if (n->left > NBD_MAX_OPTION) {
            n->state = NBD_NEGOTIATE_IN_SKIP;
            n->skip_reply = NBD_REP_ERR_TOO_BIG;
        }
        break;
    case NBD_OPT_STARTTLS:
        n->state = NBD_NEGOTIATE_IN_SKIP;
        n->skip_reply = NBD_REP_ERR_POLICY;
        break;
    default:
        n->state = NBD_NEGOTIATE_IN_SKIP;
        n->skip_reply = NBD_REP_ERR_UNSUP;
        break;
    }
    return NBD_NEGOTIATE_MORE;
}

static NbdNegotiateResult take_client_flags(NbdNegotiation *n, uint32_t flags)
{
    n->client_flags = flags;
    n->state = NBD_NEGOTIATE_IN_OPTION;
    /* Without "fixed" a client could not be answered anything but an export
     * name; nobody has written such a client for ten years. */
    if (!(flags & NBD_FLAG_C_FIXED_NEWSTYLE) ||
        (flags & ~(uint32_t)(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES))) {
        return NBD_NEGOTIATE_CLOSE;
    }
    return NBD_NEGOTIATE_MORE;
}

static const char *skip_message(uint32_t reply)
{
    switch (reply) {
    case NBD_REP_ERR_TOO_BIG:
        return "the option is too long";
    case NBD_REP_ERR_POLICY:
        return "no TLS here";
    default:
        return "unknown option";
    }
}

static size_t skip(NbdNegotiation *n, size_t len, GByteArray *out)
{
    size_t now = MIN(len, n->left);

    n->left -= (uint32_t)now;
    if (n->left == 0) {
        out_error(out, n->option, n->skip_reply, skip_message(n->skip_reply));
        n->state = NBD_NEGOTIATE_IN_OPTION;
    }
    return now;
}

/* One step; *used 0 with MORE: more bytes are needed. */
static NbdNegotiateResult step(NbdNegotiation *n, const uint8_t *buf, size_t len,
                               size_t *used, GByteArray *out)
{
    *used = 0;
    switch (n->state) {
    case NBD_NEGOTIATE_IN_CLIENT_FLAGS:
        if (len < 4) {
            return NBD_NEGOTIATE_MORE;
        }
        *used = 4;
        return take_client_flags(n, nbd_get32(buf));
    case NBD_NEGOTIATE_IN_OPTION:
        if (len < NBD_OPTION_HEADER_SIZE) {
            return NBD_NEGOTIATE_MORE;
        }
        *used = NBD_OPTION_HEADER_SIZE;
        return begin_option(n, buf);
    case NBD_NEGOTIATE_IN_DATA:
        if (len < n->left) {
            return NBD_NEGOTIATE_MORE;
        }
        *used = n->left;
        return run_option(n, (OptionData){ buf, n->left }, out);
    case NBD_NEGOTIATE_IN_SKIP:
        *used = skip(n, len, out);
        return NBD_NEGOTIATE_MORE;
    case NBD_NEGOTIATE_IN_DONE:
        return NBD_NEGOTIATE_DONE;
    default:
        return NBD_NEGOTIATE_CLOSE;
    }
}

NbdNegotiateResult nbd_negotiate_feed(NbdNegotiation *n, const uint8_t *buf,
                                      size_t len, size_t *used, GByteArray *out)
{
    NbdNegotiateResult result;
    NbdNegotiateState before;
    size_t now;

    *used = 0;
    do {
        if (out->len >= NBD_NEGOTIATE_OUT_HIGH) {
            return NBD_NEGOTIATE_MORE;
        }
        before = n->state;
        result = step(n, buf + *used, len - *used, &now, out);
        *used += now;
        /* An empty option's data "arrives" with no bytes: the state tells. */
    } while (result == NBD_NEGOTIATE_MORE && (now > 0 || n->state != before));
    if (result == NBD_NEGOTIATE_CLOSE) {
        n->state = NBD_NEGOTIATE_IN_CLOSED;
    }
    return result;
}

void nbd_negotiate_init(NbdNegotiation *n, const NbdNegotiateOps *ops,
                        void *opaque, GByteArray *out)
{
    *n = (NbdNegotiation){ .ops = ops, .opaque = opaque };
    out_u64(out, NBD_MAGIC);
    out_u64(out, NBD_OPTION_MAGIC);
    out_u16(out, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

void nbd_negotiate_clear(NbdNegotiation *n)
{
    g_clear_pointer(&n->meta_export, g_free);
    g_clear_pointer(&n->name, g_free);
}
