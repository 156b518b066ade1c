"""The benchmark: the module, the recipe that it replaces and httpd's own static files, side by side in one run.

Rounds are interleaved: within a group of cells that are compared, the order is random, and ratios are paired within
a round. Counts (bytes, switches, system calls, instructions) follow, then cold objects and a store of many entries. `run`
prepares all that this needs.
"""
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import cold
import content
import goals
import many
import measure
import servers

QUICK = os.environ.get("QUICK") == "1"
ROUNDS = 5 if QUICK else 9
REPEATS = 5 if QUICK else 9
WRK_SECS = 1 if QUICK else 2
COLD_ROUNDS = 3 if QUICK else 7
# Few where an object is large: what is on its way when time is up has cost CPU and counts for nothing.
CLIENTS, RECIPE_CLIENTS = {"ism": 16, "3m": 16, "30m": 16, "8m": 4}, 2
COUNTED_CALLS = {"module": 5000, "recipe": 20, "tuned": 20}
TRACED_REQUESTS = 300
TRACED_RECIPE_REQUESTS = {"ism": 50, "3m": 10, "30m": 3}
INSTRUCTION_HITS = 200

# What is asked: path, and first and last byte.
WORKLOADS = {
    "ism": ("/x.ism", None),
    "3m": ("/idx3m.mp4", (0, 65535)),
    "30m": ("/idx30m.mp4", (15_000_000, 15_065_535)),
    "100k": ("/idx100k.mp4", (30_000, 95_535)),
    "1g": ("/idx1g.mp4", (750_000_000, 750_065_535)),
    "8m": ("/whole8m.mp4", None),
}
# Ways to the bytes inside httpd: server, port, mode of mod_subbench, whether the bytes are copied.
INSIDE = {
    "module": ("module", "INSIDE", "uri", True),
    "recipe": ("recipe", "FRONT", "uri", True),
    "tuned": ("tuned", "FRONT", "uri", True),
    "mmap": ("static", "MMAP", "mmap", True),
    "raw": ("static", "MMAP", "raw", True),
    "lookup": ("module", "WITHOUT", "none", False),
    "module, not copied": ("module", "INSIDE", "uri", False),
    "mmap, same lookup, not copied": ("module", "WITHOUT", "mmap", False),
}
# The ways for which cost is compared over lengths of the object.
FLAT, FLAT_WORKLOADS = ("module", "mmap"), ("100k", "1g")
# Ways for a client from outside: server, port.
OUTSIDE = {
    "module": ("module", "OUTSIDE"),
    "sendfile": ("static", "SENDFILE"),
    "mmap": ("static", "MMAP"),
    "recipe": ("recipe", "FRONT"),
    "tuned": ("tuned", "FRONT"),
}
RECIPES = ("recipe", "tuned")


def say(*words):
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


