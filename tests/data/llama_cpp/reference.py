"""Makes the reference outputs beside this file: llama.cpp on the demo model in several types.

    cargo run --release --example quantize_demo -p undine-tests -- FOLDER
    python tests/data/llama_cpp/reference.py FOLDER        (needs `pip install llama-cpp-python`)

For each type: a prompt, 200 tokens that llama.cpp generates greedily, and for each of them its best token and the
log-probabilities of its five best.
"""

import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np

STEPS = 200
HERE = Path(__file__).resolve().parent
PROMPT = "<|startoftext|><|im_start|>user\nTell me a story about a fox in the forest.<|im_end|>\n<|im_start|>assistant\n"
sys.path.insert(0, str(HERE.parents[2] / "bench"))

from llama import Opened, start


def reference(path):
    opened = Opened(path)
    prompt = opened.tokens(PROMPT)
    scores, steps = opened.decode(prompt), []
    for _ in range(STEPS):
        best = np.argsort(-scores, kind="stable")[:5]
        steps.append({"top": best.tolist(), "logprobs": [round(float(scores[t]), 5) for t in best]})
        # The end of the answer is followed by whatever comes: the comparison wants 200 tokens, not a story.
        scores = opened.decode([int(best[0])])
    opened.close()
    return {"prompt": prompt, "steps": steps}


start()
for file in sorted(Path(sys.argv[1]).glob("demo-*.gguf")):
    name = file.stem.removeprefix("demo-")
    out = reference(file) | {"peer": f"llama-cpp-python {llama_cpp.__version__}"}
    (HERE / f"{name}.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(name, "written")
