"""Storage on a bad day: what clients wait for cold manifests while one request in ten fails, or one in a hundred begins 10 s late.

Each request is of an object that nobody has asked for. The ways take turns, each with an httpd of its own: what one has
learned of storage is no other's. BEFORE names a module to compare with, one without retries, say.
"""
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import cold
import content
import measure
import servers

ROUNDS, OBJECTS = (1, 100) if os.environ.get("QUICK") == "1" else (3, 600)
CLIENTS = 8
DAYS = {"fails one request in 10": "fail-10", "begins one answer in 100 10 s late": "stall-100"}
WAYS = {
    "mod_proxy alone": {},
    "module": {"ENABLED": ""},
    "module, Hedge on": {"ENABLED": "", "HEDGE": ""},
}


def run(work, module):
    folder = os.path.join(work, "content")
    content.make(folder, [])
    storage = cold.SlowStorage(work, folder)
    storage.start()
    shared = {"CONTENT": folder, "SUBBENCH": os.path.join(work, "mod_subbench.so"), "STORAGE": storage.port, "MODULE": module}
    ways = dict(WAYS)
    if os.environ.get("BEFORE"):
        ways["module before"] = {"ENABLED": "", "MODULE": os.path.realpath(os.environ["BEFORE"])}
    try:
        report(ways, rounds(work, shared, ways))
    finally:
        storage.stop()


def rounds(work, shared, ways):
    """Seconds and success of each request, by day and way."""
    with open(os.path.join(shared["CONTENT"], "x.ism"), "rb") as file:
        body = file.read()
    rows = {}
    for number in range(ROUNDS):
        for day, way in random.sample([(day, way) for day in DAYS for way in ways], len(DAYS) * len(ways)):
            server = servers.Server(work, "bad-day", "bad_days", ["CLIENTS"], {**shared, **ways[way]})
            try:
                server.start()
                rows.setdefault((day, way), []).extend(asked(server, f"{DAYS[day]}-{number}-{list(ways).index(way)}", body))
            finally:
                server.stop()
                server.remove()
    return rows


def asked(server, name, body):
    digest = hashlib.md5(body).hexdigest()

    def one(number):
        begun = time.monotonic()
        status, _, _, came = measure.get(server.ports["CLIENTS"], f"/{cold.LATENCY_MS}/0/{name}-{number}/x.ism")
        return time.monotonic() - begun, status == 200 and came == digest

    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(one, range(OBJECTS)))


def report(ways, rows):
    print("| storage | way | requests | failed | median, ms | 99th percentile, ms | 99.9th, ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for day in DAYS:
        for way in ways:
            took = sorted(seconds * 1e3 for seconds, _ in rows[day, way])
            failed = sum(not is_well for _, is_well in rows[day, way])
            at = [took[min(int(len(took) * share), len(took) - 1)] for share in (0.5, 0.99, 0.999)]
            print(f"| {day} | {way} | {len(took)} | {failed} | " + " | ".join(f"{value:.0f}" for value in at) + " |", flush=True)


if __name__ == "__main__":
    if os.environ.get("BENCH_OWN_NETWORK") == "1":
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run(*sys.argv[1:3])
