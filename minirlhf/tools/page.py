"""One self-contained HTML page about a run: curves from update 0 with the healthy range shaded,
calibration, score against KL, and a microscope on single tokens.

    minirlhf page                 the stages in out/: writes out/page.html
    minirlhf page out/mine/ppo    one stage, of own data as well

The page asks for nothing outside itself. What comes from data or from a model is shown as text.
"""

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path

from minirlhf.run import config, resume
from minirlhf.run.config import flag
from minirlhf.run.files import writable, write_text
from minirlhf.run.folder import CALIBRATION
from minirlhf.tools import doctor, panels
from minirlhf.tools import microscope as tokens
from minirlhf.tools.charts import svg

BEGIN = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
# A browser that obeys this asks for nothing, whatever came into the page.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Config:
    """Write a page about a run that any browser shows: curves, calibration, samples, tokens."""

    run: str = flag("out", "folder of a run, or of all stages", by_place=True)
    html: str = flag("", "file to write [RUN/page.html]")


def main(argv=None):
    args = config.parse(Config, argv)
    path = Path(args.html or Path(args.run) / "page.html")
    if args.html:
        writable("--html", path, BEGIN)
    write(args.run, path)
    print(f"the page is {path}; open it in a browser")


def write(folder, path):
    """The page about the runs in a folder. InputError if there is none."""
    runs = doctor.find_runs(folder)
    names = {place: str(place.relative_to(folder)) for place in reversed(runs)}  # the last first
    names = {place: place.name if name == "." else name for place, name in names.items()}
    body = [f"<h1>{escape(str(folder))}</h1>", contents(names.values())]
    body += [section(name, place, runs[place]) for place, name in names.items()]
    write_text(path, document(str(folder), "\n".join(body)))


# ---- the parts of the page


def contents(names):
    links = (f'<a href="#{escape(name)}">{escape(name)}</a>' for name in names)
    return f"<nav>{' '.join(links)}</nav>"


def section(name, place, records):
    """All about one run."""
    parts = [f'<section id="{escape(name)}"><h2>{escape(name)}</h2>', about(place, records)]
    views = tokens.read(place)
    parts.append(findings(records, place, views))
    parts += ['<div class="charts">', *map(svg, panels.charts(records))]
    if frontier := panels.frontier(records):
        parts.append(svg(frontier))
    if bins := read_calibration(place / CALIBRATION):
        parts.append(svg(panels.calibration(bins)))
    parts += ["</div>", last_numbers(records), microscope(views), samples(place), "</section>"]
    return "\n".join(parts)


def about(place, records):
    """One line on what the run learned from and how far it is, and its flags behind it."""
    record = resume.read_record(place) or {"flags": {}}
    steps = records[-1]["step"] + 1
    data = escape(str(record.get("data", "unknown data")))
    rows = "".join(row(name, value) for name, value in sorted(record["flags"].items()))
    table = f"<details><summary>flags</summary><table>{rows}</table></details>"
    return f"<p>{steps} steps on {data}</p>{table if rows else ''}"


def row(*cells):
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def findings(records, place, views):
    """What the doctor says."""
    found = doctor.examine(records, doctor.flags_of(place), views)
    if not found:
        return '<p class="well">The doctor finds nothing wrong.</p>'
    items = (f"<li>from step {step}: {escape(text)}</li>" for step, text in found.values())
    return f'<ul class="ill">{"".join(items)}</ul>'


def last_numbers(records):
    """The last value of every metric, behind a summary."""
    latest = {name: value for record in records for name, value in record.items()}
    rows = "".join(row(name, "null" if x is None else f"{x:.5g}") for name, x in latest.items())
    return f"<details><summary>last value of every metric</summary><table>{rows}</table></details>"


def samples(place):
    """The last table of samples.txt."""
    path = place / "samples.txt"
    tables = (
        path.read_text(encoding="utf-8", errors="replace").strip().split("\n\n")
        if path.exists()
        else []
    )
    if not tables:
        return ""
    return f"<details><summary>samples</summary><pre>{escape(tables[-1])}</pre></details>"


def read_calibration(path):
    """The bins in calibration.json; [] if there is none, or if it is damaged."""
    try:
        bins = json.loads(path.read_text(encoding="utf-8"))
        return [{name: float(row[name]) for name in row} for row in bins if row["pairs"] > 0]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def microscope(views):
    """The tokens that PPO recorded, as data for page.js."""
    if not views:
        return ""
    # In a script element only "<" could end the text or begin a comment.
    data = json.dumps(views, allow_nan=False).replace("<", "\\u003c")
    return (
        '<div class="microscope"><h3>Microscope</h3>'
        f'<script type="application/json">{data}</script></div>'
    )


def document(title, body):
    """The page, with its style and its script inside."""
    style, script = (
        Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8")
        for kind in ("css", "js")
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    head += '<meta name="viewport" content="width=device-width">'
    head += f"<title>minirlhf: {escape(title)}</title>\n<style>\n{style}</style>"
    return f"{BEGIN}{head}</head>\n<body>\n{body}\n<script>\n{script}</script>\n</body></html>\n"


if __name__ == "__main__":
    config.run(main)
