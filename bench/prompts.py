"""Measures preparing a request that comes again: 24 tools with 64 KB of schemas and 20,000 tokens of history.

    python bench/prompts.py --undine target/release/undine --before OLD/undine

Requests go to `/tokenize`, which renders and tokenizes; with `--model`, one whose context holds them (the demo's does not), also to chat
completions of one token, which check tools and compile them too, and compute what is new. Each is sent once, then `--rounds` times with one
turn more each time, the programs by turns. Needs no packages.
"""

import argparse
import json
import random
import statistics
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from serving import Server, free_port

WORDS = "the of a to in station weather report number valley river quick seven order street under light paper north".split()
TOOLS = 24
SCHEMA_BYTES = 64 << 10
HISTORY_WORDS = 15_000  # some 20,000 tokens


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--undine", default="target/release/undine", help="the program [%(default)s]")
    parser.add_argument("--before", help="another program to compare with")
    parser.add_argument("--model", type=Path, help="a GGUF file [the demo]")
    parser.add_argument("--template", type=Path, help="a chat template that shows tools [the model's]")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("-o", "--output", type=Path, help="write the numbers to this JSON file")
    return parser.parse_args()


def words(chance, count):
    return " ".join(chance.choices(WORDS, k=count))


def tool(chance, number):
    properties = {}
    while len(json.dumps(properties)) < SCHEMA_BYTES // TOOLS - 200:
        name = f"field_{len(properties)}"
        kind = chance.choice(["string", "integer", "boolean", "array"])
        properties[name] = {"type": kind, "description": words(chance, 12)}
        if kind == "array":
            properties[name]["items"] = {"type": "string"}
    parameters = {"type": "object", "properties": properties, "required": ["field_0"]}
    function = {"name": f"tool_{number}", "description": words(chance, 20), "parameters": parameters}
    return {"type": "function", "function": function}


def conversation(seed):
    chance = random.Random(seed)
    messages, count = [], 0
    while count < HISTORY_WORDS:
        for role, length in [("user", 60), ("assistant", 240)]:
            messages.append({"role": role, "content": words(chance, length)})
            count += length
    messages.append({"role": "user", "content": "go on"})
    return {"messages": messages, "tools": [tool(chance, number) for number in range(TOOLS)]}


def post(port, path, body):
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=600) as answer:
        answer = json.loads(answer.read())
    return (time.perf_counter() - start) * 1000, answer


def ask(port, path, body):
    if path == "/tokenize":
        return post(port, path, body)
    return post(port, path, {**body, "max_tokens": 1, "temperature": 0})


def main():
    args = arguments()
    sides = {"before": args.before, "after": args.undine} if args.before else {"after": args.undine}
    run = {"tools": TOOLS, "schema_bytes": SCHEMA_BYTES, "rounds": args.rounds, "ms": {}}
    with ExitStack() as stack:
        ports = {}
        for side, program in sides.items():
            ports[side] = free_port()
            command = [program, "serve", *([str(args.model)] if args.model else []), "--port", str(ports[side])]
            command += ["--chat-template", str(args.template)] if args.template else []
            stack.enter_context(Server(command, ports[side]))
        for path in ["/tokenize", "/v1/chat/completions"] if args.model else ["/tokenize"]:
            body = conversation(path)
            times = {side: [] for side in sides}
            tokens = {}
            for turn in range(args.rounds + 1):
                for side in sides if turn % 2 else reversed(sides):
                    ms, answer = ask(ports[side], path, body)
                    tokens[side] = answer.get("count") or answer["usage"]["prompt_tokens"]
                    times[side].append(ms)
                said = words(random.Random(turn), 100)
                body["messages"] += [{"role": "assistant", "content": said}, {"role": "user", "content": "more"}]
            assert len(set(tokens.values())) == 1, tokens
            run["ms"][path] = {side: {"first": values[0], "again": values[1:]} for side, values in times.items()}
            for side, values in times.items():
                middle = statistics.median(values[1:])
                print(f"{path} {side}: {tokens[side]} tokens, first {values[0]:.1f} ms, again {middle:.1f} ms")
            if args.before:
                middle = [statistics.median(times[side][1:]) for side in ("after", "before")]
                print(f"{path}: {middle[0] / middle[1]:.2f} x")
    if args.output:
        args.output.write_text(json.dumps(run, indent=1) + "\n")


main()
