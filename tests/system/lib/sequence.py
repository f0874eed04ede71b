"""The running sequence (tests/guest/seq.c), as the host knows it.

The guest's operations 1, 2, 3, ... follow from a seed.  check_cut() is the proof
that a set of images is the state between two of them, and of no other mixture.

SPDX-License-Identifier: GPL-2.0-or-later
"""

from array import array

from .guest import mix64

SECTOR = 512
WORDS = SECTOR // 8


class Sequence:
    def __init__(self, seed, max_sectors, sizes):
        self.seed = seed
        self.max = max_sectors
        self.sectors = [size // SECTOR for size in sizes]
        self.drives = [array("Q", bytes(8 * s)) for s in self.sectors]
        self.n = 0

    def job(self, *names, discard=False):
        """Words for Guest.start()."""
        return ("seqd" if discard else "seq", self.seed, self.max, *names)

    def operation(self, n):
        """(drive, first sector, sectors, whether zeros are written)"""
        a = mix64((self.seed * 1000003 + n) & 0xffffffffffffffff)
        b = mix64(a)
        drive = a % len(self.sectors)
        count = 1 + (b >> 40) % self.max
        first = (b & 0xffffffff) % (self.sectors[drive] - count + 1)
        return drive, first, count, (a >> 32) % 8 == 0

    def advance(self, to):
        """Plays the operations up to and including this one."""
        while self.n < to:
            self.n += 1
            drive, first, count, zero = self.operation(self.n)
            self.drives[drive][first:first + count] = \
                array("Q", [0 if zero else self.n]) * count

    def differences(self, images):
        """How many sectors of the images differ from operation self.n, and
        words for people on where."""
        said, count = [], 0
        for i, (image, want) in enumerate(zip(images, self.drives)):
            bad = [s for s, n in enumerate(want) if image[s] != n]
            count += len(bad)
            if bad:
                s = bad[0]
                said.append(f"drive {i}: {len(bad)} sectors, the first {s} (cluster "
                            f"{s * SECTOR // 65536}) holds {image[s]}, want {want[s]}")
        return count, f"differs from operation {self.n}: " + "; ".join(said)


def numbers(path, size):
    """The number in each sector of an image that a guest wrote; every sector
    must hold one number only."""
    with open(path, "rb") as f:
        data = f.read()
    if len(data) != size:
        raise AssertionError(f"{path}: {len(data)} bytes, want {size}")
    words = array("Q", data)
    first = words[::WORDS]
    for i in range(1, WORDS):
        if words[i::WORDS] != first:
            sector = next(s for s, x in enumerate(first) if words[s * WORDS + i] != x)
            raise AssertionError(f"{path}: sector {sector} is torn")
    return first


def check_cut(sequence, paths, low, high):
    """The N, low <= N <= high, such that the images hold operations 1...N and
    nothing else.  low: known complete when the backup was asked for; high:
    begun when it had answered."""
    images = [numbers(p, s * SECTOR) for p, s in zip(paths, sequence.sectors)]
    newest = max(max(image) for image in images)
    if newest > high:
        raise AssertionError(f"the images hold operation {newest}, but only {high} "
                             "had begun when the backup had answered")
    # Usually N is the newest number; but the last operations of a cut may have
    # written zeros, or over each other.
    sequence.advance(newest)
    nearest, stale = sequence.differences(images), None
    while sequence.n <= high:
        if sequence.drives == images:
            if sequence.n >= low:
                return sequence.n
            stale = sequence.n
        sequence.advance(sequence.n + 1)
        if sequence.n < newest + 9:
            nearest = min(nearest, sequence.differences(images))
    if stale is not None:
        raise AssertionError(f"the images stop at operation {stale}, but {low} was "
                             "complete when the backup was asked for")
    raise AssertionError(f"no cut of the sequence between {low} and {high}; what is "
                         f"nearest {nearest[1]}")
