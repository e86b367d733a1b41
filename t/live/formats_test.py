#!/usr/bin/env python3
"""Takes over what builds of each format left: t/live/formats/ keeps, for each number of RESTART_MEMORY_FORMAT, a memory
file of -e without flash and one with its flash file, and for each CHECKPOINT_FORMAT a flash file with its checkpoint.

formats_test.py         what they left is all there, also with another -m and -I, and with a second device
formats_test.py make    makes the samples of this build's formats, if there are none yet (after a change of a number)

A sample comes from another machine and another boot, so it is adapted before a server gets it: boot, clock and
the flash file's inode in the memory file; inode, times and clock in the checkpoint's head. Nothing else in them
changes.
"""

import glob
import lzma
import os
import re
import signal
import struct
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "aid"))
import servers  # noqa: E402
from servers import expect  # noqa: E402

TOP = os.path.join(HERE, "..", "..")
BINARY = os.environ.get("EXTANT", os.path.join(TOP, "extant"))
SAMPLES = os.path.join(HERE, "formats")
MEMORY_FLAGS = ["-m", "64"]
FLASH_FLAGS = ["-m", "64", "-o", "ext_path=@DIR@/flash:16m,ext_page_size=1,ext_wbuf_size=1,ext_persist"]
BOTH_FLAGS = FLASH_FLAGS + ["-e", "@DIR@/memory"]  # a stop with ext_persist moves all to flash
SECOND = ["-o", "ext_path=@DIR@/second:8m"]
BLOCK = 4096
MASK = (1 << 64) - 1

# The memory file: space/arena.c's header, then the roots; restart/restart.c's root is the fifth.
BOOT_ID_AT, BOOT_ID_BYTES = 40, 48
RESTART_ROOT_AT = 4096 + 4 * 12288
RESTART_ROOT = struct.Struct("<QqqQ")  # magic, unix and monotonic epoch, check
EXT_ROOT_AT = 4096 + 3 * 12288  # flash/engine.h: format 3's root, and that of the formats since
DEVICE_3_AT, DEVICE_AT_SINCE = 40, 1024 + 8 + 32
# The checkpoint's head: base/checkpoint.h.
HEAD_BYTES, EPOCH_AT, DEVICE_AT, REL_AT = 4096, 64, 160, 160 + 16 * 32


def values():
    for i in range(300):
        yield b"kept-%d" % i, b"%d %d " % (i, i * i) * (1 + i % 40), i * 7


def store(server):
    client = servers.Client(server)
    for key, value, flags in values():
        assert client.ask(b"set %s %d 0 %d\r\n%s" % (key, flags, len(value), value)) == b"STORED"
    client.ask(b"delete kept-299")
    client.close()


def present(server):
    """How many values are there, as they were stored; -1 if anything is wrong."""
    client = servers.Client(server)
    found = 0
    for key, value, flags in values():
        client.send(b"get %s\r\n" % key)
        line = client.line()
        if line == b"END":
            continue
        if line != b"VALUE %s %d %d" % (key, flags, len(value)) or key == b"kept-299" or \
                client.file.read(len(value) + 2) != value + b"\r\n" or client.line() != b"END":
            return -1
        found += 1
    good = client.set(b"new", b"one") and client.get(b"new") == b"one"
    client.close()
    return found if good else -1


# ---- samples: the blocks of a file that are not zeroes ----

def pack(paths, sample):
    with lzma.open(sample, "wb", preset=9) as out:
        for path in paths:
            with open(path, "rb") as f:
                f.seek(0, 2)
                size = f.tell()
                blocks, at = [], 0
                while at < size:
                    try:
                        at = os.lseek(f.fileno(), at, os.SEEK_DATA) // BLOCK * BLOCK
                    except OSError:
                        break
                    f.seek(at)
                    block = f.read(BLOCK)
                    if block.strip(b"\0"):
                        blocks.append((at, block))
                    at += BLOCK
            out.write(struct.pack("<QQ", size, len(blocks)))
            for at, block in blocks:
                out.write(struct.pack("<QI", at, len(block)) + block)


def unpack(sample, paths):
    with lzma.open(sample, "rb") as f:
        for path in paths:
            size, count = struct.unpack("<QQ", f.read(16))
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.truncate(size)
                for _ in range(count):
                    at, length = struct.unpack("<QI", f.read(12))
                    out.seek(at)
                    out.write(f.read(length))


