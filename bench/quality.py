"""Measures what quantization costs: for every type our file and llama.cpp's, made from the same input, against that input.

    pip install llama-cpp-python gguf jinja2
    python bench/quality.py INPUT.gguf --peer-python VENV/bin/python --name demo

INPUT is a checkpoint in a float type. For each type four files are made, ours and llama.cpp's, with and without the same
importance matrix (from `undine calibrate`), and `undine eval --against INPUT` measures each on a text that neither the
importance matrix nor the training of the demo model has seen. Both sides' files run in Undine, so what differs is the
files. Writes bench/runs/quality-NAME-DATE.json, a table (.md) and a picture (.svg). Texts come from demo/make_data.py
unless given. A run goes on where it was stopped if it is started again.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from html import escape
from pathlib import Path

import picture

HERE = Path(__file__).parent
TYPES = "Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K_L Q3_K_M Q3_K_S Q2_K".split()
# Sides as they are called in files and tables.
SIDES = ("undine", "llama.cpp")
PLAIN, WEIGHTED = "plain", "imatrix"
CALIBRATION_DIALOGUES = 400
HELD_OUT_DIALOGUES = 240
WIDTH, HEIGHT = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 84, 60


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, nargs="?", help="a GGUF file in a float type")
    parser.add_argument("--undine", default="target/release/undine", help="the program [%(default)s]")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with llama-cpp-python and gguf [this one]")
    parser.add_argument("--name", default="demo", help="what the model is called in the results [%(default)s]")
    parser.add_argument("--work", type=Path, default=Path("target/quality"), help="folder for files on the way [%(default)s]")
    parser.add_argument("--types", default=",".join(TYPES), help="types to measure [%(default)s]")
    parser.add_argument("--text", type=Path, help="text to measure on [held-out dialogues of the demo model]")
    parser.add_argument("--calibration", type=Path, help="text of the importance matrix [training dialogues of the demo model]")
    parser.add_argument("--context", type=int, default=512, help="tokens of a window [%(default)s]")
    parser.add_argument("--chunks", type=int, help="windows to measure on [all of the text]")
    parser.add_argument("--calibration-chunks", type=int, help="windows of the importance matrix [all of the text]")
    parser.add_argument("-o", "--output", type=Path, help="the run's JSON file [bench/runs/quality-NAME-DATE.json]")
    parser.add_argument("--draw", type=Path, metavar="RUN", help="measure nothing; write table and picture of this run")
    return parser.parse_args()


def run(command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"failed: {' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def dialogues(count, seed, held_out):
    sys.path.insert(0, str(HERE.parent / "demo"))
    import make_data

    world = make_data.World(seed, held_out=held_out)
    return "\n".join(world.sample()[1] for _ in range(count)) + "\n"


class Bench:
    """Makes files and measures them."""

    def __init__(self, args):
        self.args = args
        args.work.mkdir(parents=True, exist_ok=True)
        self.text = args.text or self.write("held-out.txt", dialogues(HELD_OUT_DIALOGUES, 2, True))
        self.calibration = args.calibration or self.write("calibration.txt", dialogues(CALIBRATION_DIALOGUES, 1, False))

    def write(self, name, text):
        path = self.args.work / name
        path.write_text(text)
        return path

    def windows(self, chunks):
        return ["--context", self.args.context] + (["--chunks", chunks] if chunks else [])

    def imatrix(self):
        path = self.args.work / f"{self.args.name}.imatrix.gguf"
        windows = self.windows(self.args.calibration_chunks)
        run([self.args.undine, "calibrate", self.args.input, "--text", self.calibration, *windows, "-o", path])
        return path

    def measure(self, side, dtype, imatrix):
        """One file: its size and `undine eval`'s numbers. The file is removed."""
        path = self.args.work / f"{self.args.name}-{side}-{dtype}.gguf"
        path.unlink(missing_ok=True)
        weights = [imatrix] if imatrix else []
        started = time.perf_counter()
        if side == "undine":
            flags = [flag for path in weights for flag in ("--imatrix", path)]
            run([self.args.undine, "quantize", self.args.input, path, "--type", dtype, *flags])
        else:
            run([self.args.peer_python, HERE / "quality_peer.py", self.args.input, path, dtype, *weights])
        seconds = time.perf_counter() - started
        words = [self.args.undine, "eval", path, "--against", self.args.input, "--text", self.text, "--json"]
        found = json.loads(run([*words, *self.windows(self.args.chunks)]))
        size = path.stat().st_size
        path.unlink()
        # A folder of this machine says nothing to others.
        return {"bytes": size, "quantize_s": seconds} | found | {"text": self.text.name}


def record_of(bench, output):
    args = bench.args
    if output.exists():
        record = json.loads(output.read_text())
    else:
        peer = json.loads(run([args.peer_python, HERE / "peer.py", "--version"]))
        record = {"date": time.strftime("%Y-%m-%d"), "name": args.name, "machine": platform.machine(), "peer": peer, "cells": {}}
        record["input_bytes"] = args.input.stat().st_size
    imatrix = bench.imatrix()
    for dtype in args.types.split(","):
        for kind, path in ((PLAIN, None), (WEIGHTED, imatrix)):
            for side in SIDES:
                key = f"{dtype} {kind} {side}"
                if key not in record["cells"]:
                    record["cells"][key] = bench.measure(side, dtype, path)
                    output.write_text(json.dumps(record, indent=1) + "\n")
                cell = record["cells"][key]
                print(f"{key:28} {cell['bytes'] / 1e6:10.2f} MB  KL {cell['kl']['mean']['value']:.6f}", flush=True)
    return record


