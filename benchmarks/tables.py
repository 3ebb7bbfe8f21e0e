"""docs/benchmarks.md from benchmarks/results: no figure is typed in by hand."""

import ast
import json
from typing import Any

from benchmarks import picture
from benchmarks.records import RESULTS, ROOT, Record, machine_of

HEADS = ("what", "ours", "rival", "theirs", "ratio", "first call, s", "error", "of")
TOP = """# Benchmarks

Made by `python -m benchmarks table` from what `python -m benchmarks run` measured; `make bench` does both at quick
sizes, in place of what is here. A ratio is
how many times better ours is, below 1 worse: the rows where we lose are here as well. First calls, compiling included,
are apart from repeats, and the error of an answer stands beside the time that it took, ours / theirs. Times on a
machine that is shared vary from run to run by tens of per cent; the ratios within one run are what counts.

![Every ratio to another library, by benchmark, on a logarithmic axis](images/benchmarks.png)

"""


def figure(x: float | None) -> str:
    """Three digits."""
    if x is None:
        return ""
    return f"{x:.0f}" if 1000 <= abs(x) < 1e6 else f"{x:.3g}"


def pair(ours: float | None, theirs: float | None) -> str:
    """Ours / theirs, as far as they are known."""
    return " / ".join(figure(x) or "–" for x in (ours, theirs)) if ours is not None or theirs is not None else ""


def cells(r: Record) -> tuple[str, ...]:
    """One row."""
    ratio = figure(r.ratio)
    if r.interval:
        ratio += f" ({figure(r.interval[0])} to {figure(r.interval[1])})"
    ratio = f"**{ratio}**" if r.ratio is not None and r.ratio < 1 else ratio
    theirs = figure(r.theirs) if r.theirs is not None else r.note
    first, error = pair(r.first, r.their_first), pair(r.error, r.their_error)
    return f"{r.what}, {r.unit}", figure(r.ours), r.rival, theirs, ratio, first, error, r.error_of


def section(name: str, found: dict[str, Any]) -> str:
    """What is compared and why it is fair, where and when, and the rows."""
    doc = ast.get_docstring(ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text())) or ""
    title, _, text = doc.partition("\n\n")
    rows = [Record(**row) for row in found["rows"]]
    used = [any(column) for column in zip(*(_used(r) for r in rows), strict=True)] if rows else []
    heads = [h for h, u in zip(HEADS, used, strict=True) if u]
    out = [f"## {title.rstrip('.')}", "", _commands(text), "", where(found["about"]), ""]
    out += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for r in rows:
        kept = (c.replace("|", "\\|") for c, u in zip(cells(r), used, strict=True) if u)
        out.append("| " + " | ".join(kept) + " |")
    notes = sorted({r.note for r in rows if r.note and r.theirs is not None})
    return "\n".join([*out, "", *notes, ""])


def _used(r: Record) -> tuple[bool, ...]:
    rival = bool(r.rival)
    first, error = r.first is not None or r.their_first is not None, r.error is not None or r.their_error is not None
    return True, True, rival, rival, r.ratio is not None, first, error, bool(r.error_of)


def _commands(text: str) -> str:
    """Indented parts of a docstring are code."""
    out, code = [], False
    for row in text.splitlines():
        indented = row.startswith("    ") or (code and not row)
        if indented != code:
            out += ["```text"] if indented else ["```", ""]
        out.append(row[4:] if indented else row)
        code = indented
    return "\n".join([*out, "```"] if code else out)


def where(told: dict[str, Any]) -> str:
    """Date, hardware, versions."""
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    machine = told.get("device") or machine_of(told) + " at the start"
    took = f", {told['seconds']:.0f} s" if "seconds" in told else ""
    took += f" ({told['cpu_s']:.0f} of the processor)" if "cpu_s" in told else ""
    return f"*{told['date'][:10]}, {told['sizes']} sizes{took}; {machine}; Python {told['python']}, {versions}.*"


def together(results: dict[str, dict[str, Any]]) -> str:
    """What the quick ones took, in processor time where that was kept; installing rivals is apart."""
    quick = [r["about"] for r in results.values() if r["about"]["sizes"] == "quick"]
    minutes = sum(told.get("cpu_s", told["seconds"]) for told in quick) / 60
    return f"The {len(quick)} benchmarks of quick sizes took {minutes:.0f} minutes of a processor together.\n\n"


def main(chosen: list[str], quick: bool) -> None:
    del chosen, quick
    order = ["headline", "smc2", "refit", "batch_vs_online", "filters", "kernels", "history", "gp", "fleet"]
    paths = {path.stem: path for path in sorted(RESULTS.glob("*.json"))}
    there = [name for name in [*order, *sorted(set(paths) - set(order))] if name in paths]
    results = {name: found for name in there if "rows" in (found := json.loads(paths[name].read_text()))}
    picture.draw(results)
    parts = [section(name, found) for name, found in results.items()]
    text = TOP + together(results) + "\n".join(parts)
    (ROOT / "docs" / "benchmarks.md").write_text(text.rstrip() + "\n")
    print(f"docs/benchmarks.md: {len(parts)} sections")
