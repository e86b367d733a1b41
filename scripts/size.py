#!/usr/bin/env python3
"""How much RAM and flash a cache needs, and how long the flash will last.

size.py --objects 200m --value 2k --sets 5000 --device 1t --dwpd 1

Sizes take k, m, g, t (of 1024), counts and rates k, m, g (of 1000), shares a %. Prints how each number is
computed, and the options to start with; --json prints the numbers alone. The costs are README's ("Sizing");
t/live/size_test.py stores what it computes.
"""

import argparse
import json
import math
import sys

MIB = 1 << 20
RECORD_HEAD, GRANULE, TABLE_ENTRY = 40, 16, 16  # bytes: of a record, what it is rounded to, its entry in the table
INDEX_BYTES = 10           # of RAM for an object on flash, at most
PROGRAM_MB, REPLIES_MB, CONNECTION_KB = 8, 16, 1
SPARE_SHARE, SPARE_PAGES = 0.02, 6  # pages that are free, being filled (one a bucket), or being emptied
REWRITES = 1.1             # at most a tenth of an evicted page is written again
MAX_PAGES = 65535          # of all flash files
RATED_YEARS = 5            # the years that a drive's rating in writes a day covers


def number(units, base, least):
    def parse(text):
        power = units.find(text[-1:].lower()) + 1 if text else 0
        try:
            value = float(text[:-1] if power else text) * base ** power
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError("%r is not a number from %d on; it may end in %s"
                                             % (text, least, ", ".join(units)))
        return value
    return parse


count, rate, size = number("kmg", 1000, 1), number("kmg", 1000, 0), number("kmgt", 1024, 0)


def share(text):
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("%r is not a share: 0 to 1, or with %% 0%% to 100%%" % text)
    return value


def megabytes(text):
    if not text.isdecimal() or not 0 < int(text) <= 1024 or int(text) > 1 and int(text) % 2:
        raise argparse.ArgumentTypeError("%r is not a number of MB: 1 or an even number up to 1024" % text)
    return int(text)


def writes_a_day(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("%r is not a number above 0" % text)
    return value


def compute(o):
    """The numbers: bytes, unless their names say otherwise."""
    record = -(-(RECORD_HEAD + o.key + o.value) // GRANULE) * GRANULE + TABLE_ENTRY
    page, wbuf = o.page * MIB, o.wbuf * MIB
    if page % wbuf:
        sys.exit("size.py: --page %d is not a multiple of --wbuf %d" % (o.page, o.wbuf))
    in_buffer = (wbuf - 4096) // record  # a record lies in one write buffer
    if in_buffer < 1:
        sys.exit("size.py: a value of %d bytes needs a larger --wbuf" % o.value)
    pages = math.ceil(o.objects / (in_buffer * (page // wbuf)))
    pages = math.ceil(pages * (1 + SPARE_SHARE)) + SPARE_PAGES
    if pages > MAX_PAGES:
        sys.exit("size.py: that takes %d pages, and a server has %d at most: a larger --page, or several servers"
                 % (pages, MAX_PAGES))
    index = o.objects * INDEX_BYTES
    hot = o.hot * o.objects * (o.value + o.key + 64)
    memory_mb = max(64, math.ceil((index + hot) / MIB))
    buffers_mb = (8 + min(16, memory_mb // 32 // o.wbuf)) * o.wbuf
    total_mb = memory_mb + buffers_mb + PROGRAM_MB + REPLIES_MB + math.ceil(o.connections * CONNECTION_KB / 1024)
    daily = o.sets * 86400 * record * REWRITES * (1 - o.overwritten)
    flash = pages * page
    device = o.device or flash
    return {
        "record_bytes": int(record), "flash_bytes": int(flash), "index_bytes": int(index),
        "hot_bytes": int(hot), "memory_mb": memory_mb, "total_mb": total_mb, "page_mb": o.page, "wbuf_mb": o.wbuf,
        "written_bytes_per_day": int(daily), "device_writes_per_day": daily / device,
        "days_until_pages_go": flash / daily if daily else None,
        "years": min(99, RATED_YEARS * o.dwpd * device / daily) if daily else None,
    }


def human(n):
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if n < 1024 or unit == "TB":
            return "%.*f %s" % (0 if unit == "bytes" else 1, n, unit)
        n /= 1024


def tell(o, r):
    print("An object on flash: %d bytes, a record of key, value and %d bytes, rounded, and its table entry"
          % (r["record_bytes"], RECORD_HEAD))
    print("Flash: %s for %s objects; %d pages of %d MB, of which some are free or being filled"
          % (human(r["flash_bytes"]), format(math.ceil(o.objects), ","), r["flash_bytes"] // (r["page_mb"] * MIB), r["page_mb"]))
    print("RAM: -m %d (index %s, hot items %s); the process %d MB in all with buffers and %d connections"
          % (r["memory_mb"], human(r["index_bytes"]), human(r["hot_bytes"]), r["total_mb"], o.connections))
    print("A container's or systemd's limit: %d MB" % math.ceil(r["total_mb"] * 1.1))
    if r["years"] is not None:
        print("Writes: %s a day, %.2f times the device; rated %g a day for %d years, it lasts %s years"
              % (human(r["written_bytes_per_day"]), r["device_writes_per_day"], o.dwpd, RATED_YEARS,
                 "more than 99" if r["years"] >= 99 else "%.1f" % r["years"]))
        hours = r["days_until_pages_go"] * 24
        print("At that rate flash is written through once in %s: objects that are not hit within that time are evicted"
              % ("%.1f days" % (hours / 24) if hours >= 48 else "%.1f hours" % hours))
    print("Options: -m %d -o ext_path=FILE:%dm,ext_page_size=%d,ext_wbuf_size=%d%s"
          % (r["memory_mb"], r["flash_bytes"] // MIB, r["page_mb"], r["wbuf_mb"],
             ",ext_daily_writes=%dg" % max(1, o.dwpd * o.device / 2 ** 30) if o.device else ""))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--objects", type=count, required=True, help="how many the cache should hold")
    p.add_argument("--value", type=size, required=True, help="average size of a value")
    p.add_argument("--key", type=size, default=40, help="average size of a key (40)")
    p.add_argument("--hot", type=share, default=0.02, help="share of the objects that should also be in RAM (2%%)")
    p.add_argument("--connections", type=count, default=1024)
    p.add_argument("--sets", type=rate, default=0, help="sets a second, on average of a day")
    p.add_argument("--overwritten", type=share, default=0,
                   help="share of the sets that are overwritten or deleted while in RAM: never written to flash (0)")
    p.add_argument("--device", type=size, default=0, help="size of the device, if it is larger than the cache")
    p.add_argument("--dwpd", type=writes_a_day, default=1, help="full writes a day that the device is rated for (1)")
    p.add_argument("--page", type=megabytes, default=64, help="ext_page_size, MB (64)")
    p.add_argument("--wbuf", type=megabytes, default=2, help="ext_wbuf_size, MB (2)")
    p.add_argument("--json", action="store_true")
    options = p.parse_args()
    result = compute(options)
    if options.json:
        print(json.dumps(result))
    else:
        tell(options, result)


if __name__ == "__main__":
    main()