def rows(record):
    """Types in the order of the run: (type, kind, ours, theirs)."""
    for dtype, kind in dict.fromkeys(tuple(key.split()[:2]) for key in record["cells"]):
        ours, theirs = (record["cells"].get(f"{dtype} {kind} {side}") for side in SIDES)
        if ours and theirs:
            yield dtype, kind, ours, theirs


def kl(cell):
    return cell["kl"]["mean"]["value"]


def table(record):
    """Markdown: for every type both sides' size, divergence and agreement."""
    first = next(rows(record))[2]
    lines = [
        f"# What quantization costs: {record['name']}, {record['date']}",
        "",
        f"Against the input in a float type ({record['input_bytes'] / 1e6:.1f} MB, perplexity "
        f"{first['reference_perplexity']['value']:.4f}); {first['predictions']} predictions in {first['windows']} windows of "
        f"{first['context']} tokens. Peer: {record['peer']['name']}. All files run in Undine. KL in nats per token; "
        "the ratio is our KL to theirs, below 1 is better.",
        "",
        "| type | importance | MB | llama.cpp | mean KL | llama.cpp | ratio | 99% KL | llama.cpp | same best token | llama.cpp |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for dtype, kind, ours, theirs in rows(record):
        cells = [dtype, "yes" if kind == WEIGHTED else "no"]
        cells += [f"{cell['bytes'] / 1e6:.2f}" for cell in (ours, theirs)]
        cells += [f"{kl(cell):.6f}" for cell in (ours, theirs)]
        cells.append(f"{kl(ours) / kl(theirs):.3f}" if kl(theirs) else "1" if not kl(ours) else "-")
        cells += [f"{cell['kl']['p99']:.5f}" for cell in (ours, theirs)]
        cells += [f"{100 * cell['same_top']['value']:.2f}%" for cell in (ours, theirs)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def decades(low, high):
    """The powers of ten around a range, at least two."""
    first = math.floor(math.log10(low))
    last = max(math.ceil(math.log10(high)), first + 1)
    return [10.0**power for power in range(first, last + 1)]


def draw(record):
    """SVG: size against mean KL, logarithmic, a mark for each file."""
    made = [row for row in rows(record) if kl(row[2]) > 0 and kl(row[3]) > 0]
    sizes = [cell["bytes"] / 1e6 for row in made for cell in row[2:]]
    values = [kl(cell) for row in made for cell in row[2:]]
    scale = decades(min(values), max(values))
    least, most = min(sizes), max(sizes)
    margin = 0.06 * (most - least) or 1
    x_of = lambda size: LEFT + (WIDTH - LEFT - RIGHT) * (size - least + margin) / (most - least + 2 * margin)
    span = math.log10(scale[-1] / scale[0])
    y_of = lambda value: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log10(value / scale[0]) / span
    parts = []
    for value in scale:
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(picture.text(LEFT - 8, y + 4, f"{value:g}", "soft", 11, "end"))
    for i in range(6):
        size = least + (most - least) * i / 5
        parts.append(picture.text(x_of(size), HEIGHT - BOTTOM + 18, f"{size:.3g} MB", "soft", 11, "middle"))
    for dtype, kind, ours, theirs in made:
        for side, cell in (("peer", theirs), ("ours", ours)):
            x, y = x_of(cell["bytes"] / 1e6), y_of(kl(cell))
            # Filled with an importance matrix, hollow without.
            fill = "" if kind == WEIGHTED else ' style="fill:none"'
            colour = "var(--ours)" if side == "ours" else "var(--peer)"
            parts.append(
                f'<circle class="{side}" cx="{x:.1f}" cy="{y:.1f}" r="4.5" stroke="{colour}" stroke-width="1.6"{fill}/>'
            )
        if kind == WEIGHTED:
            parts.append(picture.text(x_of(ours["bytes"] / 1e6) + 7, y_of(kl(ours)) + 12, dtype, "soft", 10))
    title = f"What quantization costs: {record['name']}"
    key = [
        picture.text(12, 28, title, "text", 16, weight="600"),
        '<circle class="ours" cx="18" cy="48" r="4.5"/>',
        picture.text(30, 52, "Undine"),
        '<circle class="peer" cx="102" cy="48" r="4.5"/>',
        picture.text(114, 52, "llama.cpp"),
        picture.text(200, 52, "hollow: without an importance matrix"),
        picture.text(12, 74, "mean KL, nats per token (less is better)", "soft", 11),
        picture.text(WIDTH - RIGHT, HEIGHT - 16, "size of the file", "soft", 11, "end"),
    ]
    colours = ":root{--ours:#0969da;--peer:#9aa4af}@media (prefers-color-scheme:dark){:root{--ours:#4493f8;--peer:#656c76}}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" style="{picture.FONT}">',
            f"<title>{escape(title)}</title>",
            f"<style>{picture.STYLE}{colours}</style>",
            f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
            *key,
            *parts,
            "</svg>",
            "",
        ]
    )


def main():
    args = arguments()
    if args.draw:
        output, record = args.draw, json.loads(args.draw.read_text())
    else:
        if not args.input:
            raise SystemExit("expected an input file, or --draw RUN")
        output = args.output or HERE / "runs" / f"quality-{args.name}-{time.strftime('%Y-%m-%d')}.json"
        record = record_of(Bench(args), output)
    output.with_suffix(".md").write_text(table(record))
    output.with_suffix(".svg").write_text(draw(record))
    worse = [f"{dtype} {kind}" for dtype, kind, ours, theirs in rows(record) if kl(ours) > kl(theirs)]
    print(f"our mean KL is above theirs for: {', '.join(worse) or 'no type'}")


if __name__ == "__main__":
    main()
