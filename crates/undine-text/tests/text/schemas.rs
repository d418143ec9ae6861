//! Schemas as the libraries write them that people use (`data/schemas/make.py`), and as strangers do: each is
//! enforced, or relaxed where it is said to be; what is valid under it is accepted, what is not is refused.

use std::sync::Arc;

use crate::common::walk::{self, Walk};
use crate::common::with_tools;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use undine_text::grammar::{CompiledRules, Parallel};
use undine_text::tools::{Strictness, ToolSet};
use undine_text::{
    AnswerFormat, AnswerRules, Bos, Cancel, GrammarCompiler, ReasoningRules, SpecialText, Tokenizer,
    ToolChoice, ToolRules,
};

const WALKS: u64 = 2;

/// A schema of a library.
#[derive(Deserialize)]
struct Case {
    from: String,
    name: String,
    schema: Json,
    valid: Vec<Json>,
    invalid: Vec<Json>,
}

fn cases() -> Vec<Case> {
    let lines = include_str!("../data/schemas/schemas.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn answer(
    compiler: &GrammarCompiler,
    schema: &Json,
    strictness: Strictness,
) -> Result<CompiledRules, String> {
    let format = AnswerFormat::JsonSchema(schema.clone(), strictness);
    let rules = AnswerRules { format, tools: None, reasoning: ReasoningRules::None };
    compiler.prepare(&rules, &Cancel::default()).map_err(|error| error.to_string())
}

fn tool(compiler: &GrammarCompiler, schema: &Json) -> Result<CompiledRules, String> {
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": schema}});
    let set = Arc::new(ToolSet::new(&[tool]).map_err(|error| error.to_string())?);
    let tools = ToolRules { set, choice: ToolChoice::Required, parallel: Parallel::One };
    let rules =
        AnswerRules { format: AnswerFormat::Free, tools: Some(tools), reasoning: ReasoningRules::None };
    compiler.prepare(&rules, &Cancel::default()).map_err(|error| error.to_string())
}

/// Whether masks let a text through, byte by byte, and let it end.
fn accepts(rules: &CompiledRules, tokenizer: &Tokenizer, text: &str) -> bool {
    let mut constraint = rules.constraint();
    text.bytes().map(u32::from).chain([tokenizer.eos()[0]]).all(|id| {
        let mask = constraint.allowed().expect("JSON is restricted everywhere");
        walk::is_allowed(mask.wait(), id) && constraint.accept(id).is_ok()
    })
}

/// A schema without a version is of the latest, unless it has tuples of old.
fn is_valid(schema: &Json, json: &Json) -> bool {
    match jsonschema::validator_for(schema) {
        Ok(validator) => validator.is_valid(json),
        Err(_) => jsonschema::draft7::is_valid(schema, json),
    }
}

/// A random walk finds no end of a text that must have a certain form, or of what may hold its like; and
/// validators do not know OpenAPI's `nullable`.
fn is_hard_to_draw(schema: &Json) -> bool {
    let text = schema.to_string();
    ["\"pattern\"", "\"email\"", "\"uri\"", "\"$ref\"", "\"nullable\":true"]
        .iter()
        .any(|keyword| text.contains(keyword))
}

#[test]
fn schemas_of_libraries_are_enforced_or_named() {
    let tokenizer = with_tools();
    let compiler = GrammarCompiler::new(&tokenizer).unwrap();
    let mut faults = Vec::new();
    let (mut whole, mut accepted, mut refused, mut drawn) = (0, 0, 0, 0);
    for Case { from, name, schema, valid, invalid } in cases() {
        let place = format!("{from}: {name}");
        let rules = match answer(&compiler, &schema, Strictness::BestEffort) {
            Ok(rules) => rules,
            Err(why) => {
                faults.push(format!("{place}: {why}"));
                continue;
            }
        };
        let left_out = rules.left_out();
        // Whoever demands all of a schema is told the same places.
        match answer(&compiler, &schema, Strictness::Strict) {
            Ok(_) if left_out.is_empty() => whole += 1,
            Err(why) if left_out.iter().all(|place| why.contains(place)) && !left_out.is_empty() => {}
            other => faults.push(format!("{place}: {:?} {left_out:?}", other.err())),
        }
        for instance in valid {
            if accepts(&rules, &tokenizer, &instance.to_string()) {
                accepted += 1;
            } else {
                faults.push(format!("{place}: not accepted: {instance} {left_out:?}"));
            }
        }
        for instance in invalid {
            if !accepts(&rules, &tokenizer, &instance.to_string()) {
                refused += 1;
            } else if left_out.is_empty() {
                faults.push(format!("{place}: accepted: {instance}"));
            }
        }
        println!("{place}: {left_out:?}");
        if !left_out.is_empty() || is_hard_to_draw(&schema) {
            continue;
        }
        for seed in 0..WALKS {
            let ids = Walk::new(&tokenizer, seed).run(&mut *rules.constraint());
            let text = tokenizer.decode(&ids, SpecialText::Keep);
            // JSON has numbers of any size, this reader has not.
            let Ok(json) = serde_json::from_str::<Json>(&text) else { continue };
            drawn += 1;
            if !is_valid(&schema, &json) {
                faults.push(format!("{place}: drawn: {text}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("{whole} {accepted} {refused} {drawn}");
}

/// A call with these arguments, by name or as JSON.
fn calls(arguments: &Json) -> Vec<String> {
    let mut calls = vec![format!("[{{\"name\":\"f\",\"arguments\":{arguments}}}]")];
    if let Some(arguments) = arguments.as_object() {
        let named: Vec<String> = arguments.iter().map(|(name, value)| format!("{name}={value}")).collect();
        calls.push(format!("[f({})]", named.join(",")));
    }
    calls
}

fn can_be_called(rules: &CompiledRules, tokenizer: &Tokenizer, arguments: &Json) -> bool {
    calls(arguments).iter().any(|call| {
        let text = format!("<|tool_call_start|>{call}<|tool_call_end|>");
        let ids = tokenizer.encode(&text, Bos::Omit).into_iter().chain([tokenizer.eos()[0]]);
        let mut constraint = rules.constraint();
        ids.into_iter().all(|id| {
            let mask = constraint.allowed().expect("a call is required");
            walk::is_allowed(mask.wait(), id) && constraint.accept(id).is_ok()
        })
    })
}

#[test]
fn every_tool_with_such_a_schema_can_be_called() {
    let tokenizer = with_tools();
    let compiler = GrammarCompiler::new(&tokenizer).unwrap();
    let mut faults = Vec::new();
    let (mut called, mut refused) = (0, 0);
    for Case { from, name, schema, valid, invalid } in cases() {
        let place = format!("{from}: {name}");
        let rules = match tool(&compiler, &schema) {
            Ok(rules) => rules,
            Err(why) => {
                faults.push(format!("{place}: {why}"));
                continue;
            }
        };
        let left_out = rules.left_out();
        assert!(left_out.iter().all(|place| place.starts_with("f: ")));
        for instance in valid.iter().filter(|instance| instance.is_object()) {
            if can_be_called(&rules, &tokenizer, instance) {
                called += 1;
            } else {
                faults.push(format!("{place}: cannot be called with {instance} {left_out:?}"));
            }
        }
        for instance in invalid.iter().filter(|instance| instance.is_object()) {
            if !can_be_called(&rules, &tokenizer, instance) {
                refused += 1;
            } else if left_out.is_empty() {
                faults.push(format!("{place}: can be called with {instance}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("{called} {refused}");
}

/// Walks for a schema that a random text meets or misses by chance.
const HARD_WALKS: u64 = 12;

#[test]
fn what_is_not_named_as_left_out_holds() {
    let tokenizer = with_tools();
    let compiler = GrammarCompiler::new(&tokenizer).unwrap();
    let loose = |tag: &str, name: &str| json!({"type": "object", "properties": {name: {"const": tag, "default": tag}}, "additionalProperties": false});
    let cat = json!({"oneOf": [loose("b", "color"), loose("w", "color")], "discriminator": {"propertyName": "color"}});
    let pets = json!({"oneOf": [cat, loose("w", "pet")], "discriminator": {"propertyName": "pet"}});
    let kinds = json!({"oneOf": [{"allOf": [loose("a", "k")]}, {"allOf": [loose("b", "k")]}], "discriminator": {"propertyName": "k"}});
    let decimal = |rest: &str| json!({"type": "string", "pattern": format!("^(?!^[-+.]*$)[+-]?0*{rest}")});
    for (schema, left_out) in [
        (pets, vec!["oneOf"]),
        (kinds, vec![]),
        (
            json!({"type": "object", "additionalProperties": {"enum": [1]}, "minProperties": 3, "maxProperties": 3}),
            vec!["minProperties"],
        ),
        (
            json!({"type": "object", "additionalProperties": {"enum": [1]}, "required": ["a"], "minProperties": 2, "maxProperties": 2}),
            vec![],
        ),
        (json!({"type": "number", "minimum": 0.25, "maximum": 0.35, "multipleOf": 0.1}), vec![]),
        (
            json!({"type": "object", "patternProperties": {"^a$": {"enum": [1, 2]}, "^[ab]$": {"enum": [2, 3]}}, "additionalProperties": false, "minProperties": 1}),
            vec!["patternProperties"],
        ),
        (decimal(r"\d*\.?\d*$"), vec![]),
        (decimal(r"\d*\.?\d{0,2}0*$"), vec![]),
        (decimal(r"(?:\d{0,5}|(?=[\d.]{1,6}0*$)\d*\.\d*0*$)"), vec![]),
        (decimal(r"(?:\d{0,3}|(?=[\d.]{1,6}0*$)\d{0,3}\.\d{0,2}0*$)"), vec![]),
    ] {
        let rules = answer(&compiler, &schema, Strictness::BestEffort).unwrap();
        assert_eq!(rules.left_out(), left_out, "{schema}");
        assert_eq!(answer(&compiler, &schema, Strictness::Strict).is_ok(), left_out.is_empty(), "{schema}");
        // What holds is the schema without what is named.
        let mut held = schema.clone();
        held.as_object_mut().unwrap().retain(|keyword, _| !left_out.contains(&keyword.as_str()));
        if left_out == ["patternProperties"] {
            held["patternProperties"] = json!({"^[ab]$": true});
        }
        for seed in 0..HARD_WALKS {
            let ids = Walk::new(&tokenizer, seed).run(&mut *rules.constraint());
            let text = tokenizer.decode(&ids, SpecialText::Keep);
            let json: Json = match serde_json::from_str(&text) {
                // JSON that no f64 holds: `{"a": 1E999}`.
                Err(error) if error.to_string().starts_with("number out of range") => continue,
                json => json.unwrap(),
            };
            assert!(is_valid(&held, &json), "{schema}: {text}");
        }
    }
}
