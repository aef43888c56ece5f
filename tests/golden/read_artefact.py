#!/usr/bin/env python3
"""Reads migstream artefacts by docs/formats.md alone: shares no code with the C library.

    read_artefact.py FILE...          verifies each artefact and prints what it holds
    read_artefact.py --golden DIR     replays the golden database from DIR and compares it with the rule in rule.h
    read_artefact.py --example DOC FILE   compares the dump of FILE in docs/formats.md, line by line, with FILE
"""
import ctypes
import ctypes.util
import json
import os
import re
import sys

MASK = (1 << 64) - 1


class Damaged(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Damaged(what)


# --- Checksums -------------------------------------------------------------------------------------------------------

def _table():
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0xC96C5795D7870F42 if i & 1 else 0)
        table.append(i)
    return table


TABLE = _table()


def crc64(data):
    c = MASK
    for b in data:
        c = TABLE[(c ^ b) & 255] ^ c >> 8
    return c ^ MASK


def page_hash(pgno, page):
    k = crc64(pgno.to_bytes(4, "big") + page)
    k ^= k >> 33
    k = k * 0xFF51AFD7ED558CCD & MASK
    k ^= k >> 33
    k = k * 0xC4CEB9FE1A85EC53 & MASK
    return k ^ k >> 33


# --- zstd: the magic number is put back in front, then any zstd decoder does --------------------------------------------

def _zstd():
    name = ctypes.util.find_library("zstd") or "libzstd.so.1"
    try:
        lib = ctypes.CDLL(name)
    except OSError:
        print("libzstd is not there: skipped")
        sys.exit(77)
    lib.ZSTD_createDCtx.restype = ctypes.c_void_p
    for f in (lib.ZSTD_DCtx_refPrefix, lib.ZSTD_decompressDCtx):
        f.restype = ctypes.c_size_t
    return lib


ZSTD = _zstd()
DCTX = ctypes.c_void_p(ZSTD.ZSTD_createDCtx())


def unzstd(frame, size, prefix=b""):
    need(frame[:1] == b"\0", "zstd frame header descriptor is not 0")
    frame = b"\x28\xb5\x2f\xfd" + frame
    out = ctypes.create_string_buffer(size)
    if prefix:
        ZSTD.ZSTD_DCtx_refPrefix(DCTX, prefix, ctypes.c_size_t(len(prefix)))
    n = ZSTD.ZSTD_decompressDCtx(DCTX, out, ctypes.c_size_t(size), frame, ctypes.c_size_t(len(frame)))
    need(n == size, "zstd frame does not decode to %d bytes" % size)
    return out.raw


# --- Primitive encodings ------------------------------------------------------------------------------------------------

class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        need(self.at + n <= len(self.data), "cut short")
        self.at += n
        return self.data[self.at - n:self.at]

    def le(self, n):
        return int.from_bytes(self.take(n), "little")

    def varint(self):
        v = shift = 0
        while True:
            b = self.take(1)[0]
            v |= (b & 127) << shift
            shift += 7
            if b < 128:
                need(v <= MASK and shift <= 70 and (b or shift == 7), "bad varint")
                return v

    def more(self):
        return self.at < len(self.data)


def unzstd(frame, size, prefix=b""):
    need(frame[:1] == b"\0", "zstd frame header descriptor is not 0")
    frame = b"\x28\xb5\x2f\xfd" + frame
    out = ctypes.create_string_buffer(size)
    if prefix:
        ZSTD.ZSTD_DCtx_refPrefix(DCTX, prefix, ctypes.c_size_t(len(prefix)))
    n = ZSTD.ZSTD_decompressDCtx(DCTX, out, ctypes.c_size_t(size), frame, ctypes.c_size_t(len(frame)))
    need(n == size, "zstd frame does not decode to %d bytes" % size)
    return out.raw


# --- Primitive encodings ------------------------------------------------------------------------------------------------

