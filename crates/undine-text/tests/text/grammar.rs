//! Forms of answers, thought before them, and what is refused.

use std::sync::Arc;

use crate::common::walk::{self, Walk};
use crate::common::with_tools;
use serde_json::{Value as Json, json};
use undine_core::Constraint;
use undine_text::grammar::{PROPERTIES_MAX, Parallel, REGEX_BYTES_MAX};
use undine_text::tools::{Strictness, ToolSet};
use undine_text::{
    AnswerFormat, AnswerRules, Bos, GrammarCompiler, ReasoningRules, SpecialText, TextError, Tokenizer,
    ToolChoice, ToolRules,
};

fn rules(format: AnswerFormat, reasoning: ReasoningRules) -> AnswerRules {
    AnswerRules { format, tools: None, reasoning }
}

fn both() -> (Arc<Tokenizer>, GrammarCompiler) {
    let tokenizer = with_tools();
    let compiler = GrammarCompiler::new(&tokenizer).unwrap();
    (tokenizer, compiler)
}

fn draw(tokenizer: &Arc<Tokenizer>, constraint: &mut dyn Constraint, seed: u64) -> String {
    tokenizer.decode(&Walk::new(tokenizer, seed).run(constraint), SpecialText::Keep)
}

#[test]
fn forms() {
    let (tokenizer, compiler) = both();
    let choices = vec!["yes".to_owned(), "no".to_owned(), "\"quoted\"\n\u{7f}é".to_owned()];
    let grammar = "root ::= (\"a\" | digit{2} \"-\")+ \"!\"\ndigit ::= [0-9]";
    let is_choice = |text: &str| ["yes", "no", "\"quoted\"\n\u{7f}é"].contains(&text);
    let is_date = |text: &str| text.len() == 10 && text.as_bytes()[4] == b'-';
    let is_gbnf = |text: &str| text.ends_with('!') && text.chars().all(|c| "a-!0123456789".contains(c));
    let is_object = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap().is_object();
    type Check<'a> = &'a dyn Fn(&str) -> bool;
    let table: [(AnswerFormat, Check<'_>); 6] = [
        (AnswerFormat::Choice(choices), &is_choice),
        (AnswerFormat::Regex(r"^\d{4}-\d{2}-\d{2}$".to_owned()), &|text| is_date(text) || !text.is_ascii()),
        (AnswerFormat::Regex("/a|b".to_owned()), &|text| ["/a", "b"].contains(&text)),
        (AnswerFormat::Grammar(grammar.to_owned()), &is_gbnf),
        (AnswerFormat::Grammar("start: \"x\" /[0-9]+/".to_owned()), &|text| text.starts_with('x')),
        (AnswerFormat::JsonObject, &is_object),
    ];
    for (format, check) in table {
        for seed in 0..20 {
            let mut constraint = compiler.compile(&rules(format.clone(), ReasoningRules::None)).unwrap();
            let text = draw(&tokenizer, &mut *constraint, seed);
            assert!(check(&text), "{format:?}: {text:?}");
        }
    }
}

#[test]
fn refusals() {
    let (_, compiler) = both();
    let empty = Arc::new(ToolSet::default());
    let strict = json!({"type": "function", "function": {"name": "f", "strict": true, "parameters": {
        "type": "object", "properties": {"a": {"not": {"type": "string"}}}}}});
    let strict = Arc::new(ToolSet::new(&[strict]).unwrap());
    let tools = |set: &Arc<ToolSet>, choice| AnswerRules {
        tools: Some(ToolRules { set: Arc::clone(set), choice, parallel: Parallel::Allowed }),
        ..rules(AnswerFormat::Free, ReasoningRules::None)
    };
    let format = |format| rules(format, ReasoningRules::None);
    let schema = |schema: Json| AnswerFormat::JsonSchema(schema, Strictness::Strict);
    let wide = |count: usize| {
        let properties: serde_json::Map<_, _> = (0..count).map(|i| (format!("p{i}"), json!({}))).collect();
        json!({"properties": properties})
    };
    let table = [
        (format(schema(json!({"not": {}}))), "allows nothing"),
        (format(schema(json!({"not": {"type": "null"}}))), "cannot be enforced: not;"),
        (format(schema(json!(false))), "expected an object"),
        (format(schema(json!({"type": "strin"}))), "cannot be enforced: type;"),
        (format(schema(wide(PROPERTIES_MAX + 1))), "1001 properties; expected at most 1000"),
        (format(schema(json!({"anyOf": vec![wide(PROPERTIES_MAX); 6]}))), "6000 properties"),
        (format(AnswerFormat::Regex("(".to_owned())), "regex"),
        (format(AnswerFormat::Regex("a".repeat(REGEX_BYTES_MAX + 1))), "at most"),
        (format(AnswerFormat::Choice(Vec::new())), "expected 1"),
        (format(AnswerFormat::Regex(r"[^\s\S]".to_owned())), "no text fits it"),
        (format(AnswerFormat::Grammar("root ::= root".to_owned())), "no text fits it"),
        (format(schema(json!({"$ref": "#"}))), "no text fits it"),
        (format(AnswerFormat::Grammar("start: missing".to_owned())), "missing"),
        (format(AnswerFormat::Grammar("rule ::= \"a\"".to_owned())), "root"),
        (tools(&empty, ToolChoice::Required), "no tools are declared"),
        (tools(&strict, ToolChoice::Named("g".to_owned())), "\"g\""),
        (
            tools(&strict, ToolChoice::Auto),
            "the tool \"f\" is strict, and of its schema this cannot be enforced: properties.a.not;",
        ),
    ];
    for (rules, why) in table {
        match compiler.compile(&rules) {
            Err(TextError::Grammar(found)) => {
                assert!(found.contains(why) && !found.contains("<non-verbose"), "{rules:?}: {found}");
            }
            Err(other) => panic!("{rules:?}: {other}"),
            Ok(_) => panic!("{rules:?} compiles"),
        }
    }
}

#[test]
fn what_is_not_enforceable_is_relaxed_for_tools_that_are_not_strict() {
    let (tokenizer, compiler) = both();
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
        "url": {"type": "string", "format": "unheard-of"},
        "set": {"type": "array", "items": {"type": "integer"}, "uniqueItems": true},
        "far": {"$ref": "https://example.com/schema.json"}}, "required": ["url", "set", "far"]}}});
    let set = Arc::new(ToolSet::new(&[tool]).unwrap());
    let tools = Some(ToolRules { set, choice: ToolChoice::Required, parallel: Parallel::One });
    let rules = AnswerRules { tools, ..rules(AnswerFormat::Free, ReasoningRules::None) };
    for seed in 0..10 {
        let mut constraint = compiler.compile(&rules).unwrap();
        let text = draw(&tokenizer, &mut *constraint, seed);
        assert!(text.starts_with("<|tool_call_start|>[f(url="), "{text}");
    }
}

