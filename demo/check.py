"""Ask the packed model held-out questions and check the answers, greedily and without any judge.

Reads everything (weights, tokenizer, chat template) from the GGUF file, so that it tests what
is shipped. `--many N` asks N fresh held-out questions of each kind instead of questions.jsonl.
"""

import argparse
import ast
import json
import re
from collections import defaultdict
from pathlib import Path

import jinja2
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

HERE = Path(__file__).parent
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIALS = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|fim_pre|>", "<|fim_mid|>", "<|fim_suf|>",
            "<|im_start|>", "<|im_end|>", "<|tool_list_start|>", "<|tool_list_end|>", "<|tool_call_start|>",
            "<|tool_call_end|>", "<|tool_response_start|>", "<|tool_response_end|>"]
THINK = ["<think>", "</think>"]
BOS, END_OF_TEXT, EOS = 1, 2, 7


def make_tokenizer(vocab, merges, ignore_merges=True):
    """The LFM2 byte-level tokenizer around a vocabulary and its merges."""
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A", pair="<|startoftext|> $A $B", special_tokens=[("<|startoftext|>", BOS)])
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIALS])
    tok.add_tokens([AddedToken(t, normalized=False, special=False) for t in THINK])
    return tok


# ---------------------------------------------------------------- checks

def parse_calls(text):
    """`<|tool_call_start|>[f(a="x", b=1)]<|tool_call_end|>` -> list of calls, or None."""
    found = re.search(r"<\|tool_call_start\|>(.*?)<\|tool_call_end\|>", text, re.S)
    if not found:
        return None
    try:
        return [{"name": c.func.id, "arguments": {k.arg: ast.literal_eval(k.value) for k in c.keywords}}
                for c in ast.parse(found[1], mode="eval").body.elts]
    except (SyntaxError, ValueError, AttributeError):
        return None


def passes(check, text):
    answer = text.split("</think>")[-1].strip()
    low = answer.lower()
    for kind, want in check.items():
        if kind == "answer_contains":
            ok = all(w.lower() in low for w in want)
        elif kind == "min_sentences":
            ok = len(re.findall(r"[.!?](?:\s|$)", answer)) >= want
        elif kind == "tool_call":
            ok = parse_calls(answer) == [want]
        elif kind == "equals_json":
            try:
                ok = json.loads(answer) == want
            except ValueError:
                ok = False
        else:
            raise ValueError(f"unknown check {kind}")
        if not ok:
            return False
    return True


# ---------------------------------------------------------------- answers

@torch.no_grad()
def greedy(model, prompts, limit=160):
    """Greedy continuation of each list of ids; prompts of equal length share a batch."""
    groups, out = defaultdict(list), [None] * len(prompts)
    for i, p in enumerate(prompts):
        groups[len(p)].append(i)
    for group in groups.values():
        ids = torch.tensor([prompts[i] for i in group])
        result = model(ids, use_cache=True)
        done, texts = [False] * len(group), [[] for _ in group]
        for _ in range(limit):
            step = result.logits[:, -1].argmax(-1)
            for j, t in enumerate(step.tolist()):
                done[j] = done[j] or t in (EOS, END_OF_TEXT)
                if not done[j]:
                    texts[j].append(t)
            if all(done):
                break
            result = model(step[:, None], past_key_values=result.past_key_values, use_cache=True)
        for i, t in zip(group, texts):
            out[i] = t
    return out


def score(model, tok, template, items):
    """-> {kind: (right, asked)}, and the wrong answers."""
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    env.filters["tojson"] = lambda v: json.dumps(v, ensure_ascii=False)
    layout = env.from_string(template)
    prompts = [tok.encode(layout.render(messages=i["messages"], tools=i.get("tools"), bos_token="<|startoftext|>",
                                        add_generation_prompt=True), add_special_tokens=False).ids for i in items]
    table, wrong = defaultdict(lambda: [0, 0]), []
    for item, ids in zip(items, greedy(model, prompts)):
        text = tok.decode(ids, skip_special_tokens=False)
        good = passes(item["check"], text)
        table[item["kind"]][0] += good
        table[item["kind"]][1] += 1
        if not good:
            wrong.append((item, text))
    return {k: tuple(v) for k, v in table.items()}, wrong


# ---------------------------------------------------------------- the packed file

def load_gguf(path):
    """-> transformers model with the dequantized weights, tokenizer, chat template"""
    from gguf import GGUFReader, dequantize
    from transformers import Lfm2Config, Lfm2ForCausalLM
    reader = GGUFReader(path)
    field = lambda key: reader.fields[key].contents()
    tokens, kv = field("tokenizer.ggml.tokens"), field("lfm2.attention.head_count_kv")
    tok = make_tokenizer({t: i for i, t in enumerate(tokens) if t not in THINK},
                         [tuple(m.split(" ")) for m in field("tokenizer.ggml.merges")])
    config = Lfm2Config(
        vocab_size=len(tokens), hidden_size=field("lfm2.embedding_length"), num_hidden_layers=len(kv),
        intermediate_size=field("lfm2.feed_forward_length"), block_auto_adjust_ff_dim=False,
        num_attention_heads=field("lfm2.attention.head_count"), num_key_value_heads=max(kv),
        layer_types=["full_attention" if n else "conv" for n in kv], conv_L_cache=field("lfm2.shortconv.l_cache"),
        norm_eps=field("lfm2.attention.layer_norm_rms_epsilon"), max_position_embeddings=field("lfm2.context_length"),
        rope_parameters={"rope_type": "default", "rope_theta": field("lfm2.rope.freq_base")}, tie_word_embeddings=True)
    from pack import gguf_name
    model = Lfm2ForCausalLM(config).eval()
    packed = {t.name: torch.tensor(dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    state = {name: packed[gguf_name(name)].reshape(p.shape) for name, p in model.state_dict().items()
             if name != "lm_head.weight"}
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return model, tok, field("tokenizer.chat_template")


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--gguf", default=HERE / "undine-demo.gguf")
    args.add_argument("--many", type=int, default=0)
    args.add_argument("--show", type=int, default=10, help="how many wrong answers to print")
    args = args.parse_args()
    if args.many:
        from make_data import KINDS, SEED, test_items
        items = test_items({k: args.many for k in KINDS}, SEED + 2)
    else:
        items = [json.loads(line) for line in open(HERE / "questions.jsonl")]
    table, wrong = score(*load_gguf(args.gguf), items)
    for item, text in wrong[:args.show]:
        print("WRONG", item["id"], "|", item["messages"][-1]["content"], "|", text, "|", json.dumps(item["check"]))
    for kind, (right, asked) in table.items():
        print(f"{kind:12} {right}/{asked}")
    print(f"{'all':12} {len(items) - len(wrong)}/{len(items)}")


if __name__ == "__main__":
    main()
