"""The page of a run: one file, no outside request, each plot with its tables below. `page.py RESULTS PAGE` makes it anew."""
import html
import json
import re
import sys

import plots
import tables

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
nav a { margin-right: 1rem; } a { color: #06c; }
svg { width: 100%; height: auto; }
div { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { border-bottom: 1px solid #e4e4e4; padding: .2rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tbody tr:hover { background: #f6f8fa; }
"""
SECTIONS = {
    "peers": "Against the peers", "inside": "Sub-request hits", "outside": "Main-request hits", "cold": "Cold objects",
    "entries": "By the number of entries", "sizes": "By the object's length", "memory": "Memory", "goals": "Goals",
}


def write(results, path):
    found = tables.sections(results)
    parts = [f"<h1>Benchmark</h1><p>{html.escape(tables.about(results['environment']))}</p>"]
    parts.append("<nav>" + "".join(f'<a href="#{name}">{title}</a>' for name, title in SECTIONS.items()) + "</nav>")
    for name, title in SECTIONS.items():
        parts.append(f'<h2 id="{name}">{title}</h2>')
        parts += [plots.svg(figure) for figure in plots.of(name, results)]
        parts += [table_html(table) for table in found[name]]
    with open(path, "w") as out:
        out.write(f'<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>Benchmark</title>\n<style>{STYLE}</style>\n')
        out.write("\n".join(parts) + "\n</html>\n")


def table_html(table):
    head = "".join(f"<th>{text(cell)}</th>" for cell in table.head)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f"<p>{text(table.note)}</p>" if table.note else ""
    return f"<div><table><caption>{text(table.title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"


def text(cell):
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(str(cell)))


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        write(json.load(file), sys.argv[2])