#[test]
fn the_end_is_allowed_when_the_form_is_complete() {
    let (tokenizer, compiler) = both();
    let format = AnswerFormat::Regex("ab?".to_owned());
    let mut constraint = compiler.compile(&rules(format, ReasoningRules::None)).unwrap();
    let ends = |constraint: &mut dyn Constraint| {
        let mask = constraint.allowed().unwrap();
        let allowed: Vec<u32> = (0..300).filter(|&id| walk::is_allowed(mask.wait(), id)).collect();
        (tokenizer.eos().iter().all(|end| allowed.contains(end)), allowed.len())
    };
    assert_eq!(ends(&mut *constraint), (false, 1), "only a: the token abc would go too far");
    constraint.accept(u32::from(b'a')).unwrap();
    assert_eq!(ends(&mut *constraint), (true, 3));
    constraint.accept(u32::from(b'b')).unwrap();
    assert_eq!(ends(&mut *constraint), (true, 2));
    for _ in 0..2 {
        constraint.accept(tokenizer.eos()[1]).unwrap();
        assert_eq!(ends(&mut *constraint), (true, 2));
    }
    assert!(constraint.accept(u32::from(b'b')).is_err());
}

/// The tokens of a text whose reasoning markers are tokens.
fn accept_all(constraint: &mut dyn Constraint, ids: &[u32]) {
    ids.iter().for_each(|&id| constraint.accept(id).unwrap());
}

#[test]
fn thinking() {
    let (tokenizer, compiler) = both();
    let [open, close] = ["<think>", "</think>"].map(|marker| tokenizer.token_id(marker).unwrap());
    let yes = AnswerFormat::Choice(vec!["yes".to_owned()]);
    let only = |constraint: &mut dyn Constraint| {
        let mask = constraint.allowed().unwrap();
        let mut ids = (0..tokenizer.vocab_size() as u32).filter(|&id| walk::is_allowed(mask.wait(), id));
        let first = ids.next();
        (ids.count() == 0).then_some(first).flatten()
    };

    // No end token within the thought; after it, the form.
    let inside = ReasoningRules::StartsInside { budget: None };
    let mut constraint = compiler.compile(&rules(yes.clone(), inside)).unwrap();
    let mask = constraint.allowed().unwrap();
    assert!(!walk::is_allowed(mask.wait(), tokenizer.eos()[0]) && walk::is_allowed(mask.wait(), 65));
    accept_all(&mut *constraint, &tokenizer.encode("hm 5 {", Bos::Omit));
    constraint.accept(close).unwrap();
    assert_eq!(only(&mut *constraint), Some(u32::from(b'y')));

    // A budget of nothing closes at once.
    let none = ReasoningRules::StartsInside { budget: Some(0) };
    let mut constraint = compiler.compile(&rules(AnswerFormat::Free, none)).unwrap();
    assert_eq!(only(&mut *constraint), Some(close));
    assert!(constraint.accept(65).is_err());

    // A spent budget is followed by some words, the marker, and free text.
    let spent = ReasoningRules::MayThink { budget: Some(3) };
    let mut constraint = compiler.compile(&rules(AnswerFormat::Free, spent)).unwrap();
    accept_all(&mut *constraint, &[open, 65, 65]);
    assert!(constraint.allowed().is_none());
    constraint.accept(65).unwrap();
    let mut words = Vec::new();
    while let Some(id) = only(&mut *constraint) {
        constraint.accept(id).unwrap();
        words.push(id);
        if id == close {
            break;
        }
    }
    let words = tokenizer.decode(&words, SpecialText::Keep);
    assert!(words.starts_with('\n') && words.ends_with("\n</think>") && words.len() < 100, "{words}");
    assert!(constraint.allowed().is_none());

    // Who may think may also not, and not twice before a form.
    let may = ReasoningRules::MayThink { budget: None };
    let mut constraint = compiler.compile(&rules(yes.clone(), may)).unwrap();
    accept_all(&mut *constraint, &[open, 65, close]);
    assert_eq!(only(&mut *constraint), Some(u32::from(b'y')));
    let mut constraint = compiler.compile(&rules(yes, may)).unwrap();
    let mask = constraint.allowed().unwrap();
    assert!(walk::is_allowed(mask.wait(), open) && walk::is_allowed(mask.wait(), u32::from(b'y')));
    accept_all(&mut *constraint, &tokenizer.encode("yes", Bos::Omit));
    assert!(tokenizer.eos().contains(&{
        let mask = constraint.allowed().unwrap();
        (0..300).find(|&id| walk::is_allowed(mask.wait(), id)).unwrap()
    }));
}
