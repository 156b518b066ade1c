"""From what was measured to goals, each beside its value, and to tables."""
import statistics

import cold

NAMES = {"ism": "`.ism`", "3m": "64 kB of 3 MB", "30m": "64 kB of 30 MB", "8m": "8 MiB whole"}
NOT_COPIED = "module, not copied"
BARE_NOT_COPIED = "mmap, same lookup, not copied"
COLD_NAMES = {
    "ism": "`.ism`, 1 client",
    "range": "64 clients, the same 64 kB of 30 MB",
    "ranges": "64 clients, 64 times 64 kB of 30 MB",
    "whole": "30 MB at 10 MB/s a connection, 1 client",
    "crowd": "30 MB whole, 200 clients",
}


class Results:
    """Look-ups in the rows of a run."""

    def __init__(self, results):
        self.results = results
        self.cells = {(r["kind"], r["way"], r["workload"], r["round"]): r for r in results["rows"]}
        self.rounds = range(results["environment"]["rounds"])
        self.cold = {(r["way"], r["case"], r["round"]): r for r in results["cold"]}

    def median(self, kind, way, workload, key):
        return statistics.median(self.cells[kind, way, workload, n][key] for n in self.rounds)

    def least(self, kind, way, workload, key):
        return min(self.cells[kind, way, workload, n][key] for n in self.rounds)

    def paired(self, key, over, under):
        """Median over rounds of `over` divided by `under`: each (kind, way, workload)."""
        return statistics.median(self.cells[*over, n][key] / self.cells[*under, n][key] for n in self.rounds)

    def cpu_against_static(self, workload):
        """CPU of the module against the cheaper one of httpd's static files."""
        best = min(("sendfile", "mmap"), key=lambda way: self.median("outside", way, workload, "cpu_ms"))
        return self.paired("cpu_ms", ("outside", "module", workload), ("outside", best, workload))

    def cold_rounds(self, way, case):
        return [row for (w, c, _), row in self.cold.items() if (w, c) == (way, case)]

    def cold_median(self, way, case, key):
        return statistics.median(row[key] for row in self.cold_rounds(way, case))

    def cold_most(self, case, key):
        """The most of the module's rounds."""
        return max(row[key] for row in self.cold_rounds("module", case))

    def cold_paired(self, case, compare):
        """Median over rounds of what `compare` makes of the module's ms and of those of storage itself."""
        module = self.cold_rounds("module", case)
        return statistics.median(compare(row["ms"], self.cold[cold.DIRECT, case, row["round"]]["ms"]) for row in module)

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
    return "inside", way, workload


def time_goals(r):
    def times(way, workload):
        return r.paired("us", inside(way, workload), inside("module", workload))

    yield "sub-request, `.ism`: times faster than the recipe", times("recipe", "ism"), ">=", 20
    yield "64 kB of 3 MB: times faster than the recipe", times("recipe", "3m"), ">=", 150
    yield "64 kB of 3 MB: times faster than the tuned recipe", times("tuned", "3m"), ">=", 15
    yield "64 kB of 30 MB: times faster than the recipe", times("recipe", "30m"), ">=", 1000
    flat = r.paired("us", inside("module", "1g"), inside("module", "100k"))
    yield "64 kB of 1 GB against 64 kB of 100 kB", flat, "<=", 1.3
    for workload in ("ism", "3m", "30m"):
        bare = r.paired("us", inside("module", workload), inside("mmap", workload))
        yield f"against the bare mmap handler, {NAMES[workload]}", bare, "<=", 1.5
    for workload in ("ism", "3m", "30m"):
        same = r.paired("us", inside(NOT_COPIED, workload), inside(BARE_NOT_COPIED, workload))
        yield f"the same, behind the same lookup, nothing copied, {NAMES[workload]}", same, "", None
    for workload in ("ism", "3m", "30m"):
        # A difference in µs is only worth as much as the speed of the CPU at that moment: the fastest round of each.
        share = r.least(*inside(NOT_COPIED, workload), "us") - r.least(*inside("lookup", workload), "us")
        yield f"own share (without httpd's lookup), {NAMES[workload]}, µs", share, "<", 2


def count_goals(r):
    for workload in ("ism", "3m", "30m"):
        value = r.count("counts", "module", workload, "loopback")
        yield f"loopback bytes per sub-request, {NAMES[workload]}", value, "<=", 0
    for workload in ("ism", "3m", "30m"):
        value = r.count("counts", "module", workload, "switches")
        yield f"context switches per sub-request, {NAMES[workload]}", value, "<=", 0.01


