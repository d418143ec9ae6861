//! Refusals: status, shape, and the field that is to blame.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::Setup;
use crate::support::client::{JSON, Response, ask, get, post, receive, request};
use serde_json::{Value, json};
use undine_server::ServerConfig;

/// Checks the shape of an error and returns its parts.
fn error(response: &Response) -> (u16, Option<String>, Option<String>, String) {
    let json = response.json();
    let error = json["error"].as_object().unwrap_or_else(|| panic!("{json}"));
    assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
    let text = |name: &str| error[name].as_str().map(str::to_owned);
    assert!(text("type").is_some());
    (response.status, text("param"), text("code"), text("message").unwrap())
}

/// The field that is to blame, and fields to add to a good request.
type Case = (&'static str, Value);

/// Wrong for both endpoints.
fn shared_cases() -> Vec<Case> {
    vec![
        ("temperature", json!({"temperature": 2.1})),
        ("temperature", json!({"temperature": "hot"})),
        ("top_p", json!({"top_p": 0})),
        ("top_p", json!({"top_p": 1.01})),
        ("top_k", json!({"top_k": -2})),
        ("top_k", json!({"top_k": 1.5})),
        ("min_p", json!({"min_p": 1.5})),
        ("repetition_penalty", json!({"repetition_penalty": 0})),
        ("presence_penalty", json!({"presence_penalty": 3})),
        ("frequency_penalty", json!({"frequency_penalty": -3})),
        ("seed", json!({"seed": "x"})),
        ("n", json!({"n": 0})),
        ("n", json!({"n": 1000})),
        ("best_of", json!({"best_of": 2})),
        ("stop", json!({"stop": 5})),
        ("stop[0]", json!({"stop": [""]})),
        ("stop[1]", json!({"stop": ["a", 1]})),
        ("stop", json!({"stop": vec!["a"; 65]})),
        ("stop_token_ids", json!({"stop_token_ids": [1024]})),
        ("stop_token_ids[0]", json!({"stop_token_ids": ["a"]})),
        ("cache_salt", json!({"cache_salt": ""})),
        ("cache_salt", json!({"cache_salt": 5})),
        ("cache_salt", json!({"cache_salt": "x".repeat(257)})),
        ("priority", json!({"priority": "high"})),
        ("priority", json!({"priority": 0.5})),
        ("priority", json!({"priority": -1})),
        ("logit_bias", json!({"logit_bias": [1]})),
        ("logit_bias", json!({"logit_bias": {"a": 1}})),
        ("logit_bias", json!({"logit_bias": {"1024": 1}})),
        ("logit_bias.5", json!({"logit_bias": {"5": 101}})),
        ("max_tokens", json!({"max_tokens": -2})),
        ("max_tokens", json!({"max_tokens": "many"})),
        ("min_tokens", json!({"min_tokens": 9, "max_tokens": 8})),
        ("stream", json!({"stream": "yes"})),
        ("stream_options", json!({"stream_options": {"include_usage": true}})),
        ("num_predict", json!({"num_predict": 5, "options": {"num_predict": 7}})),
        ("stream_options.include_usage", json!({"stream": true, "stream_options": {"include_usage": 1}})),
        ("stream_options.extra", json!({"stream": true, "stream_options": {"extra": 1}})),
        ("prompt_logprobs", json!({"prompt_logprobs": 21})),
        ("prompt_logprobs", json!({"prompt_logprobs": 1, "stream": true})),
        (
            "response_format.json_schema.schema",
            json!({"response_format": {"type": "json_schema", "json_schema": {}}}),
        ),
        ("response_format", json!({"response_format": "json"})),
        ("response_format.type", json!({"response_format": {"type": "xml"}})),
        ("structured_outputs.regex", json!({"structured_outputs": {"regex": "(a"}})),
        ("guided_json", json!({"guided_json": {"type": "objekt"}})),
        ("guided_grammar", json!({"guided_grammar": "start: nothing"})),
        ("guided_regex", json!({"guided_regex": "a", "response_format": {"type": "json_object"}})),
        ("bad_words", json!({"bad_words": ["x"]})),
        ("repeat_penalty", json!({"repeat_penalty": -3})),
        ("n_predict", json!({"n_predict": -2})),
        ("min_new_tokens", json!({"min_new_tokens": 9, "n_predict": 8})),
        ("grammar", json!({"grammar": "root ::= \"a"})),
        ("json_schema", json!({"json_schema": {"type": "objekt"}})),
        ("regex", json!({"regex": "a", "grammar": "root ::= \"a\""})),
        ("json_schema", json!({"json_schema": {"type": "object"}, "regex": "a"})),
        ("prompt_logprobs", json!({"prompt_logprobs": -1})),
        ("temprature", json!({"temprature": 1})),
        ("model", json!({"model": 3})),
        ("skip_special_tokens", json!({"skip_special_tokens": 0})),
    ]
}

/// Wrong for `/v1/completions`.
fn completion_cases() -> Vec<Case> {
    vec![
        ("prompt", json!({"prompt": null})),
        ("prompt", json!({"prompt": []})),
        ("prompt", json!({"prompt": {"a": 1}})),
        ("prompt[1]", json!({"prompt": ["a", 1]})),
        ("prompt[1][0]", json!({"prompt": [[1], ["a"]]})),
        ("prompt", json!({"prompt": [1, 1024]})),
        ("prompt[1]", json!({"prompt": [[1], []]})),
        ("prompt[0]", json!({"prompt": [-1]})),
        ("suffix", json!({"suffix": "x"})),
        ("thinking_token_budget", json!({"thinking_token_budget": 5})),
        ("logprobs", json!({"logprobs": 21})),
        ("logprobs", json!({"logprobs": -1})),
        ("max_tokens", json!({"max_tokens": 9000})),
        ("echo", json!({"echo": 1})),
        ("messages", json!({"messages": [{"role": "user", "content": "x"}]})),
    ]
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

/// Wrong for `/v1/chat/completions`.
fn chat_cases() -> Vec<Case> {
    vec![
        ("messages", json!({"messages": null})),
        ("messages[0].role", json!({"messages": [{"role": "robot", "content": "x"}]})),
        (
            "messages[0].content[0].image_url",
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        ),
        // A model without eyes.
        (
            "messages[0].content[0].image_url",
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:,x"}]}]}),
        ),
        (
            "messages[0].content[0].type",
            json!({"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "u"}}]}]}),
        ),
        ("mm_processor_kwargs.num_crops", json!({"mm_processor_kwargs": {"num_crops": 4}})),
        ("max_tokens", json!({"max_tokens": 0})),
        ("logprobs", json!({"logprobs": 1})),
        ("top_logprobs", json!({"top_logprobs": 2})),
        ("top_logprobs", json!({"top_logprobs": 21, "logprobs": true})),
        ("tools[0].type", json!({"tools": [{"type": "gadget"}]})),
        ("tools[0].function.name", json!({"tools": [{"type": "function", "function": {}}]})),
        ("tool_choice", json!({"tool_choice": "required"})),
        (
            "tool_choice.function.name",
            json!({"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [tool("g")]}),
        ),
        ("tools[1].function.name", json!({"tools": [tool("f"), tool("f")]})),
        (
            "tools[0].function.parameters",
            json!({"tools": [{"type": "function", "function":
                {"name": "f", "strict": true, "parameters": {"type": "object", "properties": {"x": {"type": "strung"}}}}}]}),
        ),
        ("parallel_tool_calls", json!({"parallel_tool_calls": "no"})),
        ("thinking_token_budget", json!({"thinking_token_budget": -2})),
        ("reasoning_effort", json!({"reasoning_effort": "huge"})),
        ("functions", json!({"functions": [{"name": "f"}]})),
        ("function_call", json!({"function_call": "auto"})),
        ("messages[0].role", json!({"messages": [{"role": "function", "name": "f", "content": "x"}]})),
        ("tool_choice", json!({"tool_choice": 3})),
        ("chat_template", json!({"chat_template": "{{ messages }}"})),
        ("chat_template_kwargs.messages", json!({"chat_template_kwargs": {"messages": []}})),
        ("continue_final_message", json!({"continue_final_message": true, "add_generation_prompt": true})),
        ("messages[0].prefix", json!({"messages": [{"role": "assistant", "content": "", "prefix": true}]})),
        ("messages[0].foo", json!({"messages": [{"role": "user", "content": "x", "foo": 1}]})),
        (
            "messages[0].images[0]",
            json!({"messages": [{"role": "user", "content": "x", "images": ["iVBORw0KGgo"]}]}),
        ),
        ("tools[0].foo", json!({"tools": [{"type": "function", "function": {"name": "f"}, "foo": 1}]})),
        ("max_completion_tokens", json!({"max_completion_tokens": 9000})),
        ("thinking.type", json!({"thinking": {"type": "foo"}})),
        ("reasoning.effort", json!({"reasoning": {"effort": "huge"}})),
        ("enable_thinking", json!({"enable_thinking": "no"})),
        (
            "tools[1].input_schema",
            json!({"tools": [tool("g"), {"name": "f", "strict": true, "input_schema":
                {"type": "object", "properties": {"x": {"type": "strung"}}}}]}),
        ),
        ("modalities", json!({"modalities": ["text", "audio"]})),
        ("prompt", json!({"prompt": "x"})),
    ]
}

#[test]
fn every_field_names_itself() {
    let config = ServerConfig { strict_fields: true, ..ServerConfig::default() };
    let server = Setup { config, ..Setup::default() }.start();
    let endpoints = [
        ("/v1/completions", json!({"prompt": "x"}), completion_cases()),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "x"}]}), chat_cases()),
    ];
    for (path, base, own) in endpoints {
        for (param, extra) in shared_cases().iter().chain(&own) {
            let mut body = base.clone();
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let response = post(server.address, path, &body);
            let (status, found, _, message) = error(&response);
            assert_eq!((status, found.as_deref()), (400, Some(*param)), "{path} {extra}: {message}");
            assert!(message.contains(param), "{message}");
        }
    }
}

#[test]
fn harmless_fields_pass() {
    let server = Setup::default().start();
    let extra = json!({"user": "u", "metadata": {"a": "b"}, "store": false, "service_tier": "auto", "best_of": 2, "n": 2,
        "spaces_between_special_tokens": true, "use_beam_search": false, "length_penalty": 1.0, "response_format": {"type": "text"},
        "top_k": -1, "temperature": null, "cache_salt": "x", "priority": 0, "request_id": "r", "max_tokens": 2.0});
    let mut body = json!({"prompt": "x", "suffix": null});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    ask(server.address, "/v1/completions", &body);
    let mut body = json!({"messages": [{"role": "user", "content": "x", "name": "me"}], "parallel_tool_calls": true,
        "tool_choice": "none", "reasoning_effort": "low", "modalities": ["text"], "tools": []});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    ask(server.address, "/v1/chat/completions", &body);
}

#[test]
fn what_does_not_fit() {
    let server = Setup::default().start();
    for (body, words) in [
        (json!({"prompt": vec![40; 390], "max_tokens": 11}), "you requested 401 tokens"),
        (json!({"prompt": vec![40; 390], "max_tokens": 11}), "at most 10"),
        (json!({"prompt": vec![40; 400]}), "leaves no room"),
        (json!({"prompt": vec![40; 401], "max_tokens": 0}), "401 tokens"),
        (json!({"prompt": vec![40; 500]}), "500 tokens"),
    ] {
        let (status, param, code, message) = error(&post(server.address, "/v1/completions", &body));
        assert_eq!(
            (status, param.as_deref(), code.as_deref()),
            (400, Some("prompt"), Some("context_length_exceeded"))
        );
        assert!(message.contains(words), "{message}");
        // litellm and others know the error by these words.
        assert!(
            message.contains("This model's maximum context length is 400 tokens. However, "),
            "{message}"
        );
    }
    let scored = json!({"prompt": vec![40; 400], "max_tokens": 0, "echo": true, "logprobs": 0});
    let answer = ask(server.address, "/v1/completions", &scored);
    assert_eq!(answer["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), 400);
    let chat = json!({"messages": [{"role": "user", "content": "x ".repeat(1000)}]});
    let (status, param, code, _) = error(&post(server.address, "/v1/chat/completions", &chat));
    assert_eq!(
        (status, param.as_deref(), code.as_deref()),
        (400, Some("messages"), Some("context_length_exceeded"))
    );
    // Megabytes are refused by their length: to tokenize them takes seconds.
    let book = "x ".repeat(4 << 20);
    for (path, body) in [
        ("/v1/completions", json!({"prompt": book})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": book}]})),
    ] {
        let (_, _, code, message) = error(&post(server.address, path, &body));
        assert_eq!(code.as_deref(), Some("context_length_exceeded"));
        assert!(message.contains("bytes"), "{message}");
        // litellm and others know the error by these words.
        assert!(
            message.contains("This model's maximum context length is 400 tokens. However, "),
            "{message}"
        );
    }
    // More than the 64 that can wait would never be accepted: that is not a matter of trying again.
    for (many, blamed) in [
        (json!({"prompt": vec!["x"; 33], "n": 2}), "n"),
        (json!({"prompt": vec!["x"; 65]}), "prompt"),
        (json!({"prompt": "x", "n": 65}), "n"),
    ] {
        let (status, param, _, message) = error(&post(server.address, "/v1/completions", &many));
        assert_eq!((status, param.as_deref()), (400, Some(blamed)), "{message}");
    }
    ask(server.address, "/v1/completions", &json!({"prompt": "x", "n": 64, "max_tokens": 1}));
}

#[test]
fn transport_errors() {
    let config = ServerConfig { body_bytes_max: 4096, ..ServerConfig::default() };
    let server = Setup { config, ..Setup::default() }.start();
    let address = server.address;
    let path = "/v1/completions";
    let large = json!({"prompt": "x".repeat(5000)}).to_string();
    let cases = [
        (request(address, "POST", path, &[JSON], "{\"prompt\": }"), 400, None, "line 1 column 12"),
        (request(address, "POST", path, &[JSON], "[]"), 400, None, "found a list of 0"),
        (
            request(address, "POST", path, &[("content-type", "text/plain")], "{}"),
            415,
            Some("unsupported_media_type"),
            "text/plain",
        ),
        (request(address, "POST", path, &[], "{}"), 415, Some("unsupported_media_type"), "found none"),
        (request(address, "POST", path, &[JSON], &large), 413, Some("body_too_large"), "4096 bytes"),
        (request(address, "GET", path, &[], ""), 405, Some("method_not_allowed"), "GET"),
        (request(address, "GET", "/v1/nothing", &[], ""), 404, Some("route_not_found"), "GET /v1/nothing"),
        (
            get(address, "/v1/models/other"),
            404,
            Some("model_not_found"),
            "this server has: mock, vendor/mock",
        ),
        (post(address, path, &json!({"model": "gpt", "prompt": "x"})), 404, Some("model_not_found"), "`gpt`"),
    ];
    for (response, status, code, words) in cases {
        let (found, _, found_code, message) = error(&response);
        assert_eq!((found, found_code.as_deref()), (status, code), "{message}");
        assert!(message.contains(words), "{message}");
    }
    // A body that says it is too long is not waited for.
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\n{}: {}\r\ncontent-length: 99999999999\r\n\r\n",
        JSON.0, JSON.1
    );
    stream.write_all(head.as_bytes()).unwrap();
    let start = Instant::now();
    assert_eq!(receive(stream).status, 413);
    assert!(start.elapsed() < Duration::from_secs(5), "the time for a body is a minute");
    let nested = format!("{{\"prompt\": {}1{}}}", "[".repeat(1000), "]".repeat(1000));
    assert_eq!(request(address, "POST", path, &[JSON], &nested).status, 400);
    let charset = ("content-type", "application/json; charset=utf-8");
    assert_eq!(request(address, "POST", path, &[charset], "{\"prompt\": \"x\"}").status, 200);
}

#[test]
fn keys_are_checked() {
    let config =
        ServerConfig { api_keys: vec!["one".to_owned(), "two".to_owned()], ..ServerConfig::default() };
    let server = Setup { config, ..Setup::default() }.start();
    let status = |path: &str, key: Option<&str>| {
        let headers: Vec<(&str, &str)> = key.map(|key| ("authorization", key)).into_iter().collect();
        request(server.address, "GET", path, &headers, "")
    };
    for path in ["/health", "/ping", "/version", "/load", "/metrics"] {
        assert_eq!(status(path, None).status, 200, "{path}");
    }
    for key in [
        None,
        Some("Bearer three"),
        Some("Bearer on"),
        Some("Bearer onee"),
        Some("Basic one"),
        Some("one"),
        Some("Bearer "),
    ] {
        for path in ["/v1/models", "/server_info", "/nothing"] {
            let response = status(path, key);
            let (status, _, code, _) = error(&response);
            assert_eq!((status, code.as_deref()), (401, Some("invalid_api_key")), "{path} {key:?}");
            assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        }
    }
    for key in ["Bearer one", "bearer two"] {
        assert_eq!(status("/v1/models", Some(key)).status, 200);
    }
    assert_eq!(request(server.address, "POST", "/tokenize", &[JSON], "{\"prompt\": \"x\"}").status, 401);
}

#[test]
fn small_endpoints() {
    let server = Setup::default().start();
    let list = get(server.address, "/v1/models").json();
    assert_eq!(list["object"], "list");
    let names: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|card| &card["id"]).collect();
    assert_eq!(names, ["mock", "vendor/mock"]);
    for path in ["/v1/models/vendor/mock", "/v1/models/vendor%2Fmock"] {
        let card = get(server.address, path).json();
        assert_eq!(
            (&card["id"], &card["max_model_len"], &card["object"]),
            (&json!("vendor/mock"), &json!(400), &json!("model"))
        );
    }
    assert_eq!(get(server.address, "/version").json()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(get(server.address, "/ping").status, 200);
    assert_eq!(request(server.address, "POST", "/ping", &[], "").status, 200);
    let answer = ask(server.address, "/v1/completions", &json!({"model": "vendor/mock", "prompt": "x"}));
    assert_eq!(answer["model"], "vendor/mock");
}

#[test]
fn what_is_to_be_tokenized_is_named() {
    let server = Setup::default().start();
    let message = json!({"role": "user", "content": "x"});
    for (param, words, body) in [
        ("prompt", "`prompt` or `messages`", json!({})),
        ("messages", "at least one", json!({"messages": []})),
        ("messages", "4097", json!({"messages": vec![message; 4097]})),
    ] {
        let (status, found, _, message) = error(&post(server.address, "/tokenize", &body));
        assert_eq!((status, found.as_deref()), (400, Some(param)), "{message}");
        assert!(message.contains(words), "{message}");
    }
}

/// As in vLLM it is told only where the server was started to tell it.
#[test]
fn the_tokenizer_is_told_on_demand() {
    let (status, _, _, message) = error(&get(Setup::default().start().address, "/tokenizer_info"));
    assert!(status == 404 && message.contains("--enable-tokenizer-info-endpoint"), "{message}");
    let config = ServerConfig { tokenizer_info: true, ..ServerConfig::default() };
    let server = Setup { config, ..Setup::default() }.start();
    let info = get(server.address, "/tokenizer_info").json();
    assert_eq!((&info["bos_token"], &info["eos_token"]), (&json!("<|startoftext|>"), &json!("<|im_end|>")));
    assert!(info["chat_template"].as_str().is_some_and(|template| template.contains("messages")), "{info}");
    let added = info["added_tokens_decoder"].as_object().unwrap();
    assert!(added.values().any(|token| token["content"] == "<|im_start|>"), "{info}");
}

#[test]
fn request_ids_come_back() {
    let server = Setup::default().start();
    let body = json!({"prompt": "x"}).to_string();
    let with =
        |id: &str| request(server.address, "POST", "/v1/completions", &[JSON, ("x-request-id", id)], &body);
    let response = with("abc-1");
    assert_eq!(response.header("x-request-id"), Some("abc-1"));
    assert_eq!(response.json()["id"], "cmpl-abc-1");
    for bad in ["", "a b", "<script>", &"x".repeat(200)] {
        let response = with(bad);
        let id = response.header("x-request-id").unwrap();
        assert!(id.len() == 32 && id != bad, "{bad:?} became {id}");
    }
}

/// Clients of other servers send what they know of; a misspelt name is found by who asks for it.
#[test]
fn unknown_fields_are_named_and_refused_on_demand() {
    const HEADER: &str = "x-undine-ignored-fields";
    let chat = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2});
    let completion = json!({"prompt": "hi", "max_tokens": 2});
    let strict = ServerConfig { strict_fields: true, ..ServerConfig::default() };
    let servers = [Setup::default().start(), Setup { config: strict, ..Setup::default() }.start()];
    for (path, body) in [("/v1/chat/completions", &chat), ("/v1/completions", &completion)] {
        for (more, ignored) in [
            (json!({"typo_penalty": 1.5, "mirostat": 2, "mirostat_tau": 0}), Some("typo_penalty, mirostat")),
            (json!({"stream": true, "größe": 1}), Some("gr\\u{f6}\\u{df}e")),
            (json!({"typo_penalty": null, "rid": "", "lora_path": null, "n_predict": 1}), None),
        ] {
            let mut body = body.clone();
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let answer = post(servers[0].address, path, &body);
            assert_eq!((answer.status, answer.header(HEADER)), (200, ignored), "{body}");
            let answer = post(servers[1].address, path, &body);
            let Some(_) = ignored else {
                assert_eq!(answer.status, 200, "{body}");
                continue;
            };
            let (status, param, code, _) = error(&answer);
            assert_eq!((status, code.as_deref()), (400, Some("unknown_parameter")), "{body}");
            assert!(param.is_some_and(|param| more.get(param.as_str()).is_some()), "{body}");
        }
    }
}
