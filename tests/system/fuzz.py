#!/usr/bin/python3
# timeout: 300
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every fuzz target for a moment, from the seeds that it brings along.

SIDECAR_TEST_LONG=1 runs a hundred times as many rounds with a seed of the day.
"""

import glob
import os
import time

from lib.tap import BUILD, main, test

LONG = bool(os.environ.get("SIDECAR_TEST_LONG"))


def one(path):
    def run(t):
        rounds, seed = (200000, int(time.time())) if LONG else (2000, 1)
        t.run(path, "--random", str(rounds), str(seed), timeout=rounds / 10,
              env=dict(os.environ, TMPDIR=t.dir))
    run.__name__ = os.path.basename(path).replace("-", "_") + "_survives"
    test(limit=3600 if LONG else 120)(run)


for target in sorted(glob.glob(os.path.join(BUILD, "fuzz", "fuzz-*"))):
    if os.access(target, os.X_OK):
        one(target)
main()
