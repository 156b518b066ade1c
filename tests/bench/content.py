"""The content of the benchmark: a server manifest and index MP4s of several sizes.

Bytes are pseudo-random from a fixed seed and times are fixed, so every run serves the same objects.
"""
import hashlib
import os
import random

MTIME = 1_700_000_000  # long past: httpd's ETag is strong
BLOCK = 4_000_000
INDEXES = {
    "whole4k.mp4": 4 << 10,
    "whole64k.mp4": 64 << 10,
    "whole1m.mp4": 1 << 20,
    "idx100k.mp4": 100_000,
    "idx3m.mp4": 3_000_000,
    "idx30m.mp4": 30_000_000,
    "idx300m.mp4": 300_000_000,
    "idx1g.mp4": 1_000_000_000,
    "whole8m.mp4": 8 << 20,
}
MANIFEST_LEN = 2000


def make(folder, names=tuple(INDEXES)):
    """Makes what is missing in `folder` of the manifest and the indexes of these names."""
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o755)
    publish(os.path.join(folder, "x.ism"), MANIFEST_LEN, [manifest()])
    for name in names:
        publish(os.path.join(folder, name), INDEXES[name], blocks(name, INDEXES[name]))


def publish(path, length, parts):
    if os.path.exists(path) and os.path.getsize(path) == length:
        return
    with open(path + ".part", "wb") as out:
        for part in parts:
            out.write(part)
    os.utime(path + ".part", (MTIME, MTIME))
    os.rename(path + ".part", path)


def blocks(name, length):
    """Blocks that differ from each other by the number they begin with."""
    seed = hashlib.sha256(name.encode()).digest()
    block = random.Random(seed).randbytes(min(length, BLOCK))
    for number in range(-(-length // BLOCK)):
        part = number.to_bytes(8, "big") + block[8:]
        yield part[: min(BLOCK, length - number * BLOCK)]


def manifest():
    head = (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<smil xmlns="http://www.w3.org/2001/SMIL20/Language">\n'
        ' <head><meta name="formats" content="mp4"/></head>\n <body><switch>\n'
    )
    track = (
        '  <video src="idx3m.mp4" systemBitrate="{}">'
        '<param name="trackID" value="{}" valuetype="data"/></video>\n'
    )
    tracks = "".join(track.format(400_000 + 300_000 * i, i + 1) for i in range(14))
    text = head + tracks + " </switch></body>\n</smil>\n"
    return text.encode().ljust(MANIFEST_LEN)