class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        need(self.at + n <= len(self.data), "cut short")
        self.at += n
        return self.data[self.at - n:self.at]

    def le(self, n):
        return int.from_bytes(self.take(n), "little")

    def varint(self):
        v = shift = 0
        while True:
            b = self.take(1)[0]
            v |= (b & 127) << shift
            shift += 7
            if b < 128:
                need(v <= MASK and shift <= 70 and (b or shift == 7), "bad varint")
                return v

    def more(self):
        return self.at < len(self.data)


def patched(patch, base):
    b, page, at = Bytes(patch), bytearray(base), 0
    while b.more():
        at += b.varint()
        n = b.varint()
        need(n > 0 and at + n <= len(base), "patch")
        page[at:at + n] = b.take(n)
        at += n
    return bytes(page)


def cbor(b, depth=0):
    need(depth <= 4, "CBOR too deep")
    first = b.take(1)[0]
    major, info = first >> 5, first & 31
    if major == 7:
        need(info in (20, 21, 22), "CBOR simple value")
        return {20: False, 21: True, 22: None}[info]
    need(info <= 27, "CBOR length")
    n = info if info < 24 else int.from_bytes(b.take(1 << info - 24), "big")
    if major == 0:
        return n
    if major == 1:
        return -1 - n
    if major == 2:
        return b.take(n)
    if major == 3:
        return b.take(n).decode("utf-8")
    if major == 4:
        return [cbor(b, depth + 1) for _ in range(n)]
    need(major == 5, "CBOR tag")
    m = {}
    for _ in range(n):
        k = cbor(b, depth + 1)
        need(k not in m, "CBOR duplicate key")
        m[k] = cbor(b, depth + 1)
    return m


def cbor_all(data):
    b = Bytes(data)
    v = cbor(b)
    need(not b.more(), "bytes after the CBOR item")
    return v


def patched(patch, base):
    page, at, b = bytearray(base), 0, Bytes(patch)
    while b.more():
        at += b.varint()
        new = b.take(b.varint())
        need(new and at + len(new) <= len(base), "patch")
        page[at:at + len(new)] = new
        at += len(new)
    return bytes(page)


# --- Container ------------------------------------------------------------------------------------------------------------

def container(data):
    """-> kind, header map, [(kind, raw bytes)] without index, index bytes, offsets of blocks"""
    b = Bytes(data)
    need(b.take(4) == b"MSTR", "magic")
    kind = b.take(4)
    need(b.le(2) == 1, "version")
    need(b.le(2) == 0, "features")
    length = b.le(4)
    need(0 < length <= 16 << 20, "header length")
    header = b.take(length)
    header_crc = crc64(data[:b.at])
    need(b.le(8) == header_crc, "header checksum")
    first_block = b.at
    blocks, offsets, index, index_start = [], [], b"", None
    while True:
        start = b.at
        stored = b.le(4)
        if stored == 0:
            break
        raw_len, compression, cipher, block_kind = b.le(4), b.le(1), b.le(1), b.le(2)
        checksum = b.le(8)
        body = b.take(stored)
        covered = header_crc.to_bytes(8, "little") + start.to_bytes(8, "little") + data[start:start + 12] + body
        need(crc64(covered) == checksum, "block checksum")
        need(cipher == 0 and compression in (0, 1), "cipher or compression")
        need(0 < raw_len <= 1 << 20, "raw length")
        raw = unzstd(body, raw_len) if compression else body
        need(len(raw) == raw_len, "raw length")
        if block_kind == 0:
            index_start = start if index_start is None else index_start
            index += raw
        else:
            need(index_start is None, "block after the index")
            blocks.append((block_kind, raw))
            offsets.append((start, stored))
    trailer = data[start:]
    need(len(trailer) == 40 and crc64(trailer[:32]) == int.from_bytes(trailer[32:], "little"), "trailer checksum")
    t = Bytes(trailer[4:32])
    need(t.le(4) == first_block and t.le(8) == len(data), "trailer: lengths")
    need(t.le(4) == (0 if index_start is None else start - index_start), "trailer: index")
    need(t.take(4) == kind and t.le(8) == header_crc, "trailer: kind or header")
    return kind.decode(), cbor_all(header), blocks, index, offsets


