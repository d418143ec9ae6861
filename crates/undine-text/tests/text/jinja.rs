//! Templates against what Python's jinja2 makes of them: `tests/jinja/` has the cases and the script that
//! wrote them.

use std::fs;

use serde_json::{Map, Value as Json, json};
use undine_text::{ChatInput, ChatTemplate, TextError};

/// Where this renderer says something else, and why.
const DIFFERENT: [(&str, &str); 7] = [
    ("{{ (-7) ** (2.5) }}", "Python goes on with complex numbers, which no prompt has"),
    ("{{ (-3) ** (2.5) }}", "the same"),
    ("{{ (-2.5) ** (2.5) }}", "the same"),
    ("{{ 'abc'.encode('utf-8') is defined }}", "there are no bytes"),
    ("{{ lipsum is defined }}", "it makes up HTML by chance"),
    ("{{ [1, 2][0:1, 1:2] }}", "lists have no slices in two dimensions; Python says so with an empty text"),
    ("{{ self is defined }}", "blocks cannot be asked for again: there is nothing to inherit from"),
];

fn read(name: &str) -> String {
    let path = format!("{}/tests/jinja/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn outcome(source: &str, kwargs: &Map<String, Json>) -> String {
    let messages = [json!({"role": "user", "content": "Hi"})];
    let input = ChatInput { messages: &messages, tools: None, add_generation_prompt: true, kwargs };
    match ChatTemplate::new(source, "<s>", "</s>").and_then(|template| template.render(&input)) {
        Ok(text) => text,
        Err(TextError::TemplateRaised(message)) => format!("RAISED: {message}"),
        Err(TextError::TemplateRender(text)) if text.contains("a fault of the template library") => text,
        Err(_) => "FAILED".to_owned(),
    }
}

#[test]
fn templates_print_as_python_prints() {
    let variables: Json = undine_text::exact::from_slice(read("variables.json").as_bytes()).unwrap();
    let variables = variables.as_object().unwrap();
    let lines = read("cases.jsonl");
    assert!(lines.lines().count() > 2500);
    let mut wrong = Vec::new();
    for line in lines.lines() {
        let (source, expected): (String, String) = serde_json::from_str(line).unwrap();
        let found = outcome(&source, variables);
        let listed = DIFFERENT.iter().any(|(known, _)| *known == source);
        if (found == expected) == listed {
            wrong.push(format!("{source:?}\n  python: {expected:?}\n  here:   {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// Stack of a thread that has no more than the system gives.
const STACK_BYTES: usize = 2 << 20;

/// What a hostile template is told.
fn refusal(source: String) -> String {
    let work = move || {
        let template = ChatTemplate::new(&source, "", "").map_err(|error| error.to_string())?;
        let input =
            ChatInput { messages: &[], tools: None, add_generation_prompt: true, kwargs: &Map::new() };
        let text = template.render(&input).map_err(|error| error.to_string())?;
        Err::<(), String>(format!("rendered {} bytes", text.len()))
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap();
    thread.join().unwrap().unwrap_err()
}

fn many(text: &str, count: usize) -> String {
    text.repeat(count)
}

fn print(expression: &str) -> String {
    format!("{{{{ {expression} }}}}")
}

/// A value that each of a thousand steps makes anew from itself.
fn grow(start: &str, step: &str) -> String {
    format!(
        "{{% set ns = namespace(x={start}) %}}{{% for i in range(1000) %}}{{% set ns.x = {step} %}}{{% endfor %}}"
    )
}

/// Each of these templates is refused for its reason.
fn meets<const N: usize>(table: [(String, &str); N]) {
    let mut wrong = Vec::new();
    for (source, expected) in table {
        let found = refusal(source.clone());
        if !found.contains(expected) {
            let shown: String = source.chars().take(100).collect();
            wrong.push(format!("{shown}\n  expected: {expected}\n  found: {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn work_and_texts_have_a_limit() {
    meets([
        // Work.
        (
            "{% for a in range(90000) %}{% for b in range(90000) %}{% set x = a %}{% endfor %}{% endfor %}"
                .to_owned(),
            "fuel",
        ),
        (
            "{% set x = range(100000) | list %}{% for a in x %}{% if a in x %}{% endif %}{% endfor %}"
                .to_owned(),
            "fuel",
        ),
        (
            "{% set x = 'x' * 1000000 %}{% for a in range(90000) %}{% if x.upper() %}{% endif %}{% endfor %}"
                .to_owned(),
            "fuel",
        ),
        // Texts.
        (print("'x' * 100000000"), "longer than"),
        (print("'x' * 10 ** 30"), "longer than"),
        (grow("'xy'", "ns.x ~ ns.x"), "longer than"),
        (grow("'xy'", "ns.x + ns.x"), "longer than"),
        (grow("'xy'", "ns.x.replace('x', 'xx')"), "longer than"),
        (grow("'xy'", "ns.x | join(ns.x[:1000])"), "more than"),
        (print("'x'.center(10 ** 9)"), "longer than"),
        (print("'x'.zfill(10 ** 9)"), "longer than"),
        (print("'x' | center(10 ** 9)"), "longer than"),
        (print("'a\\tb'.expandtabs(10 ** 9)"), "longer than"),
        (print("'a\nb' | indent(10 ** 9)"), "longer than"),
        (print("'%1000000000d' % 1"), "width or precision"),
        (print("'%.1000000000f' % 1"), "width or precision"),
        (print("'%*d' % (10 ** 9, 1)"), "width or precision"),
        (print("'{:1000000000}'.format(1)"), "width or precision"),
        (print("'{:.1000000000f}'.format(1)"), "width or precision"),
        (print("'{:{}}'.format(1, 10 ** 9)"), "width or precision"),
        (print("[1] | tojson(indent=10 ** 9)"), "indent is at most"),
        (
            "{% set x = 'x' * 100000 %}{% for a in range(90000) %}{{ x }}{% endfor %}".to_owned(),
            "prompt is longer than",
        ),
    ]);
}

#[test]
fn lists_and_numbers_have_a_limit() {
    meets([
        // Lists.
        (print("[0] * 10000000"), "more than"),
        (print("range(100001)"), "Range too big"),
        (grow("[0]", "ns.x + ns.x"), "more than"),
        (grow("[0]", "ns.x * 2"), "more than"),
        (print("[1] | batch(10 ** 9, 0) | list"), "more than"),
        (print("[1] | slice(10 ** 9) | list"), "more than"),
        (print("dict(*range(100000))"), "arguments"),
        (grow("[]", "[ns.x]"), "nest deeper"),
        (grow("[]", "(ns.x,)"), "nest deeper"),
        (grow("[]", "{'a': ns.x}"), "nest deeper"),
        (grow("[]", "[ns.x] | batch(1) | list"), "nest deeper"),
        (grow("[]", "cycler(ns.x)"), "nest deeper"),
        (grow("''", "joiner(ns.x)"), "nest deeper"),
        (grow("[]", "{'a': ns.x}.values()"), "nest deeper"),
        (grow("{}", "{'a': [ns.x]}.get").replace("get", "items"), "nest deeper"),
        // Numbers.
        (print("10 ** 5000"), "digits"),
        (print("2 ** 100000"), "digits"),
        (grow("10", "ns.x * ns.x"), "digits"),
        (print(&many("9", 5000)), "digits"),
    ]);
}

#[test]
fn depth_has_a_limit() {
    meets([
        // Depth of the source and of calls.
        (print(&format!("{}1{}", many("(", 5000), many(")", 5000))), "nests deeper"),
        (print(&format!("{}1{}", many("[", 5000), many("]", 5000))), "nests deeper"),
        (print(&format!("{}1", many("not ", 5000))), "nests deeper"),
        (print(&format!("{}1", many("-", 5000))), "nests deeper"),
        (print(&format!("1{}", many(" if 1 else 1", 5000))), "nests deeper"),
        (print(&format!("1{}", many("+1", 5000))), "operators"),
        (print(&format!("1{}", many("|abs", 5000))), "operators"),
        (print(&format!("a{}", many(".b", 5000))), "operators"),
        (many("{% if 1 %}", 5000), "nests deeper"),
        (many("{% for x in y %}", 5000), "nests deeper"),
        (format!("{{% set {}a{} = 1 %}}", many("(", 5000), many(")", 5000)), "nests deeper"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(), "nest deeper"),
        (
            format!(
                "{{% macro m() %}}{{{{ {}m(){} }}}}{{% endmacro %}}{{{{ m() }}}}",
                many("[", 50),
                many("]", 50)
            ),
            "nest deeper",
        ),
        (
            format!(
                "{{% macro m() %}}{}{{{{ m() }}}}{}{{% endmacro %}}{{{{ m() }}}}",
                many("{% if 1 %}{% for i in [1] %}{% with %}", 30),
                many("{% endwith %}{% endfor %}{% endif %}", 30)
            ),
            "nest deeper",
        ),
        ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(), "nest deeper"),
        (
            "{% macro m() %}{% call m() %}{% endcall %}{{ caller is defined }}{% endmacro %}{{ m() }}"
                .to_owned(),
            "nest deeper",
        ),
        ("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".to_owned(), "too large"),
    ]);
}

/// What is long side by side is not refused for its depth.
#[test]
fn long_templates_are_no_deep_ones() {
    let lines = "{% if a %}{% elif b %}{{ 1 + 1 }}{% endif %}{{ 'x' ~ 'y' }}\n".repeat(5000);
    assert_eq!(refusal(lines), format!("rendered {} bytes", 3 * 5000 - 1));
    let elifs = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(5000));
    assert_eq!(refusal(elifs), "rendered 0 bytes");
    let sum = format!("{{{{ 1{} }}}}", " + 1".repeat(300));
    assert_eq!(refusal(sum), "rendered 3 bytes");
    let tilde = format!("{{{{ 1{} }}}}", " ~ 1".repeat(20_000));
    assert_eq!(refusal(tilde), "rendered 20001 bytes");
}
