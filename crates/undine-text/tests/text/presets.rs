//! Every published checkpoint and its sampling preset.

use undine_text::{Preset, Training, preset, training};

const GREEDY: Option<Preset> =
    Some(Preset { temperature: Some(0.0), top_k: None, top_p: None, min_p: None, repetition_penalty: None });

fn top_k(temperature: f32, top_k: u32) -> Option<Preset> {
    let (temperature, top_k) = (Some(temperature), Some(top_k));
    Some(Preset { temperature, top_k, repetition_penalty: Some(1.05), ..Preset::default() })
}

fn min_p(temperature: f32) -> Option<Preset> {
    let (temperature, min_p) = (Some(temperature), Some(0.15));
    Some(Preset { temperature, min_p, repetition_penalty: Some(1.05), ..Preset::default() })
}

#[test]
fn named_checkpoints() {
    let table: &[(Option<Preset>, &[&str])] = &[
        (min_p(0.3), &["LFM2-350M", "LFM2-700M", "LFM2-1.2B", "LFM2-2.6B", "LFM2-2.6B-Exp", "LFM2-8B-A1B"]),
        (top_k(0.1, 50), &["LFM2-24B-A2B"]),
        (top_k(0.1, 50), &["LFM2.5-230M", "LFM2.5-350M", "LFM2.5-1.2B-Instruct", "LFM2.5-1.2B-JP-202606"]),
        (top_k(0.05, 50), &["LFM2.5-1.2B-Thinking"]),
        (min_p(0.3), &["LFM2.5-1.2B-JP", "LFM2.5-1.2B-Base"]),
        (top_k(0.2, 80), &["LFM2.5-8B-A1B"]),
        (GREEDY, &["LFM2-350M-Extract", "LFM2-1.2B-Extract", "LFM2-1.2B-RAG", "LFM2-1.2B-Tool"]),
        (GREEDY, &["LFM2-350M-PII-Extract-JP"]),
        (min_p(0.1), &["LFM2-VL-450M", "LFM2-VL-1.6B", "LFM2-VL-3B"]),
        (min_p(0.1), &["LFM2.5-VL-450M", "LFM2.5-VL-1.6B", "LFM2.5-VL-3B"]),
        // Nothing published, or nothing to sample.
        (None, &["LFM2.5-24B-A2B", "LFM2.5-24B-A2B-Base", "LFM2.5-2.6B", "LFM2.5-2.6B-Base"]),
        (None, &["LFM2.5-230M-Base", "LFM2.5-350M-Base", "LFM2.5-8B-A1B-Base", "LFM2.5-2.6B-DSpark"]),
        (None, &["LFM2-350M-Math", "LFM2-350M-ENJP-MT", "LFM2-2.6B-Transcript"]),
        (None, &["LFM2-Audio-1.5B", "LFM2.5-Audio-1.5B"]),
        (None, &["LFM2-ColBERT-350M", "LFM2.5-ColBERT-350M", "LFM2.5-Embedding-350M"]),
        (
            None,
            &["LFM2.5-Encoder-230M", "LFM2.5-Encoder-350M", "LFM2.5-Prompt-Router", "LFM2.5-PII-Detector"],
        ),
        (None, &["LFM3-1.7B", "LFM3-VL-2B", "d1-3B", "Qwen3-8B", "", "LFM2", "LFM2.5"]),
    ];
    for (expected, names) in table {
        for name in *names {
            for spelled in [
                (*name).to_owned(),
                format!("LiquidAI/{name}"),
                format!("{name}-GGUF"),
                format!("LiquidAI/{name}-MLX-8bit"),
                format!("/models/tool/{name}-Q4_K_M.gguf"),
                name.to_lowercase().replace('-', " "),
                name.replace('-', "_"),
            ] {
                assert_eq!(preset(&spelled), *expected, "{spelled}");
            }
        }
    }
}

#[test]
fn spellings_of_the_wild() {
    for (name, expected) in [
        ("LFM2-8B-A1B-GGUF", min_p(0.3)),
        ("lfm2.5 1.2b thinking", top_k(0.05, 50)),
        ("LiquidAI/LFM2-VL-450M", min_p(0.1)),
        ("LiquidAI/LFM2.5-350M:Q8_0", top_k(0.1, 50)),
        ("/data/LFM2-24B-A2B/model-00001-of-00010.safetensors", top_k(0.1, 50)),
    ] {
        assert_eq!(preset(name), expected, "{name}");
    }
}

#[test]
fn a_name_may_say_how_a_model_was_trained() {
    for (name, expected) in [
        ("LFM2.5-1.2B-Base", Some(Training::Base)),
        ("LFM2.5-1.2B-Instruct-Q4_K_M.gguf", Some(Training::Chat)),
        ("LFM2.5-1.2B-Base-SFT", Some(Training::Chat)),
        ("base.gguf", Some(Training::Base)),
        ("LFM2-350M", None),
        ("LFM2-350M-Extract", None),
        ("LFM2-350M-PT", None),
        ("database-model", None),
    ] {
        assert_eq!(training(name), expected, "{name}");
    }
}
