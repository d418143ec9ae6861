//! Chat templates of the four generations against renderings made with Python's jinja2 under the options of
//! Hugging Face transformers, and the limits on a hostile template.

use std::fs;

use serde_json::{Map, Value as Json, json};
use undine_text::{ChatInput, ChatTemplate, TemplateTraits, TextError, ends_in_think};

const GENERATIONS: [&str; 4] = ["lfm2", "lfm2.5-1.2b", "lfm2.5-8b-a1b", "lfm2.5-2.6b"];
const BOS: &str = "<|startoftext|>";

fn read(name: &str) -> String {
    let path = format!("{}/tests/templates/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn template(source: &str) -> Result<ChatTemplate, TextError> {
    ChatTemplate::new(source, BOS, "<|im_end|>")
}

fn render(source: &str, kwargs: Json) -> Result<String, TextError> {
    let messages = [json!({"role": "user", "content": "Hi"})];
    let kwargs = kwargs.as_object().unwrap().clone();
    let input = ChatInput { messages: &messages, tools: None, add_generation_prompt: true, kwargs: &kwargs };
    template(source)?.render(&input)
}

/// `Ok`, the message of `raise_exception`, or "FAILED" for any other failure: what the expectations say.
fn outcome(result: Result<String, TextError>) -> String {
    match result {
        Ok(text) => text,
        Err(TextError::TemplateRaised(message)) => format!("RAISED: {message}"),
        Err(_) => "FAILED".to_owned(),
    }
}

#[test]
fn four_generations() {
    let cases: Json = serde_json::from_str(&read("cases.json")).unwrap();
    for generation in GENERATIONS {
        let template = template(&read(&format!("{generation}.jinja"))).unwrap();
        for case in cases.as_array().unwrap() {
            let name = case["name"].as_str().unwrap();
            let kwargs = case["kwargs"].as_object().cloned().unwrap_or_default();
            let input = ChatInput {
                messages: case["messages"].as_array().unwrap(),
                tools: case["tools"].as_array().map(Vec::as_slice),
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                kwargs: &kwargs,
            };
            let expected = read(&format!("{generation}/{name}.txt"));
            let today = || jiff::Zoned::now().date().to_string();
            let before = today();
            let text = outcome(template.render(&input));
            // Midnight may pass between the two.
            let dated = [before, today()].map(|day| expected.replace("{{TODAY}}", &day));
            assert!(dated.contains(&text), "{generation} {name}:\n{text}\nexpected:\n{expected}");
            if input.add_generation_prompt && !text.starts_with("RAISED") && text != "FAILED" {
                assert_eq!(ends_in_think(&text), generation == "lfm2.5-2.6b", "{generation} {name}");
            }
        }
    }
}

/// Expressions that templates use, each with what Python's jinja2 makes of it.
#[test]
fn expressions() {
    let lines = read("expressions.jsonl");
    assert!(lines.lines().count() > 20);
    for line in lines.lines() {
        let (source, expected): (String, String) = serde_json::from_str(line).unwrap();
        assert_eq!(outcome(render(&source, json!({}))), expected, "{source}");
    }
}

#[test]
fn small_templates() {
    let none = || json!({});
    let table = [
        (
            "{{ bos_token }}|{{ eos_token }}|{{ tools }}|{{ tools is none }}",
            none(),
            "<|startoftext|>|<|im_end|>|None|True",
        ),
        ("{{ x }} {{ y }} {{ missing }}", json!({"x": true, "y": null}), "True None "),
        ("{{ enable_thinking is defined }}", none(), "False"),
        ("{% if enable_thinking %}think{% endif %}", json!({"enable_thinking": true}), "think"),
        ("{{ messages[0].content }}", json!({"messages": [], "tools": 1}), "Hi"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", none(), "a\nb\nc"),
        ("a\n\n", none(), "a\n"),
        ("a\n  {% generation %}\nb\n  {% endgeneration %}\nc", none(), "a\nb\nc"),
        ("a\n  {%- generation -%}\nb\n  {%-endgeneration-%}\nc", none(), "abc"),
        ("a  {%+ generation +%}\nb{% endgeneration %}", none(), "a  \nb"),
        (
            "{{ x | tojson }}",
            json!({"x": {"b": ["é<&'", 1.0], "a": {}}}),
            "{\"b\": [\"é<&'\", 1.0], \"a\": {}}",
        ),
        ("{{ x | tojson(indent=2) }}", json!({"x": {"b": [1, []]}}), "{\n  \"b\": [\n    1,\n    []\n  ]\n}"),
        ("{{ x | tojson(ensure_ascii=true) }}", json!({"x": "é😀\u{7f}"}), "\"\\u00e9\\ud83d\\ude00\u{7f}\""),
        (
            "{{ x | tojson(separators=(',', ':'), sort_keys=true) }}",
            json!({"x": {"b": 1, "a": [1, 2]}}),
            "{\"a\":[1,2],\"b\":1}",
        ),
        ("{{ {1: none, 'k': undefined_name is defined} | tojson }}", none(), "{\"1\": null, \"k\": false}"),
        ("{{ ' a b '.strip().split(' ')[-1] ~ 'abc'[1:] ~ 'abc'[::-1] }}", none(), "bbccba"),
        ("{{ 'abc'.removeprefix('a').removesuffix('c') ~ 'abc'.removeprefix('x') }}", none(), "babc"),
        ("{% for m in messages %}{{ loop.index0 }}{% continue %}x{% endfor %}", none(), "0"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}", none(), "2"),
        ("{{ raise_exception('no: ' ~ 1) }}", none(), "RAISED: no: 1"),
        ("{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{{ m() }}", none(), "RAISED: deep"),
        ("{{ strftime_now('%%') }}", none(), "%"),
        ("{{ strftime_now('%') }}", none(), "%"),
        ("{{ missing.field }}", none(), "FAILED"),
        ("{{ range }", none(), "FAILED"),
        ("{% endgeneration %}", none(), "FAILED"),
        ("{% include 'other' %}", none(), "FAILED"),
        ("{% generation", none(), "FAILED"),
        ("{%%}", none(), "FAILED"),
        ("{%-", none(), "FAILED"),
    ];
    for (source, kwargs, expected) in table {
        assert_eq!(outcome(render(source, kwargs)), expected, "{source}");
    }
}

#[test]
fn hostile_templates_end() {
    let loops =
        "{% for a in range(90000) %}{% for b in range(90000) %}{% set x = a %}{% endfor %}{% endfor %}";
    let recursion = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    let output = "{% set x = 'x' * 100000 %}{% for a in range(90000) %}{{ x }}{% endfor %}";
    for source in [loops, recursion, output] {
        assert!(matches!(render(source, json!({})), Err(TextError::TemplateRender(_))), "{source}");
    }
    let long = " ".repeat(undine_text::template::TEMPLATE_BYTES_MAX + 1);
    assert!(matches!(template(&long), Err(TextError::TemplateTooLong { .. })));
}

#[test]
fn floats_as_python_writes_them() {
    for (number, expected) in [
        (0.1, "0.1"),
        (-0.0, "-0.0"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e+16"),
        (1.25e22, "1.25e+22"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
    ] {
        assert_eq!(render("{{ x | tojson }}", json!({"x": number})).unwrap(), expected);
    }
}

#[test]
fn templates_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<ChatTemplate>();
    shared::<undine_text::Tokenizer>();
}

#[test]
fn probes() {
    assert!(!template("{{ messages[0].content }}").unwrap().traits().tools);
    assert!(!template("{{ raise_exception('never') }}").unwrap().traits().tools);
    assert!(template("{{ tools | tojson }}").unwrap().traits().tools);
    for (text, expected) in
        [("x<think>", true), ("x<think>\n", true), ("<think></think>", false), ("", false)]
    {
        assert_eq!(ends_in_think(text), expected);
    }
    let input = ChatInput { messages: &[], tools: None, add_generation_prompt: false, kwargs: &Map::new() };
    assert_eq!(template("x").unwrap().render(&input).unwrap(), "x");
}

#[test]
fn what_each_generation_does_with_calls_and_thoughts() {
    let cases = [
        ("lfm2", [true, false, false, false]),
        ("lfm2.5-1.2b", [true, false, false, true]),
        ("lfm2.5-8b-a1b", [true, true, true, true]),
        ("lfm2.5-2.6b", [true, true, true, true]),
    ];
    for (generation, [tools, tool_calls, thoughts, drops_past_thoughts]) in cases {
        let want =
            TemplateTraits { tools, tool_calls, thoughts, drops_past_thoughts, enable_thinking: false };
        let template = template(&read(&format!("{generation}.jinja"))).unwrap();
        assert_eq!(template.traits(), want, "{generation}");
    }
    let switched = template("{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}");
    assert!(switched.unwrap().traits().enable_thinking);
}
