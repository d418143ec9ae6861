"""Measures Undine and llama.cpp on the same files in one run, and writes the run, a table and a picture.

    pip install llama-cpp-python
    python bench/table.py --peer-python VENV/bin/python --models FOLDER

Model files that FOLDER lacks are made with `undine synth`. Every test runs on both sides in turn, in both orders; the peer runs
with each of its settings and the best one counts. A run that was stopped goes on where it was when started again with the same
output file. bench/README.md says what is measured and how.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import cells
import picture
import works

HERE = Path(__file__).parent
# A setting of the peer below this part of its best one gets no further rounds.
HOPELESS = 0.8
# Tokens of the prompt when time to the first token is measured, as in peer.py.
START_PROMPT_TOKENS = 16
PROMPT_TRIES = 6


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--undine", default="target/release/undine", help="the program [%(default)s]")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with llama-cpp-python [this one]")
    parser.add_argument("--models", type=Path, default=Path("target/bench-models"), help="folder of model files [%(default)s]")
    parser.add_argument("--only", help=f"works to measure, of {','.join(works.FULL)} [all]")
    parser.add_argument("--model", help="only models whose name contains this")
    parser.add_argument("--test", default="", help="only jobs with a test whose name contains this, such as d4096")
    parser.add_argument("--small", action="store_true", help="every work on the smallest model, in a few minutes")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each cell and side [%(default)s]")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--isa", default="auto", help="instruction set of Undine [%(default)s]")
    parser.add_argument("--again", action="store_true", help="measure cells again that the output file has")
    parser.add_argument("--prefix", default="", help="command to run each process behind, such as 'taskset -c 0,1'")
    parser.add_argument("-o", "--output", type=Path, help="the run's JSON file [bench/runs/DATE.json]")
    parser.add_argument("--draw", type=Path, metavar="RUN", help="measure nothing; write table and picture of this run")
    return parser.parse_args()


class Bench:
    """Starts the processes of both sides."""

    def __init__(self, args):
        self.args = args
        self.prompts = {}

    def process(self, command):
        """Runs a command behind the prefix and runner.py."""
        full = [*shlex.split(self.args.prefix), sys.executable, str(HERE / "runner.py"), *map(str, command)]
        done = subprocess.run(full, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise SystemExit(f"failed: {shlex.join(map(str, command))}")
        return json.loads(done.stdout.splitlines()[-1])

    def file(self, model):
        """The file of a model, made if missing and read once, so that it is in the page cache."""
        path = self.args.models / f"{model}.gguf"
        if not path.exists():
            shape, kind = model.rsplit("-", 1)
            print(f"making {path}", file=sys.stderr, flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            command = [self.args.undine, "synth", works.SHAPES[shape], "--type", kind, "-o", path]
            subprocess.run(list(map(str, command)), check=True)
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass
        return path

    def undine(self, work, job):
        """One run of Undine: values by test, and what the run was like."""
        path = self.args.models / f"{job.model}.gguf"
        threads = ["-t", self.args.threads]
        if work.measure == "start":
            prompt = ["--raw", "-p", self.prompt(path), "--max-tokens", 1, "--temperature", 0]
            run = self.process([self.args.undine, "run", path, *prompt, *threads])
            return {"first token": run["first_output_s"]}, {}, run
        flags = ["-r", 1, "--warmup", 1, "--json", "--isa", self.args.isa, *threads]
        flags += ["--roofline"] if work.measure == "speed" else []
        run = self.process([self.args.undine, "bench", path, *job.arguments(), *flags])
        if work.measure == "memory":
            return {"peak": run["resident_bytes"]}, {}, run
        reports = json.loads(run["output"])
        run["roofline"], run["isa"] = reports[0]["roofline"], reports[0]["isa"]
        return {report["test"]: report["median_ts"] for report in reports}, {report["test"]: report for report in reports}, run

    def peer(self, work, job, setting):
        """One run of llama.cpp."""
        path = self.args.models / f"{job.model}.gguf"
        mode = ["--start"] if work.measure == "start" else job.arguments()
        run = self.process([self.args.peer_python, HERE / "peer.py", path, *mode, "-t", self.args.threads, *setting])
        said = json.loads(run["output"].splitlines()[-1])
        values = {"start": {"first token": said.get("start")}, "memory": {"peak": said["resident_bytes"]}}
        return values.get(work.measure, said.get("tests")), {}, run

    def prompt(self, path):
        """A text of START_PROMPT_TOKENS tokens."""
        if path not in self.prompts:
            words = START_PROMPT_TOKENS
            for _ in range(PROMPT_TRIES):
                text = " ".join(["a"] * max(words, 1))
                command = [self.args.undine, "run", path, "--raw", "-p", text, "--max-tokens", "1", "--json"]
                said = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
                found = json.loads(said)["usage"]["prompt_tokens"]
                if found == START_PROMPT_TOKENS:
                    break
                words = words + START_PROMPT_TOKENS - found if abs(found - words) < words else words * START_PROMPT_TOKENS // found
            else:
                print(f"note: the prompt has {found} tokens, not {START_PROMPT_TOKENS}", file=sys.stderr)
            self.prompts[path] = text
        return self.prompts[path]


def tests_of(work, job):
    return {"start": ["first token"], "memory": ["peak"]}.get(work.measure) or job.tests()


def measure(bench, name, work, job, rounds, outdone):
    """All rounds of a job: finished cells by key. Settings of the peer in `outdone` are left out."""
    bench.file(job.model)
    tests = tests_of(work, job)
    settings = [setting for setting in work.settings if setting[0] not in outdone]
    samples = {test: {"undine": [], "peer": {setting: [] for setting, _ in settings}, "limits": []} for test in tests}
    before, stolen, rooflines, isa = [], [], [], None
    for round_index in range(rounds):
        dropped = set.intersection(*(cells.hopeless(work.measure, samples[test]["peer"], HOPELESS) for test in tests))
        sides = [None] + [setting for setting in settings if setting[0] not in dropped]
        for side in sides if round_index % 2 == 0 else reversed(sides):
            label = "undine" if side is None else f"llama.cpp, {side[0]}"
            print(f"  {job.model} round {round_index + 1} of {rounds}: {label}", file=sys.stderr, flush=True)
            values, reports, run = bench.undine(work, job) if side is None else bench.peer(work, job, side[1])
            before.append(run["before"])
            stolen.append(run["stolen"])
            rooflines += [run["roofline"]] if "roofline" in run else []
            isa = run.get("isa", isa)
            for test in tests:
                (samples[test]["undine"] if side is None else samples[test]["peer"][side[0]]).append(values[test])
                samples[test]["limits"] += [reports[test]] if test in reports else []
    finished = {}
    for test in tests:
        made = cells.cell(name, work.measure, job.model, test, samples[test])
        made |= {"date": time.strftime("%Y-%m-%d %H:%M"), "before": before, "stolen": stolen, "isa": isa, "rooflines": rooflines}
        finished[cells.key(name, job.model, test)] = made
    return finished


def outdone(record, name, job):
    """Settings of the peer that were hopeless with the same model at a smaller depth: a long context takes them many
    minutes to fill, and what they lose grows with it."""
    found = set()
    for shallower in (shallower for shallower in works.FULL[name].jobs if shallower.model == job.model):
        if max(shallower.depth) < max(job.depth):
            made = [record["cells"].get(cells.key(name, job.model, test)) for test in shallower.tests()]
            for cell in filter(None, made):
                samples = {setting: spread["samples"] for setting, spread in cell["peer"].items()}
                found |= cells.hopeless(cell["measure"], samples, HOPELESS)
    return found


def machine():
    """What this runs on."""
    cpu, flags = platform.processor(), []
    if Path("/proc/cpuinfo").exists():
        fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        fields = {name.strip(): value.strip() for name, value in fields.items()}
        cpu = fields.get("model name", cpu)
        wanted = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
        flags = [flag for flag in fields.get("flags", fields.get("Features", "")).split() if flag in wanted]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpu, "instructions": flags, "cores": os.cpu_count(), "memory_bytes": memory, "system": platform.platform()}


def versions(args):
    peer = subprocess.run([args.peer_python, str(HERE / "peer.py"), "--version"], check=True, capture_output=True, text=True)
    undine = subprocess.run([args.undine, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    git = subprocess.run(["git", "-C", str(HERE), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {"undine": {"name": undine, "commit": git.stdout.strip()}, "peer": json.loads(peer.stdout.splitlines()[-1])}


def write(path, text):
    """Writes a file whole or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text)
    part.replace(path)


