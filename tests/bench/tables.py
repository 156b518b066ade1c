"""The tables of a run, by what they are about; page.py shows them too, below their plots.

A cell is a median over the rounds, with the least and the most of them in brackets where that is said.
"""
import collections
import statistics

import cold
import many
import ways
from goals import Results
from ways import BARE_NOT_COPIED, DETAILED, NAMES, NOT_COPIED

Table = collections.namedtuple("Table", "title head rows note", defaults=("",))
# With fewer, what an entry takes is lost in what a server takes anyway.
ENTRIES_TO_DIVIDE = 5000


def report(results):
    """All there is to print."""
    parts = [about(results["environment"])]
    parts += [markdown(table) for tables in sections(results).values() for table in tables]
    verdicts = [verdict(goal) for goal in results["goals"]]
    parts.append(f"{verdicts.count('ok')} of {len(verdicts) - verdicts.count('')} goals are met.")
    return "\n\n".join(parts)


def about(e):
    network = "" if e["own_network"] else "; no network of its own: loopback bytes are everybody's"
    return (
        f"{e['httpd']}, {', '.join(e['peers'])}, Linux {e['kernel']}, {e['cpus']} x {e['cpu']}, load {e['load']:.1f},"
        f" rounds: {e['rounds']}, of requests from outside {e['outside_rounds']}, cold {e['cold_rounds']}; {e['secs'] / 60:.0f} minutes{network}"
    )


def sections(results):
    """Tables by section, in the order of the page."""
    r = Results(results)
    return {
        "peers": [compared(results["peers"]), *against(results["peers"])],
        "inside": [inside(r), counts(r), instructions(results["instructions"])],
        "outside": [*(outside(r, *measure) for measure in OUTSIDE), calls(r)],
        "cold": [table(r, latency_ms) for latency_ms in reversed(cold.LATENCIES_MS) for table in (waits, asked)],
        "entries": [entries(results["growth"]["rows"], keys) for keys in ("ten", "any")] + [start(results["many"])],
        "sizes": [sizes(r)],
        "memory": [memory(results["memory"]), memory_of_entries(results["growth"]["memory"])],
        "goals": [goals(results["goals"])],
    }


# Against the peers


def against(rows):
    """A table for each thing that rows are about: the ratio of each measure, in the median and from round to round, and whose it is."""
    for about in dict.fromkeys(row["about"] for row in rows):
        found = [row for row in rows if row["about"] == about]
        measures = list(dict.fromkeys(row["measure"] for row in found))
        cells = {(row["what"], row["measure"]): comparison(row) for row in found}
        whats = dict.fromkeys(row["what"] for row in found)
        body = [[what.removeprefix(f"{about}, "), *(cells.get((what, measure), "") for measure in measures)] for what in whats]
        yield Table(f"Ours against the best peer, {about}", ["", *measures], body)


def comparison(row):
    if row["verdict"] == "the same":
        return "the same"
    end = "" if row["verdict"] == "ahead" else f": {row['verdict']}"
    return f"{number(row['ratio'])} ({number(row['least'])}..{number(row['most'])}), {row['best']}{end}"


def compared(rows):
    """How many rows end how, by what they are about."""
    ends, found = ["ahead", "the same", "even", "behind"], {}
    for row in rows:
        found.setdefault(row["about"], collections.Counter())[row["verdict"]] += 1
    return Table("Rows against the best peer", ["", *ends], [[about, *(n[end] for end in ends)] for about, n in found.items()])


# Hits


def inside(r):
    columns = ["module", "mmap", "raw", "lookup", NOT_COPIED, BARE_NOT_COPIED, *reversed(ways.PEERS)]
    rows = [
        [NAMES[workload], *(inside_cell(r, way, workload) for way in columns)]
        for workload in NAMES if r.has("inside", "module", workload)
    ]
    title = "Sub-requests inside httpd, µs of wall time (least..most of the rounds); CPU time of all servers at work"
    return Table(title, ["", *columns], rows)