# --- Records ----------------------------------------------------------------------------------------------------------------

def records(raw):
    b = Bytes(raw)
    while b.more():
        start, kind = b.at, b.take(1)[0]
        if kind in (1, 2, 3, 5):
            pgno, hash_, = b.varint(), b.le(8)
            need(0 < pgno < 1 << 32, "page number")
            yield {"at": start, "type": kind, "pgno": pgno, "hash": hash_, "data": b.take(b.varint())}
            continue
        need(kind == 4, "record type")
        c = Bytes(b.take(b.varint()))
        r = {"at": start, "type": 4, "flags": c.varint(), "txid": c.varint(), "time": c.varint(), "page_size": c.varint(),
             "db_pages": c.varint(), "checksum": c.le(8)}
        need(r["flags"] < 8 and r["txid"] > 0, "commit")
        if r["flags"] & 1:
            r["lost"] = c.varint() - 1
        if c.more():
            r["attrs"] = cbor_all(c.data[c.at:])
        yield r


def segment_header(h):
    h = dict(h)
    h.setdefault(3, h[2])
    h.setdefault(4, h[2] - 1)
    h.setdefault(7, h[6])
    h.setdefault(10, 0)
    h.setdefault(11, 0)
    h.setdefault(12, False)
    h.setdefault(18, int(h[1][:8], 16))
    return h


def check_index(index, blocks, offsets, first_txid):
    """The index must name, for every page, its newest record and the txid before."""
    newest, open_pages = {}, {}
    for n, (_, raw) in enumerate(blocks):
        for r in records(raw):
            if r["type"] == 4:
                for pgno, where in open_pages.items():
                    newest[pgno] = (where, r["txid"], newest[pgno][1] if pgno in newest else 0)
                open_pages = {}
            else:
                open_pages[r["pgno"]] = (n, r["at"])
    b = Bytes(index)
    need([b.varint() for _ in range(b.varint())] == [stored for _, stored in offsets], "index: blocks")
    pgno, listed = 0, {}
    for _ in range(b.varint()):
        pgno += b.varint()
        where = (b.varint(), b.varint())
        txid = first_txid + b.varint()
        back = b.varint()
        listed[pgno] = (where, txid, txid - back if back else 0)
    need(not b.more() and listed == newest, "index: pages")