def outside_goals(r):
    for workload in ("ism", "3m", "30m"):
        value = r.count("system_calls", "module", workload, "per_request")
        yield f"system calls per request from outside, {NAMES[workload]}", value, "<=", 5
    for workload in ("ism", "3m", "30m"):
        value = r.count("system_calls", "module", workload, "store_calls")
        yield f"of these on the store's files, in all, {NAMES[workload]}", value, "<=", 0
    for workload in ("ism", "3m", "30m", "8m"):
        value = r.cpu_against_static(workload)
        yield f"CPU of a request from outside against the best static file, {NAMES[workload]}", value, "<=", 1.1


def cold_goals(r):
    above = r.cold_paired("range", lambda module, direct: module - direct)
    yield f"cold, {COLD_NAMES['range']}: the slowest, ms above storage itself", above, "<=", 50
    ratio = r.cold_paired("ranges", lambda module, direct: module / direct)
    yield f"cold, {COLD_NAMES['ranges']}: the slowest against one at storage itself", ratio, "<=", 3
    faster = r.cold_paired("whole", lambda module, direct: direct / module)
    yield f"cold, {COLD_NAMES['whole']}: times faster than one stream", faster, ">=", 3
    for case in ("range", "ranges", "whole", "crowd"):
        left = r.cold_most(case, "bytes") / cold.LEN
        yield f"cold, {COLD_NAMES[case]}: bytes that left storage, of the object's", left, "<=", 1
    yield f"cold, {COLD_NAMES['ism']}: requests to storage", r.cold_most("ism", "requests"), "<=", 1
    ratio = r.cold_paired("ism", lambda module, direct: module / direct)
    yield f"cold, {COLD_NAMES['ism']}: against storage itself", ratio, "<=", 1.5


def many_goals(m):
    ratio = statistics.median(row["many"]["us"] / row["few"]["us"] for row in m["rounds"])
    yield f"hit with {m['entries']} entries against one with {m['few_entries']}", ratio, "<=", 1.2
    yield "start: entries opened, up to the first hit, which opens its own", m["opened"], "<=", 1
    yield "start: directories of entries read", m["listed"], "<=", 0
    waited = m["counting_hit_ms"] / m["counting_ms"]
    yield "control block lost: the slowest hit while entries are counted, of the time that takes", waited, "<=", 0.5
    yield "disk that an entry of 2 kB takes, bytes", m["bytes_an_entry"], "<=", 8192
    yield "files of an entry", m["files_an_entry"], "<=", 1


# Tables


def report(results):
    r, e = Results(results), results["environment"]
    network = "" if e["own_network"] else "; no network of its own: loopback bytes are everybody's"
    parts = [
        f"{e['httpd']}, Linux {e['kernel']}, {e['cpus']} x {e['cpu']}, load {e['load']:.1f},"
        f" rounds: {e['rounds']}{network}",
        goals_table(results["goals"]),
        "Sub-requests inside httpd, µs of wall time (µs of CPU time of the whole server)\n\n" + inside_table(r),
        "Requests from outside, 16 clients, of 8 MiB 4, of the recipes 2: CPU ms per 1000 requests"
        " (requests per second)\n\n" + outside_table(r),
        "Per sub-request: bytes over loopback; context switches\n\n" + counts_table(r),
        "System calls per request from outside, one client\n\n" + calls_table(r),
        "Instructions of a sub-request hit, bytes not copied\n\n" + instructions_table(results["instructions"]),
        "Cold objects, storage 20 ms away: slowest first byte; slowest end, ms\n\n" + cold_table(r),
        "Cold objects: requests to storage; bytes that left it, of the object's\n\n" + asked_table(r),
        f"A store of {results['many']['entries']} entries\n\n" + many_table(results["many"]),
    ]
    verdicts = [verdict(goal) for goal in results["goals"]]
    parts.append(f"{verdicts.count('ok')} of {len(verdicts) - verdicts.count('')} goals are met.")
    return "\n\n".join(parts)


def goals_table(goals):
    rows = []
    for g in goals:
        bound = f"{g['relation']} {number(g['bound'])}" if g["bound"] is not None else ""
        rows.append([g["what"], number(g["value"]), bound, verdict(g)])
    return table(["what", "measured", "goal", ""], rows)


