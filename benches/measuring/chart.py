"""A picture of the results: bars of checks and of durable creations, in SVG, on light and on dark pages."""

from html import escape

from .report import in_three_digits

WIDTH = 760
LABELS = 250
NUMBERS = 150
ROW = 26
TITLE = 44
BAR = 16
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px }
.quiet { fill: #59636e }
.bar { fill: #8c959f }
.own { fill: #1a7f5a }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .quiet { fill: #9198a1 }
  .bar { fill: #656c76 }
  .own { fill: #3fb984 }
}
"""
CHARTS = (
    ("check", "Checks per second, 100,000 sessions, one core"),
    ("create", "Durable creations per second, 64 clients, one core"),
)


def picture(results: dict) -> str:
    """The whole picture."""
    works = {work["name"]: work for work in results["works"]}
    parts, top = [], 8
    for name, title in CHARTS:
        if name in works:
            drawn, top = bars(title.replace("100,000", f"{results['sessions']:,}"), works[name]["rows"], top)
            parts += drawn
    parts.append(
        f'<text class="quiet" x="8" y="{top + 14}">{escape(results["machine"])}. Medians; benches/run.sh makes them.</text>'
    )
    height = top + 28
    description = "Checks and durable creations per second of sessiond and of other session stores, as bars"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">\n'
        f"<title>{description}</title>\n<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def bars(title: str, rows: list[dict], top: int) -> tuple[list[str], int]:
    """A title with a bar for each row, the longest first; and where the next may begin."""
    longest = max(row["rate"] for row in rows)
    parts = [f'<text class="title" x="8" y="{top + 24}">{escape(title)}</text>']
    top += TITLE
    for row in sorted(rows, key=lambda row: -row["rate"]):
        length = max((WIDTH - LABELS - NUMBERS) * row["rate"] / longest, 1)
        kind = "own" if row["label"].startswith("sessiond") else "bar"
        parts.append(f'<text x="{LABELS - 8}" y="{top + 13}" text-anchor="end">{escape(short(row["label"]))}</text>')
        parts.append(f'<rect class="{kind}" x="{LABELS}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>')
        number = f"{row['rate']:,.0f} · {in_three_digits(row['rate'] / rows[0]['rate'])} ×"
        parts.append(f'<text x="{LABELS + length + 8:.1f}" y="{top + 13}">{number}</text>')
        top += ROW
    return parts, top + 8


def short(label: str) -> str:
    """A label without what the table's text explains."""
    for long in (
        ", appendfsync always",
        ", synchronous FULL",
        " (no body)",
        " over SQLite",
        " in the database",
    ):
        label = label.replace(long, "")
    label = label.replace("a use of each session recorded in each round", "recording each use")
    return label.replace("actix-web, fixed answer (the ceiling)", "the ceiling: a fixed answer")
