# VMA archives in Python, written from docs/specs/vma.txt and sharing nothing
# with the C code: a strict reader to check what our writer makes, and a writer
# that can make archives the way other tools do, or wrongly on purpose.
#
# SPDX-License-Identifier: GPL-2.0-or-later
import hashlib
import struct
import uuid as uuidlib
import zlib

BLOCK = 4096
CLUSTER = 65536
SLOTS = 59
HEADER = struct.Struct('>4sI16sQ16sIII')
DEVICE = struct.Struct('>IIQQQ')
EXTENT = struct.Struct('>4sHH16s16s')
ZERO_BLOCK = bytes(BLOCK)


class BadArchive(Exception):
    pass


def need(condition, what):
    if not condition:
        raise BadArchive(what)


def md5_without(data, offset):
    return hashlib.md5(data[:offset] + bytes(16) + data[offset + 16:]).digest()


class Archive:
    """configs: {name: bytes}; devices: {dev_id: (name, size)};
    images: {dev_id: {cluster: (mask, stored bytes)}}; order: [(dev_id, cluster)];
    digests: how many clusters with stored blocks had a digest."""

    def __init__(self, path_or_bytes):
        if isinstance(path_or_bytes, bytes):
            self.raw = path_or_bytes
        else:
            with open(path_or_bytes, 'rb') as f:
                self.raw = f.read()
        self.configs, self.devices, self.images = {}, {}, {}
        self.order = []
        self.extents = self.digests = self.stored = 0
        self._extents(self._header())

    def _blob(self, pos):
        start = self.blob_offset + pos
        need(pos > 0 and start + 2 <= self.blob_end, f'blob pointer {pos}')
        n = struct.unpack_from('<H', self.raw, start)[0]
        need(start + 2 + n <= self.blob_end, f'blob at {pos} too long')
        return self.raw[start + 2:start + 2 + n]

    def _string(self, pos):
        blob = self._blob(pos)
        need(blob.endswith(b'\0') and blob.count(b'\0') == 1, 'string')
        return blob[:-1].decode()

    def _header(self):
        raw = self.raw
        need(len(raw) >= 12288, 'short header')
        (magic, version, self.uuid, self.ctime, md5, self.blob_offset, blob_size,
         size) = HEADER.unpack_from(raw)
        need(magic == b'VMA\0' and version == 1, 'magic, version')
        need(12288 <= size <= len(raw), 'header size')
        need(md5_without(raw[:size], 32) == md5, 'header MD5')
        need(not any(raw[60:2044]) and not any(raw[4092:4096]), 'reserved')
        self.blob_end = self.blob_offset + blob_size
        need(self.blob_offset >= 12288 and self.blob_end <= size, 'blob buffer')
        for i in range(256):
            name = struct.unpack_from('>I', raw, 2044 + 4 * i)[0]
            data = struct.unpack_from('>I', raw, 3068 + 4 * i)[0]
            need(bool(name) == bool(data), 'half a config')
            if name:
                text = self._string(name)
                need(text not in self.configs, 'config twice')
                self.configs[text] = self._blob(data)
        for i in range(256):
            name, r0, dsize, r1, r2 = DEVICE.unpack_from(raw, 4096 + 32 * i)
            need(r0 == r1 == r2 == 0, 'reserved')
            if name or dsize:
                need(1 <= i <= 254 and dsize % 512 == 0 and dsize, 'device')
                self.devices[i] = (self._string(name), dsize)
                self.images[i] = {}
        return size

    def _extents(self, pos):
        raw, last = self.raw, None
        need(pos < len(raw), 'no extent')
        while pos < len(raw):
            need(pos + 512 <= len(raw), 'short extent header')
            magic, reserved, blocks, uuid, md5 = EXTENT.unpack_from(raw, pos)
            need(magic == b'VMAE' and reserved == 0, 'extent magic')
            need(uuid == self.uuid, 'extent uuid')
            need(md5_without(raw[pos:pos + 512], 24) == md5, 'extent MD5')
            slots = struct.unpack_from('>59Q', raw, pos + 40)
            pos += 512
            need(pos + blocks * BLOCK <= len(raw), 'short extent')
            if any(s >> 32 == 0x5643 << 16 for s in slots):
                need(blocks == 0 and last is not None, 'digest extent')
                self._digests(slots, last)
                last = None
                continue
            last = self._slots(slots, pos, blocks)
            pos += blocks * BLOCK
            self.extents += 1

    def _digests(self, slots, last):
        for slot, stored in zip(slots, last):
            if stored is None:
                need(slot == 0, 'digest of an unused slot')
                continue
            need(slot >> 32 == 0x5643 << 16, 'no digest')
            need(slot & 0xffffffff == zlib.crc32(stored), 'digest')
            self.digests += bool(stored)

    def _slots(self, slots, pos, blocks):
        out, end = [], pos + blocks * BLOCK
        for slot in slots:
            mask, dev, cluster = slot >> 48, slot >> 32 & 0xff, slot & 0xffffffff
            need(slot >> 40 & 0xff == 0, 'reserved')
            if not dev:
                need(slot == 0, 'unused slot')
                out.append(None)
                continue
            need(dev in self.devices, f'device {dev}')
            size = self.devices[dev][1]
            need(cluster not in self.images[dev], 'cluster twice')
            for bit in range(16):
                need(not mask >> bit & 1 or cluster * CLUSTER + bit * BLOCK < size,
                     'block past the end')
            n = bin(mask).count('1') * BLOCK
            need(pos + n <= end, 'too few blocks')
            data = self.raw[pos:pos + n]
            pos += n
            self.stored += n
            for i in range(0, n, BLOCK):
                need(data[i:i + BLOCK] != ZERO_BLOCK, 'a zero block was stored')
            self.images[dev][cluster] = (mask, data)
            self.order.append((dev, cluster))
            out.append(data)
        need(pos == end, 'too many blocks')
        return out

    def image(self, dev_id):
        size = self.devices[dev_id][1]
        out = bytearray(-(-size // CLUSTER) * CLUSTER)
        for cluster in range(-(-size // CLUSTER)):
            need(cluster in self.images[dev_id], f'cluster {cluster} missing')
            mask, data = self.images[dev_id][cluster]
            at = 0
            for bit in range(16):
                if mask >> bit & 1:
                    pos = cluster * CLUSTER + bit * BLOCK
                    out[pos:pos + BLOCK] = data[at:at + BLOCK]
                    at += BLOCK
        need(not any(out[size:]), 'data past the end')
        return bytes(out[:size])

    def by_name(self, name):
        for dev_id, (devname, _) in self.devices.items():
            if devname == name:
                return self.image(dev_id)
        raise KeyError(name)


# ---- writing --------------------------------------------------------------

def make_header(uuid, configs=(), devices=(), ctime=1700000000, version=1,
                magic=b'VMA\0', patch=(), blob_size=None, blob_offset=12288,
                header_size=None, md5=None, raw_names=False):
    """configs: [(name, bytes)]; devices: {dev_id: (name, size)}; names may be
    bytes, and are then used as they are (no NUL added).  patch: [(offset,
    bytes)] put in before the MD5 is made."""
    blobs = bytearray(b'\0')

    def blob(data):
        pos = len(blobs)
        blobs.extend(struct.pack('<H', len(data)) + data)
        return pos

    def string(s):
        return blob(s if isinstance(s, bytes) else s.encode() + b'\0')

    head = bytearray(12288)
    for i, (name, data) in enumerate(configs):
        struct.pack_into('>I', head, 2044 + 4 * i, string(name))
        struct.pack_into('>I', head, 3068 + 4 * i, blob(data))
    for dev_id, (name, device_size) in dict(devices).items():
        DEVICE.pack_into(head, 4096 + 32 * dev_id, string(name), 0, device_size, 0, 0)
    used = len(blobs)
    blobs.extend(bytes(-len(blobs) % 512))
    size = 12288 + len(blobs) if header_size is None else header_size
    HEADER.pack_into(head, 0, magic, version, uuid, ctime, bytes(16), blob_offset,
                     used if blob_size is None else blob_size, size)
    head.extend(blobs)
    for offset, data in patch:
        head[offset:offset + len(data)] = data
    if md5 is None:
        md5 = md5_without(bytes(head), 32)
    head[32:48] = md5
    return bytes(head)


def make_extent(uuid, slots, data=b'', block_count=None, magic=b'VMAE',
                reserved=0, md5=None):
    """slots: list of 64-bit values, or (dev_id, cluster, mask)."""
    values = [s if isinstance(s, int) else s[2] << 48 | s[0] << 32 | s[1]
              for s in slots]
    values += [0] * (SLOTS - len(values))
    if block_count is None:
        block_count = len(data) // BLOCK
    head = EXTENT.pack(magic, reserved, block_count, uuid, bytes(16))
    head += struct.pack('>59Q', *values)
    if md5 is None:
        md5 = md5_without(head, 24)
    return head[:24] + md5 + head[40:] + data


def split(image, cluster):
    """(mask, stored blocks) of one cluster of an image."""
    part = image[cluster * CLUSTER:(cluster + 1) * CLUSTER]
    mask, data = 0, b''
    for bit in range(0, -(-len(part) // BLOCK)):
        block = part[bit * BLOCK:(bit + 1) * BLOCK].ljust(BLOCK, b'\0')
        if block != ZERO_BLOCK:
            mask |= 1 << bit
            data += block
    return mask, data


def make_archive(images, configs=(), slots_per_extent=59, order=None, uuid=None,
                 digests=False):
    """images: {dev_id: (name, bytes)}; order: [(dev_id, cluster)] or None."""
    uuid = uuid or uuidlib.uuid4().bytes
    devices = {d: (name, len(data)) for d, (name, data) in images.items()}
    if order is None:
        order = [(d, c) for d, (_, data) in images.items()
                 for c in range(-(-len(data) // CLUSTER))]
    out = [make_header(uuid, configs, devices)]
    for i in range(0, max(len(order), 1), slots_per_extent):
        slots, crcs, data = [], [], b''
        for d, c in order[i:i + slots_per_extent]:
            mask, blocks = split(images[d][1], c)
            slots.append((d, c, mask))
            crcs.append(0x5643 << 48 | zlib.crc32(blocks))
            data += blocks
        out.append(make_extent(uuid, slots, data))
        if digests and data:
            out.append(make_extent(uuid, crcs))
    return b''.join(out)