def verdict(goal):
    if goal["bound"] is None:
        return ""
    return "ok" if goal["ok"] else "not ok"


def inside_table(r):
    ways = ["module", "mmap", "raw", "lookup", NOT_COPIED, BARE_NOT_COPIED, "tuned", "recipe"]
    names = {**{w: NAMES[w] for w in ("ism", "3m", "30m")}, "100k": "64 kB of 100 kB", "1g": "64 kB of 1 GB"}
    rows = []
    for workload, name in names.items():
        known = [way for way in ways if ("inside", way, workload, 0) in r.cells]
        cell = {
            way: " ".join([number(r.median("inside", way, workload, "us")),
                           f"({number(r.median('inside', way, workload, 'cpu_us'))})"])
            for way in known
        }
        rows.append([name, *(cell.get(way, "") for way in ways)])
    return table(["", *ways], rows)


def outside_table(r):
    ways = ["module", "sendfile", "mmap", "tuned", "recipe"]
    rows = []
    for workload in ("ism", "3m", "30m", "8m"):
        cells = [
            f"{number(r.median('outside', way, workload, 'cpu_ms'))}"
            f" ({number(r.median('outside', way, workload, 'per_second'))})"
            for way in ways
        ]
        rows.append([NAMES[workload], *cells])
    return table(["", *ways], rows)


def counts_table(r):
    ways = ["module", "tuned", "recipe"]
    rows = []
    for workload in ("ism", "3m", "30m"):
        cells = [
            f"{number(r.count('counts', way, workload, 'loopback'))};"
            f" {number(r.count('counts', way, workload, 'switches'))}"
            for way in ways
        ]
        rows.append([NAMES[workload], *cells])
    return table(["", *ways], rows)


def calls_table(r):
    ways = ["module", "sendfile", "mmap", "tuned", "recipe"]
    rows = [
        [NAMES[workload], *(number(r.count("system_calls", way, workload, "per_request")) for way in ways)]
        for workload in ("ism", "3m", "30m")
    ]
    top = r.count("system_calls", "module", "3m", "top") or {}
    note = ", ".join(f"{name} {n}" for name, n in top.items())
    return table(["", *ways], rows) + f"\n\nThe module's, 64 kB of 3 MB: {note}"


def instructions_table(profiles):
    rows = [[NAMES[p["workload"]], *(number(p.get(key)) for key in ("own", "handler", "all"))] for p in profiles]
    errors = "".join("\n\n" + p["error"] for p in profiles if "error" in p)
    return table(["", "in the module", "its handler with all that it calls", "in all, httpd included"], rows) + errors


def cold_table(r):
    rows = [
        [name, *("; ".join(number(r.cold_median(way, case, key)) for key in ("first_ms", "ms")) for way in cold.WAYS)]
        for case, name in COLD_NAMES.items()
    ]
    return table(["", *(f"{way}, 1 client" if way == cold.DIRECT else way for way in cold.WAYS)], rows)


def asked_table(r):
    rows = []
    for case, name in COLD_NAMES.items():
        length = cold.length(cold.CASES[case])
        cells = (
            f"{number(r.cold_median(way, case, 'requests'))}; {number(r.cold_median(way, case, 'bytes') / length)}"
            for way in cold.WAYS if way != cold.DIRECT
        )
        rows.append([name, *cells])
    return table(["", *(way for way in cold.WAYS if way != cold.DIRECT)], rows)


def many_table(m):
    def median(name, key):
        return statistics.median(row[name][key] for row in m["rounds"])

    hits = [
        [f"hit, sub-request, of {count} entries, µs (µs of CPU)",
         f"{number(median(name, 'us'))} ({number(median(name, 'cpu_us'))})"]
        for name, count in (("few", m["few_entries"]), ("many", m["entries"]))
    ]
    return table(["", ""], [
        *hits,
        ["first hit after a start, ms, under strace", number(m["first_hit_ms"])],
        ["first hit after a start without the control block, ms", number(m["lost_first_hit_ms"])],
        ["first fill after that, which has all entries counted, ms", number(m["counting_ms"])],
        ["hits meanwhile; the slowest of them, ms", f"{m['counting_hits']}; {number(m['counting_hit_ms'])}"],
        ["made by the store's own engine, s", number(m["made_secs"])],
    ])


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def number(x):
    if x is None:
        return "not measured"
    if x == int(x) or abs(x) >= 100:
        return f"{x:.0f}"
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}" if abs(x) >= 0.1 else f"{x:.4f}"