def claim_memory(path, flash=None):
    """This boot, and a clock that began a minute ago; and this flash file."""
    with open(path, "r+b") as f, open("/proc/sys/kernel/random/boot_id", "rb") as boot:
        f.seek(BOOT_ID_AT)
        f.write(boot.read().strip().ljust(BOOT_ID_BYTES, b"\0"))
        f.seek(RESTART_ROOT_AT)
        magic = struct.unpack("<Q", f.read(8))[0]
        epochs = int(time.time()) - 60, int(time.monotonic()) - 60
        check = magic
        for number in epochs:
            check = (check ^ number & MASK) * 0x9e3779b97f4a7c15 & MASK
            check ^= check >> 32
        f.seek(RESTART_ROOT_AT)
        f.write(RESTART_ROOT.pack(magic, *epochs, check))
        if flash:
            is_now = os.stat(flash)
            f.seek(EXT_ROOT_AT)
            at = DEVICE_3_AT if struct.unpack("<Q", f.read(8))[0] else DEVICE_AT_SINCE
            f.seek(EXT_ROOT_AT + at)
            f.write(struct.pack("<QQ", is_now.st_dev, is_now.st_ino))


def crc32c(data):
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82f63b78 if byte & 1 else 0)
        table.append(byte)
    crc = 0xffffffff
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xffffffff


def claim_checkpoint(flash, checkpoint):
    """This file and its times, and a stop a minute ago."""
    is_now = os.stat(flash)
    with open(checkpoint, "r+b") as f:
        head = bytearray(f.read(HEAD_BYTES))
        now, rel = int(time.time()), struct.unpack_from("<I", head, REL_AT)[0]
        struct.pack_into("<qq", head, EPOCH_AT, now - 60 - rel, now - 60)
        size = struct.unpack_from("<Q", head, DEVICE_AT + 8)[0]
        struct.pack_into("<QQqI", head, DEVICE_AT, is_now.st_ino, size, is_now.st_mtime_ns // 10 ** 9,
                         is_now.st_mtime_ns % 10 ** 9)
        struct.pack_into("<I", head, 0, crc32c(head[4:]))
        f.seek(0)
        f.write(head)


# ---- samples, and what a start makes of them ----

def number_of(header, name):
    with open(os.path.join(TOP, header)) as f:
        return int(re.search(r"#define %s (\d+)u" % name, f.read()).group(1))


MEMORY_NOW = os.path.join(SAMPLES, "memory-%d.xz" % number_of("restart/restart.h", "RESTART_MEMORY_FORMAT"))
BOTH_NOW = MEMORY_NOW.replace("memory-", "both-")
CHECKPOINT_NOW = os.path.join(SAMPLES, "checkpoint-%d.xz" % number_of("base/checkpoint.h", "CHECKPOINT_FORMAT"))


def make():
    os.makedirs(SAMPLES, exist_ok=True)
    for sample, flags, names in ((MEMORY_NOW, MEMORY_FLAGS + ["-e", "@DIR@/memory"], ["memory"]),
                                 (BOTH_NOW, BOTH_FLAGS, ["memory", "flash"]),
                                 (CHECKPOINT_NOW, FLASH_FLAGS, ["flash", "flash.checkpoint"])):
        if os.path.exists(sample):
            continue
        server = servers.Server(BINARY, flags, "formats")
        server.start()
        store(server)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait()
        pack([os.path.join(server.dir, name) for name in names], sample)
        server.stop()
        print("%s: %d bytes" % (sample, os.path.getsize(sample)))


def take_over(sample, flags, names, claim):
    server = servers.Server(BINARY, flags, "formats")
    paths = [os.path.join(server.dir, name) for name in names]
    unpack(sample, paths)
    claim(*paths)
    with server:
        found = present(server)
        name = os.path.basename(sample)
        said = [line for line in server.log_tail().splitlines() if "took over" in line or "starts empty" in line or
                "starting empty" in line]
        expect("%s: one line tells" % name, len(said) == 1, said)
        expect("%s: all is there" % name, found == 299, (found, said))
        print("%s: %d values; %s" % (name, found, said))


def memory_files():
    expect("this build's memory format has a sample (formats_test.py make)", os.path.exists(MEMORY_NOW))
    for sample in sorted(glob.glob(os.path.join(SAMPLES, "memory-*.xz"))):
        for more in ([], ["-m", "96", "-I", "2m"]):
            take_over(sample, MEMORY_FLAGS + more + ["-e", "@DIR@/memory"], ["memory"], claim_memory)


def memory_and_flash():
    expect("this build's memory format has a sample with flash (formats_test.py make)", os.path.exists(BOTH_NOW))
    for sample in sorted(glob.glob(os.path.join(SAMPLES, "both-*.xz"))):
        for more in ([], ["-m", "96", "-I", "512k"], SECOND):
            take_over(sample, BOTH_FLAGS + more, ["memory", "flash"], claim_memory)


def checkpoints():
    expect("this build's checkpoint format has a sample (formats_test.py make)", os.path.exists(CHECKPOINT_NOW))
    for sample in sorted(glob.glob(os.path.join(SAMPLES, "checkpoint-*.xz"))):
        for more in ([], ["-m", "512", "-I", "512k"], SECOND):
            take_over(sample, FLASH_FLAGS + more, ["flash", "flash.checkpoint"], claim_checkpoint)


if sys.argv[1:] == ["make"]:
    make()
else:
    sys.exit(servers.run_scenarios((memory_files, memory_and_flash, checkpoints)))
