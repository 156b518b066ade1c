"""What passes through mod_proxy: CPU time of httpd for a GB of 8 MiB ranges, by the size of mod_proxy's buffer.

Ways: main requests; sub-requests with the module on, which keep their connection to storage, and with it off. Sizes take
turns in random order, and the least of the rounds counts: it holds least of what is not httpd's own. The storage is an httpd of its own, which is not counted.
"""
import os
import random
import signal
import subprocess
import sys

import content
import measure
import servers

ROUNDS = 1 if os.environ.get("QUICK") == "1" else 7
PATH, RANGE = "/idx30m.mp4", (1_000_000, 1_000_000 + (8 << 20) - 1)
SMALL = (1_000_000, 1_065_535)
CALLS, SMALL_CALLS = 24, 400
SIZES = [8192, 16384, 32768, 65536, 131072, 262144, 524288]


def make(work, shared, size):
    defines = {**shared, "IOBUF": size}
    if os.environ.get("READBUF"):
        defines["READBUF"] = size
    return servers.Server(work, f"passing-{size}", "passing", ["ON", "OFF"], defines)


def subs(server, port, span, calls):
    """CPU seconds for a GB, and wall µs of a sub-request."""
    cpu = server.cpu_ns()
    answer = measure.call(server.ports[port], "uri", PATH, span, calls, touch=False)
    return (server.cpu_ns() - cpu) / calls / (span[1] - span[0] + 1), answer["ns"] / 1e3


def mains(server):
    cpu = server.cpu_ns()
    for _ in range(CALLS):
        _, _, length, _ = measure.get(server.ports["OFF"], PATH, RANGE)
        assert length == RANGE[1] - RANGE[0] + 1
    return (server.cpu_ns() - cpu) / CALLS / length


def run(work, module):
    folder = os.path.join(work, "content")
    content.make(folder, ["idx30m.mp4"])
    shared = {"CONTENT": folder, "SUBBENCH": os.path.join(work, "mod_subbench.so"), "MODULE": module}
    storage = servers.Server(work, "passing-storage", "storage", ["STORAGE"], shared)
    made = {size: make(work, {**shared, **storage.ports}, size) for size in SIZES}
    try:
        for server in [storage, *made.values()]:
            server.start()
        report(rounds(made))
    finally:
        for server in [storage, *made.values()]:
            server.stop()
            server.remove()


def rounds(made):
    rows = {}
    for number in range(ROUNDS + 1):  # The first warms up.
        for size in random.sample(SIZES, len(SIZES)):
            server = made[size]
            on, _ = subs(server, "ON", RANGE, CALLS)
            off, _ = subs(server, "OFF", RANGE, CALLS)
            _, on_us = subs(server, "ON", SMALL, SMALL_CALLS)
            _, off_us = subs(server, "OFF", SMALL, SMALL_CALLS)
            if number:
                rows.setdefault(size, []).append((mains(server), on, off, on_us, off_us))
    return rows


def report(rows):
    print("| ProxyIOBufferSize | main, s/GB | sub-request, s/GB | module off, s/GB | 64 kB, µs | module off, µs |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in SIZES:
        least = [min(column) for column in zip(*rows[size])]
        print(f"| {size} | " + " | ".join(f"{value:.2f}" for value in least[:3]) +
              "".join(f" | {value:.0f}" for value in least[3:]) + " |")


if __name__ == "__main__":
    if os.environ.get("BENCH_OWN_NETWORK") == "1":
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run(*sys.argv[1:3])
