"""What is asked, in which ways, and which of the ways are peers: the tables of the benchmark."""
import collections
import os

QUICK = os.environ.get("QUICK") == "1"
ROUNDS = 3 if QUICK else 9
REPEATS = 9
OUTSIDE_ROUNDS = 2 if QUICK else 5
COLD_ROUNDS = 1 if QUICK else 5

# What is asked: path, and first and last byte.
WORKLOADS = {
    "ism": ("/x.ism", None),
    "4k": ("/whole4k.mp4", None),
    "64k": ("/whole64k.mp4", None),
    "1m": ("/whole1m.mp4", None),
    "8m": ("/whole8m.mp4", None),
    "3m": ("/idx3m.mp4", (0, 65535)),
    "30m": ("/idx30m.mp4", (15_000_000, 15_065_535)),
    "1g": ("/idx1g.mp4", (750_000_000, 750_065_535)),
    "of 100k": ("/idx100k.mp4", (30_000, 95_535)),
    "of 1m": ("/whole1m.mp4", (500_000, 565_535)),
    "of 8m": ("/whole8m.mp4", (4_000_000, 4_065_535)),
    "of 300m": ("/idx300m.mp4", (150_000_000, 150_065_535)),
}
NAMES = {
    "ism": "`.ism`", "4k": "4 KiB whole", "64k": "64 KiB whole", "1m": "1 MiB whole", "8m": "8 MiB whole",
    "3m": "64 kB of 3 MB", "30m": "64 kB of 30 MB", "1g": "64 kB of 1 GB",
    "of 100k": "64 kB of 100 kB", "of 1m": "64 kB of 1 MiB", "of 8m": "64 kB of 8 MiB", "of 300m": "64 kB of 300 MB",
}
# Left out of a quick run: what takes long to store.
LARGE = {"1g", "of 300m"} if QUICK else set()
# Length of the object, by workload in which only that differs: 64 kB of it, of the first the whole.
LENGTHS = {
    "4k": 4 << 10, "of 100k": 100_000, "of 1m": 1 << 20, "of 8m": 8 << 20, "30m": 30_000_000, "of 300m": 300_000_000,
    "1g": 1_000_000_000,
}
SIZES = [workload for workload in LENGTHS if workload not in LARGE]
FLAT = "of 100k", "30m" if QUICK else "1g"

# Ways to the bytes inside httpd: the servers at work, the port of the first, mode of mod_subbench, whether the bytes are copied.
Inside = collections.namedtuple("Inside", "servers port mode copied", defaults=("uri", True))
NOT_COPIED, BARE_NOT_COPIED = "module, not copied", "mmap, same lookup, not copied"
INSIDE = {
    "module": Inside(["module"], "INSIDE"),
    "recipe": Inside(["recipe"], "FRONT"),
    "tuned": Inside(["tuned"], "FRONT"),
    "nginx": Inside(["front", "nginx"], "NGINX"),
    "nginx slice": Inside(["front", "nginx"], "NGINX_SLICE"),
    "Varnish": Inside(["front", "varnish"], "VARNISH"),
    "mmap": Inside(["static"], "MMAP", "mmap"),
    "raw": Inside(["static"], "MMAP", "raw"),
    "lookup": Inside(["module"], "WITHOUT", "none", False),
    NOT_COPIED: Inside(["module"], "INSIDE", "uri", False),
    BARE_NOT_COPIED: Inside(["module"], "WITHOUT", "mmap", False),
}
# Ways for a client from outside: server, port.
OUTSIDE = {
    "module": ("module", "OUTSIDE"),
    "recipe": ("recipe", "FRONT"),
    "tuned": ("tuned", "FRONT"),
    "nginx": ("nginx", "CACHE"),
    "nginx slice": ("nginx", "SLICE"),
    "Varnish": ("varnish", "CLIENTS"),
    "sendfile": ("static", "SENDFILE"),
    "mmap": ("static", "MMAP"),
    "nginx static": ("nginx", "STATIC"),
}
# Who does the same work; the other ways are bounds.
PEERS = ("recipe", "tuned", "nginx", "nginx slice", "Varnish")
RECIPES = ("recipe", "tuned")

DETAILED = ("ism", "3m", "30m")  # what goals are set for
SUB_REQUESTS = [workload for workload in (*DETAILED, "1g") if workload not in LARGE]
SIZED_WAYS = ("module", "tuned", "nginx", "nginx slice", "Varnish", "mmap")
MAIN_REQUESTS = ("ism", "3m", "30m", "8m") if QUICK else ("ism", "4k", "64k", "1m", "8m", "3m", "30m", "1g")
# The recipe sends a whole object over loopback for each range: what it can, few at a time. It answers 502 when many ask.
RECIPE_INSIDE, RECIPE_OUTSIDE, RECIPE_CLIENTS = DETAILED, ("ism", "4k", "64k", "1m", "3m"), (2,) if QUICK else (1, 2)
GOAL_CLIENTS = {"8m": 4}  # of a goal; 16 of the others


def inside_workloads(way):
    """What is measured of a way inside httpd, one workload against another way's."""
    if way in SIZED_WAYS:
        return SUB_REQUESTS
    return RECIPE_INSIDE


def outside_workloads(way):
    return [workload for workload in MAIN_REQUESTS if way != "recipe" or workload in RECIPE_OUTSIDE]


def clients(way, workload):
    """How many ask at a time: few where an object is large, as what is on its way when time is up has cost CPU and counts for nothing."""
    if way in RECIPES:
        return RECIPE_CLIENTS
    if QUICK:
        return (goal_clients(workload),)
    return (1, 4, 16) if workload == "8m" else (1, 16, 64)


def goal_clients(workload):
    return GOAL_CLIENTS.get(workload, 16)


def content_names(indexes):
    """The objects that are asked for."""
    workloads = {*SUB_REQUESTS, *MAIN_REQUESTS, *SIZES}
    return [name for name in indexes if any(WORKLOADS[workload][0] == f"/{name}" for workload in workloads)]
