//! Masks for tool calls: whatever is drawn from them is a call that the tool's schema allows.

use std::sync::Arc;

use crate::common::walk::{self, Walk};
use crate::common::with_tools;
use serde_json::{Value as Json, json};
use undine_text::grammar::Parallel;
use undine_text::tools::{Strictness, ToolSet};
use undine_text::{
    AnswerFormat, AnswerRules, GrammarCompiler, IncludeStop, Piece, Reasoning, ReasoningRules, SpecialText,
    StreamOptions, TextStream, Tokenizer, ToolChoice, ToolFormat, ToolRules,
};

const WALKS: u64 = 40;

/// Parameter schemas as clients send them, and as awkward as they may.
fn tools() -> Vec<Json> {
    serde_json::from_str(include_str!("../data/tools.json")).unwrap()
}

fn rules(set: &Arc<ToolSet>, choice: ToolChoice, parallel: Parallel) -> AnswerRules {
    AnswerRules {
        format: AnswerFormat::Free,
        tools: Some(ToolRules { set: Arc::clone(set), choice, parallel }),
        reasoning: ReasoningRules::None,
    }
}

/// Content, and the calls with their arguments.
fn read(tokenizer: &Arc<Tokenizer>, set: &Arc<ToolSet>, ids: &[u32]) -> (String, Vec<(String, String)>) {
    let options = StreamOptions {
        stop: Vec::new(),
        include_stop: IncludeStop::No,
        special: SpecialText::Skip,
        reasoning: Reasoning::Split,
        tools: Some(Arc::clone(set)),
        tool_format: ToolFormat::Lfm2,
    };
    let mut stream = TextStream::new(Arc::clone(tokenizer), options);
    let mut pieces = Vec::new();
    ids.iter().for_each(|&id| drop(stream.push(id, &mut pieces)));
    stream.finish(&mut pieces);
    let (mut content, mut calls) = (String::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Content(text) => content.push_str(&text),
            Piece::Reasoning(_) => {}
            Piece::ToolCall { index, name } => {
                assert_eq!(index, calls.len());
                calls.push((name, String::new()));
            }
            Piece::ToolArguments { index, json } => calls[index].1.push_str(&json),
            Piece::ToolAborted { .. } | Piece::ToolCut { .. } => {
                panic!("a call was given up: {:?}", tokenizer.decode(ids, SpecialText::Keep))
            }
        }
    }
    (content, calls)
}

fn check_calls(set: &ToolSet, calls: &[(String, String)], text: &str) {
    for (name, arguments) in calls {
        let schema = set.get(name).unwrap_or_else(|| panic!("unknown tool {name} in {text}")).parameters();
        let arguments: Json =
            serde_json::from_str(arguments).unwrap_or_else(|error| panic!("{error}: {arguments}"));
        let result = jsonschema::draft202012::validate(schema, &arguments);
        assert!(result.is_ok(), "{text}\n{arguments}\n{result:?}");
    }
}

#[test]
fn every_required_call_is_valid() {
    let tokenizer = with_tools();
    let compiler = GrammarCompiler::new(&tokenizer).unwrap();
    let set = Arc::new(ToolSet::new(&tools()).unwrap());
    for tool in set.tools() {
        for parallel in [Parallel::Allowed, Parallel::One] {
            let rules = rules(&set, ToolChoice::Named(tool.name().to_owned()), parallel);
            for seed in 0..WALKS {
                let mut constraint =
                    compiler.compile(&rules).unwrap_or_else(|error| panic!("{}: {error}", tool.name()));
                let ids = Walk::new(&tokenizer, seed).run(&mut *constraint);
                let text = tokenizer.decode(&ids, SpecialText::Keep);
                let (content, calls) = read(&tokenizer, &set, &ids);
                assert_eq!(content, "", "{text}");
                assert!(!calls.is_empty() && calls.iter().all(|(name, _)| name == tool.name()), "{text}");
                assert!(parallel == Parallel::Allowed || calls.len() == 1, "{text}");
                check_calls(&set, &calls, &text);
            }
        }
    }
}

