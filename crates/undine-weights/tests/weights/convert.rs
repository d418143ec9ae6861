//! A checkpoint written as GGUF opens again with the same configuration and weights.

use std::collections::HashSet;
use std::path::Path;

use undine_core::{DType, LayerKind, Vocabulary, quant};
use undine_weights::{Checkpoint, ExpertPart, LayerWeight, Weight, WeightName, write_gguf};

fn oracle(case: &str) -> Checkpoint {
    Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/oracle").join(case))
        .unwrap()
}

fn names(checkpoint: &Checkpoint) -> Vec<WeightName> {
    use LayerWeight as L;
    let config = checkpoint.config();
    let mut names = vec![WeightName::TokenEmbedding, WeightName::FinalNorm];
    for (layer, kind) in config.layers.iter().enumerate() {
        let operator: &[L] = match kind {
            LayerKind::Conv => &[L::ConvIn, L::Conv, L::ConvOut],
            LayerKind::FullAttention => {
                &[L::Query, L::Key, L::Value, L::AttentionOut, L::QueryNorm, L::KeyNorm]
            }
        };
        let feed_forward: &[L] = match config.feed_forward[layer] {
            undine_core::FeedForward::Dense { .. } => &[L::Gate, L::Up, L::Down],
            undine_core::FeedForward::Moe => &[L::Router, L::ExpertBias],
        };
        let norms = [L::OperatorNorm, L::FfnNorm];
        names.extend(
            [&norms, operator, feed_forward].concat().into_iter().map(|part| WeightName::Layer(layer, part)),
        );
        if feed_forward.contains(&L::Router) {
            for part in [ExpertPart::Gate, ExpertPart::Up, ExpertPart::Down] {
                let experts = 0..config.moe.unwrap().experts;
                names.extend(experts.map(|expert| WeightName::Expert { layer, expert, part }));
            }
        }
    }
    names
}

fn values(checkpoint: &Checkpoint, weight: &Weight) -> Vec<f32> {
    let mut values = vec![0.0; weight.rows * weight.cols];
    quant::decode(weight.dtype, checkpoint.bytes(weight), &mut values);
    values
}

/// What `values` become when stored as `dtype`.
fn rounded(values: &[f32], dtype: DType) -> Vec<f32> {
    let mut blocks = vec![0; dtype.row_bytes(values.len()).unwrap()];
    quant::encode(dtype, values, &mut blocks);
    let mut back = vec![0.0; values.len()];
    quant::decode(dtype, &blocks, &mut back);
    back
}

#[test]
fn oracle_in_every_type() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["dense", "moe"] {
        let source = oracle(case);
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
            let path = folder.path().join(format!("{case}-{dtype}.gguf"));
            write_gguf(&source, |_, _| dtype, &path).unwrap();
            let written = Checkpoint::open(&path).unwrap();
            assert_eq!(written.config(), source.config());
            assert_eq!(written.special_tokens(), source.special_tokens());
            assert_eq!((written.format(), written.name()), ("GGUF v3", case));
            assert_eq!(written.repairs(), &[] as &[String]);
            let mut types = HashSet::new();
            for name in names(&source) {
                let (before, after) = (source.weight(name).unwrap(), written.weight(name).unwrap());
                assert_eq!((before.rows, before.cols), (after.rows, after.cols), "{name:?}");
                let expected = rounded(&values(&source, &before), after.dtype);
                assert!(values(&written, &after) == expected, "{name:?} as {dtype}");
                types.insert(after.dtype);
            }
            assert_eq!(
                types,
                HashSet::from([DType::F32, dtype]),
                "small weights stay F32, the rest is {dtype}"
            );
        }
    }
}

#[test]
fn vocabulary_of_the_oracle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_gguf(&oracle("dense"), |_, _| DType::BF16, &path).unwrap();
    let written = Checkpoint::open(&path).unwrap();
    let Vocabulary::Gguf { tokens, kinds, merges, pre } = written.vocabulary() else {
        panic!("a GGUF vocabulary")
    };
    assert_eq!((tokens.len(), kinds.len(), merges.len(), pre.as_str()), (1024, 1024, 752, "lfm2"));
    assert_eq!((tokens[7].as_str(), kinds[7]), ("<|im_end|>", 3));
    assert_eq!(kinds.iter().filter(|&&kind| kind != 1).count(), 16, "the added tokens are control tokens");
    assert_eq!(merges[..3], ["Ġ Ġ", "Ġ t", "- -"]);
    assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), 1024, "every token has its own text");
}

#[test]
fn gguf_to_gguf_is_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.gguf"), folder.path().join("second.gguf"));
    write_gguf(&oracle("moe"), |_, _| DType::Q8_0, &first).unwrap();
    write_gguf(&Checkpoint::open(&first).unwrap(), |_, weight| weight.dtype, &second).unwrap();
    assert!(std::fs::read(first).unwrap() == std::fs::read(second).unwrap());
}

#[test]
fn rows_that_are_not_whole_blocks_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let error = write_gguf(&oracle("moe"), |_, _| DType::Q4_K, &path).unwrap_err().to_string();
    assert!(error.contains("token_embd.weight") && error.contains("multiple of 256"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
