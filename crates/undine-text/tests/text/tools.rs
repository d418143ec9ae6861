//! Calls in the text of an answer: a corpus of what models write, and the same however it is cut.

use std::sync::Arc;

use crate::common::with_tools;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use undine_text::tools::{ToolFormat, ToolParser, ToolSet};
use undine_text::{
    Bos, IncludeStop, Piece, Reasoning, SpecialText, StreamOptions, TextError, TextStream, Tokenizer,
};

/// An answer and what it says.
#[derive(Deserialize)]
struct Case {
    text: String,
    #[serde(default)]
    content: String,
    #[serde(default)]
    reasoning: String,
    #[serde(default)]
    calls: Vec<(String, Json)>,
    /// The arguments as they are written, where that matters.
    #[serde(default)]
    json: Vec<String>,
    #[serde(default)]
    aborted: usize,
}

fn cases() -> Vec<Case> {
    let lines = include_str!("../data/calls.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn set() -> Arc<ToolSet> {
    let f = json!({"type": "object", "properties": {
        "a": {"type": "string"}, "b": {"type": "integer"}, "flag": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "opts": {"$ref": "#/$defs/opts"}, "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "num": {"type": "number"}},
        "$defs": {"opts": {"type": "object", "properties": {"deep": {"type": "integer"}}}}});
    let tools = [("f", f), ("g", json!({})), ("Calendar.create-event", json!({"type": "object"}))];
    let tools: Vec<Json> = tools
        .into_iter()
        .map(|(name, parameters)| json!({"type": "function", "function": {"name": name, "parameters": parameters}}))
        .collect();
    Arc::new(ToolSet::new(&tools).unwrap())
}

/// All pieces of an answer, joined.
#[derive(Default, Debug, PartialEq, Clone)]
pub struct Outcome {
    content: String,
    reasoning: String,
    pub calls: Vec<(String, String)>,
    aborted: Vec<usize>,
    cut: Vec<usize>,
}

pub fn join(pieces: Vec<Piece>) -> Outcome {
    let mut outcome = Outcome::default();
    for piece in pieces {
        match piece {
            Piece::Content(text) => {
                assert!(!text.is_empty());
                outcome.content.push_str(&text);
            }
            Piece::Reasoning(text) => outcome.reasoning.push_str(&text),
            Piece::ToolCall { index, name } => {
                assert_eq!(index, outcome.calls.len());
                outcome.calls.push((name, String::new()));
            }
            Piece::ToolArguments { index, json } => {
                assert!(index + 1 == outcome.calls.len() && !json.is_empty());
                outcome.calls[index].1.push_str(&json);
            }
            Piece::ToolAborted { index } => outcome.aborted.push(index),
            Piece::ToolCut { index } => outcome.cut.push(index),
        }
    }
    outcome
}

fn run(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> Outcome {
    let options = StreamOptions {
        stop: Vec::new(),
        include_stop: IncludeStop::No,
        special: SpecialText::Skip,
        reasoning: Reasoning::Split,
        tools: Some(set()),
        tool_format: ToolFormat::Lfm2,
    };
    let mut stream = TextStream::new(Arc::clone(tokenizer), options);
    let mut pieces = Vec::new();
    ids.iter().for_each(|&id| drop(stream.push(id, &mut pieces)));
    stream.finish(&mut pieces);
    join(pieces)
}

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn corpus() {
    let tokenizer = with_tools();
    let cases = cases();
    assert!(cases.len() >= 80, "{}", cases.len());
    for case in cases {
        let outcome = run(&tokenizer, &tokenizer.encode(&case.text, Bos::Omit));
        let text = &case.text;
        assert_eq!(outcome.content, case.content, "{text}");
        assert_eq!(outcome.reasoning, case.reasoning, "{text}");
        assert_eq!(outcome.aborted.len(), case.aborted, "{text}");
        let whole = outcome.calls.iter().enumerate().filter(|(index, _)| !outcome.aborted.contains(index));
        let (names, arguments): (Vec<_>, Vec<_>) =
            whole.map(|(_, (name, json))| (name.clone(), json.clone())).unzip();
        if case.json.is_empty() {
            let parsed = arguments
                .iter()
                .map(|json| serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}")));
            assert_eq!(names.into_iter().zip(parsed).collect::<Vec<(String, Json)>>(), case.calls, "{text}");
        } else {
            assert_eq!(arguments, case.json, "{text}");
        }
        for index in outcome.aborted {
            assert!(
                serde_json::from_str::<Json>(&outcome.calls[index].1).is_err(),
                "an aborted call is not whole: {text}"
            );
        }
    }
}

#[test]
fn any_cut_of_the_corpus_gives_the_same() {
    let set = set();
    for case in cases() {
        let parse = |parts: &[&str]| {
            let mut parser = ToolParser::new(Arc::clone(&set), ToolFormat::Lfm2);
            let mut pieces = Vec::new();
            parts.iter().for_each(|part| parser.push(part, &mut pieces));
            parser.finish(&mut pieces);
            join(pieces)
        };
        let whole = parse(&[&case.text]);
        for (at, _) in case.text.char_indices() {
            let (before, after) = case.text.split_at(at);
            assert_eq!(parse(&[before, after]), whole, "{} cut at {at}", case.text);
        }
        let singles: Vec<String> = case.text.chars().map(String::from).collect();
        assert_eq!(parse(&singles.iter().map(String::as_str).collect::<Vec<_>>()), whole, "{}", case.text);
        // What is cut off at any place panics nowhere, and what it put out is a beginning.
        let tokenizer = with_tools();
        assert_eq!(
            run(&tokenizer, &bytes(&case.text)),
            run(&tokenizer, &tokenizer.encode(&case.text, Bos::Omit))
        );
    }
}

#[test]
fn arguments_come_as_they_are_written() {
    let mut parser = ToolParser::new(set(), ToolFormat::Lfm2);
    let parts = ["<|tool_call_start|>[f(", "a=", "\"one", " two\"", ", b", "=7", ", tags=['x'", "])", "]"];
    let expected = ["", "ToolCall f", "{\"a\":\"one", " two", "", "\",\"b\":", "", "", ""];
    let mut seen = Vec::new();
    for part in parts {
        let mut pieces = Vec::new();
        parser.push(part, &mut pieces);
        seen.push(
            pieces
                .into_iter()
                .map(|piece| match piece {
                    Piece::ToolCall { name, .. } => format!("ToolCall {name}"),
                    Piece::ToolArguments { json, .. } => json,
                    piece => panic!("{piece:?}"),
                })
                .collect::<String>(),
        );
    }
    assert_eq!(seen[..4], expected[..4]);
    assert_eq!(seen.concat(), "ToolCall f{\"a\":\"one two\",\"b\":7,\"tags\":[\"x\"]}");
    assert!(seen[4..8].iter().any(|part| part.contains("\"b\":7")), "{seen:?}");
}

fn parse_cut(text: &str, format: ToolFormat) -> Outcome {
    let mut parser = ToolParser::new(set(), format);
    let mut pieces = Vec::new();
    parser.push(text, &mut pieces);
    parser.finish_cut(&mut pieces);
    join(pieces)
}

/// Calls as they are when the answer was cut there; the last one is open if its arguments are no JSON.
#[test]
fn an_answer_that_is_cut_in_a_call_has_the_call_so_far() {
    type Calls = &'static [(&'static str, &'static str)];
    let table: [(&str, &str, Calls); 37] = [
        ("<|tool_call_start|>", "", &[]),
        ("<|tool_call_start|>[", "", &[]),
        ("<|tool_call_start|>[Calendar.cre", "", &[]),
        ("Well. <|tool_call_start|>[f(", "Well. ", &[("f", "")]),
        ("<|tool_call_start|>[f(a=", "", &[("f", "")]),
        ("<|tool_call_start|>[f(a=\"cut off in the mid", "", &[("f", "{\"a\":\"cut off in the mid")]),
        ("<|tool_call_start|>[f(a=\"one\", b=12", "", &[("f", "{\"a\":\"one\"")]),
        ("<|tool_call_start|>[f(a=\"one\", b=12, fl", "", &[("f", "{\"a\":\"one\",\"b\":12")]),
        ("<|tool_call_start|>[f(a=\"one\", b=12)", "", &[("f", "{\"a\":\"one\",\"b\":12}")]),
        ("<|tool_call_start|>[f(a=\"one\"), g(", "", &[("f", "{\"a\":\"one\"}"), ("g", "")]),
        ("<|tool_call_start|>[f(a=\"one\"), ", "", &[("f", "{\"a\":\"one\"}")]),
        ("<|tool_call_start|>[f(a=\"one\")]<|tool_call_end|>[f(a=\"o", "", &[("f", "{\"a\":\"one\"}")]),
        ("<|tool_call_start|>[f(tags=[\"a\", \"b", "", &[("f", "{\"tags\":[\"a\",\"b")]),
        ("<|tool_call_start|>[f(tags=['a', ", "", &[("f", "{\"tags\":[\"a\"")]),
        ("<|tool_call_start|>[f(tags=[", "", &[("f", "{\"tags\":[")]),
        ("<|tool_call_start|>[f(opts={\"deep\": 1, \"mo", "", &[("f", "{\"opts\":{\"deep\":1")]),
        ("<|tool_call_start|>[f(b=2, opts={\"x\": [1, (2, 3", "", &[("f", "{\"b\":2,\"opts\":{\"x\":[1,[2")]),
        (
            "<|tool_call_start|>[f({\"a\": \"x\", \"tags\": [\"p\", \"q",
            "",
            &[("f", "{\"a\":\"x\",\"tags\":[\"p\",\"q")],
        ),
        (
            "<|tool_call_start|>[{\"name\": \"f\", \"arguments\": {\"opts\": {\"deep\": 1, ",
            "",
            &[("f", "{\"opts\":{\"deep\":1")],
        ),
        ("<|tool_call_start|>[f(\"by place", "", &[("f", "{\"a\":\"by place")]),
        ("<|tool_call_start|>[f(\"by place\", 3", "", &[("f", "{\"a\":\"by place\"")]),
        ("<|tool_call_start|>[{\"name\": \"f\", \"arguments\": {\"a\": \"x y", "", &[("f", "{\"a\":\"x y")]),
        (
            "<|tool_call_start|>[{\"name\": \"f\", \"arguments\": {\"a\": \"x\", \"b\"",
            "",
            &[("f", "{\"a\":\"x\"")],
        ),
        ("<|tool_call_start|>[{\"name\": \"f\", \"argu", "", &[("f", "")]),
        ("<|tool_call_start|>[{\"name\": \"Calend", "", &[]),
        (
            "<|tool_call_start|>[{\"name\": \"g\"}, {\"name\": \"f\", \"arguments\": {\"a\": \"q\\",
            "",
            &[("g", "{}"), ("f", "{\"a\":\"q")],
        ),
        ("[f(a=\"x", "", &[("f", "{\"a\":\"x")]),
        ("[f", "[f", &[]),
        ("[f(a=\"x\")] is how", "[f(a=\"x\")] is how", &[]),
        ("{\"name\": \"f\", \"arguments\": {\"a\": \"x", "", &[("f", "{\"a\":\"x")]),
        ("```json\n{\"name\": \"f\", \"arguments\": {\"b\": 1", "", &[("f", "")]),
        ("```json\n", "```json\n", &[]),
        ("{\"name\": \"", "{\"name\": \"", &[]),
        (
            "I look. <tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x",
            "I look. ",
            &[("f", "{\"a\":\"x")],
        ),
        ("I look. <tool_call>\n", "I look. ", &[]),
        ("I look. <tool_ca", "I look. ", &[]),
        ("a < b, <", "a < b, <", &[]),
    ];
    for (text, content, calls) in table {
        let Outcome { content: found, calls: made, cut, aborted, .. } = parse_cut(text, ToolFormat::Lfm2);
        let made: Vec<(&str, &str)> =
            made.iter().map(|(name, json)| (name.as_str(), json.as_str())).collect();
        assert_eq!((found.as_str(), made.as_slice()), (content, calls), "{text}");
        let open = calls.iter().position(|(_, json)| serde_json::from_str::<Json>(json).is_err());
        assert_eq!((cut, aborted), (open.into_iter().collect(), vec![]), "{text}");
    }
}

#[test]
fn no_cut_of_the_corpus_leaves_marks_of_a_call() {
    for case in cases() {
        let whole = parse_cut(&case.text, ToolFormat::Lfm2);
        for (at, _) in case.text.char_indices() {
            let text = &case.text[..at];
            let outcome = parse_cut(text, ToolFormat::Lfm2);
            assert!(!outcome.content.contains("<|tool_call_"), "{text}: {}", outcome.content);
            assert!(outcome.cut.len() <= 1 && outcome.cut.iter().all(|&cut| cut + 1 == outcome.calls.len()));
            // What was streamed before the cut is what the whole answer begins with.
            if let (Some((name, _)), Some((first, _))) = (outcome.calls.first(), whole.calls.first()) {
                assert_eq!(name, first, "{text}");
            }
        }
    }
}

/// Calls without markers, of models that were tuned for other servers.
#[test]
fn calls_in_other_spellings_are_read_if_their_names_are_declared() {
    let f = &[("f", "{\"a\":\"x\"}")][..];
    let both = &[("f", "{\"a\":\"x\"}"), ("g", "{}")][..];
    let call = "{\"name\": \"f\", \"arguments\": {\"a\": \"x\"}}";
    let other = "{\"name\": \"g\", \"parameters\": {}}";
    let spellings = [
        (call.to_owned(), f),
        (format!("\n{call}\n"), f),
        (format!("[{call}, {other}]"), both),
        (format!("{call}\n{other}"), both),
        (format!("{{\"type\": \"function\", \"function\": {call}}}"), f),
        (format!("```json\n{call}\n```"), f),
        (format!("```\n[{call}]\n```\n"), f),
        (format!("```tool_call\n{call}\n```"), f),
        ("```python\n[f(a=\"x\"), g()]\n```".to_owned(), both),
        (format!("<tool_call>\n{call}\n</tool_call>"), f),
        (format!("<tool_call>{call}</tool_call>\n<tool_call>{other}</tool_call>"), both),
        (format!("<tool_call>{call}"), f),
    ];
    for (text, calls) in spellings {
        let Outcome { content, calls: made, .. } = finish(&text, ToolFormat::Lfm2);
        let made: Vec<(&str, &str)> =
            made.iter().map(|(name, json)| (name.as_str(), json.as_str())).collect();
        assert_eq!((content.as_str(), made.as_slice()), ("", calls), "{text}");
        // An answer that may itself be JSON is not looked into.
        let Outcome { content, calls, .. } = finish(&text, ToolFormat::Lfm2Marked);
        assert_eq!((content, calls), (text, vec![]));
    }
    let tagged = finish(&format!("I look.\n<tool_call>{call}</tool_call>\nDone"), ToolFormat::Lfm2);
    assert_eq!((tagged.content.as_str(), tagged.calls.len()), ("I look.\n\nDone", 1));
}

#[test]
fn json_that_is_no_call_stays_as_it_is() {
    for text in [
        "{\"name\": \"Ada\", \"age\": 36}",
        "{\"name\": \"f\", \"age\": 36}",
        "{\"name\": \"h\", \"arguments\": {}}",
        "[{\"name\": \"f\"}, {\"name\": \"h\"}]",
        "{\"name\": \"f\", \"arguments\": {\"a\": \"x\"}} is how to call it",
        "Sure: {\"name\": \"f\", \"arguments\": {}}",
        "Sure:\n```json\n{\"name\": \"f\", \"arguments\": {}}\n```",
        "```rust\nfn main() {}\n```",
        "```json\n{\"title\": \"f\"}\n```",
        "  <tool_call>{\"name\": \"h\"}</tool_call>",
        "{}",
        "[]",
        "{",
        "`f` is a function",
        "{\"type\": \"object\"}",
        "{\"arguments\": {\"a\": 1}}",
        "<tool_call> is a tag",
    ] {
        let Outcome { content, calls, .. } = finish(text, ToolFormat::Lfm2);
        assert_eq!((content.as_str(), calls), (text, vec![]), "{text}");
    }
    // What shows early that it is no call does not wait for its end.
    for (text, rest) in [("{\"na", "me\": \"Ada\""), ("{\"ti", "tle\""), ("```ru", "st\nfn"), ("[1", ", 2")] {
        let mut parser = ToolParser::new(set(), ToolFormat::Lfm2);
        let mut pieces = Vec::new();
        parser.push(text, &mut pieces);
        parser.push(rest, &mut pieces);
        assert!(join(pieces).content.starts_with(text), "{text}{rest}");
    }
}

fn finish(text: &str, format: ToolFormat) -> Outcome {
    let mut parser = ToolParser::new(set(), format);
    let mut pieces = Vec::new();
    parser.push(text, &mut pieces);
    parser.finish(&mut pieces);
    join(pieces)
}

#[test]
fn tool_sets_are_checked() {
    let function = |function: Json| json!({"type": "function", "function": function});
    let table = [
        (vec![json!({"type": "retrieval"})], "tools[0].type"),
        (vec![json!({"type": "function"})], "tools[0].function"),
        (vec![function(json!({}))], "tools[0].function.name"),
        (vec![function(json!({"name": "a b"}))], "cannot be called"),
        (vec![function(json!({"name": "a", "parameters": [1]}))], "expected a JSON schema"),
        (vec![function(json!({"name": "a"})), function(json!({"name": "a"}))], "declared twice"),
        (vec![function(json!({"name": "a".repeat(300)}))], "at most"),
        (vec![function(json!({"name": "a"})); 600], "at most 512"),
    ];
    for (tools, why) in table {
        let Err(TextError::Tools(found)) = ToolSet::new(&tools) else { panic!("{why}: accepted") };
        assert!(found.contains(why), "{found}");
    }
}

#[test]
fn tools_without_parameters_are_written_in_many_ways() {
    for parameters in [json!(null), json!({}), json!([]), json!(false), json!(true)] {
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": parameters}});
        assert_eq!(ToolSet::new(&[tool]).unwrap().tools()[0].parameters(), &json!({}), "{parameters}");
    }
}

fn fragments() -> impl Strategy<Value = String> {
    let words = [
        "<|tool_call_start|>",
        "<|tool_call_end|>",
        "<|tool_",
        "<think>",
        "</think>",
        "[",
        "]",
        "f(",
        "g()",
        "a=",
        "b=",
        "\"",
        "'",
        "\\",
        "\\u00",
        "\\ud83d",
        ",",
        ", ",
        ")",
        "1",
        "07",
        "True",
        "{",
        "}",
        "\"name\": \"f\"",
        ":",
        "text",
        "語",
        "\n",
        " ",
        "\"x\"",
        "\"\"\"",
        "[f(a=\"x\")]",
        "say \"hi\"",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..24)
        .prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_in_any_cut(text in fragments(), cuts in proptest::collection::vec(0usize..200, 0..6), opened: bool) {
        let text = if opened { format!("<|tool_call_start|>[f({text}") } else { text };
        thread_local!(static TOKENIZER: Arc<Tokenizer> = with_tools());
        let tokenizer = TOKENIZER.with(Arc::clone);
        let whole = run(&tokenizer, &tokenizer.encode(&text, Bos::Omit));
        prop_assert_eq!(&run(&tokenizer, &bytes(&text)), &whole);
        let mut mixed = Vec::new();
        let mut rest = text.as_str();
        for cut in cuts {
            let at = (0..=cut.min(rest.len())).rev().find(|&at| rest.is_char_boundary(at)).unwrap_or(0);
            mixed.extend(tokenizer.encode(&rest[..at], Bos::Omit));
            rest = &rest[at..];
        }
        mixed.extend(tokenizer.encode(rest, Bos::Omit));
        prop_assert_eq!(&run(&tokenizer, &mixed), &whole);
        prop_assert!(!whole.content.contains("<|tool_call_start|>") && !whole.content.contains("<|tool_call_end|>"));
        for (index, (_, json)) in whole.calls.iter().enumerate() {
            let is_object = serde_json::from_str::<Json>(json).is_ok_and(|json| json.is_object());
            prop_assert_eq!(is_object, !whole.aborted.contains(&index), "{}", json);
        }
    }
}
