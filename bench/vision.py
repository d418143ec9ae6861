"""Time from a question about an image to the first token of the answer: Undine beside llama.cpp's mtmd, in turns.

    python3 bench/vision.py --models target/bench-models --peer-python target/peer/bin/python -o bench/runs/vision-DATE.json

The model is LFM2-VL-450M in its true shape with random weights, made with `undine synth` if it is not there: text in Q4_0, and a tower in
each of --towers (`undine quantize`). Images are noise. Undine: `undine serve` and one streamed chat request with the image as a data URI, from sending it to
the first token; asked about another image first, so that it is warm, and then the same again, which finds everything cached.
llama.cpp: from the pixels to the first token, the second time.
"""

import argparse
import base64
import json
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from pathlib import Path

SHAPE = "LFM2-VL-450M"
SIZES = ((512, 512), (1600, 900))
PROMPT = "What is this?"
START_S_MAX = 60


def noise(width, height, seed):
    """RGB noise of blocks of 4 x 4 pixels."""
    source = random.Random(seed)
    rows = []
    for _ in range(-(-height // 4)):
        row = b"".join(source.randbytes(3) * 4 for _ in range(-(-width // 4)))[: width * 3]
        rows += [row] * 4
    return b"".join(rows[:height])


def png(width, height, pixels):
    """A PNG file of RGB pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + pixels[y * width * 3 : (y + 1) * width * 3] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 1)) + chunk(b"IEND", b"")


def ask(port, image):
    """Seconds to the first token, and the tokens of the prompt."""
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": PROMPT}]
    body = {
        "messages": [{"role": "user", "content": content}], "max_tokens": 1, "stream": True, "ignore_eos": True, "temperature": 0,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    start = time.perf_counter()
    first, usage = None, None
    with urllib.request.urlopen(request) as response:
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event["choices"] and event["choices"][0].get("finish_reason") and first is None:
                first = time.perf_counter() - start
            usage = event.get("usage") or usage
    return first, usage["prompt_tokens"]


def undine(args, model, mmproj, images):
    """[seconds, seconds asked again, tokens] of each image, from one server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [args.undine, "serve", model, "--mmproj", mmproj, "--port", str(port), "-t", str(args.threads)]
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + START_S_MAX
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except OSError:
                    if time.monotonic() > deadline or server.poll() is not None:
                        raise SystemExit("undine serve did not start") from None
                    time.sleep(0.1)
            ask(port, png(512, 512, noise(512, 512, 0)))
            results = []
            for image in images:
                seconds, tokens = ask(port, image)
                results.append((seconds, ask(port, image)[0], tokens))
            return results
        finally:
            server.terminate()


def peer(args, model, mmproj, pixels, size):
    script = Path(__file__).with_name("vision_peer.py")
    with tempfile.NamedTemporaryFile() as file:
        file.write(pixels)
        file.flush()
        command = [args.peer_python, script, model, mmproj, file.name, *size, "-t", args.threads, "-p", PROMPT]
        command = [str(word) for word in command]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    answer = json.loads(output.splitlines()[-1])
    return answer["seconds"], answer["tokens"]


def files(args, tower):
    """The model and its tower in one type; made if they are not there."""
    folder = args.models / "vl-450m"
    model, mmproj = folder / "model.gguf", folder / f"{tower}.gguf"

    def run(*words):
        subprocess.run([args.undine, *map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        run("synth", SHAPE, "--type", "Q4_0", "-o", model)
    if not mmproj.exists():
        run("quantize", next(folder.glob("*mmproj*")), mmproj, "--type", tower.upper())
    return model, mmproj


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--undine", default="target/release/undine")
    parser.add_argument("--peer-python", help="a Python with llama-cpp-python; without it only Undine is measured")
    parser.add_argument("--models", type=Path, default=Path("target/bench-models"))
    parser.add_argument("--towers", default="bf16,q8_0", help="types of the tower [bf16,q8_0]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    rows = []
    for tower in args.towers.split(","):
        model, mmproj = files(args, tower)
        samples = {size: {"first": [], "again": [], "peer": []} for size in SIZES}
        for number in range(args.rounds):
            pixels = {size: noise(*size, seed=number + 1) for size in SIZES}
            ours = undine(args, model, mmproj, [png(*size, pixels[size]) for size in SIZES])
            for size, (first, again, tokens) in zip(SIZES, ours):
                sample = samples[size]
                sample["first"].append(first)
                sample["again"].append(again)
                sample["tokens"] = tokens
                if args.peer_python:
                    seconds, sample["peer_tokens"] = peer(args, model, mmproj, pixels[size], size)
                    sample["peer"].append(seconds)
        for size, sample in samples.items():
            row = {"tower": tower, "size": size, "samples": sample}
            row |= {key: statistics.median(sample[key]) for key in ("first", "again", "peer") if sample[key]}
            rows.append(row)
            text = f"{tower} {size[0]}x{size[1]}: {row['first']:.2f} s ({sample['tokens']} tokens), again {row['again']:.2f} s"
            if sample["peer"]:
                text += f"; llama.cpp {row['peer']:.2f} s ({sample['peer_tokens']} tokens), {row['peer'] / row['first']:.2f}x"
            print(text, flush=True)
    if args.output:
        args.output.write_text(json.dumps({"shape": SHAPE, "threads": args.threads, "rows": rows}, indent=1) + "\n")


sys.exit(main())
