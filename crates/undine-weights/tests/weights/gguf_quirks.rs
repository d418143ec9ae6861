//! GGUF files in use that are not quite right: they open, and say in one sentence what was mended.

use undine_core::{FeedForward, LayerKind, Vocabulary};
use undine_weights::{Array, ExpertPart, LayerWeight, Value, WeightName};

use crate::tiny::{EXPERT_WIDTH, EXPERTS, Gguf, HIDDEN, VOCAB, WIDTH, f32_bytes, values};

#[test]
fn a_right_file_needs_no_repair() {
    for file in [Gguf::dense(), Gguf::moe()] {
        let checkpoint = file.open().unwrap();
        assert_eq!(checkpoint.repairs(), &[] as &[String]);
        assert_eq!((checkpoint.name(), checkpoint.format()), ("Tiny", "GGUF v3"));
        assert_eq!(checkpoint.chat_template(), Some("{{ messages }}"));
        assert_eq!(checkpoint.file_bytes(), file.bytes().len() as u64);
        let special = checkpoint.special_tokens();
        assert_eq!((special.bos, special.pad, special.add_bos), (Some(1), Some(0), Some(true)));
        assert_eq!(special.eos, [4, 2], "stated, and <|endoftext|> by its text");
    }
}

#[test]
fn repairs() {
    type Change = fn(&mut Gguf);
    let cases: [(Change, &str); 6] = [
        (|file| file.rename("token_embd_norm.weight", "output_norm.weight"), "output_norm.weight"),
        (
            |file| file.set("lfm2.feed_forward_length", Value::U32(18)),
            "feed-forward width of 18, but blk.0.ffn_gate.weight",
        ),
        (|file| file.set("tokenizer.ggml.pre", Value::String("llama-bpe".to_owned())), "llama-bpe"),
        (|file| file.remove("tokenizer.ggml.pre"), "tokenizer.ggml.pre is absent"),
        (|file| file.remove("tokenizer.ggml.token_type"), "token_type is absent"),
        (|file| file.set("tokenizer.ggml.padding_token_id", Value::U32(99)), "padding token 99 is beyond"),
    ];
    for (change, expected) in cases {
        let mut file = Gguf::dense();
        change(&mut file);
        let checkpoint = file.open().unwrap();
        let [repair] = checkpoint.repairs() else { panic!("one repair, not {:?}", checkpoint.repairs()) };
        assert!(repair.contains(expected), "{repair}");
        assert!(
            checkpoint
                .config()
                .feed_forward
                .iter()
                .all(|&layer| layer == FeedForward::Dense { width: WIDTH })
        );
        assert!(checkpoint.weight(WeightName::FinalNorm).is_some());
        assert!(matches!(checkpoint.vocabulary(), Vocabulary::Gguf { pre, .. } if pre == "lfm2"));
    }
}

#[test]
fn scalar_kv_heads_take_layer_kinds_from_tensors() {
    let mut file = Gguf::dense();
    file.set("lfm2.attention.head_count_kv", Value::U32(1));
    let checkpoint = file.open().unwrap();
    assert_eq!(checkpoint.config().layers, [LayerKind::Conv, LayerKind::FullAttention]);
    assert_eq!(checkpoint.config().kv_heads, 1);
}

#[test]
fn values_may_come_in_other_widths() {
    let mut file = Gguf::dense();
    file.set("lfm2.embedding_length", Value::U64(HIDDEN as u64));
    file.set("lfm2.block_count", Value::I32(2));
    file.set("lfm2.attention.head_count_kv", Value::Array(Array::U32(vec![0, 1])));
    file.set("lfm2.attention.head_count", Value::Array(Array::U32(vec![2, 2])));
    file.set("lfm2.rope.freq_base", Value::F64(5e6));
    file.set("lfm2.feed_forward_length", Value::Array(Array::I32(vec![12, 12])));
    file.remove("lfm2.vocab_size");
    let checkpoint = file.open().unwrap();
    assert_eq!((checkpoint.config().rope_theta, checkpoint.config().vocab), (5e6, VOCAB));
}

#[test]
fn head_and_biases_are_used_if_there() {
    let mut file = Gguf::dense();
    file.add_f32("output.weight", vec![VOCAB, HIDDEN]);
    file.add_f32("blk.0.shortconv.in_proj.bias", vec![3 * HIDDEN]);
    let checkpoint = file.open().unwrap();
    assert!(checkpoint.weight(WeightName::Head).is_some());
    assert!(checkpoint.weight(WeightName::Layer(0, LayerWeight::ConvInBias)).is_some());
    assert!(checkpoint.weight(WeightName::Layer(0, LayerWeight::ConvBias)).is_none());
}

#[test]
fn experts_are_parts_of_one_tensor() {
    let file = Gguf::moe();
    let checkpoint = file.open().unwrap();
    let place =
        file.tensors.iter().position(|(tensor, _)| tensor.name == "blk.1.ffn_up_exps.weight").unwrap();
    let all = values(place, EXPERTS * EXPERT_WIDTH * HIDDEN);
    for expert in 0..EXPERTS {
        let weight =
            checkpoint.weight(WeightName::Expert { layer: 1, expert, part: ExpertPart::Up }).unwrap();
        let size = EXPERT_WIDTH * HIDDEN;
        assert_eq!(checkpoint.bytes(&weight), f32_bytes(&all[expert * size..][..size]));
    }
}

#[test]
fn expert_bias_spellings() {
    for name in ["blk.1.exp_probs_b.weight", "blk.1.exp_probs_b"] {
        let mut file = Gguf::moe();
        file.rename("blk.1.exp_probs_b.bias", name);
        let checkpoint = file.open().unwrap();
        assert!(checkpoint.weight(WeightName::Layer(1, LayerWeight::ExpertBias)).is_some(), "{name}");
    }
    let mut file = Gguf::moe();
    file.drop_tensor("blk.1.exp_probs_b.bias");
    assert!(file.open().unwrap().weight(WeightName::Layer(1, LayerWeight::ExpertBias)).is_none());
}

#[test]
fn expert_keys() {
    let mut file = Gguf::moe();
    file.set("lfm2moe.expert_weights_norm", Value::Bool(false));
    file.set("lfm2moe.expert_weights_scale", Value::F32(2.5));
    let moe = file.open().unwrap().config().moe.unwrap();
    assert_eq!((moe.norm_topk_prob, moe.routed_scaling_factor), (false, 2.5));
    file.set("lfm2moe.expert_weights_scale", Value::F32(0.0));
    assert_eq!(file.open().unwrap().config().moe.unwrap().routed_scaling_factor, 1.0, "0 means not used");
}

#[test]
fn sampling_defaults_and_eos_list() {
    let mut file = Gguf::dense();
    file.set("general.sampling.temp", Value::F32(0.25));
    file.set("general.sampling.top_k", Value::I32(50));
    file.set("tokenizer.ggml.eos_token_ids", Value::Array(Array::I32(vec![9, 4])));
    let checkpoint = file.open().unwrap();
    let sampling = checkpoint.sampling_defaults();
    assert_eq!((sampling.temperature, sampling.top_k, sampling.min_p), (Some(0.25), Some(50), None));
    assert_eq!(checkpoint.special_tokens().eos, [4, 9, 2]);
}

#[test]
fn a_file_without_vocabulary_opens() {
    let mut file = Gguf::dense();
    file.metadata.retain(|(key, _)| !key.starts_with("tokenizer."));
    let checkpoint = file.open().unwrap();
    assert_eq!(checkpoint.vocabulary(), &Vocabulary::None);
    assert_eq!(checkpoint.special_tokens().eos, [] as [u32; 0]);
}
