"""Train the demo model from nothing, on the CPU.

Makes the tokenizer, then trains `Lfm2ForCausalLM` on samples of `make_data.World`, learning only the assistant's
words. Everything is seeded; an interrupted run goes on from its last checkpoint.
Writes a Hugging Face folder to OUT, and `loss.png` next to this file.
"""

import argparse
import json
import math
import re
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, Lfm2Config, Lfm2ForCausalLM

from check import BOS, END_OF_TEXT, EOS, PATTERN, SPECIALS, THINK, make_tokenizer, score
from make_data import KINDS, SEED, World, test_items

HERE = Path(__file__).parent
VOCAB = 4096
LAYERS = "cacaca"           # c: short convolution, a: attention
CHUNK = 2048                # samples made at a time
LONGEST = 400               # tokens
RATES = 0.02, 4e-3, 1e-2    # of the matrices, the embedding and norms, the convolution filters


def config():
    kinds = {"c": "conv", "a": "full_attention"}
    return Lfm2Config(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=512, block_auto_adjust_ff_dim=False,
        num_hidden_layers=len(LAYERS), layer_types=[kinds[c] for c in LAYERS], num_attention_heads=4,
        num_key_value_heads=2, conv_L_cache=3, conv_bias=False, norm_eps=1e-5, max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=BOS, eos_token_id=EOS, architectures=["Lfm2ForCausalLM"])


