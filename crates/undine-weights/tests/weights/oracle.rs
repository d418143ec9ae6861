//! The oracle checkpoints open with the configuration their config.json means.

use std::path::{Path, PathBuf};

use undine_core::{Config, DType, FeedForward, LayerKind, MoeConfig, Vocabulary};
use undine_weights::{Checkpoint, ExpertPart, LayerWeight, WeightName};

fn oracle(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/oracle").join(case)
}

/// What both oracle models share.
fn config(hidden: usize, feed_forward: Vec<FeedForward>, moe: Option<MoeConfig>) -> Config {
    use LayerKind::{Conv, FullAttention};
    Config {
        hidden,
        vocab: 1024,
        layers: vec![Conv, Conv, FullAttention, Conv, FullAttention, Conv],
        feed_forward,
        heads: 4,
        kv_heads: 2,
        head_dim: hidden / 4,
        conv_taps: 3,
        norm_eps: 1e-5,
        rope_theta: 1e6,
        context_max: 128_000,
        moe,
    }
}

/// A checkpoint is shared by the threads of a backend.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Checkpoint>();
};

#[test]
fn dense() {
    let checkpoint = Checkpoint::open(&oracle("dense")).unwrap();
    assert_eq!(checkpoint.config(), &config(256, vec![FeedForward::Dense { width: 512 }; 6], None));
    assert_eq!(checkpoint.repairs(), &[] as &[String]);
    assert_eq!(checkpoint.name(), "dense");
    assert_eq!(checkpoint.format(), "safetensors");
    let special = checkpoint.special_tokens();
    assert_eq!((special.bos, special.pad, special.add_bos), (Some(1), Some(0), Some(true)));
    assert_eq!(special.eos, [7, 2]);
    assert!(matches!(checkpoint.vocabulary(), Vocabulary::HuggingFace(_)));
    assert_eq!(checkpoint.chat_template(), None);
    let conv = checkpoint.weight(WeightName::Layer(0, LayerWeight::Conv)).unwrap();
    assert_eq!((conv.dtype, conv.rows, conv.cols), (DType::BF16, 256, 3));
    assert_eq!(checkpoint.bytes(&conv).len(), 256 * 3 * 2);
    assert_eq!(checkpoint.weight(WeightName::Head), None);
    assert_eq!(checkpoint.weight(WeightName::Layer(0, LayerWeight::Query)), None);
    assert_eq!(checkpoint.weight(WeightName::Layer(0, LayerWeight::ConvBias)), None);
    let tensors = checkpoint.tensors().count();
    assert_eq!(checkpoint.weight(WeightName::Layer(4, LayerWeight::Key)).unwrap().rows, 128);
    assert_eq!(tensors, 2 + 4 * 8 + 2 * 11);
}

#[test]
fn moe() {
    let checkpoint = Checkpoint::open(&oracle("moe").join("config.json")).unwrap();
    let moe = MoeConfig {
        experts: 16,
        experts_active: 4,
        width: 64,
        norm_topk_prob: true,
        routed_scaling_factor: 1.0,
    };
    let mut feed_forward = vec![FeedForward::Moe; 6];
    feed_forward[0] = FeedForward::Dense { width: 256 };
    assert_eq!(checkpoint.config(), &config(128, feed_forward, Some(moe)));
    let part = |part| checkpoint.weight(WeightName::Expert { layer: 5, expert: 15, part }).unwrap();
    assert_eq!((part(ExpertPart::Gate).rows, part(ExpertPart::Gate).cols), (64, 128));
    assert_eq!((part(ExpertPart::Down).rows, part(ExpertPart::Down).cols), (128, 64));
    let bias = checkpoint.weight(WeightName::Layer(1, LayerWeight::ExpertBias)).unwrap();
    assert_eq!((bias.rows, bias.cols), (1, 16));
    assert_eq!(checkpoint.weight(WeightName::Layer(0, LayerWeight::Router)), None);
}
