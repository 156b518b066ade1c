"""The plots of a run, by section of the page, as SVG made by matplotlib."""
import io
import statistics

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

import cold
import ways
from goals import Results

matplotlib.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "bench", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6", "axes.axisbelow": True, "legend.frameon": False,
})
# Ours stands out, bounds are grey.
COLOURS = {
    "module": "#d62728", "Varnish": "#1f77b4", "nginx": "#2ca02c", "nginx slice": "#98df8a", "tuned": "#ff9f40",
    "recipe": "#8c564b", "sendfile": "#555555", "mmap": "#999999", "nginx static": "#bbbbbb", "storage": "#999999",
}
BAR = 0.8  # of the room that a group has


def of(section, results):
    """The figures of a section."""
    r = Results(results)
    return {"inside": inside, "outside": outside, "cold": colds, "entries": entries, "sizes": sizes, "memory": memory}.get(section, none)(r)


def svg(figure):
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg"):]


def none(_):
    return []


def inside(r):
    """Sub-requests by way."""
    columns = ["module", "mmap", "Varnish", "nginx", "nginx slice", "tuned", "recipe"]
    workloads = [workload for workload in ways.NAMES if r.has("inside", "module", workload)]
    values = {way: {w: r.values("inside", way, w, "us") for w in workloads if r.has("inside", way, w)} for way in columns}
    return [bars("Sub-request hits: wall time, µs (median, least to most of the rounds)", values, workloads, ways.NAMES)]


def bars(title, values, groups, names):
    """Horizontal bars on a logarithmic scale: a group for each of `groups`, a bar with its spread for each way."""
    values = {way: found for way, found in values.items() if found}
    figure = Figure(figsize=(10, 0.6 + 0.17 * len(groups) * (len(values) + 1)))
    axes = figure.add_subplot()
    height = BAR / len(values)
    for i, (way, found) in enumerate(values.items()):
        at = [n - BAR / 2 + height * (i + 0.5) for n, group in enumerate(groups) if group in found]
        medians = [statistics.median(found[group]) for group in groups if group in found]
        ends = [[m - min(found[g]) for g, m in zip(found, medians)], [max(found[g]) - m for g, m in zip(found, medians)]]
        axes.barh(at, medians, height * 0.9, label=way, color=COLOURS[way], xerr=ends, error_kw={"elinewidth": 0.8, "ecolor": "#333"})
        for y, value, most in zip(at, medians, (max(found[group]) for group in groups if group in found)):
            axes.annotate(short(value), (most, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(groups)), [plain(names[group]) for group in groups])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.grid(False, axis="y")
    axes.set_title(title, loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def outside(r):
    """Main requests by the number of clients: a row of plots for each of three measures."""
    measures = [("per_second", "requests per second"), ("p99_us", "p99, µs"), ("cpu_ms", "CPU ms per 1000 requests")]
    workloads = [workload for workload in ways.NAMES if any(cell[:3] == ("outside", "module", workload) for cell in r.cells)]
    columns = 4
    return [outside_figure(r, key, name, workloads, min(columns, len(workloads))) for key, name in measures]


def outside_figure(r, key, name, workloads, columns):
    rows = -(-len(workloads) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.6 * rows + 0.6), layout="constrained")
    for n, workload in enumerate(workloads):
        axes = figure.add_subplot(rows, columns, n + 1)
        for way in ways.OUTSIDE:
            clients = sorted(cell[3] for cell in r.cells if cell[:3] == ("outside", way, workload))
            line(axes, way, clients, [r.values("outside", way, workload, key, clients=c) for c in clients])
        logarithmic(axes, plain(ways.NAMES[workload]), "clients" if n // columns == rows - 1 else "")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(sorted({cell[3] for cell in r.cells if cell[0] == "outside" and cell[2] == workload}))
    figure.suptitle(f"Main-request hits: {name}, by the number of clients", x=0.01, ha="left")
    named(figure)
    return figure


def line(axes, way, at, values):
    """A way's medians, with a bar from the least to the most of the rounds."""
    if not values:
        return
    medians = [statistics.median(v) for v in values]
    ends = [[m - min(v) for m, v in zip(medians, values)], [max(v) - m for m, v in zip(medians, values)]]
    width = 2.2 if way == "module" else 1.2
    axes.errorbar(at, medians, ends, label=way, color=COLOURS[way], marker="o", markersize=3.5, linewidth=width, elinewidth=0.7)


def logarithmic(axes, title, x_name):
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axis.set_minor_formatter(NullFormatter())
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel(x_name)


def named(figure):
    """A legend of all ways that any of the plots has."""
    found = {}
    for axes in figure.axes:
        found |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=len(found))


def colds(r):
    """What the slowest client waits for, by way: stampedes and fills."""
    figures = []
    for latency_ms in sorted(cold.LATENCIES_MS, reverse=True):
        cases = r.cold_cases(latency_ms)
        rows = {way: {case: r.cold_rounds(way, case, latency_ms) for case in cases} for way in cold.WAYS}
        values = {way: {case: [row["ms"] for row in rounds] for case, rounds in found.items() if rounds} for way, found in rows.items()}
        figures.append(bars(f"Cold, storage {latency_ms} ms away: the slowest client's end, ms", values, cases, cold.NAMES))
    return figures


def entries(r):
    rows = r.results["growth"]["rows"]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for n, keys in enumerate(("ten", "any")):
        axes = figure.add_subplot(1, 2, n + 1)
        for way in dict.fromkeys(row["way"] for row in rows):
            counts = sorted({row["count"] for row in rows if row["way"] == way})
            found = [[row["p50_us"] for row in rows if (row["way"], row["count"], row["keys"]) == (way, c, keys)] for c in counts]
            line(axes, way, counts, found)
        logarithmic(axes, f"p50 of 16 clients, µs: {keys} of the entries asked", "entries")
    named(figure)
    return [figure]


def sizes(r):
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for way in ways.SIZED_WAYS:
        found = [workload for workload in ways.LENGTHS if r.has("size", way, workload)]
        line(axes, way, [ways.LENGTHS[w] for w in found], [r.values("size", way, w, "us") for w in found])
    logarithmic(axes, "Sub-request hits, µs: 64 kB (of 4 KiB the whole) by the object's length", "bytes of the object")
    named(figure)
    return [figure]


def memory(r):
    found = r.results["memory"]
    names = [name for name in found["idle"] if name not in ("storage", "front")]
    figure = Figure(figsize=(10, 3), layout="constrained")
    for n, (when, title) in enumerate((("idle", "after the start"), ("hits", "after the hits"))):
        axes = figure.add_subplot(1, 2, n + 1)
        shares = [found[when][name]["pss"] / 1e6 for name in names], [found[when][name]["pss_anon"] / 1e6 for name in names]
        axes.barh(names, shares[0], color="#c9d7e8", label="mapped files and shared memory")
        axes.barh(names, shares[1], color="#1f77b4", label="anonymous")
        axes.set_title(f"Memory (Pss) {title}, MB", loc="left", fontsize=9)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
    named(figure)
    return [figure]


def short(value):
    """A number for an axis or a bar."""
    for limit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{name}"
    return f"{value:.3g}"


def plain(name):
    return name.replace("`", "")
