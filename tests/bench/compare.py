"""Ours against the best of the peers, in every row of hits, ranges, stampedes and growth.

The best peer is the one with the best median. The ratio is formed within a round; 1 is as good, less is better, whatever is
measured.
"""
import statistics

import cold
import ways

OURS = "module"
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
    """All comparisons, as rows."""
    found = []
    for row in results["rows"]:
        names = {"inside": "sub-request", "size": "sub-request, by size", "outside": "main request"}
        what = f"{names[row['kind']]}, {ways.NAMES[row['workload']]}"
        if row["kind"] == "outside":
            what += f", {row['clients']} client{'s' * (row['clients'] > 1)}"
        found.append((what, row, OUTSIDE if row["kind"] == "outside" else HITS))
    for row in results["cold"]:
        found.append((f"cold, storage {row['latency_ms']} ms away, {cold.NAMES[row['case']]}", row, COLD))
    for row in results["growth"]["rows"]:
        found.append((f"{row['count']} entries, {row['keys']} of them, 16 clients", row, GROWTH))
    return [compared for what, cells in by_what(found).items() for compared in compare(what, *cells)]


def by_what(found):
    """By what is asked: each way's row by round, and what is compared in them."""
    grouped = {}
    for what, row, measures in found:
        cells, _ = grouped.setdefault(what, ({}, measures))
        cells.setdefault(row["way"], {})[row["round"]] = row
    return grouped


def compare(what, cells, measures):
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
            "what": what, "measure": name, "ours": medians[OURS], "best": best, "peer": medians[best],
            "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios), "verdict": verdict(ratios),
        }


def ratio(ours, theirs):
    if theirs == 0:
        return 1.0 if ours == 0 else float(ours)
    return ours / theirs


def verdict(ratios):
    """Ahead; the same, where nothing differs; behind in every round, or only in the median."""
    if all(value == 1 for value in ratios):
        return "the same"
    if statistics.median(ratios) < 1:
        return "ahead"
    return "behind" if min(ratios) > 1 else "even"