def publish(record, path):
    """Table and picture beside the run."""
    write(path.with_suffix(".md"), f"{cells.conditions(record)}\n\n{cells.markdown(record)}")
    write(path.with_suffix(".svg"), picture.draw(record))


def selected(args):
    """Works and jobs to measure."""
    table = works.SMALL if args.small else works.FULL
    names = args.only.split(",") if args.only else list(table)
    unknown = [name for name in names if name not in table]
    if unknown:
        raise SystemExit(f"--only {','.join(unknown)}: expected some of {','.join(table)}")
    jobs = [(name, table[name], job) for name in names for job in table[name].jobs]
    wanted = lambda work, job: any(args.test in test for test in tests_of(work, job))
    return [
        (name, work, job) for name, work, job in jobs if (not args.model or args.model in job.model) and wanted(work, job)
    ]


def main():
    args = arguments()
    if args.draw:
        publish(json.loads(args.draw.read_text()), args.draw)
        return
    path = args.output or HERE / "runs" / time.strftime("%Y-%m-%d.json")
    record = json.loads(path.read_text()) if path.exists() else {"cells": {}}
    here = {"threads": args.threads, "machine": machine()}
    if any(record.get(name, here[name]) != here[name] for name in here):
        raise SystemExit(f"{path} was measured on another machine or with other threads; expected another --output")
    record |= {"date": time.strftime("%Y-%m-%d"), **here, **versions(args)}
    # In the order of the definitions, whatever was measured first.
    record["works"] = {name: work.title for name, work in works.FULL.items()}
    bench = Bench(args)
    for name, work, job in selected(args):
        keys = [cells.key(name, job.model, test) for test in tests_of(work, job)]
        if not args.again and all(key in record["cells"] for key in keys):
            continue
        print(f"{work.title}: {job.model}", file=sys.stderr, flush=True)
        made = measure(bench, name, work, job, args.rounds, outdone(record, name, job))
        record["cells"] |= {key: cell | {"commit": record["undine"]["commit"]} for key, cell in made.items()}
        write(path, json.dumps(record, indent=1) + "\n")
        publish(record, path)
        for key in keys:
            made = record["cells"][key]
            number = lambda side: cells.number(made["measure"], side["median"])
            best = made["best_peer"]
            limit = f"  {made['limit']['percent']:3.0f}% of the limit" if "limit" in made else ""
            print(f"{key:48} {number(made['undine']):>8} vs {number(made['peer'][best]):>8} ({best})  {made['ratio']:.2f}x{limit}", flush=True)
    print(f"written: {path} and .md, .svg beside it", file=sys.stderr)


if __name__ == "__main__":
    main()
