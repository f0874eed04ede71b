/*
 * What can be told about an image without waiting for a disk: for the monitors,
 * whose thread must not wait, while requests and jobs go on.
 *
 * BlockNodePrivate.info_lock (a leaf) guards what else only changes while nobody
 * looks: which node is below, what the image says of its backing file, and
 * whether the driver is still open.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block-int.h"

void bdrv_set_backing(BlockNode *bs, BlockNode *below)
{
    pthread_mutex_lock(&bs->priv->info_lock);
    bs->backing = below;
    pthread_mutex_unlock(&bs->priv->info_lock);
}

static int64_t allocated_now(BlockNode *bs)
{
    int64_t ret = -1;

    pthread_mutex_lock(&bs->priv->info_lock);
    if (!atomic_load(&bs->priv->inactive) && bs->drv->allocated_size) {
        ret = bs->drv->allocated_size(bs);
    }
    pthread_mutex_unlock(&bs->priv->info_lock);
    return ret < 0 && bs->file ? allocated_now(bs->file) : ret;
}

void bdrv_get_info(BlockNode *bs, BdrvImageInfo *info)
{
    const char *file, *format = NULL;

    *info = (BdrvImageInfo){ .allocated = allocated_now(bs) };
    pthread_mutex_lock(&bs->priv->info_lock);
    info->backing = bs->backing ? bdrv_ref(bs->backing) : NULL;
    if (!atomic_load(&bs->priv->inactive)) {
        if (bs->drv->image_info) {
            bs->drv->image_info(bs, info);
        }
        if (bs->drv->backing_file) {
            file = bs->drv->backing_file(bs, &format);
            info->backing_file = g_strdup(file);
            info->backing_format = g_strdup(format);
        }
    }
    pthread_mutex_unlock(&bs->priv->info_lock);
}

void bdrv_image_info_clear(BdrvImageInfo *info)
{
    g_clear_pointer(&info->backing_file, g_free);
    g_clear_pointer(&info->backing_format, g_free);
    g_clear_pointer(&info->backing, bdrv_unref);
    g_clear_pointer(&info->snapshots, g_ptr_array_unref);
    g_clear_pointer(&info->bitmaps, g_ptr_array_unref);
}

/* ---- corruption ------------------------------------------------------------------- */

void bdrv_set_corrupt(BlockNode *bs, const char *message)
{
    pthread_mutex_lock(&bs->priv->info_lock);
    g_free(bs->priv->corrupt_message);
    bs->priv->corrupt_message = g_strdup(message);
    pthread_mutex_unlock(&bs->priv->info_lock);
    atomic_store(&bs->priv->corrupt_untold, true);
}

char *bdrv_take_corrupt(BlockNode *bs, bool *fatal)
{
    char *message = NULL;

    for (; bs && !message; bs = bs->backing) {
        if (atomic_exchange(&bs->priv->corrupt_untold, false)) {
            pthread_mutex_lock(&bs->priv->info_lock);
            message = g_strdup(bs->priv->corrupt_message);
            pthread_mutex_unlock(&bs->priv->info_lock);
            *fatal = !bdrv_is_read_only(bs);
        }
    }
    return message;
}
