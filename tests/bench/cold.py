"""Cold objects: what clients wait for who ask at one instant, and what leaves storage for them.

Storage is `slow_storage`: each answer begins 20 ms after its request, and where it is said so each connection brings 10 MB/s.
Every measurement takes an object that no cache has seen. Each body is held against the file.
"""
import collections
import os
import random
import subprocess
import time

import content
import servers
from measure import burst

LATENCY_MS = 20
RANGE_LEN = 65_536
MIDDLE = 15_000_000
CLIENTS, CROWD = 64, 200
LEN = content.INDEXES["idx30m.mp4"]

Case = collections.namedtuple("Case", "file clients span mb_per_sec", defaults=(None, 0))

# What is asked; a span is the first byte of the first client's range, its length, and how far the next client's is from it.
CASES = {
    "ism": Case("x.ism", 1),
    "range": Case("idx30m.mp4", CLIENTS, (MIDDLE, RANGE_LEN, 0)),
    "ranges": Case("idx30m.mp4", CLIENTS, (0, RANGE_LEN, LEN // CLIENTS)),
    "whole": Case("idx30m.mp4", 1, None, 10),
    "crowd": Case("idx30m.mp4", CROWD),
}
# One client asks storage itself: what there is to wait for in any case.
DIRECT = "storage"
WAYS = {"module": "OUTSIDE", "recipe": "CACHE", DIRECT: None}


def length(case):
    """The length of the object that is asked."""
    return content.INDEXES.get(case.file, content.MANIFEST_LEN)


class SlowStorage:
    """The storage, and what it says of itself."""

    def __init__(self, work, folder):
        self.command, self.content, self.port = os.path.join(work, "slow_storage"), folder, servers.free_port()
        self.log = os.path.join(work, "slow_storage.log")
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            log.truncate(0)
            command = [self.command, str(self.port), self.content]
            self.process = subprocess.Popen(command, stdout=log, preexec_fn=servers.die_with_parent)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()

    def settle(self, quiet_secs=0.3, deadline_secs=120):
        """Waits until nothing is on its way and nothing more comes."""
        end, seen, since = time.monotonic() + deadline_secs, None, 0
        while True:
            with open(self.log) as log:
                text = log.read()
            is_idle = text.count("+ ") == text.count("- ")
            if not is_idle or text != seen:
                seen, since = text, time.monotonic()
            elif time.monotonic() - since > quiet_secs:
                return
            if time.monotonic() > end:
                raise SystemExit(f"bench: storage is still asked after {deadline_secs} s; see {self.log}")
            time.sleep(0.02)

    def served(self, path):
        """Requests for an object, and bytes of it that have left."""
        with open(self.log) as log:
            lines = [line.split() for line in log]
        lengths = [int(words[2]) for words in lines if words[0] == "-" and words[1] == path]
        return len(lengths), sum(lengths)


class Cold:
    """The servers of these measurements, and their rows."""

    def __init__(self, work, folder, module):
        self.content, self.work = folder, work
        self.storage = SlowStorage(work, folder)
        shared = {"CONTENT": folder, "SUBBENCH": os.path.join(work, "mod_subbench.so"), "STORAGE": self.storage.port}
        # Who waits keeps a worker busy.
        shared |= {"CHILDREN": 4, "THREADS": 64}
        self.servers = {
            "module": servers.Server(
                work, "cold", "module", ["OUTSIDE", "INSIDE", "WITHOUT"], {**shared, "MODULE": module}
            ),
            "recipe": servers.Server(work, "cold-recipe", "recipe", ["FRONT", "CACHE"], shared, ["cache"]),
        }
        self.asked = 0

    def run(self, rounds, say):
        """Rows of so many rounds; the recipe takes part in the first."""
        self.storage.start()
        for server in self.servers.values():
            server.start()
        rows = []
        for number in range(rounds):
            say(f"cold objects, round {number + 1} of {rounds}")
            for name in random.sample(list(CASES), len(CASES)):
                for way in random.sample(list(WAYS), len(WAYS)):
                    if way != "recipe" or number == 0:
                        rows.append({"round": number, "way": way, "case": name, **self.measure(way, CASES[name])})
        return rows

    def measure(self, way, case):
        self.asked += 1
        path = f"/{LATENCY_MS}/{case.mb_per_sec}/{self.asked}/{case.file}"
        port = self.servers[way].ports[WAYS[way]] if way != DIRECT else self.storage.port
        clients = case.clients if way != DIRECT else 1
        found = burst(self.work, port, path, os.path.join(self.content, case.file), clients, case.span)
        self.storage.settle()
        requests, length = self.storage.served(path)
        return {**found, "requests": requests, "bytes": length}

    def stop(self):
        for server in self.servers.values():
            server.stop()
            server.remove()
        self.storage.stop()
