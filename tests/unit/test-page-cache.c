/*
 * The page cache against a model: a list of keys in order of use.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/page-cache.h"

#include <string.h>

#define PAGE 4096

typedef struct {
    GArray *keys; /* newest first */
    guint slots;
} Model;

static int model_find(const Model *m, uint64_t key)
{
    for (guint i = 0; i < m->keys->len; i++) {
        if (g_array_index(m->keys, uint64_t, i) == key) {
            return i;
        }
    }
    return -1;
}

static bool model_touch(Model *m, uint64_t key)
{
    int at = model_find(m, key);

    if (at < 0) {
        return false;
    }
    g_array_remove_index(m->keys, at);
    g_array_prepend_val(m->keys, key);
    return true;
}

static void model_insert(Model *m, uint64_t key)
{
    if (!model_touch(m, key)) {
        g_array_prepend_val(m->keys, key);
    }
    if (m->keys->len > m->slots) {
        g_array_set_size(m->keys, m->slots);
    }
}

static void stamp(uint8_t *data, uint64_t key)
{
    memcpy(data, &key, 8);
    memcpy(data + PAGE - 8, &key, 8);
}

static void check_stamp(const uint8_t *data, uint64_t key)
{
    g_assert_nonnull(data);
    g_assert_cmpmem(data, 8, &key, 8);
    g_assert_cmpmem(data + PAGE - 8, 8, &key, 8);
}

/* Same members, looked up oldest first so that the order stays the same. */
static void check_same(PageCache *c, Model *m)
{
    g_assert_cmpuint(page_cache_pages(c), ==, m->keys->len);
    for (guint i = m->keys->len; i-- > 0;) {
        uint64_t key = g_array_index(m->keys, uint64_t, i);

        check_stamp(page_cache_lookup(c, key), key);
    }
}

static void step(PageCache *c, Model *m, uint64_t key)
{
    int at;

    switch (g_test_rand_int_range(0, 10)) {
    case 0:
        at = model_find(m, key);
        page_cache_remove(c, key);
        if (at >= 0) {
            g_array_remove_index(m->keys, at);
        }
        break;
    case 1 ... 4:
        if (model_touch(m, key)) {
            check_stamp(page_cache_lookup(c, key), key);
        } else {
            g_assert_null(page_cache_lookup(c, key));
        }
        break;
    default:
        model_insert(m, key);
        stamp(page_cache_insert(c, key), key);
    }
}

static void test_model(void)
{
    for (unsigned round = 0; round < 40; round++) {
        Model m = { g_array_new(FALSE, FALSE, 8), g_test_rand_int_range(1, 40) };
        g_autoptr(PageCache) c = page_cache_new(m.slots * PAGE, PAGE, NULL);
        int keys = g_test_rand_int_range(1, 100);

        for (unsigned i = 0; i < 2000; i++) {
            /* page-like keys: low bits zero, some far away */
            uint64_t key = (uint64_t)g_test_rand_int_range(0, keys) << 12;

            step(c, &m, key % 3 ? key : key << 20);
            if (i % 100 == 0) {
                check_same(c, &m);
            }
            if (i % 500 == 499) {
                m.slots = g_test_rand_int_range(1, 40);
                g_assert_true(page_cache_resize(c, m.slots * PAGE + 17, NULL));
                g_assert_cmpuint(page_cache_budget(c), ==, m.slots * PAGE);
                if (m.keys->len > m.slots) {
                    g_array_set_size(m.keys, m.slots);
                }
                check_same(c, &m);
            }
        }
        page_cache_clear(c);
        g_array_set_size(m.keys, 0);
        check_same(c, &m);
        for (unsigned i = 0; i < 100; i++) {
            step(c, &m, i << 12);
        }
        check_same(c, &m);
        g_array_unref(m.keys);
    }
}

static void test_budget_errors(void)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(PageCache) c = page_cache_new(PAGE, PAGE, NULL);

    g_assert_null(page_cache_new(PAGE - 1, PAGE, &err));
    g_assert_nonnull(err);
    g_clear_error(&err);
    g_assert_null(page_cache_new(UINT64_MAX, PAGE, &err));
    g_assert_nonnull(err);
    g_clear_error(&err);

    stamp(page_cache_insert(c, 7), 7);
    g_assert_false(page_cache_resize(c, 0, &err));
    g_assert_nonnull(err);
    check_stamp(page_cache_lookup(c, 7), 7);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-cache/model", test_model);
    g_test_add_func("/page-cache/budget-errors", test_budget_errors);
    return g_test_run();
}
