"""Warm objects: sub-requests and requests from outside in every way, in interleaved rounds, and what can be counted of them.

Within a group of cells that are compared, the order is random, and so is that of the groups.
"""
import hashlib
import os
import random

import measure
import peers
import ways

COUNTED_CALLS = {"module": 5000, "recipe": 20, "tuned": 20, "nginx": 200, "nginx slice": 200, "Varnish": 200}
TRACED_WAYS = ("module", "sendfile") if ways.QUICK else ("module", "sendfile", "mmap", "tuned", "recipe")
TRACED_REQUESTS = 300
TRACED_RECIPE_REQUESTS = {"ism": 50, "3m": 10, "30m": 3}
INSTRUCTION_HITS = 200
WRK_SECS = 1


class Hits:
    """The servers by name, what their bytes are to be, and the rows."""

    def __init__(self, work, content, servers):
        self.work, self.content, self.servers = work, content, servers
        self.expected, self.ns, self.rows, self.filled = {}, {}, [], set()

    # Preparation

    def warm(self):
        """Fills the caches and checks the bytes of each way."""
        for way in ways.OUTSIDE:
            for workload in ways.outside_workloads(way):
                self.warm_outside(way, workload)
        for way in ways.INSIDE:
            sizes = ways.SIZES if way in ways.SIZED_WAYS else ()
            for workload in dict.fromkeys((*ways.inside_workloads(way), *sizes)):
                self.warm_inside(way, workload)

    def warm_outside(self, way, workload):
        server, port = ways.OUTSIDE[way]
        path, wanted = ways.WORKLOADS[workload]
        self.fill(way, path)
        self.check(way, path, wanted, *measure.get(self.servers[server].ports[port], path, wanted))

    def fill(self, way, path):
        """Has the way's cache hold the whole of an object."""
        if way not in ways.OUTSIDE or (way, path) in self.filled:
            return
        server, port = ways.OUTSIDE[way]
        for wanted in (None, (0, 0), (0, 0)):
            measure.get(self.servers[server].ports[port], path, wanted)
        self.filled.add((way, path))

    def check(self, way, path, wanted, status, fields, length, md5):
        first_last = wanted if status == 206 else None
        if status not in (200, 206) or md5 != self.md5(path, first_last):
            raise SystemExit(f"bench: {way} {path} {wanted}: wrong answer: {status}, {length} bytes")
        if way == "module" and "; hit" not in fields.get("Cache-Status", ""):
            raise SystemExit(f"bench: {path} is no hit: {fields.items()}")

    def warm_inside(self, way, workload):
        path, wanted = ways.WORKLOADS[workload]
        port, mode, copied = self.inside_of(way)[1:]
        self.fill(way, path)
        for _ in range(8):
            answer = measure.call(port, mode, path, wanted)
            if way == "module" and "; hit" not in answer["cache_status"]:
                raise SystemExit(f"bench: the sub-request for {path} is no hit: {answer}")
            if mode != "none" and answer["md5"] != self.md5(path, wanted):
                raise SystemExit(f"bench: {way} {path}: wrong bytes: {answer}")
        self.ns[way, workload] = measure.call(port, mode, path, wanted, 3, copied)["ns"]

    def inside_of(self, way):
        """The servers at work, the port, mode, and whether bytes are copied."""
        way = ways.INSIDE[way]
        together = peers.Together(*(self.servers[name] for name in way.servers))
        return together, together.ports[way.port], way.mode, way.copied

    def md5(self, path, wanted):
        """MD5 of an object or of a part of it, from its file."""
        if (path, wanted) not in self.expected:
            with open(self.content + path, "rb") as f:
                f.seek(wanted[0] if wanted else 0)
                left = wanted[1] - wanted[0] + 1 if wanted else os.path.getsize(f.name)
                digest = hashlib.md5()
                while left:
                    part = f.read(min(left, 1 << 20))
                    digest.update(part)
                    left -= len(part)
            self.expected[path, wanted] = digest.hexdigest()
        return self.expected[path, wanted]

    # Rounds

    def groups(self, number):
        """Cells that are compared with one another: kind, way, workload, clients."""
        for workload in ways.SUB_REQUESTS:
            yield [("inside", way, workload, 1) for way in ways.INSIDE if workload in ways.inside_workloads(way)]
        yield [("size", way, workload, 1) for way in ways.SIZED_WAYS for workload in ways.SIZES]
        if number >= ways.OUTSIDE_ROUNDS:
            return
        for workload in ways.MAIN_REQUESTS:
            yield [
                ("outside", way, workload, clients)
                for way in ways.OUTSIDE if workload in ways.outside_workloads(way) for clients in ways.clients(way, workload)
            ]

    def rounds(self, say):
        for number in range(ways.ROUNDS):
            say(f"hits, round {number + 1} of {ways.ROUNDS}")
            groups = list(self.groups(number))
            random.shuffle(groups)
            for cells in groups:
                random.shuffle(cells)
                for kind, way, workload, clients in cells:
                    values = self.outside(way, workload, clients) if kind == "outside" else self.inside(way, workload)
                    row = {"round": number, "kind": kind, "way": way, "workload": workload, "clients": clients}
                    self.rows.append({**row, **values})
        return self.rows

    def inside(self, way, workload):
        servers, port, mode, copied = self.inside_of(way)
        calls = measure.calls_for(self.ns[way, workload])
        repeats = 3 if way in ways.PEERS else ways.REPEATS
        return measure.inside(servers, port, mode, *ways.WORKLOADS[workload], calls, copied, repeats)

    def outside(self, way, workload, clients):
        server, port = ways.OUTSIDE[way]
        server = self.servers[server]
        return measure.outside(server, server.ports[port], *ways.WORKLOADS[workload], clients, WRK_SECS)

    # Counts

    def count(self):
        found = []
        for way, calls in COUNTED_CALLS.items():
            servers, port, _, _ = self.inside_of(way)
            for workload in ways.DETAILED:
                values = measure.counts(servers, port, *ways.WORKLOADS[workload], calls)
                found.append({"way": way, "workload": workload, **values})
        return found

    def trace(self):
        found = []
        store = os.path.join(self.servers["module"].folder, "store")
        out = os.path.join(self.work, "strace.out")
        for way in TRACED_WAYS:
            server, port = ways.OUTSIDE[way]
            server = self.servers[server]
            for workload in ways.DETAILED:
                requests = TRACED_RECIPE_REQUESTS[workload] if way in ways.RECIPES else TRACED_REQUESTS
                values = measure.system_calls(server, server.ports[port], *ways.WORKLOADS[workload], requests, store, out)
                found.append({"way": way, "workload": workload, **values})
        return found

    def profile(self):
        """Instructions of the module's hits; its server must be down."""
        server = self.servers["module"]
        return [
            {"workload": workload, **measure.instructions(server, "INSIDE", *ways.WORKLOADS[workload], INSTRUCTION_HITS)}
            for workload in (("3m",) if ways.QUICK else ("ism", "3m"))
        ]
