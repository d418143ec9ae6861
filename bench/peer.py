"""Measures llama.cpp on a GGUF file, through llama-cpp-python's low-level API.

    peer.py MODEL -p 512,4096 -n 32 -d 0,4096 -B 1,8 -t 2     tests as `undine bench` names them, one run of each
    peer.py MODEL --start -t 2                                from loading the library to the first token
    peer.py --version

Prefill: random tokens, logits of the last one only. Decode: one token of each sequence a step, logits of all. At depth the
context is filled first, which is not timed. These are the tests of llama-bench and llama-batched-bench.
Prints one JSON object.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import random
import time
from pathlib import Path

# As llama-bench.
BATCH_ROWS = 2048
UBATCH_ROWS = 512
# As `undine bench` warms up.
WARMUP_PREFILL_TOKENS = 512
WARMUP_DECODE_TOKENS = 16
# llama.cpp rounds the context of a sequence up to this.
CONTEXT_STEP = 256
# Tokens of the prompt, when time to the first token is measured.
START_PROMPT_TOKENS = 16
START_CONTEXT = 512
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}


def load_library():
    """Loads llama.cpp's shared library, without what Python puts around it; returns the seconds that took."""
    package = Path(importlib.util.find_spec("llama_cpp").origin).parent
    library = next(path for name in ("libllama.so", "libllama.dylib", "llama.dll") if (path := package / "lib" / name).exists())
    start = time.perf_counter()
    ctypes.CDLL(str(library))
    return time.perf_counter() - start


class Peer:
    """A model and a context of llama.cpp."""

    def __init__(self, llama, args, sequences, context_tokens):
        self.llama = llama
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = not args.no_repack
        self.model = llama.llama_model_load_from_file(args.model.encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {args.model}")
        vocab = llama.llama_model_get_vocab(self.model)
        self.vocab = llama.llama_vocab_n_tokens(vocab)
        params = llama.llama_context_default_params()
        per_sequence = -(-context_tokens // CONTEXT_STEP) * CONTEXT_STEP
        params.n_ctx = per_sequence * sequences
        params.n_seq_max = sequences
        params.n_batch = BATCH_ROWS
        params.n_ubatch = UBATCH_ROWS
        params.n_threads = params.n_threads_batch = args.threads
        params.flash_attn_type = FLASH_ATTENTION[args.flash_attention]
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp refuses the context")
        self.batch = llama.llama_batch_init(BATCH_ROWS, 0, 1)
        self.random = random.Random(1)

    def clear(self):
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)

    def step(self, rows):
        """Computes rows of (sequence, position, whether logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (sequence, position, logits) in enumerate(rows):
            batch.token[i] = self.random.randrange(self.vocab)
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = logits
        if self.llama.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama_decode failed")
        self.llama.llama_synchronize(self.context)

    def fill(self, sequence, start, end):
        """Computes positions start..end, with logits of the last."""
        for first in range(start, end, BATCH_ROWS):
            last = min(first + BATCH_ROWS, end)
            self.step([(sequence, position, position + 1 == end) for position in range(first, last)])

    def prefill(self, depth, tokens):
        start = time.perf_counter()
        self.fill(0, depth, depth + tokens)
        return tokens / (time.perf_counter() - start)

    def decode(self, depth, tokens, sequences):
        start = time.perf_counter()
        for position in range(depth, depth + tokens):
            self.step([(sequence, position, True) for sequence in range(sequences)])
        return tokens * sequences / (time.perf_counter() - start)

    def first_token(self):
        self.fill(0, 0, START_PROMPT_TOKENS)
        sampler = self.llama.llama_sampler_init_greedy()
        return self.llama.llama_sampler_sample(sampler, self.context, -1)


def name(kind, tokens, sequences, depth):
    return f"{kind}{tokens}" + (f" x{sequences}" if sequences > 1 else "") + (f" @ d{depth}" if depth else "")


def speeds(peer, args):
    """All tests, in tokens per second. Depths ascend, so a context is filled further and not again."""
    results = {}
    for tokens in args.n_prompt:
        peer.clear()
        peer.prefill(0, min(tokens, WARMUP_PREFILL_TOKENS))
        for depth in args.depth:
            peer.clear()
            peer.fill(0, 0, depth)
            results[name("pp", tokens, 1, depth)] = peer.prefill(depth, tokens)
    for sequences in args.batch:
        for tokens in args.n_gen:
            peer.clear()
            peer.decode(0, min(tokens, WARMUP_DECODE_TOKENS), sequences)
            peer.clear()
            filled = 0
            for depth in args.depth:
                for sequence in range(sequences):
                    peer.fill(sequence, filled, depth)
                results[name("tg", tokens, sequences, depth)] = peer.decode(depth, tokens, sequences)
                filled = depth + tokens
    return results


def numbers(text):
    return sorted({int(part) for part in text.split(",")})


def resident_bytes(line):
    """`VmRSS`: resident now. `VmHWM`: the most so far."""
    with open(f"/proc/{os.getpid()}/status") as status:
        return next(int(words.split()[1]) * 1024 for words in status if words.startswith(line))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("-p", "--n-prompt", type=numbers, default="0")
    parser.add_argument("-n", "--n-gen", type=numbers, default="0")
    parser.add_argument("-d", "--depth", type=numbers, default="0")
    parser.add_argument("-B", "--batch", type=numbers, default="1")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--no-repack", action="store_true")
    parser.add_argument("--flash-attention", choices=FLASH_ATTENTION, default="off")
    parser.add_argument("--version", action="store_true")
    args = parser.parse_args()
    args.n_prompt = [tokens for tokens in args.n_prompt if tokens]
    args.n_gen = [tokens for tokens in args.n_gen if tokens]
    library_s = load_library()
    # What Python needs to describe the library is not counted.
    import llama_cpp as llama

    if args.version:
        features = llama.llama_print_system_info().decode().strip(" |")
        print(json.dumps({"name": f"llama-cpp-python {llama.__version__}", "features": features}))
        return
    python_bytes = resident_bytes("VmRSS")
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    start = time.perf_counter()
    if args.start:
        peer = Peer(llama, args, 1, START_CONTEXT)
        loaded = time.perf_counter()
        peer.first_token()
        end = time.perf_counter()
        result = {"library_s": library_s, "load_s": loaded - start, "prompt_s": end - loaded, "start": library_s + end - start}
    else:
        tokens = max(args.depth) + max(args.n_prompt + args.n_gen)
        # A context filled further at each depth needs room for the tokens measured on the way.
        peer = Peer(llama, args, max(args.batch), tokens)
        result = {"load_s": time.perf_counter() - start, "tests": speeds(peer, args)}
    result["resident_bytes"] = resident_bytes("VmHWM") - python_bytes
    print(json.dumps(result))


main()
