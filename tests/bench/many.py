"""What a hit costs whatever the number of entries, and what a start reads of them.

Servers over stores of several numbers of entries, that `make_store` has filled, on a tmpfs where there is one with room. Two of
them, over few and over many, are compared here, and all with other caches in growth.py.
"""
import os
import pwd
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time

import measure
import servers
import ways

COUNTS = [10, 10_000] if ways.QUICK else [10, 1000, 100_000]
FEW, MANY, MOST = COUNTS[0], COUNTS[-1], 1_000_000
ROOM_FOR_MOST = 10_000_000_000
TMPFS = "/dev/shm"
HOT = 10
SPLIT = 4
# Entries that are asked for besides the hot ones, so that each child holds as many as it can.
OTHERS = 6000
BYTES_AN_ENTRY = 8192
MARGIN = 1 << 30
COUNTED_AT = 144  # docs/store-format.md, "The control block"


class Many:
    """The two servers, and what was found out."""

    def __init__(self, work, folder, module, storage):
        self.content, self.make_store = folder, os.path.join(work, "make_store")
        self.storage = storage.ports["STORAGE"]
        self.counts = counts()
        self.folder = tempfile.mkdtemp(prefix="usc-bench-", dir=roomy(work, sum(self.counts)))
        os.chmod(self.folder, 0o755)
        shared = {"CONTENT": folder, "SUBBENCH": os.path.join(work, "mod_subbench.so"), "MODULE": module}
        shared["STORAGE"] = self.storage
        ports = ["OUTSIDE", "INSIDE", "WITHOUT"]
        self.servers = {
            count: servers.Server(self.folder, f"module-{count}", "module", ports, shared, ["store"]) for count in self.counts
        }

    def run(self, rounds, repeats, say):
        """All there is to find out, as a row."""
        say("makes stores")
        found = {"entries": MANY, "few_entries": FEW, **self.fill()}
        say("starts over many entries")
        found |= self.start_up() | self.lose_control()
        self.servers[FEW].start(keep=True)
        say("holds hits over many entries against those over few")
        self.warm()
        # Short rounds, close together: what else runs falls on both sides.
        found["rounds"] = [self.round(number, repeats) for number in range(rounds * SPLIT)]
        return found

    def fill(self):
        """Makes the stores: how long that of many took, and what an entry of it takes."""
        made_secs = {}
        shutil.copy(self.make_store, self.folder)
        user = pwd.getpwnam(servers.run_user())
        options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        for count in self.counts:
            begun = time.monotonic()
            self.servers[count].make_folders()
            command = [os.path.join(self.folder, "make_store"), self.path("store", count)]
            command += [f"http://127.0.0.1:{self.storage}/many", str(count), os.path.join(self.content, "x.ism")]
            subprocess.run(command, check=True, cwd=self.folder, **options)
            made_secs[count] = time.monotonic() - begun
        walk = os.walk(self.path("store/v1/entries"))
        taken = [os.lstat(os.path.join(folder, name)) for folder, _, names in walk for name in names]
        return {
            "made_secs": made_secs[MANY],
            "files_an_entry": len(taken) / MANY,
            "bytes_an_entry": sum(file.st_blocks * 512 for file in taken) / MANY,
        }

    def path(self, below, count=MANY):
        return os.path.join(self.servers[count].folder, below)

    def start_up(self):
        """What httpd opens of the entries, by strace, until one hit and two ticks of the leader are over."""
        server, out = self.servers[MANY], os.path.join(self.folder, "strace.out")
        strace = ["strace", "-D", "-f", "-qq", "-y", "-e", "trace=openat,getdents64", "-o", out]
        server.start("-DFOREGROUND", prefix=strace, keep=True)
        found = {"first_hit_ms": self.hit(0)}
        time.sleep(2.5)
        server.stop()
        entries = re.escape(self.path("store/v1/entries"))
        with open(out, errors="replace") as lines:
            text = lines.read()
        found["opened"] = len(re.findall(rf"openat\(\d+<{entries}[/>]", text))
        found["listed"] = len(re.findall(rf"getdents64\(\d+<{entries}", text))
        if "store/v1" not in text:
            raise SystemExit(f"bench: strace saw no start; see {out}")
        return found

    def lose_control(self):
        """Starts httpd after the control block was deleted; hits go on while the first fill has the entries counted."""
        os.unlink(self.path("store/v1/control"))
        self.servers[MANY].start(keep=True)
        first = self.hit(0)
        cold, filled = [], threading.Event()

        def fill():
            begun = time.monotonic()
            cold.append(measure.get(self.servers[MANY].ports["OUTSIDE"], "/x.ism"))
            cold.append((time.monotonic() - begun) * 1e3)
            filled.set()

        threading.Thread(target=fill).start()
        hits = []
        while not filled.is_set():
            hits.append(self.hit(len(hits) % HOT))
        with open(self.path("store/v1/control"), "rb") as control:
            counted_at, = struct.unpack_from("=Q", control.read(COUNTED_AT + 8), COUNTED_AT)
        status, fields, *_ = cold[0]
        if status != 200 or "; stored" not in fields.get("Cache-Status", "") or not counted_at:
            raise SystemExit(f"bench: no fill after the control block was lost: {status} {fields.items()}")
        return {
            "lost_first_hit_ms": first, "counting_ms": cold[1],
            "counting_hits": len(hits), "counting_hit_ms": max(hits),
        }

    def hit(self, number):
        """Asks for an entry from outside: how long it took, in ms."""
        begun = time.monotonic()
        status, fields, *_ = measure.get(self.servers[MANY].ports["OUTSIDE"], f"/many/{number}.ism")
        if status != 200 or "; hit" not in fields.get("Cache-Status", ""):
            raise SystemExit(f"bench: entry {number} is no hit: {status} {fields.items()}")
        return (time.monotonic() - begun) * 1e3

    def warm(self):
        """Has each child hold the hot entries, and of the many as many others as it can."""
        step = MANY // OTHERS
        for number in range(OTHERS):
            # Sub-requests, each on a connection of its own, come to all children.
            measure.call(self.servers[MANY].ports["INSIDE"], "uri", f"/many/{number * step}.ism")
        for count in (FEW, MANY):
            for number in range(HOT * 8):
                answer = measure.call(self.servers[count].ports["INSIDE"], "uri", f"/many/{number % HOT}.ism")
                if "; hit" not in answer["cache_status"]:
                    raise SystemExit(f"bench: a made entry is no hit: {answer}")

    def round(self, number, repeats):
        """The same hot key over both stores."""
        path, found = f"/many/{number % HOT}.ism", {}
        for name, count in random.sample([("few", FEW), ("many", MANY)], 2):
            server = self.servers[count]
            found[name] = measure.inside(
                server, server.ports["INSIDE"], "uri", path, None, measure.CALLS_MAX, True, -(-repeats // SPLIT)
            )
        return found

    def stop(self):
        for server in self.servers.values():
            server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def counts():
    """The numbers of entries; the most only where a tmpfs has room, as on a disk each entry is synced, and not in a quick run."""
    if ways.QUICK:
        return COUNTS
    if os.path.isdir(TMPFS) and free(TMPFS) > ROOM_FOR_MOST + sum(COUNTS) * BYTES_AN_ENTRY:
        return [*COUNTS, MOST]
    print(f"bench: {TMPFS} has not {ROOM_FOR_MOST >> 20} MiB free: {MOST} entries are left out", file=sys.stderr)
    return COUNTS


def roomy(work, entries):
    """A tmpfs that the stores fit into, or the work folder: there each entry is synced to a disk."""
    needed = entries * BYTES_AN_ENTRY + MARGIN
    for folder in (TMPFS, work):
        if os.path.isdir(folder) and free(folder) > needed:
            return folder
    raise SystemExit(f"bench: neither {TMPFS} nor {work} has {needed >> 20} MiB free")


def free(folder):
    """Bytes that are free for more: on a tmpfs no more than there is memory for."""
    room = shutil.disk_usage(folder).free
    if folder != TMPFS:
        return room
    with open("/proc/meminfo") as lines:
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min(room, available)
