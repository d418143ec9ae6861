"""Measures what one client's worst requests cost the others, and what ordinary structured requests cost, on one or two builds.

    python bench/neighbours.py --model 350m.gguf --undine target/release/undine --old OTHER_BUILD

Neighbours: one client asks again and again with a streamed chat; its times to the first token are taken alone and then beside
another client that sends nothing but costly requests of one kind. Structured: the time of requests with a schema that is new
each time, and with one that stays. Builds run one at a time, in turns. Writes JSON, and a table to standard output.
All traffic goes to 127.0.0.1.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import statistics
import sys
import time
from datetime import date
from pathlib import Path

from serving import Server, free_port

REQUEST_SECONDS_MAX = 120
ANSWER_TOKENS = 8
# Stands for the number of a request in a body that is written once.
PLACE = 7_000_000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--undine", default="target/release/undine", help="the program [%(default)s]")
    parser.add_argument("--old", help="another build to compare with")
    parser.add_argument("--model", required=True, type=Path, help="a GGUF file")
    parser.add_argument("--requests", type=int, default=60, help="requests of the measured client per kind [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each build in the structured work [%(default)s]")
    parser.add_argument("--only", default="neighbours,structured", help="works to measure [%(default)s]")
    parser.add_argument("-o", "--output", type=Path, default=Path(f"bench/runs/neighbours-{date.today()}.json"))
    return parser.parse_args()


def serving(program, model):
    """A server of `program`, to be entered; its port is an attribute."""
    port = free_port()
    server = Server([program, "serve", str(model), "--port", str(port), "--max-model-len", "4096",
                     "--trust-request-chat-template", "--disable-log-requests"], port)
    server.port = port
    return server


def post(port, path, body, until_first=False):
    """Seconds to the end of the answer, or to its first event after the one that opens it; and the status."""
    return send(port, path, json.dumps(body), until_first)


def send(port, path, text, until_first=False):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_SECONDS_MAX)
    begin = time.monotonic()
    connection.request("POST", path, text, {"content-type": "application/json"})
    response = connection.getresponse()
    if until_first and response.status == 200:
        events = 0
        while events < 2 and (line := response.readline()):
            events += line.startswith(b"data: ")
        elapsed = time.monotonic() - begin
        response.read()
    else:
        # Without a copy in one piece: what a client does with an answer is its own affair.
        while response.read(1 << 20):
            pass
        elapsed = time.monotonic() - begin
    connection.close()
    return elapsed, response.status


def chat(number, **more):
    messages = [{"role": "user", "content": f"Question {number}: what is a lake?"}]
    return {"messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0, **more}


def schema(number, properties=8):
    fields = {f"field_{number}_{i}": {"type": "string", "maxLength": 20} for i in range(properties)}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": fields}}}


def large_schema(number):
    return "/v1/chat/completions", chat(number, response_format=schema(number, 900))


def ordinary(number):
    return "/v1/chat/completions", chat(number)


def unfinished_schema(number):
    """A large schema whose last property cannot be enforced: all of the work, and no answer."""
    form = schema(number, 900)
    form["json_schema"]["schema"]["properties"]["last"] = {"type": "string", "pattern": "(?=x)y"}
    return "/v1/chat/completions", chat(number, response_format=form)


def large_text(number):
    return "/tokenize", {"prompt": f"{number} " + "A lake is a body of water. " * 500_000}


def heavy_template(number):
    source = "{% for i in range(3000) %}{% for m in messages %}{{ m.content }}{{ i * i }}{% endfor %}{% endfor %}" + str(number)
    return "/tokenize", {"messages": chat(number)["messages"] * 30, "chat_template": source}


def slow_expression(number):
    expression = f"{number}|" + "|".join(f"(a{{1,{20 + i}}}b{{1,{30 + i}}}){{1,9}}" for i in range(60))
    return "/v1/completions", {"prompt": "x", "max_tokens": 1, "guided_regex": expression}


WORST = {"ordinary chats": ordinary, "large schemas": large_schema, "large schemas, refused": unfinished_schema, "12 MB of text": large_text, "templates that loop": heavy_template,
         "large expressions": slow_expression}


def first_tokens(port, count, offset):
    times = []
    for number in range(count):
        elapsed, status = post(port, "/v1/chat/completions", chat(offset + number, stream=True), until_first=True)
        if status != 200:
            sys.exit(f"the measured client got {status}")
        times.append(elapsed)
    return times


def beside(port, kind, count, offset):
    """Times to first tokens beside a client that sends requests of `kind`, and what that client got."""
    context = multiprocessing.get_context("fork")
    stop, results = context.Event(), context.Queue()

    # Written once: on a machine of its own a client's work would take nothing from the server. Each request is new by its number.
    path, body = WORST[kind](PLACE)
    text = json.dumps(body)

    def bother(number):
        got = []
        while not stop.is_set():
            number += 1
            try:
                got.append(str(send(port, path, text.replace(str(PLACE), str(number)))[1]))
            except OSError as error:
                got.append(str(error))
        results.put(got)

    bothering = [context.Process(target=bother, args=(PLACE + 1_000_000 * client,)) for client in range(1, 3)]
    for process in bothering:
        process.start()
    time.sleep(1)
    times = first_tokens(port, count, offset)
    stop.set()
    got = [status for _ in bothering for status in results.get()]
    for process in bothering:
        process.join()
    return times, got


def percentile(times, share):
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def neighbours(args, program):
    """One table of a build: for each kind the median and the 99th percentile, and the same alone."""
    rows = []
    with serving(program, args.model) as server:
        first_tokens(server.port, 5, 2_000_000)
        for place, kind in enumerate(WORST):
            alone = first_tokens(server.port, args.requests, 3_000_000 + 10_000 * place)
            times, got = beside(server.port, kind, args.requests, 1_000_000 + 10_000 * place)
            statuses = {status: got.count(status) for status in got}
            rows.append({"kind": kind, "alone_ms": [percentile(alone, 0.5) * 1e3, percentile(alone, 0.99) * 1e3],
                         "beside_ms": [percentile(times, 0.5) * 1e3, percentile(times, 0.99) * 1e3],
                         "other_client": statuses})
            print(program, json.dumps(rows[-1]), flush=True)
    return rows


def structured_times(port, offset, count=24):
    """Medians in ms of requests without a form, with a new one each time, and with one that stays."""
    works = {"no form": lambda _: {}, "a new schema each time": lambda n: {"response_format": schema(n)},
             "one schema": lambda _: {"response_format": schema(0)}}
    result = {}
    for name, more in works.items():
        bodies = [chat(offset + n, **more(offset + n)) for n in range(count)]
        post(port, "/v1/chat/completions", bodies[0])
        result[name] = statistics.median(post(port, "/v1/chat/completions", body)[0] for body in bodies[1:]) * 1e3
    return result


def structured(args, programs):
    """Medians of each build, all builds running and asked in turns."""
    servers = [serving(program, args.model) for program in programs]
    rounds = {program: [] for program in programs}
    for server in servers:
        server.__enter__()
    for number in range(args.rounds):
        order = list(zip(programs, servers))
        for program, server in order if number % 2 == 0 else reversed(order):
            rounds[program].append(structured_times(server.port, 10_000 * (number + 1)))
    for server in servers:
        server.__exit__()
    return {program: {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
            for program, turns in rounds.items()}


def main():
    args = arguments()
    programs = [args.undine] + ([args.old] if args.old else [])
    result = {"cores": os.cpu_count(), "model": args.model.name, "requests": args.requests}
    if "structured" in args.only:
        result["structured_ms"] = structured(args, programs)
        print(json.dumps(result["structured_ms"], indent=1), flush=True)
    if "neighbours" in args.only:
        result["neighbours"] = {program: neighbours(args, program) for program in programs}
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