/// Numbers beyond what doubles and 64 bits hold are literal text, from the schema to the call.
#[test]
fn constants_of_tools_keep_their_digits() {
    let tokenizer = with_tools();
    let compiler = GrammarCompiler::new(&tokenizer).unwrap();
    for number in
        ["9007199254740993", "-9007199254740993", "123456789012345678901234567890", "18446744073709551615"]
    {
        for schema in
            [format!(r#"{{"const": {number}}}"#), format!(r#"{{"type": "integer", "enum": [{number}]}}"#)]
        {
            let tool = format!(
                r#"{{"type": "function", "function": {{"name": "f", "parameters": {{"type": "object", "properties": {{"x": {schema}}}, "required": ["x"]}}}}}}"#
            );
            let tool = undine_text::exact::from_str(&tool).unwrap();
            let set = Arc::new(ToolSet::new(&[tool]).unwrap());
            let rules = rules(&set, ToolChoice::Required, Parallel::One);
            let mut constraint = compiler.compile(&rules).unwrap();
            let ids = Walk::new(&tokenizer, 1).run(&mut *constraint);
            let (_, calls) = read(&tokenizer, &set, &ids);
            assert_eq!(calls, [("f".to_owned(), format!("{{\"x\":{number}}}"))], "{schema}");
        }
    }
}

#[test]
fn automatic_calls_are_valid_and_text_is_free() {
    let tokenizer = with_tools();
    let compiler = GrammarCompiler::new(&tokenizer).unwrap();
    let set = Arc::new(ToolSet::new(&tools()).unwrap());
    let start = tokenizer.token_id("<|tool_call_start|>").unwrap();
    let mut constraint = compiler.compile(&rules(&set, ToolChoice::Auto, Parallel::One)).unwrap();
    for id in tokenizer.encode("I look it up. ", undine_text::Bos::Omit) {
        assert!(constraint.allowed().is_none());
        constraint.accept(id).unwrap();
    }
    constraint.accept(start).unwrap();
    let mut walk = Walk::new(&tokenizer, 7);
    let mut ids = vec![start];
    while let Some(id) = walk.step(&mut *constraint) {
        ids.push(id);
        if id == tokenizer.token_id("<|tool_call_end|>").unwrap() {
            break;
        }
    }
    let (content, calls) = read(&tokenizer, &set, &ids);
    assert_eq!((content.as_str(), calls.len()), ("", 1));
    check_calls(&set, &calls, "");
    let mask = constraint.allowed().expect("a second list is not allowed");
    assert!(!walk::is_allowed(mask.wait(), start) && walk::is_allowed(mask.wait(), u32::from(b'a')));
    assert!(constraint.accept(start).is_err());
}

#[test]
fn a_call_or_an_object() {
    let tokenizer = with_tools();
    let compiler = GrammarCompiler::new(&tokenizer).unwrap();
    let set = Arc::new(ToolSet::new(&tools()).unwrap());
    let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false});
    let rules = AnswerRules {
        format: AnswerFormat::JsonSchema(schema.clone(), Strictness::Strict),
        reasoning: ReasoningRules::MayThink { budget: Some(20) },
        ..rules(&set, ToolChoice::Auto, Parallel::Allowed)
    };
    let (mut objects, mut called) = (0, 0);
    for seed in 0..200 {
        let mut constraint = compiler.compile(&rules).unwrap();
        let ids = Walk::new(&tokenizer, seed).run(&mut *constraint);
        let text = tokenizer.decode(&ids, SpecialText::Keep);
        let (content, calls) = read(&tokenizer, &set, &ids);
        check_calls(&set, &calls, &text);
        if calls.is_empty() {
            let object: Json =
                serde_json::from_str(&content).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(jsonschema::draft202012::is_valid(&schema, &object), "{text}");
            objects += 1;
        } else {
            assert_eq!(content, "", "{text}");
            called += 1;
        }
    }
    assert!(objects > 20 && called > 20, "{objects} objects, {called} calls");
}
