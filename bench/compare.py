"""Times Undine and llama.cpp on the same files in one run, interleaved, and prints medians and their ratio.

    python bench/compare.py --peer-python VENV/bin/python --undine target/release/undine FILE.gguf ...

Needs a Python with llama-cpp-python for the peer (`pip install llama-cpp-python`). The peer is measured with its
default settings and without weight repacking; the better of the two counts. Rounds alternate, so that a slow minute of
a shared machine hits both. Results go to a JSON file with the machine and the load beside them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def peer(args, model, *extra):
    command = [args.peer_python, str(HERE / "peer.py"), model, "-p", str(args.p), "-n", str(args.n), "-t", str(args.t), *extra]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def ours(args, model):
    command = [args.undine, "bench", model, "-p", str(args.p), "-n", str(args.n), "-t", str(args.t), "-r", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"undine bench {model} failed")
    result = {test["test"]: test["median_ts"] for test in json.loads(output)}
    result["resident_bytes"] = usage.ru_maxrss * 1024
    return result


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def median_and_range(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": values}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--undine", default="target/release/undine")
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=32)
    parser.add_argument("-t", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    names = [f"pp{args.p}", f"tg{args.n}"]
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "threads": args.t,
        "load_before": os.getloadavg()[0],
        "peer": subprocess.run([args.peer_python, "-c", "import llama_cpp; print('llama-cpp-python', llama_cpp.__version__)"],
                               check=True, capture_output=True, text=True).stdout.strip(),
        "results": [],
    }
    for model in args.models:
        runs = {"undine": [], "peer": [], "peer_norepack": []}
        for _ in range(args.rounds):
            runs["undine"].append(ours(args, model))
            runs["peer"].append(peer(args, model))
            runs["peer_norepack"].append(peer(args, model, "--no-repack"))
        for name in names:
            row = {who: median_and_range([run[name] for run in results]) for who, results in runs.items()}
            best = max(row["peer"]["median"], row["peer_norepack"]["median"])
            ratio = row["undine"]["median"] / best
            record["results"].append({"model": Path(model).name, "test": name, "ratio_to_best_peer": ratio, **row})
            print(f"{Path(model).name:24} {name:6} undine {row['undine']['median']:8.2f}   llama.cpp {row['peer']['median']:8.2f}"
                  f"   no repack {row['peer_norepack']['median']:8.2f}   ratio {ratio:5.2f}", flush=True)
        memory = {who: max(run["resident_bytes"] for run in results) for who, results in runs.items()}
        record["results"].append({"model": Path(model).name, "test": "resident_bytes", **memory})
        print(f"{Path(model).name:24} MiB    " + "   ".join(f"{who} {bytes / 2**20:.0f}" for who, bytes in memory.items()), flush=True)
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + "\n")


main()
