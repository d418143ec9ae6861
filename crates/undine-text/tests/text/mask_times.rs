//! How long masks take on a vocabulary of 65,536 tokens, along random answers:
//! `cargo test --workspace --test text mask_times -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use undine_text::grammar::Parallel;
use undine_text::tools::{Strictness, ToolSet};
use undine_text::{
    AnswerFormat, AnswerRules, GrammarCompiler, ReasoningRules, Tokenizer, ToolChoice, ToolRules,
};

const ANSWERS: u64 = 40;
const TOKENS: usize = 60;

#[test]
#[ignore = "it measures for half a minute and judges nothing; its module says how to run it"]
fn mask_times() {
    let tokenizer = crate::common::large();
    let start = Instant::now();
    let compiler = GrammarCompiler::new(&tokenizer).expect("the vocabulary sorts");
    println!("{} tokens, sorted in {:.0} ms", tokenizer.vocab_size(), start.elapsed().as_secs_f64() * 1e3);
    let schema = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "address": {"type": "object", "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["street", "zip"], "additionalProperties": false}},
        "required": ["name", "age", "address"], "additionalProperties": false});
    let tools: Vec<_> = (0..8)
        .map(|index| {
            let name = format!("tool_{index}");
            json!({"type": "function", "function": {"name": name, "parameters": schema}})
        })
        .collect();
    let set = Arc::new(ToolSet::new(&tools).expect("tools"));
    let rules = |format, tools| AnswerRules { format, tools, reasoning: ReasoningRules::None };
    let tools = ToolRules { set, choice: ToolChoice::Required, parallel: Parallel::Allowed };
    measure(&compiler, &tokenizer, "8 tools", &rules(AnswerFormat::Free, Some(tools)));
    measure(
        &compiler,
        &tokenizer,
        "JSON schema",
        &rules(AnswerFormat::JsonSchema(schema, Strictness::Strict), None),
    );
    measure(&compiler, &tokenizer, "JSON object", &rules(AnswerFormat::JsonObject, None));
}

fn measure(compiler: &GrammarCompiler, tokenizer: &Tokenizer, what: &str, rules: &AnswerRules) {
    let (mut compile_us, mut mask_us, mut seed) = (Vec::new(), Vec::new(), 1u64);
    for _ in 0..ANSWERS {
        let start = Instant::now();
        let mut constraint = compiler.compile(rules).expect("the rules compile");
        compile_us.push(start.elapsed().as_secs_f64() * 1e6);
        for _ in 0..TOKENS {
            let start = Instant::now();
            let mask = constraint.allowed().expect("a mask");
            let words = mask.wait();
            mask_us.push(start.elapsed().as_secs_f64() * 1e6);
            let is_allowed = |id: &u32| words[*id as usize / 32] >> (id % 32) & 1 == 1;
            let allowed: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(is_allowed).collect();
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let id = allowed[(seed >> 33) as usize % allowed.len()];
            if constraint.accept(id).is_err() || tokenizer.eos().contains(&id) {
                break;
            }
        }
    }
    let [(compile, compile_99), (mask, mask_99)] = [&mut compile_us, &mut mask_us].map(|times| {
        times.sort_by(f64::total_cmp);
        (times[times.len() / 2], times[times.len() * 99 / 100])
    });
    println!(
        "{what}: compile {compile:.0} us (p99 {compile_99:.0}), mask {mask:.0} us (p99 {mask_99:.0}) of {} masks",
        mask_us.len()
    );
}