class Database:
    """Pages as they come, and the chain of checksums."""

    def __init__(self):
        self.pages, self.txid, self.page_size = {}, 0, 0

    def checksum(self):
        lock = 0x40000000 // self.page_size + 1
        return sum(page_hash(n, p) for n, p in self.pages.items() if n != lock) & MASK

    def load_snapshot(self, data, chunk_of):
        kind, h, blocks, _, _ = container(data)
        need(kind == "SNAP", "not a snapshot")
        size, count = h[4], h[5]
        self.page_size, self.txid, self.pages = size, h[2], {}
        inline = b"".join(raw for k, raw in blocks if k == 2)
        patches = b"".join(raw for k, raw in blocks if k == 3)
        generations = [h[1]] + h.get(15, [])
        if h.get(14):
            need(len(inline) == size * count, "inline pages")
            self.pages = {i + 1: inline[i * size:(i + 1) * size] for i in range(count)}
        table, first = Bytes(h.get(8, b"")), 1
        while table.more():
            n, content, length = table.varint(), table.le(8), table.varint()
            generation = generations[table.varint()]
            chunk = chunk_of(generation, first, content)
            need(len(chunk) == length, "chunk length")
            ckind, ch, cblocks, _, _ = container(chunk)
            need(ckind == "CHNK" and ch == {1: first, 2: n, 3: size, 4: content}, "chunk header")
            raw = b"".join(r for k, r in cblocks if k == 2)
            need(len(raw) == n * size, "chunk pages")
            part = {first + i: raw[i * size:(i + 1) * size] for i in range(n)}
            need(sum(page_hash(k, p) for k, p in part.items()) & MASK == content, "chunk content hash")
            self.pages.update(part)
            first += n
        table = Bytes(h.get(17, b""))
        while table.more():
            lowest, n, content, length = table.varint(), table.varint(), table.le(8), table.varint()
            chunk = chunk_of(generations[table.varint()], lowest, content)
            need(length in (0, len(chunk)), "patch chunk length")
            ckind, ch, cblocks, _, _ = container(chunk)
            need(ckind == "CHNK" and ch == {1: lowest, 2: n, 3: size, 4: content, 5: True}, "patch chunk header")
            raw, total, last = b"".join(r for k, r in cblocks if k == 3), 0, 0
            need(len(raw) == n * (4 + size), "patch chunk pages")
            for at in range(0, len(raw), 4 + size):
                pgno, page = int.from_bytes(raw[at:at + 4], "little"), raw[at + 4:at + 4 + size]
                need(pgno > last and (last or pgno == lowest), "patch chunk order")
                total, last = total + (page_hash(pgno, page) if pgno != 0x40000000 // size + 1 else 0), pgno
                if pgno <= count:
                    self.pages[pgno] = page
            need(total & MASK ^ MASK == content, "patch chunk content hash")
        need(len(patches) == h.get(10, 0) * (4 + size), "patches")
        for at in range(0, len(patches), 4 + size):
            self.pages[int.from_bytes(patches[at:at + 4], "little")] = patches[at + 4:at + 4 + size]
        need(len(self.pages) == count and self.checksum() == h[6], "database checksum")
        return h

    def apply(self, data, on_commit=None):
        kind, h, blocks, index, offsets = container(data)
        need(kind == "SEGM", "not a segment")
        h = segment_header(h)
        if h[11] == 0:
            need(h[4] == self.txid and h[8] == self.checksum(), "segment does not follow")
        frames, txid = 0, 0
        for block_kind, raw in blocks:
            need(block_kind == 1, "block kind")
            for r in records(raw):
                if r["type"] == 4:
                    need(r["page_size"] == self.page_size and r["txid"] > self.txid, "commit does not follow")
                    self.pages = {n: p for n, p in self.pages.items() if n <= r["db_pages"]}
                    need(len(self.pages) == r["db_pages"] and self.checksum() == r["checksum"], "commit checksum")
                    self.txid = txid = r["txid"]
                    if on_commit:
                        on_commit(r)
                    continue
                frames += 1
                if r["type"] == 1:
                    page = r["data"]
                elif r["type"] == 5:
                    page = patched(r["data"], self.pages[r["pgno"]])
                else:
                    page = unzstd(r["data"], self.page_size, self.pages[r["pgno"]] if r["type"] == 3 else b"")
                need(len(page) == self.page_size and page_hash(r["pgno"], page) == r["hash"], "page hash")
                self.pages[r["pgno"]] = page
        need(frames == h[15], "frames")
        need(txid == (0 if h[12] else h[3]), "last txid")
        if not h[12]:
            need(h[9] == self.checksum() and h[13] == len(self.pages), "checksum after")
        if index:
            check_index(index, blocks, offsets, h[2])
        return h


# --- The golden database -----------------------------------------------------------------------------------------------------

def rule(pgno, version):
    x, page = pgno, bytearray()
    for i in range(512):
        x = (x * 1664525 + 1013904223) % (1 << 32)
        page.append((31 * i + (i >> 7) * pgno) % 256 if pgno % 4 else x >> 24)
    for k in range(1, version + 1):
        at = (592 * k + 64 * pgno) % 496
        for j in range(16):
            page[at + j] = (16 * k + j) % 256 ^ 0xA5
    return bytes(page)


STATES = {1: [0, 0, 0, 0], 2: [0, 1, 0, 0], 3: [1, 1, 0, 0, 0, 0], 4: [1, 2, 0, 1, 0, 0], 5: [2, 2, 1, 1, 0, 0, 0, 0], 6: [3, 2, 2], 7: [3, 3, 2]}
GEN, FORK = "00000001-c0ffee00", "00000002-c0ffee01"


def time_of(txid):
    return 1700000000000000 + 1000 * txid


def golden(directory):
    def load(name):
        with open(os.path.join(directory, name), "rb") as f:
            return f.read()

    def same(db, txid):
        want = {n + 1: rule(n + 1, v) for n, v in enumerate(STATES[txid])}
        need(db.txid == txid and db.pages == want, "state at txid %d is not what the rule says" % txid)

    db, commits = Database(), []
    h = db.load_snapshot(load("1-inline.snap"), None)
    same(db, 1)
    need((h[1], h[3], h[7], h.get(13, 1)) == (GEN, time_of(1), 0o640, 1), "1-inline.snap: header")

    def seen(r):
        commits.append(r)
        same(db, r["txid"])
        need(r["time"] == time_of(r["txid"]), "commit time")

    h2 = db.apply(load("2.seg"), seen)
    need((h2[1], h2[3], h2[4], h2[10], h2[18]) == (GEN, 2, 1, 0, 1), "2.seg: header")
    h34 = db.apply(load("3-4-blocks.seg"), seen)
    need((h34[2], h34[3], h34[6], h34[7]) == (3, 4, time_of(3), time_of(4)), "3-4-blocks.seg: header")
    h50 = db.apply(load("5-part0.seg"), seen)
    need((h50[11], h50[12], h50[10], h50[15]) == (0, True, 1, 2), "5-part0.seg: header")
    h51 = db.apply(load("5-part1.seg"), seen)
    need((h51[11], h51[12], h51[10]) == (1, False, 1), "5-part1.seg: header")
    same(db, 5)
    h6 = db.apply(load("6-fork.seg"), seen)
    need((h6[1], h6[16], h6[17], h6[18]) == (FORK, GEN, 5, 3), "6-fork.seg: header")
    db.apply(load("7-patch.seg"), seen)
    patch = [r for _, raw in container(load("7-patch.seg"))[2] for r in records(raw)][0]
    need((patch["type"], patch["pgno"]) == (5, 2), "7-patch.seg: record")
    need([c["txid"] for c in commits] == [2, 3, 4, 5, 6, 7], "commits")
    need(commits[1]["attrs"] == {"user": "alice"}, "attributes")
    need((commits[3]["flags"], commits[3]["lost"]) == (1, 7), "lost commits")

    chunks = {(GEN, 1): "4-chunk1", (FORK, 5): "4-chunk2"}
    other = Database()
    h = other.load_snapshot(load("5-chunked.snap"), lambda g, first, content: load(chunks[g, first]))
    same(other, 5)
    need((h[1], h[11], h[12], h[9], h[10], h[7]) == (FORK, GEN, 5, 4, 4, 0o640), "5-chunked.snap: header")
    other.apply(load("6-fork.seg"))
    same(other, 6)

    patched_by_object = Database()
    names = iter(["4-chunk1", "4-chunk2", "5-patch-chunk"])
    h = patched_by_object.load_snapshot(load("5-patched.snap"), lambda g, first, content: load(next(names)))
    same(patched_by_object, 5)
    need(h[10] == 2 and 17 in h and 9 not in patched_by_object.pages, "5-patched.snap: header")

    folded = Database()
    folded.load_snapshot(load("1-inline.snap"), None)
    folded.apply(load("2.seg"))
    h0 = folded.apply(load("3-5-fold-part0.seg"))
    need((h0[2], h0[3], h0[4], h0[10], h0[11], h0[12], h0[6]) == (3, 3, 2, 1, 0, True, time_of(2)), "3-5-fold-part0.seg: header")
    h1 = folded.apply(load("3-5-fold-part1.seg"))
    need((h1[2], h1[3], h1[4], h1[10], h1[11], h1[6]) == (3, 5, 2, 1, 1, time_of(5)), "3-5-fold-part1.seg: header")
    same(folded, 5)
    folded.apply(load("6-fork.seg"))
    same(folded, 6)

    kind, h, blocks, index, _ = container(load("head-2"))
    need(kind == "HEAD" and not blocks and not index, "head-2")
    need(h == {1: 2, 2: "golden owner", 3: 2, 4: FORK, 5: time_of(5), 6: 5, 7: "h\u00f6st", 8: [[FORK, GEN, 5], [GEN, "", 0]],
               9: [GEN + "/segments/0000000000000002.seg"], 10: time_of(6)}, "head-2: header")
    kind, h, blocks, index, _ = container(load("fence"))
    need(kind == "FENC" and h == {1: "golden owner", 2: 2, 3: 2, 4: time_of(5), 5: "h\u00f6st"}, "fence: header")

    # This reader must be able to fail: a flipped bit anywhere in a segment is damage to it, too.
    data = bytearray(load("2.seg"))
    for at in range(len(data)):
        data[at] ^= 1 << at % 8
        try:
            broken = Database()
            broken.load_snapshot(load("1-inline.snap"), None)
            broken.apply(bytes(data))
        except (Damaged, UnicodeDecodeError, KeyError):
            pass
        else:
            raise Damaged("a flipped bit at byte %d of 2.seg was not noticed" % at)
        data[at] ^= 1 << at % 8
    print("golden database: 7 txids, 3 snapshots, 8 segments, 3 chunks, head and fence as docs/formats.md and rule.h say")


def example(doc, path):
    with open(doc, encoding="utf-8") as f:
        text = f.read()
    with open(path, "rb") as f:
        data = f.read()
    at = 0
    for line in text[text.index("## A segment, byte by byte"):text.index("## What may change")].splitlines():
        m = re.match(r"    ([0-9a-f]{3})  ((?:[0-9a-f]{2}\s{1,2})*[0-9a-f]{2})(?:\s{3,}|$)", line)
        if m:
            stated = bytes.fromhex(m[2].replace(" ", ""))
            need(int(m[1], 16) == at and data[at:at + len(stated)] == stated, "the dump says something else: " + line)
            at += len(stated)
    need(at == len(data), "the dump ends at byte %d of %d" % (at, len(data)))
    print("%s: %d bytes as dumped" % (path, at))


def show(path):
    with open(path, "rb") as f:
        kind, h, blocks, index, offsets = container(f.read())
    print("%s: %s, %d blocks, %d index bytes" % (path, kind, len(blocks), len(index)))
    print("  header", json.dumps({str(k): v.hex() if isinstance(v, bytes) else v for k, v in h.items()}))
    for (block_kind, raw), (start, stored) in zip(blocks, offsets):
        print("  block at %d: kind %d, %d bytes, %d stored" % (start, block_kind, len(raw), stored))
        if kind == "SEGM":
            for r in records(raw):
                print("    %s" % {k: (v.hex() if isinstance(v, bytes) and len(v) < 64 else len(v) if isinstance(v, bytes) else v)
                                  for k, v in r.items()})


def main():
    if crc64(b"123456789") != 0x995DC9BBDF1939FA:
        sys.exit("this reader's CRC-64 is wrong")
    try:
        if len(sys.argv) == 3 and sys.argv[1] == "--golden":
            golden(sys.argv[2])
        elif len(sys.argv) == 4 and sys.argv[1] == "--example":
            example(sys.argv[2], sys.argv[3])
        elif len(sys.argv) > 1:
            for path in sys.argv[1:]:
                show(path)
        else:
            sys.exit(__doc__)
    except Damaged as e:
        sys.exit("damaged: %s" % e)


main()
