/*
 * The events of block jobs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/job.h"
#include "qapi/monitor.h"
#include "qapi/qapi-events.h"

void monitor_job_ended(MonitorSet *set, const BlockJobInfo *job)
{
    if (job->state == BLOCK_JOB_CANCELLED) {
        qapi_event_send_block_job_cancelled(set, SIDECAR_BLOCK_JOB_TYPE_STREAM,
                                            job->device, job->len, job->offset,
                                            job->speed);
        return;
    }
    qapi_event_send_block_stream_completed(set, job->device, job->len,
                                           job->offset, job->error);
    qapi_event_send_block_job_completed(set, SIDECAR_BLOCK_JOB_TYPE_STREAM,
                                        job->device, job->len, job->offset,
                                        job->speed, job->error);
}
