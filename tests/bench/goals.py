"""From what was measured to goals, each beside its value."""
import statistics

import cold
import ways
from ways import BARE_NOT_COPIED, DETAILED, NAMES, NOT_COPIED


class Results:
    """Look-ups in the rows of a run."""

    def __init__(self, results):
        self.results = results
        self.cells, self.cold = {}, {}
        for row in results["rows"]:
            cell = self.cells.setdefault((row["kind"], row["way"], row["workload"], row["clients"]), {})
            cell[row["round"]] = row
        for row in results["cold"]:
            self.cold.setdefault((row["way"], row["case"], row["latency_ms"]), {})[row["round"]] = row

    def has(self, kind, way, workload, clients=1):
        return (kind, way, workload, clients) in self.cells

    def values(self, kind, way, workload, key, clients=1):
        return [row[key] for row in self.cells[kind, way, workload, clients].values()]

    def median(self, *cell, **clients):
        return statistics.median(self.values(*cell, **clients))

    def paired(self, key, over, under):
        """Median over rounds of `over` divided by `under`: each (kind, way, workload, clients)."""
        under = self.cells[under]
        return statistics.median(row[key] / under[n][key] for n, row in self.cells[over].items() if n in under)

    def cpu_against_static(self, workload):
        """CPU of the module against the cheaper one of httpd's static files."""
        clients = ways.goal_clients(workload)
        best = min(("sendfile", "mmap"), key=lambda way: self.median("outside", way, workload, "cpu_ms", clients=clients))
        return self.paired("cpu_ms", ("outside", "module", workload, clients), ("outside", best, workload, clients))

    def cold_rounds(self, way, case, latency_ms=cold.LATENCY_MS):
        return list(self.cold.get((way, case, latency_ms), {}).values())

    def cold_cases(self, latency_ms):
        return [case for case in cold.NAMES if self.cold_rounds("module", case, latency_ms)]

    def cold_median(self, way, case, key, latency_ms=cold.LATENCY_MS):
        return statistics.median(row[key] for row in self.cold_rounds(way, case, latency_ms))

    def cold_most(self, case, key):
        """The most of the module's rounds."""
        return max(row[key] for row in self.cold_rounds("module", case))

    def cold_paired(self, case, compare):
        """Median over rounds of what `compare` makes of the module's ms and of those of storage itself."""
        module = self.cold_rounds("module", case)
        direct = self.cold[cold.DIRECT, case, cold.LATENCY_MS]
        return statistics.median(compare(row["ms"], direct[row["round"]]["ms"]) for row in module)

    def count(self, table, way, workload, key):
        return next(r.get(key) for r in self.results[table] if r["way"] == way and r["workload"] == workload)


def judge(results):
    """The goals as a list: what, value (None: not measured), relation, bound, ok; without a bound it is no goal."""
    r = Results(results)
    return [
        {"what": what, "value": value, "relation": relation, "bound": bound, "ok": holds(value, relation, bound)}
        for what, value, relation, bound in [
            *time_goals(r), *count_goals(r), *outside_goals(r), *cold_goals(r), *many_goals(results["many"])
        ]
    ]


def holds(value, relation, bound):
    if bound is None:
        return True
    return value is not None and {">=": value >= bound, "<=": value <= bound, "<": value < bound}[relation]


def inside(way, workload):
    return "inside", way, workload, 1


