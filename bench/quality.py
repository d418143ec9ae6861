"""Measures what quantization costs: for every type our file and llama.cpp's, made from the same input, against that input.

    pip install llama-cpp-python gguf jinja2
    python bench/quality.py INPUT.gguf --peer-python VENV/bin/python --name demo

INPUT is a checkpoint in a float type. For each type four files are made, ours and llama.cpp's, with and without the same
importance matrix file (from `undine calibrate`; llama.cpp reads its mean squares, Undine also how columns go together), and
`undine eval --against INPUT` measures each on a text that neither the importance matrix nor the training of the demo model
has seen. Both sides' files run in Undine, so what differs is the files. The text is measured in parts, so that the ratio
of both sides' divergences has a standard error: that of a ratio of paired means. Writes
bench/runs/quality-NAME-DATE.json, a table (.md) and a picture (.svg). Texts come from demo/make_data.py unless given. A run goes on where it was stopped if it is started again.
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
TYPES = "Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K_L Q3_K_M Q3_K_S IQ3_M IQ3_S Q2_K IQ2_XXS".split()
# Neither program makes these without an importance matrix.
NEED_IMATRIX = {"IQ2_XXS"}
# Sides as they are called in files and tables.
SIDES = ("undine", "llama.cpp")
PLAIN, WEIGHTED = "plain", "imatrix"
CALIBRATION_DIALOGUES = 400
HELD_OUT_DIALOGUES = 720
PARTS = 12
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
    parser.add_argument("--parts", type=int, default=PARTS, help="parts of the text, for standard errors [%(default)s]")
    parser.add_argument("--context", type=int, default=512, help="tokens of a window [%(default)s]")
    parser.add_argument("--chunks", type=int, help="windows to measure on in each part [all of it]")
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


def pieces(text, count):
    """A text in pieces of about as many lines each."""
    lines = text.splitlines(keepends=True)
    ends = [len(lines) * i // count for i in range(count + 1)]
    return ["".join(lines[first:last]) for first, last in zip(ends, ends[1:])]


class Bench:
    """Makes files and measures them."""

    def __init__(self, args):
        self.args = args
        args.work.mkdir(parents=True, exist_ok=True)
        text = args.text.read_text() if args.text else dialogues(HELD_OUT_DIALOGUES, 2, True)
        self.texts = [self.write(f"held-out-{i}.txt", piece) for i, piece in enumerate(pieces(text, args.parts))]
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
        parts = [self.evaluate(path, text) for text in self.texts]
        size = path.stat().st_size
        path.unlink()
        return {"bytes": size, "quantize_s": seconds, "parts": parts}

    def evaluate(self, path, text):
        """What of `undine eval`'s numbers is kept of a part of the text."""
        words = [self.args.undine, "eval", path, "--against", self.args.input, "--text", text, "--json"]
        found = json.loads(run([*words, *self.windows(self.args.chunks)]))
        means = {"kl": found["kl"]["mean"], "same_top": found["same_top"], "reference_perplexity": found["reference_perplexity"]}
        return {key: found[key] for key in ("context", "windows", "predictions")} | {
            key: mean["value"] for key, mean in means.items()
        }


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
            if kind == PLAIN and dtype in NEED_IMATRIX:
                continue
            for side in SIDES:
                key = f"{dtype} {kind} {side}"
                if key not in record["cells"]:
                    record["cells"][key] = bench.measure(side, dtype, path)
                    output.write_text(json.dumps(record, indent=1) + "\n")
                cell = record["cells"][key]
                print(f"{key:28} {cell['bytes'] / 1e6:10.2f} MB  KL {kl(cell):.6f}", flush=True)
    return record


def rows(record):
    """Types in the order of the run: (type, kind, ours, theirs)."""
    for dtype, kind in dict.fromkeys(tuple(key.split()[:2]) for key in record["cells"]):
        ours, theirs = (record["cells"].get(f"{dtype} {kind} {side}") for side in SIDES)
        if ours and theirs:
            yield dtype, kind, ours, theirs


def mean_of(cell, measure):
    """Of all predictions of all parts."""
    return sum(part[measure] * part["predictions"] for part in cell["parts"]) / sum(part["predictions"] for part in cell["parts"])


def kl(cell):
    return mean_of(cell, "kl")


def ratio(ours, theirs):
    """Our divergence to theirs, with its standard error from part to part; None if theirs is 0."""
    if not kl(theirs):
        return None
    value = kl(ours) / kl(theirs)
    pairs = [(a["kl"] - value * b["kl"]) / kl(theirs) for a, b in zip(ours["parts"], theirs["parts"])]
    return value, math.sqrt(sum(pair * pair for pair in pairs) / max(1, len(pairs) - 1) / len(pairs))


def table(record):
    """Markdown: for every type both sides' size, divergence and agreement."""
    parts = next(rows(record))[2]["parts"]
    predictions, windows = (sum(part[key] for part in parts) for key in ("predictions", "windows"))
    nll = sum(part["predictions"] * math.log(part["reference_perplexity"]) for part in parts) / predictions
    lines = [
        f"# What quantization costs: {record['name']}, {record['date']}",
        "",
        f"Against the input in a float type ({record['input_bytes'] / 1e6:.1f} MB, perplexity {math.exp(nll):.4f}); "
        f"{predictions} predictions in {windows} windows of {parts[0]['context']} tokens, in {len(parts)} parts. "
        f"Peer: {record['peer']['name']}. All files run in Undine. KL in nats per token; the ratio is our KL to theirs, "
        "below 1 is better, with its standard error over the parts of the text (not over models: which weights are rounded "
        "up and which down is luck, and adds some percent in either direction). With an importance matrix Undine also uses "
        "how input columns go together, which `undine calibrate` stores beside the mean squares.",
        "",
        "| type | importance | MB | llama.cpp | mean KL | llama.cpp | ratio | same best token | llama.cpp |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for dtype, kind, ours, theirs in rows(record):
        cells = [dtype, "yes" if kind == WEIGHTED else "no"]
        cells += [f"{cell['bytes'] / 1e6:.2f}" for cell in (ours, theirs)]
        cells += [f"{kl(cell):.6f}" for cell in (ours, theirs)]
        found = ratio(ours, theirs)
        cells.append(f"{found[0]:.3f} +/- {found[1]:.3f}" if found else "-")
        cells += [f"{100 * mean_of(cell, 'same_top'):.2f}%" for cell in (ours, theirs)]
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
    for dtype, kind, ours, theirs in rows(record):
        found = ratio(ours, theirs)
        if found and found[0] > 1:
            print(f"our mean KL is above theirs for {dtype} {kind}: {found[0]:.3f} +/- {found[1]:.3f} times")


if __name__ == "__main__":
    main()