class Bench:
    def __init__(self, work, module):
        self.work, self.content = work, os.path.join(work, "content")
        self.servers = servers.make_all(work, self.content, module)
        self.expected, self.ns, self.rows = {}, {}, []
        self.cold = cold.Cold(work, self.content, module)
        self.many = many.Many(work, self.content, module, self.servers["storage"])

    def run(self):
        content.make(self.content)
        about = environment()
        for server in self.servers.values():
            server.start()
        say("fills and checks each way to each object")
        self.warm()
        asked = self.storage_requests()
        self.rounds()
        results = {"environment": about, "rows": self.rows}
        say("counts bytes, switches and system calls")
        results["counts"], results["system_calls"] = self.count(), self.trace()
        results["storage_requests"] = self.storage_requests() - asked
        say("counts instructions")
        self.servers["module"].stop()
        results["instructions"] = self.profile()
        for name in ("recipe", "tuned", "static"):
            self.servers[name].stop()
        results["cold"] = self.cold.run(COLD_ROUNDS, say)
        self.cold.stop()
        results["many"] = self.many.run(ROUNDS, REPEATS, say)
        return results

    # Preparation

    def warm(self):
        """Fills the caches and checks the bytes of each way."""
        for way, (server, port) in OUTSIDE.items():
            for workload, (path, wanted) in WORKLOADS.items():
                if way == "module" or workload not in FLAT_WORKLOADS:
                    self.warm_outside(way, self.servers[server].ports[port], path, wanted)
        for way in INSIDE:
            for workload in self.inside_workloads(way):
                self.warm_inside(way, workload)

    def warm_outside(self, way, port, path, wanted):
        for _ in range(2):
            measure.get(port, path)
        self.check(way, path, None, *measure.get(port, path))
        if wanted:
            self.check(way, path, wanted, *measure.get(port, path, wanted))

    def check(self, way, path, wanted, status, fields, length, md5):
        first_last = wanted if status == 206 else None
        if status not in (200, 206) or md5 != self.md5(path, first_last):
            raise SystemExit(f"bench: {way} {path} {wanted}: wrong answer: {status}, {length} bytes")
        if way == "module" and "; hit" not in fields.get("Cache-Status", ""):
            raise SystemExit(f"bench: {path} is no hit: {fields.items()}")

    def warm_inside(self, way, workload):
        path, wanted = WORKLOADS[workload]
        server, port, mode, copied = INSIDE[way]
        port = self.servers[server].ports[port]
        for _ in range(8):
            answer = measure.call(port, mode, path, wanted)
            if way == "module" and "; hit" not in answer["cache_status"]:
                raise SystemExit(f"bench: the sub-request for {path} is no hit: {answer}")
            if mode != "none" and answer["md5"] != self.md5(path, wanted):
                raise SystemExit(f"bench: {way} {path}: wrong bytes: {answer}")
        self.ns[way, workload] = measure.call(port, mode, path, wanted, 3, copied)["ns"]

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

    def storage_requests(self):
        with open(os.path.join(self.servers["storage"].folder, "access.log"), "rb") as log:
            return sum(1 for _ in log)

    # Rounds

    @staticmethod
    def inside_workloads(way):
        return ("ism", "3m", "30m") + (FLAT_WORKLOADS if way in FLAT else ())

    def groups(self):
        """Cells that are compared with one another: kind, way, workload."""
        for workload in ("ism", "3m", "30m"):
            yield [("inside", way, workload) for way in INSIDE]
        yield [("inside", way, workload) for way in FLAT for workload in FLAT_WORKLOADS]
        for workload in ("ism", "3m", "30m", "8m"):
            yield [("outside", way, workload) for way in OUTSIDE]

    def rounds(self):
        for number in range(ROUNDS):
            say(f"round {number + 1} of {ROUNDS}")
            groups = list(self.groups())
            random.shuffle(groups)
            for cells in groups:
                random.shuffle(cells)
                for kind, way, workload in cells:
                    values = self.inside(way, workload) if kind == "inside" else self.outside(way, workload)
                    self.rows.append({"round": number, "kind": kind, "way": way, "workload": workload, **values})

    def inside(self, way, workload):
        server, port, mode, copied = INSIDE[way]
        server = self.servers[server]
        calls = measure.calls_for(self.ns[way, workload])
        repeats = 3 if way in RECIPES else REPEATS
        return measure.inside(server, server.ports[port], mode, *WORKLOADS[workload], calls, copied, repeats)

    def outside(self, way, workload):
        server, port = OUTSIDE[way]
        server = self.servers[server]
        clients, secs = (RECIPE_CLIENTS, 1) if way in RECIPES else (CLIENTS[workload], WRK_SECS)
        return measure.outside(server, server.ports[port], *WORKLOADS[workload], clients, secs)

    # Counts

    def count(self):
        found = []
        for way, calls in COUNTED_CALLS.items():
            server, port, _, _ = INSIDE[way]
            server = self.servers[server]
            for workload in ("ism", "3m", "30m"):
                values = measure.counts(server, server.ports[port], *WORKLOADS[workload], calls)
                found.append({"way": way, "workload": workload, **values})
        return found

    def trace(self):
        found = []
        store = os.path.join(self.servers["module"].folder, "store")
        out = os.path.join(self.work, "strace.out")
        for way, (server, port) in OUTSIDE.items():
            server = self.servers[server]
            for workload in ("ism", "3m", "30m"):
                requests = TRACED_RECIPE_REQUESTS[workload] if way in RECIPES else TRACED_REQUESTS
                values = measure.system_calls(server, server.ports[port], *WORKLOADS[workload], requests, store, out)
                found.append({"way": way, "workload": workload, **values})
        return found

    def profile(self):
        server = self.servers["module"]
        return [
            {"workload": workload, **measure.instructions(server, "INSIDE", *WORKLOADS[workload], INSTRUCTION_HITS)}
            for workload in (("3m",) if QUICK else ("ism", "3m"))
        ]

    def stop(self):
        self.many.stop()
        self.cold.stop()
        for server in self.servers.values():
            server.stop()
            server.remove()


def environment():
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "unknown CPU")
    version = subprocess.check_output([servers.HTTPD, "-v"], text=True).splitlines()[0]
    return {
        "cpus": os.cpu_count(), "cpu": model, "kernel": os.uname().release, "httpd": version.split(": ")[1],
        "load": os.getloadavg()[0], "rounds": ROUNDS, "cold_rounds": COLD_ROUNDS,
        "own_network": os.environ.get("BENCH_OWN_NETWORK") == "1",
    }


def main():
    work, module = sys.argv[1:3]
    if os.environ.get("BENCH_OWN_NETWORK") == "1":
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started this in the background
    bench = Bench(work, module)
    try:
        results = bench.run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        bench.stop()
    results["goals"] = goals.judge(results)
    with open(os.path.join(work, "results.json"), "w") as out:
        json.dump(results, out, indent=1)
    print(goals.report(results))
    if results["storage_requests"]:
        sys.exit(f"bench: storage was asked {results['storage_requests']} times while hits were measured")


if __name__ == "__main__":
    main()