def inside_cell(r, way, workload):
    if not r.has("inside", way, workload):
        return ""
    return f"{spread(r.values('inside', way, workload, 'us'))}; CPU {number(r.median('inside', way, workload, 'cpu_us'))}"


OUTSIDE = [
    ("per_second", "requests per second"), ("p50_us", "p50, µs"), ("p99_us", "p99, µs"), ("cpu_ms", "CPU ms per 1000 requests"),
    ("loopback", "bytes over loopback per request"),
]


def outside(r, key, name):
    def cell(way, workload, clients):
        is_there = r.has("outside", way, workload, clients)
        return number(r.median("outside", way, workload, key, clients=clients)) if is_there else ""

    asked = sorted({cell[2:] for cell in r.cells if cell[0] == "outside"}, key=lambda cell: (list(NAMES).index(cell[0]), cell[1]))
    rows = [[NAMES[workload], n, *(cell(way, workload, n) for way in ways.OUTSIDE)] for workload, n in asked]
    return Table(f"Requests from outside: {name}", ["", "clients", *ways.OUTSIDE], rows)


def counts(r):
    def cell(way, workload):
        return "; ".join(number(r.count("counts", way, workload, key)) for key in ("loopback", "switches"))

    columns = dict.fromkeys(row["way"] for row in r.results["counts"])
    rows = [[NAMES[workload], *(cell(way, workload) for way in columns)] for workload in DETAILED]
    return Table("Per sub-request: bytes over loopback; context switches", ["", *columns], rows)


def calls(r):
    columns = dict.fromkeys(row["way"] for row in r.results["system_calls"])
    rows = [
        [NAMES[workload], *(number(r.count("system_calls", way, workload, "per_request")) for way in columns)] for workload in DETAILED
    ]
    top = r.count("system_calls", "module", "3m", "top") or {}
    note = "The module's, 64 kB of 3 MB: " + ", ".join(f"{name} {n}" for name, n in top.items())
    return Table("System calls per request from outside, one client", ["", *columns], rows, note)


def instructions(profiles):
    rows = [[NAMES[p["workload"]], *(number(p.get(key)) for key in ("own", "handler", "all"))] for p in profiles]
    note = " ".join(p["error"] for p in profiles if "error" in p)
    head = ["", "in the module", "its handler with all that it calls", "in all, httpd included"]
    return Table("Instructions of a sub-request hit, bytes not copied", head, rows, note)


def sizes(r):
    rows = [
        [NAMES[workload], *(spread(r.values("size", way, workload, "us")) for way in ways.SIZED_WAYS)]
        for workload in ways.LENGTHS if r.has("size", "module", workload)
    ]
    return Table("Sub-requests by the object's length, µs (least..most of the rounds)", ["", *ways.SIZED_WAYS], rows)


# Cold objects


def waits(r, latency_ms):
    rows = []
    for case in r.cold_cases(latency_ms):
        cells = [
            "; ".join(number(r.cold_median(way, case, key, latency_ms)) for key in ("first_ms", "ms"))
            if r.cold_rounds(way, case, latency_ms) else "" for way in cold.WAYS
        ]
        rows.append([cold.NAMES[case], *cells])
    head = ["", *(f"{way}, 1 client" if way == cold.DIRECT else way for way in cold.WAYS)]
    return Table(f"Cold objects, storage {latency_ms} ms away: slowest first byte of a body; slowest end, ms", head, rows)


def asked(r, latency_ms):
    def cell(way, case):
        if not r.cold_rounds(way, case, latency_ms):
            return ""
        left = r.cold_median(way, case, "bytes", latency_ms) / cold.length(cold.CASES[case])
        return f"{number(r.cold_median(way, case, 'requests', latency_ms))}; {number(left)}"

    columns = [way for way in cold.WAYS if way != cold.DIRECT]
    rows = [[cold.NAMES[case], *(cell(way, case) for way in columns)] for case in r.cold_cases(latency_ms)]
    title = f"Cold objects, storage {latency_ms} ms away: requests to storage; bytes that left it, of the object's"
    return Table(title, ["", *columns], rows)