def time_goals(r):
    def times(way, workload):
        return r.paired("us", inside(way, workload), inside("module", workload))

    yield "sub-request, `.ism`: times faster than the recipe", times("recipe", "ism"), ">=", 20
    yield "64 kB of 3 MB: times faster than the recipe", times("recipe", "3m"), ">=", 150
    yield "64 kB of 3 MB: times faster than the tuned recipe", times("tuned", "3m"), ">=", 15
    yield "64 kB of 30 MB: times faster than the recipe", times("recipe", "30m"), ">=", 1000
    small, large = ways.FLAT
    flat = r.paired("us", ("size", "module", large, 1), ("size", "module", small, 1))
    yield f"{NAMES[large]} against {NAMES[small]}", flat, "<=", 1.3
    for workload in DETAILED:
        bare = r.paired("us", inside("module", workload), inside("mmap", workload))
        yield f"against the bare mmap handler, {NAMES[workload]}", bare, "<=", 1.5
    for workload in DETAILED:
        same = r.paired("us", inside(NOT_COPIED, workload), inside(BARE_NOT_COPIED, workload))
        yield f"the same, behind the same lookup, nothing copied, {NAMES[workload]}", same, "", None
    for name, beyond, bound in (("own share", BARE_NOT_COPIED, 1), ("beyond httpd's lookup", "lookup", 2)):
        for workload in DETAILED:
            # A difference in µs is only worth as much as the speed of the CPU at that moment: the fastest request of each.
            ours, theirs = (min(r.values("inside", way, workload, "least_us")) for way in (NOT_COPIED, beyond))
            yield f"{name}, {NAMES[workload]}, µs", ours - theirs, "<", bound


def count_goals(r):
    for workload in DETAILED:
        value = r.count("counts", "module", workload, "loopback")
        yield f"loopback bytes per sub-request, {NAMES[workload]}", value, "<=", 0
    for workload in DETAILED:
        value = r.count("counts", "module", workload, "switches")
        yield f"context switches per sub-request, {NAMES[workload]}", value, "<=", 0.01


def outside_goals(r):
    for workload in DETAILED:
        value = r.count("system_calls", "module", workload, "per_request")
        yield f"system calls per request from outside, {NAMES[workload]}", value, "<=", 5
    for workload in DETAILED:
        value = r.count("system_calls", "module", workload, "store_calls")
        yield f"of these on the store's files, in all, {NAMES[workload]}", value, "<=", 0
    for workload in ("ism", "3m", "30m", "8m"):
        value = r.cpu_against_static(workload)
        yield f"CPU of a request from outside against the best static file, {NAMES[workload]}", value, "<=", 1.1


def cold_goals(r):
    above = r.cold_paired("range", lambda module, direct: module - direct)
    yield f"cold, {cold.NAMES['range']}: the slowest, ms above storage itself", above, "<=", 50
    ratio = r.cold_paired("ranges", lambda module, direct: module / direct)
    yield f"cold, {cold.NAMES['ranges']}: the slowest against one at storage itself", ratio, "<=", 3
    faster = r.cold_paired("whole", lambda module, direct: direct / module)
    yield f"cold, {cold.NAMES['whole']}: times faster than one stream", faster, ">=", 3
    for case in ("range", "ranges", "whole", "crowd"):
        left = r.cold_most(case, "bytes") / cold.LEN
        yield f"cold, {cold.NAMES[case]}: bytes that left storage, of the object's", left, "<=", 1
    yield f"cold, {cold.NAMES['ism']}: requests to storage", r.cold_most("ism", "requests"), "<=", 1
    ratio = r.cold_paired("ism", lambda module, direct: module / direct)
    yield f"cold, {cold.NAMES['ism']}: against storage itself", ratio, "<=", 1.5


def many_goals(m):
    ratio = statistics.median(row["many"]["us"] / row["few"]["us"] for row in m["rounds"])
    yield f"hit with {m['entries']} entries against one with {m['few_entries']}", ratio, "<=", 1.2
    yield "start: entries opened, up to the first hit, which opens its own", m["opened"], "<=", 1
    yield "start: directories of entries read", m["listed"], "<=", 0
    waited = m["counting_hit_ms"] / m["counting_ms"]
    yield "control block lost: the slowest hit while entries are counted, of the time that takes", waited, "<=", 0.5
    yield "disk that an entry of 2 kB takes, bytes", m["bytes_an_entry"], "<=", 8192
    yield "files of an entry", m["files_an_entry"], "<=", 1
