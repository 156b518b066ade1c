"""The module's own instructions of a warm sub-request hit, held against those that are stated: no noise moves them.

They change with the compiler too. Where a change of ours makes a hit dearer or cheaper by more than it may, the change
says why, and states the new count here and in docs/performance.md.
"""
import os
import signal
import subprocess
import sys

import content
import measure
import servers

# Path, range, instructions.
STATED = {"`.ism`": ("/x.ism", None, 3800), "64 kB of 3 MB": ("/idx3m.mp4", (0, 65535), 4424)}
WITHIN = 0.05
HITS, ROUNDS = 200, 7


def run(work, module):
    folder = os.path.join(work, "content")
    content.make(folder, ["idx3m.mp4"])
    made = servers.make_all(work, folder, module)
    storage, server = made["storage"], made["module"]
    missed = 0
    try:
        storage.start()
        server.start()
        for path, wanted, _ in STATED.values():
            warm(server.ports["INSIDE"], path, wanted)
        server.stop()
        for name, (path, wanted, stated) in STATED.items():
            counted = measure.instructions(server, "INSIDE", path, wanted, HITS, ROUNDS)
            if "error" in counted:
                raise SystemExit(f"hit: {counted['error']}")
            is_met = abs(counted["own"] / stated - 1) <= WITHIN
            missed += not is_met
            print(
                f"hit: {name}: {counted['own']:.0f} instructions in the module, stated {stated}: {'as stated' if is_met else 'NOT AS STATED'};"
                f" {counted['handler']:.0f} with all that the handler calls, {counted['all']:.0f} in all"
            )
    finally:
        for each in (server, storage):
            each.stop()
            each.remove()
    sys.exit(1 if missed else 0)


def warm(port, path, wanted):
    """Asks until the answer is a hit, twice: the first one looks at the checksums."""
    hits = 0
    for _ in range(100):
        hits += "; hit" in measure.call(port, "uri", path, wanted)["cache_status"]
        if hits == 2:
            return
    raise SystemExit(f"hit: the sub-request for {path} is never one")


if __name__ == "__main__":
    if os.environ.get("BENCH_OWN_NETWORK") == "1":
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run(*sys.argv[1:3])