def train_tokenizer():
    """Byte-level BPE of exactly VOCAB entries; digits never merge, nor does a mark with the word behind it,
    so that a name in a tool list and the same name in a call are the same tokens."""
    world = World(SEED)
    texts = [re.sub(r"<\|\w+\|>|</?think>", "\n", world.sample()[1]) for _ in range(20000)]
    # The world alone has too few words to fill the vocabulary.
    words = (HERE / "words.txt").read_text().split()
    texts += [f"{word} {word} {word.capitalize()}" for word in words]
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Split(Regex(r" ?[^\s\p{L}\p{N}]+|\s?\p{L}+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB - len(THINK), special_tokens=SPECIALS, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    bpe = json.loads(tok.to_str())["model"]
    merges = [tuple(m) for m in bpe["merges"]]
    tok = make_tokenizer(bpe["vocab"], merges)
    plain = make_tokenizer(bpe["vocab"], merges, ignore_merges=False)
    assert tok.get_vocab_size() == VOCAB, tok.get_vocab_size()
    assert all(tok.token_to_id(t) == i for i, t in enumerate(SPECIALS))
    for text in texts[:3000]:
        assert tok.encode(text).ids == plain.encode(text).ids
    return tok


# ---------------------------------------------------------------- batches

class Samples:
    """Encoded samples, made in seeded chunks, so that a run can be resumed anywhere."""

    def __init__(self, tok):
        self.tok = tok
        self.head = tok.encode("<|im_start|>assistant\n", add_special_tokens=False).ids

    def encode(self, text, train):
        ids = self.tok.encode(text, add_special_tokens=False).ids
        if train is None:
            return ids, [1] * len(ids)
        learn, n, turn = [0] * len(ids), len(self.head), 0
        for i in range(len(ids)):
            if ids[i:i + n] == self.head:
                end = ids.index(EOS, i)
                if train[turn]:
                    learn[i + n:end + 1] = [1] * (end + 1 - i - n)
                turn += 1
        assert turn == len(train)
        return ids, learn

    def chunk(self, index, size):
        """Batches of about `size` padded tokens, of samples of like length, in random order."""
        world = World(SEED * 1000 + index)
        rows = []
        while len(rows) < CHUNK:
            _, text, train = world.sample()
            row = self.encode(text, train)
            if len(row[0]) <= LONGEST:
                rows.append(row)
        rows.sort(key=lambda r: len(r[0]))
        batches, i = [], 0
        while i < len(rows):
            j = i
            while j < len(rows) and len(rows[j][0]) * (j + 1 - i) <= size:
                j += 1
            j = max(j, i + 1)
            width = math.ceil(len(rows[j - 1][0]) / 8) * 8
            ids = torch.zeros(j - i, width, dtype=torch.long)
            learn = torch.zeros(j - i, width, dtype=torch.bool)
            for k, (row, mask) in enumerate(rows[i:j]):
                ids[k, :len(row)] = torch.tensor(row)
                learn[k, :len(row)] = torch.tensor(mask, dtype=torch.bool)
            batches.append((ids, learn))
            i = j
        world.r.shuffle(batches)
        return batches


def stream(samples, size):
    index = 0
    while True:
        for batch in samples.chunk(index, size):
            yield index, batch
        index += 1


# ---------------------------------------------------------------- optimiser

class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for the matrices inside the layers."""

    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buf = self.state[p].setdefault("buf", torch.zeros_like(p))
                buf.lerp_(p.grad, 0.05)
                x = p.grad.lerp(buf, 0.95)
                tall = x.shape[0] > x.shape[1]
                x = x.T if tall else x
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                x = x.T if tall else x
                p.mul_(1 - 0.01 * group["lr"])
                p.add_(x, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def optimisers(model):
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    filters = [p for p in model.parameters() if p.ndim == 3]
    others = [p for n, p in model.named_parameters() if p.ndim == 1 or "embed" in n]
    adam = dict(betas=(0.9, 0.95), weight_decay=0.0)
    return [Muon(matrices, lr=RATES[0]), torch.optim.AdamW(others, lr=RATES[1], **adam),
            torch.optim.AdamW(filters, lr=RATES[2], **adam)]


def start_values(model):
    """Outputs of the layers start small beside the embedding, so that tokens are not drowned."""
    for name, p in model.named_parameters():
        if "embed_tokens" in name:
            torch.nn.init.normal_(p, std=0.05)
        elif "out_proj" in name or "w2" in name:
            torch.nn.init.normal_(p, std=0.01)
        elif p.ndim == 3:
            torch.nn.init.uniform_(p, -0.6, 0.6)
        elif p.ndim == 2:
            torch.nn.init.normal_(p, std=0.06)


def rate(step, steps):
    """Warm up, hold, then fall to zero over the last half."""
    return min(1.0, (step + 1) / 40, (steps - step) / (0.5 * steps))


# ---------------------------------------------------------------- run

def save(model, tok, out):
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=[EOS, END_OF_TEXT], pad_token_id=0)
    model.save_pretrained(out)
    tok.save(str(out / "tokenizer.json"))
    (out / "chat_template.jinja").write_text((HERE / "chat_template.jinja").read_text())
    (out / "tokenizer_config.json").write_text(json.dumps({
        "backend": "tokenizers", "tokenizer_class": "TokenizersBackend", "bos_token": "<|startoftext|>",
        "eos_token": "<|im_end|>", "pad_token": "<|pad|>", "model_max_length": 4096}, indent=2))


def plot(log):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    losses = [(e["step"], e["loss"]) for e in log if "loss" in e]
    smooth, s = [], losses[0][1]
    for _, v in losses:
        s = 0.95 * s + 0.05 * v
        smooth.append(s)
    fig, left = plt.subplots(figsize=(9, 5))
    left.plot(*zip(*losses), color="lightsteelblue", linewidth=0.5)
    left.plot([x for x, _ in losses], smooth, color="navy", label="training loss (smoothed)")
    left.set(xlabel="step", ylabel="loss per learned token (log)", yscale="log", title="Undine demo model")
    right = left.twinx()
    right.set(ylabel="held-out questions right", ylim=(0, 1.02))
    for kind in KINDS:
        points = [(e["step"], e["score"][kind][0] / e["score"][kind][1]) for e in log if "score" in e]
        if points:
            right.plot(*zip(*points), marker=".", linewidth=1, label=kind)
    left.legend(loc="upper left")
    right.legend(loc="center right")
    fig.tight_layout()
    fig.savefig(HERE / "loss.png", dpi=100)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", type=Path, default=Path("out"))
    args.add_argument("--steps", type=int, default=2200)
    args.add_argument("--size", type=int, default=2304, help="padded tokens in a step")
    args.add_argument("--check-every", type=int, default=550)
    args = args.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    hf, state_file = args.out / "hf", args.out / "state.pt"
    hf.mkdir(parents=True, exist_ok=True)
    if not (hf / "tokenizer.json").exists():
        train_tokenizer().save(str(hf / "tokenizer.json"))
    tok = Tokenizer.from_file(str(hf / "tokenizer.json"))
    model = Lfm2ForCausalLM(config()).float()
    start_values(model)
    opts = optimisers(model)
    first, log, done = 0, [], 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=False)
        model.load_state_dict(state["model"])
        for opt, s in zip(opts, state["opts"]):
            opt.load_state_dict(s)
        first, log, done = state["step"], state["log"], state["seconds"]
    print(sum(p.numel() for p in model.parameters()), "parameters, from step", first, flush=True)
    exam = test_items({k: 10 for k in KINDS}, SEED + 3)
    template = (HERE / "chat_template.jinja").read_text()
    batches = stream(Samples(tok), args.size)
    for _ in range(first):
        next(batches)
    start, tokens = time.time(), 0
    for step in range(first, args.steps):
        model.train()
        ids, learn = next(batches)[1]
        hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[learn[:, 1:]])
        loss = F.cross_entropy(logits, ids[:, 1:][learn[:, 1:]])
        loss.backward()
        tokens += ids.numel()
        for opt, lr in zip(opts, RATES):
            for group in opt.param_groups:
                group["lr"] = lr * rate(step, args.steps)
            opt.step()
        model.zero_grad(set_to_none=True)
        log.append({"step": step, "loss": loss.item(), "tokens": ids.numel()})
        if step % 25 == 0:
            print(f"{step} loss {loss.item():.4f} {tokens / (time.time() - start):.0f} tokens/s", flush=True)
        last = step + 1 == args.steps
        if last or (step + 1) % args.check_every == 0:
            model.eval()
            table, wrong = score(model, tok, template, exam)
            log.append({"step": step, "score": table})
            print(step, table, flush=True)
            for item, text in wrong[:3]:
                print("   wrong:", item["messages"][-1]["content"], "->", text, flush=True)
            save(model, tok, hf)
        if last or (step + 1) % 100 == 0:
            seconds = done + time.time() - start
            torch.save({"model": model.state_dict(), "opts": [o.state_dict() for o in opts], "step": step + 1,
                        "log": log, "seconds": seconds}, state_file.with_suffix(".new"))
            state_file.with_suffix(".new").replace(state_file)
    plot(log)
    print(f"{done + time.time() - start:.0f} s, {sum(e.get('tokens', 0) for e in log)} padded tokens")


if __name__ == "__main__":
    main()
