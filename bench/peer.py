"""Measures llama.cpp on a GGUF file the way llama-bench does, through llama-cpp-python's low-level API.

Prefill: one prompt of random tokens, logits of the last row only. Decode: single-token steps from an empty context.
Prints one JSON object: {"pp512": tok/s, "tg32": tok/s, "load_s": ..., "resident_bytes": ...}.
"""

import argparse
import ctypes
import json
import os
import random
import time

import llama_cpp as llama


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def silent(_level, _text, _data):
    pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=32)
    parser.add_argument("-t", type=int, default=2)
    parser.add_argument("-r", type=int, default=1)
    parser.add_argument("--no-repack", action="store_true")
    parser.add_argument("--flash-attention", choices=["on", "off"], default="off")
    args = parser.parse_args()
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    start = time.perf_counter()
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = not args.no_repack
    model = llama.llama_model_load_from_file(args.model.encode(), params)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {args.model}")
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    context_params = llama.llama_context_default_params()
    context_params.n_ctx = max(args.p, args.n) + 8
    context_params.n_batch = 2048
    context_params.n_ubatch = 512
    context_params.n_threads = context_params.n_threads_batch = args.t
    context_params.flash_attn_type = 1 if args.flash_attention == "on" else 0
    context = llama.llama_init_from_model(model, context_params)
    load_s = time.perf_counter() - start
    rng = random.Random(0)

    def decode(count):
        tokens = (llama.llama_token * count)(*[rng.randrange(1000, min(vocab, 60000)) for _ in range(count)])
        if llama.llama_decode(context, llama.llama_batch_get_one(tokens, count)) != 0:
            raise SystemExit("llama_decode failed")
        llama.llama_synchronize(context)

    def timed(steps, count):
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        start = time.perf_counter()
        for _ in range(steps):
            decode(count)
        return steps * count / (time.perf_counter() - start)

    timed(1, min(args.p or 32, 32))
    timed(1, 1)
    result = {"load_s": load_s}
    if args.p:
        result[f"pp{args.p}"] = sorted(timed(1, args.p) for _ in range(args.r))[args.r // 2]
    if args.n:
        result[f"tg{args.n}"] = sorted(timed(args.n, 1) for _ in range(args.r))[args.r // 2]
    with open(f"/proc/{os.getpid()}/status") as status:
        result["resident_bytes"] = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(json.dumps(result))


main()
