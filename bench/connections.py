"""Measures how soon `/health` answers on new connections while very many others are open and idle.

    python bench/connections.py --model model.gguf

Two works, each on a server of its own: `limit`, with the server's usual --max-connections, so that most connections are closed to
make room; and `open`, with a limit above their number, so that all stay. In both the connections come from this machine, a third
of them silent, a third in the middle of a request's head, a third idle after a request that was answered. Needs no packages.
"""

import argparse
import json
import resource
import selectors
import socket
import statistics
import sys
import time
from pathlib import Path

from serving import Server, free_port

HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
KEPT = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
HALF = b"GET /health HTTP/1.1\r\nhost:"
WORKS = ("limit", "open")
PER_ADDRESS = 20_000  # connections from one loopback address: the ports of a client are some 28,000
GOAL_MS = 50


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--undine", default="target/release/undine", help="the program [%(default)s]")
    parser.add_argument("--model", type=Path, help="a GGUF file [the demo]")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--probes", type=int, default=2_000)
    parser.add_argument("--only", default=",".join(WORKS), help="works to measure [%(default)s]")
    parser.add_argument("-o", "--output", type=Path, help="write the numbers to this JSON file")
    return parser.parse_args()


def probe(port):
    """Seconds from connecting to the end of the answer."""
    start = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(HEALTH)
        answer = b""
        while data := connection.recv(4096):
            answer += data
    if not answer.startswith(b"HTTP/1.1 200"):
        sys.exit(f"a probe was answered {answer[:100]!r}")
    return time.perf_counter() - start


def fill(port, count):
    """Opens so many connections and leaves them idle."""
    held = []
    for i in range(count):
        connection = socket.socket()
        connection.bind((f"127.0.0.{2 + i // PER_ADDRESS}", 0))
        connection.connect(("127.0.0.1", port))
        try:
            if i % 3 == 1:
                connection.sendall(HALF)
            elif i % 3 == 2:
                connection.sendall(KEPT)
        except OSError:
            pass  # it has been closed to make room
        held.append(connection)
    return held


def still_open(held):
    """How many of the connections the server has not closed."""
    selector, closed = selectors.DefaultSelector(), 0
    for connection in held:
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)
    for key, _ in selector.select(timeout=1):
        try:
            while data := key.fileobj.recv(4096):
                pass
            closed += data == b""
        except BlockingIOError:
            pass
        except OSError:
            closed += 1
    return len(held) - closed


def percentile(times, share):
    return sorted(times)[min(len(times) - 1, int(share * len(times)))] * 1e3


def measure(args, work):
    port = free_port()
    command = [args.undine, "serve", *([str(args.model)] if args.model else []), "--port", str(port), "-t", "2",
               "--disable-log-requests"]
    if work == "open":
        command += ["--max-connections", str(2 * args.connections)]
    with Server(command, port) as server:
        before = [probe(port) for _ in range(args.probes)]
        start = time.perf_counter()
        held = fill(port, args.connections)
        filled = time.perf_counter() - start
        during = [probe(port) for _ in range(args.probes)]
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        memory = int(status.split("VmRSS:")[1].split()[0]) / 1024
        result = {
            "work": work, "connections": args.connections, "open": still_open(held), "probes": args.probes,
            "fill_s": round(filled, 2), "server_rss_mib": round(memory, 1),
            "idle_ms": summary(before), "crowded_ms": summary(during),
        }
        for connection in held:
            connection.close()
    return result


def summary(times):
    return {"median": round(statistics.median(times) * 1e3, 2), "p99": round(percentile(times, 0.99), 2),
            "max": round(max(times) * 1e3, 2)}


def main():
    args = arguments()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < args.connections + 100:
        sys.exit(f"this process may open {hard} files only, expected {args.connections + 100}: raise ulimit -Hn")
    results = [measure(args, work) for work in WORKS if work in args.only.split(",")]
    for result in results:
        print(json.dumps(result))
    if args.output:
        args.output.write_text(json.dumps(results, indent=1) + "\n")
    worst = max(result["crowded_ms"]["p99"] for result in results)
    sys.exit(0 if worst < GOAL_MS else f"the p99 of /health is {worst} ms, expected below {GOAL_MS}")


if __name__ == "__main__":
    main()
