"""Measures llama.cpp's mtmd on an image, through llama-cpp-python's low-level API.

    vision_peer.py MODEL MMPROJ PIXELS WIDTH HEIGHT -t 2

PIXELS is a file of WIDTH x HEIGHT x 3 bytes. Prints one JSON object: seconds from the pixels to the first token (cutting, tower,
prompt, one greedy sample; the second time, after a warm-up) and the tokens of the prompt.
"""

import argparse
import ctypes
import json
import time

import llama_cpp
from llama_cpp import mtmd_cpp as mtmd

BATCH_ROWS = 2048
UBATCH_ROWS = 512
CONTEXT = 8192


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("mmproj")
    parser.add_argument("pixels")
    parser.add_argument("width", type=int)
    parser.add_argument("height", type=int)
    parser.add_argument("-t", "--threads", type=int, required=True)
    parser.add_argument("-p", "--prompt", required=True)
    args = parser.parse_args()
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(args.model.encode(), params)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = CONTEXT, BATCH_ROWS, UBATCH_ROWS
    params.n_threads = params.n_threads_batch = args.threads
    context = llama_cpp.llama_init_from_model(model, params)
    params = mtmd.mtmd_context_params_default()
    params.use_gpu, params.print_timings, params.n_threads = False, False, args.threads
    vision = mtmd.mtmd_init_from_file(args.mmproj.encode(), model, params)
    if not (model and context and vision):
        raise SystemExit("llama.cpp cannot load the files")
    with open(args.pixels, "rb") as file:
        pixels = (ctypes.c_uint8 * (args.width * args.height * 3)).from_buffer_copy(file.read())
    sampler = llama_cpp.llama_sampler_init_greedy()

    def first_token():
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        start = time.perf_counter()
        bitmap = mtmd.mtmd_bitmap_init(args.width, args.height, pixels)
        chunks = mtmd.mtmd_input_chunks_init()
        prompt = mtmd.mtmd_default_marker() + args.prompt.encode()
        text = mtmd.mtmd_input_text(text=prompt, text_len=len(prompt), add_special=True, parse_special=True)
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        if mtmd.mtmd_tokenize(vision, chunks, ctypes.byref(text), bitmaps, 1) != 0:
            raise SystemExit("mtmd_tokenize failed")
        past = llama_cpp.llama_pos(0)
        if mtmd.mtmd_helper_eval_chunks(vision, context, chunks, 0, 0, BATCH_ROWS, True, ctypes.byref(past)) != 0:
            raise SystemExit("mtmd_helper_eval_chunks failed")
        llama_cpp.llama_sampler_sample(sampler, context, -1)
        seconds = time.perf_counter() - start
        tokens = mtmd.mtmd_helper_get_n_tokens(chunks)
        mtmd.mtmd_input_chunks_free(chunks)
        mtmd.mtmd_bitmap_free(bitmap)
        return seconds, tokens

    first_token()
    seconds, tokens = first_token()
    print(json.dumps({"seconds": seconds, "tokens": tokens}))


main()
