//! What strangers program: chat templates of files and requests, and forms of answers, in every way that they
//! come. Each is a little beyond a limit, and ends with a sentence; what comes after it is answered.

use std::path::PathBuf;

use serde_json::{Value as Json, json};

use crate::common::{models, run, stderr, text};
use crate::serve::Server;

/// The chat model as a folder with another template.
fn with_template(name: &str, template: &str) -> PathBuf {
    let folder = models().place(name);
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir(&folder).expect("a folder");
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(models().chat_folder().join(file), folder.join(file)).expect("copies");
    }
    std::fs::write(folder.join("chat_template.jinja"), template).expect("writes");
    folder
}

fn nested(levels: usize) -> Json {
    (0..levels).fold(json!({"type": "integer"}), |inner, _| json!({"items": inner}))
}

fn groups(count: usize) -> String {
    format!("{}a{}", "(".repeat(count), ")".repeat(count))
}

/// Forms of answers beyond the measure, in all places for them, and what the refusal names. Tools are deep
/// enough for that, and no deeper than a template may show.
fn forms() -> Vec<(Json, &'static str)> {
    let tool = |parameters: Json| json!([{"type": "function", "function": {"name": "look", "parameters": parameters}}]);
    let choice = |choice: Json| json!({"tools": tool(json!({"type": "object", "properties": {"x": nested(94)}})), "tool_choice": choice});
    let schema = |schema: Json| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}});
    vec![
        (schema(nested(100)), "the schema.items.items"),
        (
            schema(json!({"type": "object", "properties": {"a": {"type": "string", "pattern": groups(60)}}})),
            "the schema.properties.a.pattern",
        ),
        (json!({"guided_json": nested(100)}), "the schema.items"),
        (json!({"structured_outputs": {"regex": groups(60)}}), "the expression"),
        (json!({"structured_outputs": {"grammar": format!("root ::= {}", groups(60))}}), "line 1"),
        (json!({"guided_grammar": format!("start: {}", groups(60))}), "line 1"),
        (json!({"guided_grammar": format!("start: %json {}", nested(100))}), "line 1: the schema"),
        (choice(json!("auto")), "the parameters of look.properties.x.items"),
        (choice(json!("required")), "the parameters of look.properties.x.items"),
        (
            choice(json!({"type": "function", "function": {"name": "look"}})),
            "the parameters of look.properties.x.items",
        ),
    ]
}

