"""Ours against the best of the peers, in every row of hits, ranges, stampedes and growth.

The best peer is the one with the best median. The ratio is formed within a round; 1 is as good, less is better, whatever is
measured.
"""
import statistics

import cold
import ways

OURS = "module"
SAME_WITHIN = 0.01
# What rows are about, in the order of the tables.
ABOUT = ["sub-request", "sub-request by length", "main request", "cold", "number of entries"]
# What a row says, by table: its key, its name, and whether more is better.
HITS = [("us", "µs", False), ("cpu_us", "µs of CPU", False)]
OUTSIDE = [
    ("p50_us", "p50, µs", False), ("p99_us", "p99, µs", False), ("per_second", "requests per second", True),
    ("cpu_ms", "CPU ms per 1000", False), ("loopback", "bytes over loopback", False),
]
COLD = [
    ("first_ms", "slowest first byte, ms", False), ("ms", "slowest end, ms", False), ("requests", "requests to storage", False),
    ("bytes", "bytes from storage", False),
]
GROWTH = [("p50_us", "p50, µs", False), ("per_second", "requests per second", True), ("cpu_ms", "CPU ms per 1000", False)]


def rows(results):
    """All comparisons, as rows, in the order of the tables."""
    found = [*hits(results["rows"]), *cold_objects(results["cold"]), *growth(results["growth"]["rows"])]
    return [
        {"about": about, "what": what, **compared}
        for (about, _, what), cells in sorted(by_what(found).items(), key=place)
        for compared in compare(*cells)
    ]


def place(item):
    (about, place_there, _), _ = item
    return ABOUT.index(about), place_there


def hits(rows):
    """What each row is of, as what it is about, its place there and its name; the row; what is compared."""
    names, places = dict(zip(("inside", "size", "outside"), ABOUT)), list(ways.NAMES)
    for row in rows:
        clients = f", {row['clients']} client{'s' * (row['clients'] > 1)}" if row["kind"] == "outside" else ""
        what = f"{names[row['kind']]}, {ways.NAMES[row['workload']]}{clients}"
        place_there, measures = (places.index(row["workload"]), row["clients"]), OUTSIDE if row["kind"] == "outside" else HITS
        yield (names[row["kind"]], place_there, what), row, measures


def cold_objects(rows):
    places = list(cold.NAMES)
    for row in rows:
        what = f"cold, storage {row['latency_ms']} ms away, {cold.NAMES[row['case']]}"
        yield ("cold", (row["latency_ms"], places.index(row["case"])), what), row, COLD


def growth(rows):
    for row in rows:
        what = f"{row['count']} entries, {row['keys']} of them, 16 clients"
        yield ("number of entries", (row["count"], row["keys"]), what), row, GROWTH


def by_what(found):
    """By what is asked: each way's row by round, and what is compared in them."""
    grouped = {}
    for what, row, measures in found:
        cells, _ = grouped.setdefault(what, ({}, measures))
        cells.setdefault(row["way"], {})[row["round"]] = row
    return grouped


def compare(cells, measures):
    """A row for each measure of ours that a peer has too."""
    peers = [way for way in ways.PEERS if way in cells]
    if not peers or OURS not in cells:
        return
    for key, name, more_is_better in measures:
        medians = {way: statistics.median(row[key] for row in cells[way].values()) for way in (OURS, *peers)}
        best = (max if more_is_better else min)(peers, key=medians.get)
        shared = sorted(cells[OURS].keys() & cells[best].keys())
        pairs = [(cells[OURS][n][key], cells[best][n][key]) for n in shared]
        ratios = [ratio(*(pair[::-1] if more_is_better else pair)) for pair in pairs]
        yield {
            "measure": name, "ours": medians[OURS], "best": best, "peer": medians[best],
            "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios), "verdict": verdict(ratios),
        }


def ratio(ours, theirs):
    if theirs == 0:
        return 1.0 if ours == 0 else float(ours)
    return ours / theirs


def verdict(ratios):
    """Ahead; the same, where nothing differs that counts; behind in every round, or only in the median."""
    if all(abs(value - 1) <= SAME_WITHIN for value in ratios):
        return "the same"
    if statistics.median(ratios) < 1:
        return "ahead"
    return "behind" if min(ratios) > 1 else "even"
