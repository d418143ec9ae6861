"""Makes the reference outputs beside this file: llama.cpp on the demo model in several types.

    cargo run --release --example quantize_demo -p undine-tests -- FOLDER
    python tests/data/llama_cpp/reference.py FOLDER        (needs `pip install llama-cpp-python`)

For each type: a prompt, 200 tokens that llama.cpp generates greedily, and for each of them its best token and the
log-probabilities of its five best.
"""

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp as llama
import numpy as np

STEPS = 200
HERE = Path(__file__).parent
PROMPT = "<|startoftext|><|im_start|>user\nTell me a story about a fox in the forest.<|im_end|>\n<|im_start|>assistant\n"


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def silent(_level, _text, _data):
    pass


def reference(path):
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    vocab = llama.llama_model_get_vocab(model)
    size = llama.llama_vocab_n_tokens(vocab)
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_threads = 512, 2
    context = llama.llama_init_from_model(model, options)
    buffer = (llama.llama_token * 256)()
    text = PROMPT.encode()
    count = llama.llama_tokenize(vocab, text, len(text), buffer, 256, False, True)
    prompt = list(buffer[:count])

    def decode(tokens):
        batch = (llama.llama_token * len(tokens))(*tokens)
        assert llama.llama_decode(context, llama.llama_batch_get_one(batch, len(tokens))) == 0
        logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), shape=(size,)).astype(np.float64)
        return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())

    scores, steps = decode(prompt), []
    for _ in range(STEPS):
        best = np.argsort(-scores, kind="stable")[:5]
        steps.append({"top": best.tolist(), "logprobs": [round(float(scores[t]), 5) for t in best]})
        # The end of the answer is followed by whatever comes: the comparison wants 200 tokens, not a story.
        scores = decode([int(best[0])])
    return {"prompt": prompt, "steps": steps}


llama.llama_log_set(silent, ctypes.c_void_p(0))
llama.llama_backend_init()
for file in sorted(Path(sys.argv[1]).glob("demo-*.gguf")):
    name = file.stem.removeprefix("demo-")
    out = reference(file) | {"peer": f"llama-cpp-python {llama.__version__}"}
    (HERE / f"{name}.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(name, "written")