fn chat(more: &Json) -> Json {
    let mut body = json!({"max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

#[test]
fn forms_beyond_the_measure_are_refused_by_place_and_the_server_goes_on() {
    // The demo model, which knows tools.
    let server = Server::start(&[]);
    for (more, place) in forms() {
        let answer = server.ask("POST", "/v1/chat/completions", &chat(&more).to_string());
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(place), "{more}: {answer}");
    }
    for more in [
        json!({}),
        json!({"guided_choice": ["yes", "no"]}),
        json!({"response_format": {"type": "json_object"}}),
    ] {
        let answer = server.ask("POST", "/v1/chat/completions", &chat(&more).to_string());
        assert!(answer.starts_with("HTTP/1.1 200"), "{more}: {answer}");
    }
    assert_eq!(server.terminate().0, Some(0));
}

#[test]
fn a_batch_gets_past_a_form_that_is_refused() {
    let (input, output) = (models().place("strangers.jsonl"), models().place("strangers-results.jsonl"));
    drop(std::fs::remove_file(&output));
    let line = |id: usize, body: Json| {
        json!({"custom_id": id.to_string(), "method": "POST", "url": "/v1/chat/completions", "body": body})
            .to_string()
    };
    let mut lines: Vec<String> =
        forms().iter().enumerate().map(|(id, (more, _))| line(id, chat(more))).collect();
    lines.push(line(100, chat(&json!({"guided_choice": ["yes", "no"]}))));
    std::fs::write(&input, lines.join("\n")).expect("writes");
    let ended = run(&["batch", "-i", text(&input), "-o", text(&output)]);
    let results = std::fs::read_to_string(&output).unwrap_or_else(|_| panic!("{}", stderr(&ended)));
    let status = |id: &str| {
        let lines = results.lines().map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
        let line = lines.into_iter().find(|line| line["custom_id"] == id).expect("a result for each line");
        line["response"]["status_code"].as_u64()
    };
    assert!((0..forms().len()).all(|id| status(&id.to_string()) == Some(400)), "{results}");
    assert_eq!(status("100"), Some(200), "{results}");
}

#[test]
fn a_template_that_does_not_end_is_ended_with_a_sentence() {
    let endless =
        "{% for a in range(90000) %}{% for b in range(90000) %}{% set x = a %}{% endfor %}{% endfor %}";
    let circle = "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}";
    // A slow machine's time is up before the fuel is.
    let ended = |told: &str| {
        told.contains("the chat template failed") || told.contains("the chat template was stopped")
    };
    for (name, template) in [("endless", endless), ("circle", circle)] {
        let model = with_template(name, template);
        let output = run(&["run", text(&model), "-p", "Hi", "-n", "1"]);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {told}");
        assert!(ended(&told), "{name}: {told}");
        let server = Server::start(&[text(&model)]);
        let answer = server.ask("POST", "/v1/chat/completions", &chat(&json!({})).to_string());
        assert!(answer.starts_with("HTTP/1.1 400") && ended(&answer), "{name}: {answer}");
        let answer =
            server.ask("POST", "/v1/completions", &json!({"prompt": "Hi", "max_tokens": 1}).to_string());
        assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
    }
    let broken = with_template("broken", "{% if %}");
    for command in ["run", "inspect"] {
        let words: &[&str] = if command == "run" { &["-p", "Hi"] } else { &[] };
        let output = run(&[&[command, text(&broken)], words].concat());
        let told = stderr(&output) + &crate::common::stdout(&output);
        assert!(told.contains("chat template"), "{command}: {told}");
    }
}

#[test]
fn a_request_brings_a_template_only_where_that_is_allowed_and_values_have_a_depth() {
    let deep = (0..110).fold(json!("x"), |inner, _| json!([inner]));
    let server = Server::start(&[text(&models().chat()), "--trust-request-chat-template"]);
    for (more, status, told) in [
        (json!({"chat_template": "{{ messages[0].content }}"}), 200, "completion_tokens"),
        (
            json!({"chat_template": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}"}),
            400,
            "the chat template failed",
        ),
        (json!({"chat_template": "{{ nothing.at.all }}"}), 400, "`chat_template`"),
        (
            json!({"chat_template_kwargs": {"x": deep}}),
            400,
            "`chat_template_kwargs` nests deeper than 100 levels",
        ),
        (json!({}), 200, "completion_tokens"),
    ] {
        let answer = server.ask("POST", "/v1/chat/completions", &chat(&more).to_string());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(told),
            "{more}: {answer}"
        );
    }
}

/// The processes that a process has started.
#[cfg(target_os = "linux")]
fn children(process: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    children.flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
#[cfg(target_os = "linux")]
fn a_helper_that_is_killed_is_replaced_and_all_end_with_the_server() {
    let server = Server::start(&[text(&models().chat())]);
    let ask = |more: &Json| server.ask("POST", "/v1/chat/completions", &chat(more).to_string());
    let form = |word: &str| json!({"guided_choice": [word]});
    assert!(ask(&form("one")).starts_with("HTTP/1.1 200"));
    let before = children(server.child.id());
    assert!(before.len() >= 2, "one for templates, one for forms: {before:?}");
    assert!(
        std::process::Command::new("kill")
            .arg("-KILL")
            .args(&before)
            .status()
            .expect("kill starts")
            .success()
    );
    // One may still be thought alive: whose work it was is told so.
    let answered = |more: Json| (0..20).any(|_| ask(&more).starts_with("HTTP/1.1 200"));
    assert!(answered(json!({})) && answered(form("two")));
    let after = children(server.child.id());
    assert_eq!(server.terminate().0, Some(0));
    for helper in after {
        let gone = || {
            std::fs::read_to_string(format!("/proc/{helper}/stat")).map_or(true, |stat| stat.contains(") Z "))
        };
        let mut looks = 0;
        while !gone() {
            looks += 1;
            assert!(looks < 10_000, "helper {helper} is still there");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
