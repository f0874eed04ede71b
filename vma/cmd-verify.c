/*
 * vma verify: all that extract checks, writing nothing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cmd.h"

#include <errno.h>
#include <getopt.h>
#include "util/error.h"

/* Small enough that the checksum finds the data in the cache still. */
#define READ_SIZE (512 * 1024)

char *vma_coverage_text(const VmaReader *r)
{
    VmaReaderStats st;

    vma_reader_stats(r, &st);
    if (!st.data_bytes) {
        return g_strdup("no data in it");
    }
    return g_strdup_printf("%" G_GUINT64_FORMAT " bytes of data, %s", st.data_bytes,
                           st.digest_bytes == st.data_bytes ? "all checked by checksums"
                           : st.digest_bytes ? "some without checksums"
                                             : "without checksums");
}

static bool verify_rest(VmaSource *s, VmaReader *r, void *buf, bool verbose,
                        GError **errp)
{
    VmaReaderStats st;
    Progress progress;
    VmaEvent ev;
    bool ok;

    vma_reader_stats(r, &st);
    progress_init(&progress, verbose, st.total_clusters * VMA_CLUSTER_SIZE);
    while ((ok = vma_reader_next(r, &ev, errp)) && ev.type != VMA_EVENT_END) {
        ssize_t n;

        if (ev.type != VMA_EVENT_MORE) {
            continue;
        }
        n = vma_source_read(s, buf, READ_SIZE, errp);
        ok = n >= 0;
        if (!ok) {
            break;
        }
        vma_reader_feed(r, buf, n);
        vma_reader_stats(r, &st);
        progress_update(&progress, st.clusters * VMA_CLUSTER_SIZE);
    }
    progress_end(&progress);
    return ok;
}

static bool verify(const char *archive, bool verbose, GError **errp)
{
    VmaSource *s = vma_source_open(archive, errp);
    g_autofree char *buf = g_malloc(READ_SIZE);
    g_autofree char *text = NULL;
    VmaReader *r;
    bool ok;

    if (!s) {
        return false;
    }
    r = vma_source_read_header(s, buf, READ_SIZE, errp);
    ok = r && (!verbose || vma_print_list(r, stdout, errp)) &&
         verify_rest(s, r, buf, verbose, errp);
    if (ok) {
        text = vma_coverage_text(r);
        printf("%s: good: %s\n", vma_source_name(s), text);
        ok = fflush(stdout) == 0;
        if (!ok) {
            error_set_errno(errp, errno, "cannot write the result");
        }
    }
    vma_reader_free(r);
    vma_source_close(s);
    return ok;
}

static bool run(int argc, char **argv, bool *usage, GError **errp)
{
    static const struct option options[] = {
        { "verbose", no_argument, NULL, 'v' },
        { 0 },
    };
    bool verbose = false;
    int c;

    while ((c = getopt_long(argc, argv, "v", options, NULL)) != -1) {
        if (c != 'v') {
            *usage = true;
            return false;
        }
        verbose = true;
    }
    if (optind + 1 != argc) {
        *usage = true;
        return false;
    }
    return verify(argv[optind], verbose, errp);
}

const VmaCommand vma_cmd_verify = {
    .name = "verify",
    .usage = "ARCHIVE [-v]",
    .run = run,
};
