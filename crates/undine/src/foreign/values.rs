//! What values of other programs' flags mean here.

use undine_quantize::Mix;

use super::Said;

fn words<const N: usize>(words: [&str; N]) -> Result<Said, String> {
    Ok(Said { words: words.map(str::to_owned).to_vec(), note: None })
}

fn whole(value: &str) -> Option<i64> {
    value.trim().parse().ok()
}

/// -1 is as many as there are.
pub(super) fn threads(value: &str) -> Result<Said, String> {
    match whole(value) {
        Some(..=0) => Ok(Said::default()),
        _ => words(["--threads", value]),
    }
}

/// llama-bench takes several in one run.
pub(super) fn one_thread_count(value: &str) -> Result<Said, String> {
    match value.contains(',') {
        true => Err(format!("expected one number, found {value}: run `undine bench` once for each")),
        false => threads(value),
    }
}

/// 0 is the model's own.
pub(super) fn context(value: &str) -> Result<Said, String> {
    match whole(value) {
        Some(..=0) => Ok(Said::default()),
        _ => words(["--max-model-len", value]),
    }
}

/// -1 is no limit, -2 what fits the context: both are so without the flag.
pub(super) fn most_tokens(value: &str) -> Result<Said, String> {
    match whole(value) {
        Some(..=-1) => Ok(Said::default()),
        _ => words(["--max-tokens", value]),
    }
}

/// -1 leaves it to the program.
pub(super) fn parallel(value: &str) -> Result<Said, String> {
    match whole(value) {
        Some(..=0) => Ok(Said::default()),
        _ => words(["--max-num-seqs", value]),
    }
}

/// -1 asks for whole prompts.
pub(super) fn chunk(value: &str) -> Result<Said, String> {
    match whole(value) {
        Some(..=0) => {
            let note = "prompts are always computed in chunks; the answers are the same".to_owned();
            Ok(Said { words: Vec::new(), note: Some(note) })
        }
        _ => words(["--max-num-batched-tokens", value]),
    }
}

/// `convert` writes types of floats, and `quantize` the others.
pub(super) fn float_type(value: &str) -> Result<Said, String> {
    match value.to_ascii_lowercase().as_str() {
        float @ ("auto" | "f32" | "f16" | "bf16") => words(["--type", float]),
        other => match other.parse::<Mix>() {
            Ok(mix) => Err(format!(
                "`undine convert` writes float types; `undine quantize IN OUT {}` writes this one",
                mix.name()
            )),
            Err(_) => Err(format!("expected auto, f32, f16 or bf16, found {value}")),
        },
    }
}

/// -1 is another each time.
pub(super) fn seed(value: &str) -> Result<Said, String> {
    match whole(value) {
        Some(..=-1) => Ok(Said::default()),
        _ => words(["--seed", value]),
    }
}

/// On a command line.
pub(super) fn reasoning_shown(value: &str) -> Result<Said, String> {
    match value {
        "none" => words(["--show-thinking"]),
        "auto" | "deepseek" | "deepseek-legacy" => Ok(Said::default()),
        other => Err(format!("expected none, auto, deepseek or deepseek-legacy, found {other}")),
    }
}

/// In answers of the server.
pub(super) fn reasoning_parser(value: &str) -> Result<Said, String> {
    match value {
        "none" => words(["--reasoning-parser", "none"]),
        "auto" | "deepseek" | "deepseek-legacy" => Ok(Said::default()),
        other => Err(format!("expected none, auto, deepseek or deepseek-legacy, found {other}")),
    }
}

/// -1 is no limit.
pub(super) fn reasoning_budget(value: &str) -> Result<Said, String> {
    match whole(value) {
        Some(..=-1) => Ok(Said::default()),
        _ => words(["--reasoning-budget", value]),
    }
}

/// 0 answers directly, which `undine run` asks of the template.
pub(super) fn thinking_budget(value: &str) -> Result<Said, String> {
    match whole(value) {
        Some(..=-1) => Ok(Said::default()),
        Some(0) => think("false"),
        _ => {
            Err("thoughts of `undine run` have no limit but 0; `undine serve` has --reasoning-budget"
                .to_owned())
        }
    }
}

/// Whether, or how much, a model thinks is for its template to say.
pub(super) fn think(value: &str) -> Result<Said, String> {
    match value {
        "" | "true" | "on" => words(["--chat-template-kwargs", "{\"enable_thinking\": true}"]),
        "false" | "off" => words(["--chat-template-kwargs", "{\"enable_thinking\": false}"]),
        "low" | "medium" | "high" => {
            let kwargs = format!("{{\"enable_thinking\": true, \"reasoning_effort\": \"{value}\"}}");
            words(["--chat-template-kwargs", &kwargs])
        }
        other => Err(format!("expected true, false, low, medium or high, found {other}")),
    }
}

/// The type of keys and values in this program's words, and what to say if it is another one.
pub(super) fn kv_type(flag: &str, value: &str) -> Result<(&'static str, Option<String>), String> {
    match value.to_ascii_lowercase().as_str() {
        "f32" => Ok(("float32", None)),
        "f16" | "bf16" => Ok(("float16", None)),
        "q8_0" => Ok(("q8_0", None)),
        "q4_0" | "q4_1" | "iq4_nl" | "q5_0" | "q5_1" => Ok((
            "q8_0",
            Some(format!("{flag} {value} is q8_0 here, the smallest type of keys and values there is")),
        )),
        _ => Err(format!("{flag}: expected f32, f16, bf16 or q8_0, found {value}")),
    }
}
