"""Draws a run as SVG: two bars per test, the limit as a line. Readable on light and dark pages, without a library.

A row's bars are parts of the limit that `undine bench --roofline` measured beside it, so that tests of different speed can
stand under each other; where there is no limit (time, memory) the longer bar fills the row. A thin line on a bar goes from
the least to the most of its runs.
"""

from html import escape

from cells import UNITS, conditions, number, verdict

WIDTH = 900
LEFT = 246  # where bars begin
BARS = 430  # length of a bar at the limit
RIGHT = LEFT + BARS
ROW = 34
BAR = 11
GAP = 2
TITLE = 40
FONT = "font-family:-apple-system,'Segoe UI',Helvetica,Arial,sans-serif"

STYLE = """
.page{fill:#ffffff}.text{fill:#1f2328}.soft{fill:#59636e}.grid{stroke:#d1d9e0}.ours{fill:#0969da}.peer{fill:#9aa4af}
.limit{stroke:#cf222e}.limitText{fill:#cf222e}.spread{stroke:#1f2328}.faster{fill:#1a7f37}.slower{fill:#cf222e}.tie{fill:#59636e}
.over{stroke:#ffffff;stroke-width:4px;stroke-linejoin:round;paint-order:stroke}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}.text{fill:#f0f6fc}.soft{fill:#9198a1}.grid{stroke:#3d444d}.ours{fill:#4493f8}.peer{fill:#656c76}
.limit{stroke:#f85149}.limitText{fill:#f85149}.spread{stroke:#f0f6fc}.faster{fill:#3fb950}.slower{fill:#f85149}.tie{fill:#9198a1}
.over{stroke:#0d1117}}
"""


def text(x, y, words, kind="text", size=12, anchor="start", weight="normal"):
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(words)}</text>"
    )


def bar(y, kind, spread, full, label):
    """A bar with its spread and its value; `full` is the value at the right end."""
    length = lambda value: BARS * min(value / full, 1.0)
    middle = y + BAR / 2
    parts = [f'<rect class="{kind}" x="{LEFT}" y="{y:.1f}" width="{max(length(spread["median"]), 1):.1f}" height="{BAR}" rx="1.5"/>']
    low, high = length(spread["min"]), length(spread["max"])
    if high - low >= 1:
        parts.append(
            f'<line class="spread" x1="{LEFT + low:.1f}" x2="{LEFT + high:.1f}" y1="{middle:.1f}" y2="{middle:.1f}" '
            'stroke-width="1" stroke-opacity="0.75"/>'
        )
    # Beside the bar, over the line of the limit if that is there.
    x = LEFT + max(length(spread["median"]), high) + 5
    parts.append(text(x, y + BAR - 1.5, label, "soft over", 10.5))
    return parts


def row(y, made):
    """One test."""
    measure, ours, peer = made["measure"], made["undine"], made["peer"][made["best_peer"]]
    unit = UNITS[measure]
    limit = made.get("limit")
    # Room for the values on the right of bars that have no limit.
    full = limit["median"] if limit else max(ours["max"], peer["max"]) * 1.15
    parts = [
        text(12, y + BAR + 5, made["model"], "text", 12),
        text(LEFT - 8, y + BAR + 5, made["test"], "soft", 11, "end"),
    ]
    percent = f" ({limit['percent']:.0f}% of the limit)" if limit else ""
    parts += bar(y, "ours", ours, full, f"{number(measure, ours['median'])} {unit}{percent}")
    parts += bar(y + BAR + GAP, "peer", peer, full, f"{number(measure, peer['median'])} {unit}")
    parts.append(text(WIDTH - 14, y + BAR + 6, f"{made['ratio']:.2f}x", verdict(made["ratio"]), 13, "end", "600"))
    return parts


def section(y, title, rows):
    """A work: its title and its rows; the limit as a line behind the rows that have one."""
    parts = [text(12, y + 26, title, "text", 14, weight="600")]
    parts.append(f'<line class="grid" x1="12" x2="{WIDTH - 12}" y1="{y + 33}" y2="{y + 33}"/>')
    top = y + TITLE
    limited = [i for i, made in enumerate(rows) if "limit" in made]
    if limited:
        bounds = " and ".join(sorted({rows[i]["limit"]["limited_by"] for i in limited}))
        first, last = top + ROW * limited[0] - 3, top + ROW * (limited[-1] + 1) - 7
        parts.append(f'<line class="limit" x1="{RIGHT}" x2="{RIGHT}" y1="{first}" y2="{last}" stroke-width="1.5"/>')
        parts.append(text(RIGHT, y + 27, f"limit: {bounds}", "limitText", 11, "middle"))
    for i, made in enumerate(rows):
        parts += row(top + ROW * i, made)
    return parts, top + ROW * len(rows)


def wrapped(words, width):
    """Lines of at most `width` characters."""
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def draw(record):
    """The picture of a run."""
    parts = []
    y = 64
    for work, title in record["works"].items():
        rows = [made for made in record["cells"].values() if made["work"] == work]
        if rows:
            better = "more" if rows[0]["measure"] == "speed" else "less"
            made, y = section(y, f"{title} ({better} is better)", rows)
            parts += made
    y += 18
    for line in wrapped(conditions(record), 140):
        parts.append(text(12, y, line, "soft", 11))
        y += 16
    head = [
        text(12, 28, "Undine and llama.cpp on the same files", "text", 16, weight="600"),
        f'<rect class="ours" x="12" y="42" width="12" height="{BAR}"/>',
        text(30, 52, "Undine"),
        f'<rect class="peer" x="96" y="42" width="12" height="{BAR}"/>',
        text(114, 52, "llama.cpp, its best setting"),
        '<line class="limit" x1="300" x2="300" y1="40" y2="55" stroke-width="1.5"/>',
        text(308, 52, "limit of this machine, measured"),
        text(WIDTH - 14, 52, "how many times as good", "soft", 11, "end"),
    ]
    height = y + 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" style="{FONT}">',
            "<title>Undine and llama.cpp on the same files</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
            *head,
            *parts,
            "</svg>",
            "",
        ]
    )
