"""Compares `undine quantize` with llama.cpp's quantizer, and checks that llama.cpp reads our files as we do.

    cargo build --release
    python3 -m venv target/peer && target/peer/bin/pip install llama-cpp-python gguf numpy
    target/peer/bin/python bench/quantize.py --undine target/release/undine [--types Q4_K_M,Q8_0] [--imatrix]

For each type, with every matrix in it (`--pure`): the squared error of both files relative to the squares of the weights, on
normal weights, on weights with heavy tails (Student's t with 4 degrees of freedom) and on the demo model. Decoded by the
`gguf` Python package. With --imatrix the errors are weighted by random importances, which both sides get.

For each mix of the demo model: how far llama.cpp's log-probabilities of our file are from those of the same file decoded to
F32 by us, on average (they would be equal but for rounding of activations), and the Kullback-Leibler divergence of both
sides' files from the original.

Prints Markdown; fails if one of our errors is larger than llama.cpp's or a file cannot be loaded.
"""

import argparse
import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp as llama
import numpy as np

from llama import Opened, start

TYPES = ["Q8_0", "Q6_K", "Q5_1", "Q5_K_S", "Q5_0", "Q4_1", "Q4_K_S", "IQ4_NL", "Q4_0", "IQ4_XS", "Q3_K_S", "Q2_K"]
MIXES = ["F32", "BF16", "F16", "Q8_0", "Q6_K", "Q5_1", "Q5_K_M", "Q5_K_S", "Q5_0", "Q4_1", "Q4_K_M", "Q4_K_S", "IQ4_NL", "Q4_0", "IQ4_XS"] + [
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "Q2_K_S"]
# llama.cpp refuses these without one.
NEEDS_IMATRIX = {"Q2_K_S"}
DEMO = Path(__file__).resolve().parent.parent / "demo" / "undine-demo.gguf"
PROMPT = "<|startoftext|><|im_start|>user\nTell me a story about a fox in the forest.<|im_end|>\n<|im_start|>assistant\nOnce there was a fox"
# Ties: the two sides sum errors in different orders.
SLACK = 1.0005


def ftype(name):
    return getattr(llama, "LLAMA_FTYPE_" + ("ALL_" if name == "F32" else "MOSTLY_") + name)


