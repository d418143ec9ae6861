"""Measures Undine's server, llama-server and another Undine on the same file in one run, with `undine bench serve` as the client of all.

    python bench/serving.py --peer LLAMA_SERVER --model model.gguf
    python bench/serving.py --before OLD/undine --model model.gguf --only load --clients 8,32

Two works. `chat`: one chat of 20 turns behind a system prompt of 2,000 tokens, the time to the first token of each turn,
for Undine with and without its prefix cache and for the others with their own. `load`: 1 to 32 clients at once, each with prompts
of their own. Servers run one at a time, in turns; every other round goes backwards. Writes JSON and, beside it, a table.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
START_SECONDS_MAX = 120
CLIENTS = (1, 2, 4, 8, 16, 32)
CHAT = ["--multi-turn-turns", "20", "--random-prefix-len", "2000", "--num-prompts", "1", "--max-concurrency", "1",
        "--input-len", "50", "--output-len", "32"]
CHAT_CONTEXT = 8192
LOAD_INPUT, LOAD_OUTPUT = 128, 64
LOAD_CONTEXT = 256  # tokens of one client: input, output and the chat template's own


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--undine", default="target/release/undine", help="the program [%(default)s]")
    parser.add_argument("--peer", help="a llama-server to compare with")
    parser.add_argument("--before", help="another undine to compare with")
    parser.add_argument("--model", required=True, type=Path, help="a GGUF file")
    parser.add_argument("--only", default="chat,load", help="works to measure [%(default)s]")
    parser.add_argument("--clients", type=lambda text: [int(part) for part in text.split(",")], default=CLIENTS,
                        help="numbers of clients at once [all of 1 to 32]")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each server and work [%(default)s]")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="the run's JSON file [bench/runs/serving-DATE.json]")
    args = parser.parse_args()
    if not (args.peer or args.before):
        parser.error("nothing to compare with: give --peer, --before or both")
    return args


def others(args):
    """The servers to compare with."""
    return [side for side, given in [("before", args.before), ("llama-server", args.peer)] if given]


class Server:
    """A server while it runs."""

    def __init__(self, command, port):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self):
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5)
                return self
            except OSError:
                time.sleep(0.1)
        self.process.kill()
        self.log.seek(0)
        sys.exit(f"{self.process.args[0]} did not start:\n{self.log.read().decode(errors='replace')[-2000:]}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def command(args, side, sequences, context):
    """How to start a server of `side` for so many sequences of so many tokens; its command line and port."""
    port = free_port()
    if side == "llama-server":
        # Its context is shared by the slots in equal parts.
        line = [args.peer, "-m", args.model, "-np", sequences, "-c", sequences * context, "-t", args.threads,
                "--host", "127.0.0.1", "--port", port]
    else:
        program = args.before if side == "before" else args.undine
        line = [program, "serve", args.model, "--max-num-seqs", sequences, "--max-model-len", context,
                "--threads", args.threads, "--port", port, "--log-level", "error"]
        line += ["--no-enable-prefix-caching"] if side == "undine without cache" else []
    return [str(word) for word in line], port


def ask(args, url, flags, seed):
    """Runs the client; its result."""
    line = [args.undine, "bench", "serve", "--base-url", url, "--tokenizer", str(args.model), "--seed", str(seed),
            "--no-progress", "--json", *flags]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(line)}\nended with {done.returncode}: {done.stderr[-2000:]}")
    result = json.loads(done.stdout)
    if result["failed"]:
        sys.exit(f"{result['failed']} requests failed: {done.stderr[-2000:]}")
    return result


def chat(args, side, seed):
    line, port = command(args, side, 1, CHAT_CONTEXT)
    with Server(line, port) as server:
        result = ask(args, server.url, ["--backend", "openai-chat", *CHAT], seed)
    return {"ttft_ms": [turn["mean_ttft_ms"] for turn in result["turns"]],
            "cached_tokens": [turn["mean_cached_tokens"] for turn in result["turns"]],
            "input_tokens": [turn["mean_input_tokens"] for turn in result["turns"]]}


def load(args, side, clients, seed):
    line, port = command(args, side, clients, LOAD_CONTEXT)
    flags = ["--backend", "openai", "--input-len", LOAD_INPUT, "--output-len", LOAD_OUTPUT, "--ignore-eos",
             "--num-prompts", max(4, 2 * clients), "--max-concurrency", clients, "--num-warmups", 1]
    with Server(line, port) as server:
        result = ask(args, server.url, [str(flag) for flag in flags], seed)
    return {key: result[key] for key in ("output_throughput", "total_token_throughput", "median_ttft_ms",
                                         "p99_ttft_ms", "median_tpot_ms", "p99_tpot_ms", "total_output_tokens")}


def turns(sides, rounds):
    for number in range(rounds):
        yield from ((number, side) for side in (sides if number % 2 == 0 else reversed(sides)))


def measure(args, run):
    if "chat" in args.only:
        for number, side in turns(["undine", "undine without cache", *others(args)], args.rounds):
            run["chat"].setdefault(side, []).append(chat(args, side, 1000 + number))
            print(f"chat, {side}: {statistics.median(run['chat'][side][-1]['ttft_ms'][1:]):.0f} ms", file=sys.stderr)
    if "load" in args.only:
        for clients in args.clients:
            for number, side in turns(["undine", *others(args)], args.rounds):
                cell = load(args, side, clients, 2000 + number)
                run["load"].setdefault(str(clients), {}).setdefault(side, []).append(cell)
                print(f"{clients} clients, {side}: {cell['output_throughput']:.1f} tok/s", file=sys.stderr)


def table(run):
    lines = [f"# Servers, {run['date']}", "",
             f"`{run['model']}`, {run['threads']} threads, {run['cpu']}, load {run['load_average']} at the start.", "",
             "".join(f"* {side}: {words}\n" for side, words in run["versions"].items())]
    if run["chat"]:
        lines += ["## One chat of 20 turns behind a system prompt of 2,000 tokens", "",
                  "Milliseconds to the first token; of turns 2 to 20 the median, and the worst, over all rounds.", "",
                  "| server | turn 1 | turns 2 to 20 | worst |", "|---|---|---|---|"]
        for side, cells in run["chat"].items():
            later = [ms for cell in cells for ms in cell["ttft_ms"][1:]]
            first = statistics.median(cell["ttft_ms"][0] for cell in cells)
            lines.append(f"| {side} | {first:.0f} | {statistics.median(later):.0f} | {max(later):.0f} |")
        lines.append("")
    if run["load"]:
        lines += [f"## Clients at once, {LOAD_INPUT} tokens in, {LOAD_OUTPUT} out", "",
                  "Output tokens per second of all clients together, median of the rounds, and Undine's divided by it; time to the first token"
                  " and per token, medians.", "",
                  "| clients | server | output tok/s | ratio | first token, ms | per token, ms |", "|---|---|---|---|---|---|"]
        for clients, sides in run["load"].items():
            def middle(side, key):
                return statistics.median(cell[key] for cell in sides[side])
            for side in sides:
                speed = middle(side, "output_throughput")
                ratio = middle("undine", "output_throughput") / speed
                lines.append(f"| {clients} | {side} | {speed:.1f} | {ratio:.2f} | {middle(side, 'median_ttft_ms'):.0f} "
                             f"| {middle(side, 'median_tpot_ms'):.0f} |")
    return "\n".join(lines) + "\n"


def version(program):
    """What a program says of itself in one line."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    return next((line for line in lines if "version" in line), lines[0] if lines else "unknown").strip()


def main():
    args = arguments()
    date = time.strftime("%Y-%m-%d")
    output = args.output or HERE / "runs" / f"serving-{date}.json"
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    versions = {side: version(program) for side, program in [("undine", args.undine), ("before", args.before), ("llama-server", args.peer)] if program}
    run = {"date": date, "model": args.model.name, "threads": args.threads, "cpu": cpu, "versions": versions,
           "load_average": round(os.getloadavg()[0], 2), "chat": {}, "load": {}}
    if output.exists():
        before = json.loads(output.read_text())
        if (before["model"], before["cpu"]) != (run["model"], run["cpu"]):
            sys.exit(f"{output} is of {before['model']} on {before['cpu']}: choose another output")
        run["chat"], run["load"] = ({} if work in args.only else before[work] for work in ("chat", "load"))
    measure(args, run)
    beside = output.with_suffix(".json.new")
    beside.write_text(json.dumps(run, indent=1) + "\n")
    beside.rename(output)
    output.with_suffix(".md").write_text(table(run))
    print(table(run))


if __name__ == "__main__":
    main()
