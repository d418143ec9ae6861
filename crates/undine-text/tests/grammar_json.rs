//! Masks for JSON: on the official test suite of JSON Schema, whatever is drawn validates, valid instances are
//! accepted, and invalid ones refused.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::walk::{self, Walk};
use common::with_tools;
use serde::Deserialize;
use serde_json::Value as Json;
use undine_core::Constraint;
use undine_text::{AnswerFormat, AnswerRules, GrammarCompiler, ReasoningRules, SpecialText, Tokenizer};

const WALKS: u64 = 4;

/// A schema of the suite.
#[derive(Deserialize)]
struct Case {
    group: String,
    name: String,
    schema: Json,
    valid: Vec<Json>,
    invalid: Vec<Json>,
}

fn compile(compiler: &GrammarCompiler, schema: &Json) -> Result<Box<dyn Constraint>, String> {
    let rules = AnswerRules {
        format: AnswerFormat::JsonSchema(schema.clone()),
        tools: None,
        reasoning: ReasoningRules::None,
    };
    compiler.compile(&rules).map_err(|error| error.to_string())
}

/// Whether masks let a text through, byte by byte, and let it end.
fn accepts(constraint: &mut dyn Constraint, tokenizer: &Tokenizer, text: &str) -> bool {
    let end = tokenizer.eos()[0];
    for id in text.bytes().map(u32::from).chain([end]) {
        let mask = constraint.allowed().expect("JSON is restricted everywhere");
        if !walk::is_allowed(mask.wait(), id) {
            return false;
        }
        constraint.accept(id).unwrap();
    }
    true
}

#[derive(Default, Debug)]
struct Count {
    schemas: usize,
    refused: usize,
    walks: usize,
    accepted: usize,
    not_accepted: usize,
    rejected: usize,
    not_rejected: usize,
}

#[test]
fn suite() {
    let tokenizer = with_tools();
    let compiler = GrammarCompiler::new(Arc::clone(&tokenizer)).unwrap();
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for line in include_str!("data/json_schema_suite.jsonl").lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let count = counts.entry(case.group.clone()).or_default();
        count.schemas += 1;
        if let Err(why) = compile(&compiler, &case.schema) {
            println!("REFUSED {} / {}: {why}", case.group, case.name);
            count.refused += 1;
            continue;
        }
        for seed in 0..WALKS {
            let mut constraint = compile(&compiler, &case.schema).unwrap();
            let ids = Walk::new(&tokenizer, seed).run(&mut *constraint);
            let text = tokenizer.decode(&ids, SpecialText::Keep);
            let json: Json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            if !jsonschema::draft202012::is_valid(&case.schema, &json) {
                println!("INVALID {} / {}: {} {text}", case.group, case.name, case.schema);
            }
            count.walks += 1;
        }
        for instance in &case.valid {
            let mut constraint = compile(&compiler, &case.schema).unwrap();
            if accepts(&mut *constraint, &tokenizer, &instance.to_string()) {
                count.accepted += 1;
            } else {
                println!("NOT ACCEPTED {} / {}: {} {instance}", case.group, case.name, case.schema);
                count.not_accepted += 1;
            }
        }
        for instance in &case.invalid {
            let mut constraint = compile(&compiler, &case.schema).unwrap();
            if accepts(&mut *constraint, &tokenizer, &instance.to_string()) {
                println!("NOT REJECTED {} / {}: {} {instance}", case.group, case.name, case.schema);
                count.not_rejected += 1;
            } else {
                count.rejected += 1;
            }
        }
    }
    println!("{counts:#?}");
}
