"""Cold objects: what clients wait for who ask at one instant, and what leaves storage for them.

Storage is `slow_storage`: each answer begins so many ms after its request, and where it is said so each connection brings 10 MB/s.
Every measurement takes an object that no cache has seen. Each body is held against the file.
"""
import collections
import os
import random
import subprocess
import time

import content
import peers
import servers
import ways
from measure import burst

LATENCY_MS = 20
LATENCIES_MS = (0, LATENCY_MS)
RANGE_LEN = 65_536
MIDDLE = 15_000_000
CLIENTS, CROWD = 64, 200
FIRST_REQUESTS = 20
LEN = content.INDEXES["idx30m.mp4"]

Case = collections.namedtuple("Case", "file clients span mb_per_sec", defaults=(None, 0))

# What is asked; a span is the first byte of the first client's range, its length, and how far the next client's is from it.
CASES = {
    "ism": Case("x.ism", 1),
    "range": Case("idx30m.mp4", CLIENTS, (MIDDLE, RANGE_LEN, 0)),
    "ranges": Case("idx30m.mp4", CLIENTS, (0, RANGE_LEN, LEN // CLIENTS)),
    "crowd": Case("idx30m.mp4", CROWD),
    "fill 1m": Case("whole1m.mp4", 1),
    "fill 30m": Case("idx30m.mp4", 1),
    "fill 300m": Case("idx300m.mp4", 1),
    "whole": Case("idx30m.mp4", 1, None, 10),
}
NAMES = {
    "ism": "`.ism`, 1 client",
    "range": "64 clients, the same 64 kB of 30 MB",
    "ranges": "64 clients, 64 times 64 kB of 30 MB",
    "crowd": "30 MB whole, 200 clients",
    "fill 1m": "1 MiB, 1 client",
    "fill 30m": "30 MB, 1 client",
    "fill 300m": "300 MB, 1 client",
    "whole": "30 MB at 10 MB/s a connection, 1 client",
}
STAMPEDES = ("range", "ranges", "crowd")
# One client asks storage itself: what there is to wait for in any case.
DIRECT = "storage"
# Server and port of each way.
WAYS = {
    "module": ("module", "OUTSIDE"), "recipe": ("recipe", "CACHE"), "tuned": ("tuned", "CACHE"), "nginx": ("nginx", "CACHE"),
    "nginx slice": ("nginx", "SLICE"), "Varnish": ("varnish", "CLIENTS"), DIRECT: None,
}
# In a quick run: what goals are set for, the rest is left out. Recipes fetch an object once for each client, which takes long.
QUICK_CASES = {0: ("range",), LATENCY_MS: ("ism", "range", "ranges", "crowd", "fill 1m", "whole")}
QUICK_RECIPE_CASES = ("ism", "fill 1m")


def cases(latency_ms):
    """The cases for a storage so far away; the rate of a connection matters only where it is."""
    if ways.QUICK:
        return QUICK_CASES[latency_ms]
    return [case for case in CASES if case != "whole" or latency_ms]


def takes_part(way, case, latency_ms, number):
    """Whether a way is measured in a round: the recipes once, and a crowd's many copies of theirs only for one latency."""
    if way not in ways.RECIPES:
        return True
    if ways.QUICK and case not in QUICK_RECIPE_CASES:
        return False
    return number == 0 and (case != "crowd" or latency_ms > 0)


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
        httpd = {**shared, "CHILDREN": 4, "THREADS": 64}
        recipe = ["FRONT", "CACHE"]
        self.servers = {
            "module": servers.Server(
                work, "cold", "module", ["OUTSIDE", "INSIDE", "WITHOUT"], {**httpd, "MODULE": module}
            ),
            "recipe": servers.Server(work, "cold-recipe", "recipe", recipe, httpd, ["cache"]),
            "tuned": servers.Server(work, "cold-tuned", "recipe", recipe, {**httpd, "TUNED": ""}, ["cache", "lock"]),
            "nginx": peers.Nginx(work, "cold-nginx", shared),
            "varnish": peers.Varnish(work, "cold-varnish", shared),
        }
        self.asked = 0

    def run(self, rounds, say):
        """Rows of so many rounds. Each latency begins with empty caches, or what they hold would be too much."""
        self.storage.start()
        rows = []
        for number in range(rounds):
            for latency_ms in random.sample(LATENCIES_MS, len(LATENCIES_MS)):
                say(f"cold objects, storage {latency_ms} ms away, round {number + 1} of {rounds}")
                self.start()
                rows += self.round(number, latency_ms)
        self.stop()
        return rows

    def start(self):
        """Starts all servers anew, and has each of their processes answer, so that no first request is measured."""
        for server in self.servers.values():
            server.stop()
            server.start()
        for _ in range(FIRST_REQUESTS):
            for way in WAYS:
                self.ask(way, CASES["ism"], 0)
        self.storage.settle()

    def round(self, number, latency_ms):
        names, rows = cases(latency_ms), []
        for name in random.sample(names, len(names)):
            for way in random.sample(list(WAYS), len(WAYS)):
                if takes_part(way, name, latency_ms, number):
                    row = {"round": number, "way": way, "case": name, "latency_ms": latency_ms}
                    rows.append({**row, **self.measure(way, CASES[name], latency_ms)})
        return rows

    def measure(self, way, case, latency_ms):
        path, found = self.ask(way, case, latency_ms)
        self.storage.settle()
        requests, length = self.storage.served(path)
        return {**found, "requests": requests, "bytes": length}

    def ask(self, way, case, latency_ms):
        """Asks for an object that nobody has asked for: its path, and what clients saw."""
        self.asked += 1
        path = f"/{latency_ms}/{case.mb_per_sec}/{self.asked}/{case.file}"
        port, clients = self.storage.port, 1
        if way != DIRECT:
            server, port = WAYS[way]
            port, clients = self.servers[server].ports[port], case.clients
        return path, burst(self.work, port, path, os.path.join(self.content, case.file), clients, case.span)

    def stop(self):
        for server in self.servers.values():
            server.stop()
            server.remove()
        self.storage.stop()
