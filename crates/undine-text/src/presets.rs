//! The sampling parameters Liquid AI recommends, by model name.
//!
//! Source: the model cards and the published serving recipes for LFM2 and LFM2.5. A model without a published
//! recommendation has no preset here; nothing is guessed.

/// Recommended sampling parameters; `None` leaves the engine's default.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Preset {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Keep the k best tokens.
    pub top_k: Option<u32>,
    /// Keep the smallest set of best tokens with at least this probability.
    pub top_p: Option<f32>,
    /// Keep tokens with at least this fraction of the best token's probability.
    pub min_p: Option<f32>,
    /// Divides positive logits of tokens seen before.
    pub repetition_penalty: Option<f32>,
}

const REPETITION_PENALTY: f32 = 1.05;

const fn top_k(temperature: f32, top_k: u32) -> Option<Preset> {
    Some(Preset {
        temperature: Some(temperature),
        top_k: Some(top_k),
        top_p: None,
        min_p: None,
        repetition_penalty: Some(REPETITION_PENALTY),
    })
}

const fn min_p(temperature: f32) -> Option<Preset> {
    Some(Preset {
        temperature: Some(temperature),
        top_k: None,
        top_p: None,
        min_p: Some(0.15),
        repetition_penalty: Some(REPETITION_PENALTY),
    })
}

const GREEDY: Option<Preset> =
    Some(Preset { temperature: Some(0.0), top_k: None, top_p: None, min_p: None, repetition_penalty: None });

/// Words in the name of a model that does not chat, or for which no recommendation is published.
const WITHOUT: [&str; 10] = [
    "audio",
    "colbert",
    "embedding",
    "encoder",
    "router",
    "detector",
    "drafter",
    "dspark",
    "math",
    "transcript",
];

/// The preset of a model, by a name such as `LFM2.5-1.2B-Instruct`, `LiquidAI/LFM2-VL-450M` or a GGUF file
/// name. Case, and whether words are joined by `-`, `_` or spaces, does not matter. Unknown names have none.
pub fn preset(name: &str) -> Option<Preset> {
    let name = name.to_ascii_lowercase();
    // The last part of a path that names the family: a folder name must not decide.
    let name = name.rsplit(['/', '\\', ':']).find(|part| part.contains("lfm2"))?;
    let words: Vec<&str> = name.split(['-', '_', ' ']).collect();
    let has = |word: &str| words.contains(&word);
    if WITHOUT.iter().any(|word| has(word)) || (has("enjp") && has("mt")) {
        return None;
    }
    let family = words.iter().position(|&word| word == "lfm2" || word == "lfm2.5")?;
    if has("vl") {
        return min_p(0.1);
    }
    if has("extract") || has("rag") || has("tool") {
        return GREEDY;
    }
    let size = words[family + 1..].iter().find(|word| is_size(word)).copied()?;
    match (words[family], size) {
        ("lfm2", "24b") => top_k(0.1, 50),
        ("lfm2", "350m" | "700m" | "1.2b" | "2.6b" | "8b") => min_p(0.3),
        ("lfm2.5", "1.2b") if has("thinking") => top_k(0.05, 50),
        ("lfm2.5", "1.2b") if has("base") => min_p(0.3),
        ("lfm2.5", "1.2b") if has("jp") && !has("202606") => min_p(0.3),
        // The cards of these also name top_p 0.1; the serving recipe leaves it out, and so does this table.
        ("lfm2.5", "1.2b") => top_k(0.1, 50),
        ("lfm2.5", "230m" | "350m") if !has("base") => top_k(0.1, 50),
        ("lfm2.5", "8b") if !has("base") => top_k(0.2, 80),
        _ => None,
    }
}

/// What a name says of how a model was trained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Training {
    /// To continue text.
    Base,
    /// To answer.
    Chat,
}

/// What a name says of a model's training, if it says anything.
pub fn training(name: &str) -> Option<Training> {
    const BASE: [&str; 3] = ["base", "pretrain", "pretrained"];
    const CHAT: [&str; 8] = ["instruct", "chat", "it", "sft", "dpo", "thinking", "assistant", "tool"];
    let name = name.to_ascii_lowercase();
    let words: Vec<&str> = name.split(['-', '_', ' ', '/', '.']).collect();
    let has = |known: &[&str]| words.iter().any(|word| known.contains(word));
    // What was trained further is named after what it began as.
    match (has(&CHAT), has(&BASE)) {
        (true, _) => Some(Training::Chat),
        (false, true) => Some(Training::Base),
        (false, false) => None,
    }
}

/// A number with `b` or `m` after it, such as `1.2b`.
fn is_size(word: &str) -> bool {
    word.strip_suffix(['b', 'm']).is_some_and(|number| number.parse::<f32>().is_ok())
}
