"""The benchmark: the module, the recipe that it replaces, other caches and bounds side by side in one run.

Rounds are interleaved, and ratios are paired within a round: hits, counts of hits, cold objects, stores of many entries,
memory. `run` prepares all that this needs.
"""
import json
import os
import resource
import signal
import subprocess
import sys
import time

import cold
import compare
import content
import goals
import growth
import hits
import many
import measure
import page
import peers
import servers
import tables
import ways


FILES = 65_536


def say(*words):
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


class Bench:
    def __init__(self, work, module):
        self.content = os.path.join(work, "content")
        self.servers = servers.make_all(work, self.content, module)
        shared = {"CONTENT": self.content, "SUBBENCH": os.path.join(work, "mod_subbench.so")}
        self.servers |= peers.make(work, {**shared, **self.servers["storage"].ports})
        self.hits = hits.Hits(work, self.content, self.servers)
        self.cold = cold.Cold(work, self.content, module)
        self.many = many.Many(work, self.content, module, self.servers["storage"])
        self.growth = growth.Growth(work, self.content, self.many, self.servers["storage"])

    def run(self):
        content.make(self.content, ways.content_names(content.INDEXES))
        results = {"environment": environment(), "rows": self.hits.rows}
        for server in self.servers.values():
            server.start()
        results["memory"] = {"idle": self.memory()}
        say("fills and checks each way to each object")
        self.hits.warm()
        asked = self.servers["storage"].answered()
        self.hits.rounds(say)
        results["memory"]["hits"] = self.memory()
        say("counts bytes, switches and system calls")
        results["counts"], results["system_calls"] = self.hits.count(), self.hits.trace()
        results["storage_requests"] = self.servers["storage"].answered() - asked
        say("counts instructions")
        self.servers["module"].stop()
        results["instructions"] = self.hits.profile()
        for name, server in self.servers.items():
            if name != "storage":
                server.stop()
                server.remove()
        results["cold"] = self.cold.run(ways.COLD_ROUNDS, say)
        results["many"] = self.many.run(ways.ROUNDS, ways.REPEATS, say)
        results["growth"] = self.growth.run(say)
        return results

    def memory(self):
        return {name: measure.memory(server) for name, server in self.servers.items()}

    def stop(self):
        self.growth.stop()
        self.many.stop()
        self.cold.stop()
        for server in self.servers.values():
            server.stop()
            server.remove()


def raise_limit():
    """Lets each server hold as many files open as it wants to: connections, and files that it keeps at hand."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES if most == resource.RLIM_INFINITY else min(most, FILES), most))


def environment():
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "unknown CPU")
    version = subprocess.check_output([servers.HTTPD, "-v"], text=True).splitlines()[0]
    return {
        "cpus": os.cpu_count(), "cpu": model, "kernel": os.uname().release, "httpd": version.split(": ")[1],
        "peers": peers.versions(), "load": os.getloadavg()[0], "quick": ways.QUICK, "rounds": ways.ROUNDS,
        "outside_rounds": ways.OUTSIDE_ROUNDS, "cold_rounds": ways.COLD_ROUNDS,
        "own_network": os.environ.get("BENCH_OWN_NETWORK") == "1",
    }


def main():
    work, module = sys.argv[1:3]
    if os.environ.get("BENCH_OWN_NETWORK") == "1":
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started this in the background
    raise_limit()
    begun, bench = time.monotonic(), Bench(work, module)
    try:
        results = bench.run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        bench.stop()
    results["environment"]["secs"] = time.monotonic() - begun
    results["goals"], results["peers"] = goals.judge(results), compare.rows(results)
    with open(os.path.join(work, "results.json"), "w") as out:
        json.dump(results, out, indent=1)
    print(tables.report(results))
    page.write(results, os.path.join(work, "report.html"))
    if results["storage_requests"]:
        sys.exit(f"bench: storage was asked {results['storage_requests']} times while hits were measured")


if __name__ == "__main__":
    main()
