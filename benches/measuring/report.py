"""Tables from rounds: medians, ratios, notes."""

from statistics import median

LOAD_LIMIT = 0.95
HEADINGS = ("", "requests/s", "p50 ms", "p99 ms", "CPU s / 100k", "× sessiond")


def result_of(label: str, rounds: list[dict]) -> dict:
    """A row's medians."""
    return {
        "label": label,
        "rate": median(one["rate"] for one in rounds),
        "p50_ms": median(one["p50_ms"] for one in rounds),
        "p99_ms": median(one["p99_ms"] for one in rounds),
        # Clocks of processes tick a hundred times a second: rounds that ran out early are too short to stand alone.
        "cpu_secs": 100_000 * sum(one["cpu_secs"] for one in rounds) / sum(one["requests"] for one in rounds),
        "is_load_limited": median(one["load_share"] for one in rounds) > LOAD_LIMIT,
        "rounds": rounds,
    }


def table(work: dict) -> str:
    """One work as a table, with its explanation."""
    rows, has_ceiling = work["rows"], work["has_ceiling"]
    first = rows[0]["rate"]
    ceiling = next((row["rate"] for row in rows if "ceiling" in row["label"]), None) if has_ceiling else None
    headings = [*HEADINGS, "× ceiling"] if ceiling else list(HEADINGS)
    lines = [f"## {work['title']}", "", work["explanation"], ""]
    lines += [line_of(headings), "|---|" + "---:|" * (len(headings) - 1)]
    for row in rows:
        mark = " (1)" if row["is_load_limited"] else ""
        cells = [row["label"] + mark, f"{row['rate']:,.0f}", in_three_digits(row["p50_ms"]), in_three_digits(row["p99_ms"])]
        cells += [in_three_digits(row["cpu_secs"]), in_three_digits(row["rate"] / first)]
        if ceiling:
            cells.append(in_three_digits(row["rate"] / ceiling))
        lines.append(line_of(cells))
    if any(row["is_load_limited"] for row in rows):
        lines += ["", "(1) The load generator was the limit: its core was busy all the time, and the server could do more."]
    return "\n".join(lines) + "\n"


def line_of(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def in_three_digits(number: float) -> str:
    """As many digits as mean something: 0.0312, 1.23, 45.6, 789."""
    if number >= 100:
        return f"{number:,.0f}"
    digits = 1 if number >= 10 else 2 if number >= 1 else 3
    return f"{number:.{digits}f}"


def page(results: dict) -> str:
    """Everything that a run found, in Markdown."""
    parts = ["# What sessiond does next to others", "", results["method"], "", f"Machine: {results['machine']}.", ""]
    parts += ["| | version |", "|---|---|"]
    parts += [line_of([name, version]) for name, version in results["versions"].items()]
    parts += [""]
    for work in results["works"]:
        parts.append(table(work))
    if results["notes"]:
        parts += ["## Notes", "", *(f"- {note}" for note in results["notes"]), ""]
    return "\n".join(parts)