# Growth and memory


def entries(rows, keys):
    """Hits by the number of entries, where `keys` are asked: ten, or any."""
    cells = {}
    for row in rows:
        if row["keys"] == keys:
            cells.setdefault((row["way"], row["count"]), []).append(row)
    columns = [way for way in ("module", "nginx", "Varnish", "tuned") if any(way == key[0] for key in cells)]
    body = [
        [count, *(entries_cell(cells.get((way, count))) for way in columns)] for count in sorted({count for _, count in cells})
    ]
    title = f"Main requests by the number of entries, {keys} of them asked: p50; p99, µs; requests per second; CPU ms per 1000"
    return Table(title, ["entries", *columns], body)


def entries_cell(rows):
    measures = ("p50_us", "p99_us", "per_second", "cpu_ms") if rows else ()
    return "; ".join(number(statistics.median(row[key] for row in rows)) for key in measures)


def start(m):
    def median(name, key):
        return statistics.median(row[name][key] for row in m["rounds"])

    hits = [
        [f"hit, sub-request, of {count} entries, µs (µs of CPU)",
         f"{number(median(name, 'us'))} ({number(median(name, 'cpu_us'))})"]
        for name, count in (("few", m["few_entries"]), ("many", m["entries"]))
    ]
    return Table(f"A store of {m['entries']} entries", ["", ""], [
        *hits,
        ["first hit after a start, ms, under strace", number(m["first_hit_ms"])],
        ["first hit after a start without the control block, ms", number(m["lost_first_hit_ms"])],
        ["first fill after that, which has all entries counted, ms", number(m["counting_ms"])],
        ["hits meanwhile; the slowest of them, ms", f"{m['counting_hits']}; {number(m['counting_hit_ms'])}"],
        ["made by the store's own engine, s", number(m["made_secs"])],
    ])


def memory(m):
    """Of each server, all its processes: after its start, and after the hits."""
    rows = [
        [name, *(mega(m[when][name][part]) for when in ("idle", "hits") for part in ("pss", "pss_anon"))] for name in m["idle"]
    ]
    head = ["server", "after the start", "of it anonymous", "after the hits", "of it anonymous"]
    note = "The rest is files that are mapped: pages of the module's store are page cache, which the kernel takes back when it needs them."
    return Table("Memory (Pss), MB", head, rows, note)


def memory_of_entries(found):
    """By the number of entries; what an entry takes is the difference over that of entries."""
    few, rows = {row["way"]: row for row in found if row["count"] == many.FEW}, []
    for row in found:
        more = row["count"] - many.FEW
        lengths = [row[part] for part in ("pss", "pss_anon")]
        grown = [row[part] - few[row["way"]][part] for part in ("pss", "pss_anon")]
        an_entry = [number(length / more) if more >= ENTRIES_TO_DIVIDE else "" for length in grown]
        rows.append([row["way"], row["count"], *map(mega, lengths), *an_entry])
    head = ["server", "entries", "Pss, MB", "of it anonymous", "bytes an entry", "of it anonymous"]
    return Table("Memory by the number of entries", head, rows)


# Goals


def goals(found):
    rows = []
    for g in found:
        bound = f"{g['relation']} {number(g['bound'])}" if g["bound"] is not None else ""
        rows.append([g["what"], number(g["value"]), bound, verdict(g)])
    return Table("Goals", ["what", "measured", "goal", ""], rows)


def verdict(goal):
    if goal["bound"] is None:
        return ""
    return "ok" if goal["ok"] else "not ok"


# Text


def markdown(table):
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    text = "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
    return "\n\n".join(part for part in (table.title, text, table.note) if part)


def spread(values):
    return f"{number(statistics.median(values))} ({number(min(values))}..{number(max(values))})"


def mega(length):
    return number(length / 1e6)


def number(x):
    if x is None:
        return "not measured"
    if x == int(x) or abs(x) >= 100:
        return f"{x:.0f}"
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}" if abs(x) >= 0.1 else f"{x:.4f}"
