//! Masks for JSON: on the official test suite of JSON Schema, whatever is drawn validates, valid instances
//! are accepted, and invalid ones refused.

use std::sync::Arc;

use crate::common::walk::{self, Walk};
use crate::common::with_tools;
use serde::Deserialize;
use serde_json::Value as Json;
use undine_core::Constraint;
use undine_text::tools::Strictness;
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
        format: AnswerFormat::JsonSchema(schema.clone(), Strictness::Strict),
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

/// The library makes doubles of constants: 9007199254740993 would be 9007199254740992.
#[test]
fn constants_are_enforced_to_the_digit() {
    let tokenizer = with_tools();
    let compiler = GrammarCompiler::new(&tokenizer).unwrap();
    let schema = |text: &str| undine_text::exact::from_str(text).unwrap();
    for (text, valid, invalid) in [
        (r#"{"const": 9007199254740993}"#, "9007199254740993", "9007199254740992"),
        (
            r#"{"enum": [1, -123456789012345678901234567890]}"#,
            "-123456789012345678901234567890",
            "-123456789012345680000000000000",
        ),
        (
            r#"{"type": "object", "properties": {"id": {"const": 18446744073709551615}, "ok": {"type": "boolean"}, "s": {"type": "string"}},
               "required": ["id", "ok", "s"], "additionalProperties": false}"#,
            r#"{"id": 18446744073709551615, "ok": true, "s": "x"}"#,
            r#"{"id": 18446744073709551615, "ok": True, "s": "x"}"#,
        ),
        (
            r#"{"type": "array", "items": {"enum": [9007199254740993, null, "a"]}}"#,
            r#"[9007199254740993, null, "a"]"#,
            "[9007199254740992]",
        ),
        (r#"{"const": -0}"#, "0", "1"),
    ] {
        let schema = schema(text);
        let constraint = || compile(&compiler, &schema).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(accepts(&mut *constraint(), &tokenizer, valid), "{text}: {valid}");
        assert!(!accepts(&mut *constraint(), &tokenizer, invalid), "{text}: {invalid}");
    }
    for (text, place) in [
        (r#"{"minimum": 9007199254740994}"#, "minimum"),
        (r#"{"properties": {"x": {"exclusiveMaximum": 1e300}}}"#, "properties.x.exclusiveMaximum"),
        (r#"{"properties": {"x": {"minimum": 123456789012345678901234567890}}}"#, "properties.x.minimum"),
        (r#"{"properties": {"x": {"const": 9007199254740993, "pattern": "a"}}}"#, "properties.x"),
    ] {
        let error = compile(&compiler, &schema(text)).err().unwrap();
        assert!(error.contains(place), "{error}");
    }
}

/// Why a strict schema is refused: what is taken is enforced as a whole.
const REFUSED: [(&str, &str); 3] = [
    ("of its schema this cannot be enforced", "a grammar cannot follow what is named then"),
    ("allows nothing", "nothing is valid"),
    ("no text fits it", "nothing is valid"),
];

/// Valid instances that are not accepted, and why that is right: what is generated needs one spelling, not
/// all.
const NOT_ACCEPTED: [(&str, &str); 6] = [
    ("allOf / allOf", "properties come in the order of the schema"),
    ("const / const with object", "properties come in the order of the schema"),
    ("const / ", "the constant is spelled as in the schema: 0 is not written 0.0"),
    ("enum / ", "the values are spelled as in the schema: 0 is not written 0.0"),
    ("format / ", "here a format is a rule, in the suite a remark"),
    ("type / integer type", "an integer is not written 1.0"),
];

#[derive(Default, Debug)]
struct Count {
    compiled: usize,
    refused: usize,
    drawn: usize,
    accepted: usize,
    rejected: usize,
}

/// Draws from a schema and validates; numbers that the validator reads inexactly are left out.
fn draw(compiler: &GrammarCompiler, tokenizer: &Arc<Tokenizer>, case: &Case, count: &mut Count) {
    for seed in 0..WALKS {
        let mut constraint = compile(compiler, &case.schema).unwrap();
        let ids = Walk::new(tokenizer, seed).run(&mut *constraint);
        let text = tokenizer.decode(&ids, SpecialText::Keep);
        let json: Json = match serde_json::from_str(&text) {
            Ok(json) => json,
            // JSON has numbers of any size, this reader has not.
            Err(error) if error.to_string().starts_with("number out of range") => continue,
            Err(error) => panic!("{error}: {text}"),
        };
        let is_inexact = text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 15);
        let is_valid = jsonschema::draft202012::is_valid(&case.schema, &json);
        assert!(is_valid || is_inexact, "{} / {}: {}\n{text}", case.group, case.name, case.schema);
        count.drawn += 1;
    }
}

fn check(compiler: &GrammarCompiler, tokenizer: &Arc<Tokenizer>, case: &Case, count: &mut Count) {
    let place = format!("{} / {}: {}", case.group, case.name, case.schema);
    if let Err(why) = compile(compiler, &case.schema) {
        assert!(REFUSED.iter().any(|(known, _)| why.contains(known)), "{place}\n{why}");
        count.refused += 1;
        return;
    }
    count.compiled += 1;
    draw(compiler, tokenizer, case, count);
    for instance in &case.valid {
        let mut constraint = compile(compiler, &case.schema).unwrap();
        let is_accepted = accepts(&mut *constraint, tokenizer, &instance.to_string());
        let is_known = NOT_ACCEPTED.iter().any(|(known, _)| place.starts_with(known));
        assert!(is_accepted || is_known, "{place}\n{instance} is valid");
        count.accepted += usize::from(is_accepted);
    }
    for instance in &case.invalid {
        let mut constraint = compile(compiler, &case.schema).unwrap();
        let is_accepted = accepts(&mut *constraint, tokenizer, &instance.to_string());
        assert!(!is_accepted, "{place}\n{instance} is not valid");
        count.rejected += 1;
    }
}

#[test]
fn suite() {
    let tokenizer = with_tools();
    let compiler = GrammarCompiler::new(&tokenizer).unwrap();
    let mut count = Count::default();
    for line in include_str!("../data/json_schema_suite.jsonl").lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        check(&compiler, &tokenizer, &case, &mut count);
    }
    println!("{count:?}");
    assert!(
        count.compiled > 140 && count.drawn > 480 && count.accepted > 290 && count.rejected > 210,
        "{count:?}"
    );
}