def random_model(path, draw):
    """A model of two layers whose matrices are drawn."""
    hidden, wide, vocab = 512, 1024, 1024
    writer = gguf.GGUFWriter(str(path), "lfm2")
    for key, value in [("block_count", 2), ("context_length", 512), ("embedding_length", hidden), ("feed_forward_length", wide)]:
        writer.add_uint32(f"lfm2.{key}", value)
    for key, value in [("attention.head_count", 8), ("vocab_size", vocab), ("shortconv.l_cache", 3)]:
        writer.add_uint32(f"lfm2.{key}", value)
    writer.add_array("lfm2.attention.head_count_kv", [0, 2])
    writer.add_float32("lfm2.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("lfm2.rope.freq_base", 1e6)
    add = lambda name, *shape: writer.add_tensor(name, draw(shape).astype(np.float32))
    norm = lambda name, width: writer.add_tensor(name, np.ones(width, dtype=np.float32))
    add("token_embd.weight", vocab, hidden)
    norm("token_embd_norm.weight", hidden)
    for layer in range(2):
        norm(f"blk.{layer}.attn_norm.weight", hidden)
        norm(f"blk.{layer}.ffn_norm.weight", hidden)
        add(f"blk.{layer}.ffn_gate.weight", wide, hidden)
        add(f"blk.{layer}.ffn_up.weight", wide, hidden)
        add(f"blk.{layer}.ffn_down.weight", hidden, wide)
    add("blk.0.shortconv.in_proj.weight", 3 * hidden, hidden)
    add("blk.0.shortconv.conv.weight", hidden, 3)
    add("blk.0.shortconv.out_proj.weight", hidden, hidden)
    for part, rows in [("attn_q", hidden), ("attn_k", 128), ("attn_v", 128), ("attn_output", hidden)]:
        add(f"blk.1.{part}.weight", rows, hidden)
    norm("blk.1.attn_q_norm.weight", 64)
    norm("blk.1.attn_k_norm.weight", 64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def values(path):
    """Every matrix by name, decoded."""
    tensors = gguf.GGUFReader(str(path)).tensors
    return {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64) for tensor in tensors if len(tensor.shape) > 1}


def importances(path, weights):
    """Random importances of each matrix, as columns; written as a file and returned."""
    random = np.random.default_rng(3)
    drawn = {name: np.exp(random.normal(size=x.shape[1], scale=1.5)).astype(np.float32) for name, x in weights.items()}
    writer = gguf.GGUFWriter(str(path), "imatrix")
    writer.kv_data[0].pop("general.architecture", None)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["random"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, columns in drawn.items():
        writer.add_tensor(f"{name}.in_sum2", columns.reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.ones((1, 1), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return drawn


def peer_quantize(source, out, name, pure, drawn):
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = ftype(name), pure, 2
    if drawn:
        data = (llama.llama_model_imatrix_data * (len(drawn) + 1))()
        for entry, (tensor, columns) in zip(data, drawn.items()):
            entry.name, entry.size = tensor.encode(), columns.size
            entry.data = columns.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = ctypes.cast(data, type(params.imatrix))
    return llama.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0


def ours(args, source, out, name, *more):
    subprocess.run([args.undine, "quantize", source, out, "--type", name, "--force", *more], check=True, capture_output=True)


def error(weights, path, drawn):
    """Squared error relative to the squares, of the matrices that were quantized."""
    lost = total = 0.0
    for name, decoded in values(path).items():
        exact, columns = weights[name], drawn.get(name, 1.0)
        if not np.array_equal(decoded, exact):
            lost += (columns * (decoded - exact) ** 2).sum()
            total += (columns * exact**2).sum()
    # The demo model's weights come from Q8_0, which holds them exactly.
    return lost / total if total else 0.0


def exact_demo(args, folder):
    """The demo model in F32."""
    path = folder / "demo.gguf"
    subprocess.run([args.undine, "convert", DEMO, path, "--dequantize", "--type", "f32", "--force"], check=True, capture_output=True)
    return path


def compare_errors(args, folder):
    rows = {"normal": lambda random: lambda shape: random.normal(size=shape) * 0.02, "heavy": lambda random: lambda shape: random.standard_t(4, size=shape) * 0.02}
    sources = {"demo": exact_demo(args, folder)}
    for name, draw in rows.items():
        sources[name] = folder / f"{name}.gguf"
        random_model(sources[name], draw(np.random.default_rng(1)))
    heading = "Weighted squared error" if args.imatrix else "Squared error"
    print(f"{heading} relative to the squares (ours, llama.cpp's, ratio)\n\n| type |" + "".join(f" {name} | | |" for name in sources))
    print("|---|" + "---|---|---|" * len(sources))
    worse = []
    for kind in args.types:
        cells = []
        for name, source in sources.items():
            weights = values(source)
            drawn = importances(folder / "imatrix.gguf", weights) if args.imatrix or kind in NEEDS_IMATRIX else {}
            more = ["--imatrix", folder / "imatrix.gguf"] if drawn else []
            mine, peer = folder / "ours.gguf", folder / "peer.gguf"
            ours(args, source, mine, kind, "--pure", *more)
            if not peer_quantize(source, peer, kind, True, drawn):
                raise SystemExit(f"llama.cpp cannot quantize {source} to {kind}")
            a, b = error(weights, mine, drawn), error(weights, peer, drawn)
            cells += [f"{a:.3e}", f"{b:.3e}", f"{a / b:.3f}" if b else "-"]
            if a > b * SLACK:
                worse.append(f"{kind} on {name}: {a:.4e}, llama.cpp {b:.4e}")
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)
    return worse


def logprobs(path):
    """Log-probabilities after each token of the prompt, by llama.cpp."""
    opened = Opened(path)
    rows = [opened.decode([token]) for token in opened.tokens(PROMPT)]
    opened.close()
    return np.array(rows)


def compare_answers(args, folder):
    source = exact_demo(args, folder)
    exact = logprobs(source)
    drawn = importances(folder / "imatrix.gguf", values(source))
    distance = lambda rows: (np.exp(exact) * (exact - rows)).sum(axis=1).mean()
    print("\n| mix | bytes | llama.cpp of our file and of its values | KL, ours | KL, llama.cpp's |\n|---|---|---|---|---|")
    for mix in args.mixes:
        mine, peer, decoded = folder / "ours.gguf", folder / "peer.gguf", folder / "decoded.gguf"
        with_imatrix = mix in NEEDS_IMATRIX
        ours(args, source, mine, mix, *(["--imatrix", folder / "imatrix.gguf"] if with_imatrix else []))
        subprocess.run([args.undine, "convert", mine, decoded, "--dequantize", "--type", "f32", "--force"], check=True, capture_output=True)
        if not peer_quantize(source, peer, mix, False, drawn if with_imatrix else {}):
            raise SystemExit(f"llama.cpp cannot quantize to {mix}")
        mine_rows, peer_rows = logprobs(mine), logprobs(peer)
        best = np.sort(np.argsort(-exact, axis=1)[:, :5], axis=1)
        difference = np.abs(np.take_along_axis(mine_rows - logprobs(decoded), best, axis=1)).mean()
        print(f"| {mix} | {mine.stat().st_size} | {difference:.4f} | {distance(mine_rows):.5f} | {distance(peer_rows):.5f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: text.split(",")
    parser.add_argument("--undine", required=True)
    parser.add_argument("--types", type=names, default=TYPES)
    parser.add_argument("--mixes", type=names, default=MIXES)
    parser.add_argument("--imatrix", action="store_true")
    parser.add_argument("--only", choices=["errors", "answers"])
    args = parser.parse_args()
    start()
    worse = []
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "answers":
            worse = compare_errors(args, Path(folder))
        if args.only != "errors":
            compare_answers(args, Path(folder))
    sys.exit("worse than llama.cpp: " + "; ".join(worse) if worse else 0)


main()
