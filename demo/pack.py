"""Pack the trained Hugging Face folder into one GGUF file: matrices in Q8_0, the rest in F32."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, quantize
from safetensors.numpy import load_file

HERE = Path(__file__).parent
LIMIT = 6_000_000
NAMES = {
    "model.embed_tokens": "token_embd", "model.embedding_norm": "token_embd_norm",
    "operator_norm": "attn_norm", "ffn_norm": "ffn_norm",
    "conv.in_proj": "shortconv.in_proj", "conv.conv": "shortconv.conv", "conv.out_proj": "shortconv.out_proj",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output", "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "feed_forward.w1": "ffn_gate", "feed_forward.w3": "ffn_up", "feed_forward.w2": "ffn_down",
}


def gguf_name(name):
    """model.layers.3.feed_forward.w1.weight -> blk.3.ffn_gate.weight"""
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if layer:
        return f"blk.{layer[1]}.{NAMES[layer[2]]}.weight"
    return NAMES[name.removesuffix(".weight")] + ".weight"


def main():
    args = argparse.ArgumentParser()
    args.add_argument("hf", type=Path, nargs="?", default=Path("out/hf"))
    args.add_argument("--out", type=Path, default=HERE / "undine-demo.gguf")
    args = args.parse_args()
    config = json.loads((args.hf / "config.json").read_text())
    tokenizer = json.loads((args.hf / "tokenizer.json").read_text())
    weights = load_file(args.hf / "model.safetensors")

    w = GGUFWriter(args.out, "lfm2")
    w.add_type("model")
    w.add_name("Undine demo")
    w.add_size_label("4.8M")
    w.add_license("Apache-2.0 OR MIT")
    w.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(2)
    w.add_block_count(config["num_hidden_layers"])
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(config["num_attention_heads"])
    w.add_head_count_kv([config["num_key_value_heads"] if kind == "full_attention" else 0
                         for kind in config["layer_types"]])
    w.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    w.add_layer_norm_rms_eps(config["norm_eps"])
    w.add_vocab_size(config["vocab_size"])
    w.add_shortconv_l_cache(config["conv_L_cache"])

    vocab = dict(tokenizer["model"]["vocab"])
    kinds = {}
    for t in tokenizer["added_tokens"]:
        vocab[t["content"]] = t["id"]
        kinds[t["id"]] = TokenType.CONTROL if t["special"] else TokenType.USER_DEFINED
    tokens = sorted(vocab, key=vocab.get)
    assert [vocab[t] for t in tokens] == list(range(config["vocab_size"]))
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("lfm2")
    w.add_token_list(tokens)
    w.add_token_types([kinds.get(i, TokenType.NORMAL) for i in range(len(tokens))])
    w.add_token_merges([" ".join(m) for m in tokenizer["model"]["merges"]])
    w.add_bos_token_id(config["bos_token_id"])
    w.add_eos_token_id(config["eos_token_id"])
    w.add_pad_token_id(config["pad_token_id"])
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_add_space_prefix(False)
    # So small a model is right most often when it is not left to chance.
    w.add_float32("general.sampling.temp", 0.0)
    w.add_chat_template((HERE / "chat_template.jinja").read_text())

    for name in sorted(weights, key=gguf_name):
        data = weights[name].astype(np.float32)
        if data.ndim == 2:
            q = quantize(data, GGMLQuantizationType.Q8_0)
            w.add_tensor(gguf_name(name), q, raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            w.add_tensor(gguf_name(name), data.squeeze() if data.ndim == 3 else data)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    size = args.out.stat().st_size
    print(args.out, size, "bytes,", len(weights), "tensors")
    assert size <= LIMIT


if __name__ == "__main__":
    main()
