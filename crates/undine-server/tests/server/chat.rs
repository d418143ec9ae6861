//! `/v1/chat/completions`, `/tokenize` and `/detokenize` over HTTP.

use std::collections::HashMap;

use crate::support::client::{ask, ask_stream, post};
use crate::support::mock::{MockExecutor, next_token};
use crate::support::{EOS, Setup, THINK_END, THINK_START, encode};
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// A setup whose model answers `answer` to every prompt that ends in the token `last`.
fn scripted(last: u32, answer: &[u32]) -> Setup {
    let chain = std::iter::once(&last).chain(answer);
    let successors: HashMap<u32, u32> = chain.zip(answer).map(|(&from, &to)| (from, to)).collect();
    assert_eq!(successors.len(), answer.len(), "a token can only have one successor");
    Setup { mock: MockExecutor { successors, ..MockExecutor::default() }, ..Setup::default() }
}

fn last_prompt_token() -> u32 {
    *encode("<|im_start|>assistant\n").last().unwrap()
}

#[test]
fn an_answer_and_its_stream_agree() {
    let server = Setup::default().start();
    let bodies = [
        json!({"messages": user("hi"), "max_tokens": 10, "temperature": 0}),
        json!({"messages": user("hi"), "max_completion_tokens": 6, "max_tokens": 900, "temperature": 1.5, "seed": 4, "n": 2,
            "logprobs": true, "top_logprobs": 2, "return_token_ids": true}),
    ];
    for mut body in bodies {
        let whole = ask(server.address, PATH, &body);
        assert_eq!(whole["object"], "chat.completion");
        assert!(whole["id"].as_str().unwrap().starts_with("chatcmpl-"));
        body["stream_options"] = json!({"include_usage": true});
        let mut chunks = ask_stream(server.address, PATH, &body);
        let mut usage = chunks.pop().unwrap()["usage"].clone();
        // The second time the prompt is known.
        usage["prompt_tokens_details"] = whole["usage"]["prompt_tokens_details"].clone();
        assert_eq!(usage, whole["usage"]);
        assert_eq!(chunks[0]["object"], "chat.completion.chunk");
        for choice in whole["choices"].as_array().unwrap() {
            assert_eq!(choice["message"]["role"], "assistant");
            assert_eq!(choice["finish_reason"], "length");
            let parts: Vec<&Value> = chunks
                .iter()
                .map(|chunk| &chunk["choices"][0])
                .filter(|part| part["index"] == choice["index"])
                .collect();
            assert_eq!(parts[0]["delta"], json!({"role": "assistant", "content": ""}));
            assert!(parts[1..].iter().all(|part| part["delta"].get("role").is_none()));
            let text: String = parts.iter().filter_map(|part| part["delta"]["content"].as_str()).collect();
            assert_eq!(text, choice["message"]["content"]);
            assert!(parts[..parts.len() - 1].iter().all(|part| part["finish_reason"].is_null()));
            assert_eq!(parts.last().unwrap()["finish_reason"], "length");
            for (object, list) in [("logprobs", "content"), ("token_ids", "")] {
                let of = |value: &Value| match list {
                    "" => value[object].as_array().cloned().unwrap_or_default(),
                    list => value[object][list].as_array().cloned().unwrap_or_default(),
                };
                let joined: Vec<Value> = parts.iter().flat_map(|part| of(part)).collect();
                assert_eq!(joined, of(choice), "{object}");
            }
        }
    }
}

#[test]
fn logprobs_have_bytes_and_alternatives() {
    let server = Setup::default().start();
    let body = json!({"messages": user("hi"), "max_tokens": 4, "temperature": 0, "logprobs": true, "top_logprobs": 3});
    let answer = ask(server.address, PATH, &body);
    let entries = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(entries.len(), 4);
    let tokenizer = crate::support::tokenizer();
    let mut last = last_prompt_token();
    for entry in entries {
        last = next_token(last);
        assert_eq!(entry["bytes"], json!(tokenizer.token_bytes(last)));
        assert!(entry["logprob"].as_f64().unwrap() < 0.0);
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(
            (&top[0]["token"], &top[0]["logprob"]),
            (&entry["token"], &entry["logprob"]),
            "greedy is best"
        );
        assert!(top[1]["logprob"].as_f64() >= top[2]["logprob"].as_f64());
    }
}

/// Tools and history of an agent, whose tokens are kept: what comes back is what came first.
#[test]
fn a_conversation_that_comes_again_has_the_same_tokens() {
    let server = Setup::saying(&[]).start();
    let long = "word ".repeat(120);
    let mut messages =
        vec![json!({"role": "user", "content": long}), json!({"role": "assistant", "content": "ok"})];
    for turn in 0..3 {
        messages.push(json!({"role": "user", "content": format!("{turn} {long}")}));
        let chat = |salt: String| {
            let body =
                json!({"messages": messages, "cache_salt": salt, "max_tokens": 1, "return_token_ids": true});
            ask(server.address, PATH, &body)["prompt_token_ids"].clone()
        };
        // Nothing is kept for the last one.
        let [first, again, alone] = ["a".to_owned(), "a".to_owned(), format!("new {turn}")].map(chat);
        assert_eq!(first, again);
        assert_eq!(first, alone);
        let prompt = ask(server.address, "/detokenize", &json!({"tokens": first}));
        assert!(prompt["prompt"].as_str().unwrap().contains(&format!("user\n{turn} word")));
        messages.push(json!({"role": "assistant", "content": "ok"}));
    }
}

#[test]
fn without_a_limit_the_context_is_filled() {
    let server = Setup::default().start();
    let answer = ask(server.address, PATH, &json!({"messages": user("hi"), "temperature": 0}));
    assert_eq!(answer["usage"]["total_tokens"], 400);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[test]
fn the_template_decides_the_prompt() {
    let server = Setup::default().start();
    let count = |body: Value| {
        let tokens = ask(server.address, "/tokenize", &body);
        let chat = ask(server.address, PATH, &{
            let mut body = body.clone();
            body["max_tokens"] = json!(1);
            body["return_token_ids"] = true.into();
            body
        });
        assert_eq!(tokens["tokens"], chat["prompt_token_ids"], "{body}");
        assert_eq!(tokens["count"], chat["usage"]["prompt_tokens"]);
        let prompt = ask(server.address, "/detokenize", &json!({"tokens": tokens["tokens"]}));
        prompt["prompt"].as_str().unwrap().to_owned()
    };
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {}}});
    let cases = [
        (
            json!({"messages": user("hi")}),
            "<|startoftext|><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            json!({"messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}]}], "add_generation_prompt": false}),
            "<|startoftext|><|im_start|>system\na<|im_end|>\n",
        ),
        (
            json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "So far "}],
                "continue_final_message": true}),
            "<|startoftext|><|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nSo far",
        ),
        (
            json!({"messages": user("hi"), "chat_template_kwargs": {"think": true}}),
            "<|startoftext|><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>",
        ),
        (
            json!({"messages": user("hi"), "tools": [tool], "add_generation_prompt": false}),
            "<|startoftext|><|im_start|>system\nList of tools: [{\"type\": \"function\", \"function\": \
             {\"name\": \"f\", \"parameters\": {}}}]<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n",
        ),
    ];
    for (body, want) in cases {
        assert_eq!(count(body.clone()), want, "{body}");
    }
}

#[test]
fn reasoning_is_split_off() {
    let thought = encode("because it");
    let said = encode("done.");
    let inside = [&thought[..], &[THINK_END], &said[..], &[EOS]].concat();
    let outside = [&[THINK_START], &inside[..]].concat();
    let cases = [
        (scripted(last_prompt_token(), &outside), json!({}), outside.len()),
        (scripted(THINK_START, &inside), json!({"chat_template_kwargs": {"think": true}}), inside.len()),
    ];
    for (setup, extra, tokens) in cases {
        let server = setup.start();
        let mut body = json!({"messages": user("hi"), "temperature": 0});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = ask(server.address, PATH, &body);
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["content"], "done.");
        assert_eq!(message["reasoning"], "because it");
        assert_eq!(message["reasoning_content"], "because it");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        assert_eq!(answer["usage"]["completion_tokens"], tokens);
        let reasoning =
            answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap() as usize;
        assert_eq!(reasoning, tokens - said.len() - 1, "all but the text said and the end");

        let chunks = ask_stream(server.address, PATH, &body);
        for (field, want) in
            [("content", "done."), ("reasoning", "because it"), ("reasoning_content", "because it")]
        {
            let joined: String =
                chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][field].as_str()).collect();
            assert_eq!(joined, want);
        }
        body["max_tokens"] = json!(thought.len());
        let answer = ask(server.address, PATH, &body);
        assert_eq!(answer["choices"][0]["message"]["content"], Value::Null, "nothing but reasoning so far");
        body["include_reasoning"] = false.into();
        let answer = ask(server.address, PATH, &body);
        let message = &answer["choices"][0]["message"];
        assert_eq!((message["content"].as_str(), message.get("reasoning")), (Some(""), None));
    }
}

/// A stop string or id that a thought happens to have would otherwise end it before there is an answer.
#[test]
fn stops_end_the_answer_and_not_the_thought() {
    let thought = encode("because it");
    let said = encode("done.");
    let inside = [&thought[..], &[THINK_END], &said[..], &[EOS]].concat();
    let outside = [&[THINK_START], &inside[..]].concat();
    for (setup, kwargs) in [
        (scripted(last_prompt_token(), &outside), json!({})),
        (scripted(THINK_START, &inside), json!({"think": true})),
    ] {
        let server = setup.start();
        for (stops, content, reason) in [
            (json!({"stop": "cause"}), json!("done."), Value::Null),
            (json!({"stop": ["s", "on"]}), json!("d"), json!("on")),
            (json!({"stop": "</think>"}), Value::Null, json!("</think>")),
            (json!({"stop_token_ids": thought}), json!("done."), Value::Null),
            (json!({"stop_token_ids": [said[0]]}), Value::Null, json!(said[0])),
            (json!({"stop_token_ids": [THINK_END]}), Value::Null, json!(THINK_END)),
        ] {
            let mut body = json!({"messages": user("hi"), "temperature": 0, "chat_template_kwargs": kwargs});
            body.as_object_mut().unwrap().extend(stops.as_object().unwrap().clone());
            let answer = ask(server.address, PATH, &body);
            let choice = &answer["choices"][0];
            assert_eq!(choice["message"]["content"], content, "{stops}");
            assert_eq!(choice["message"]["reasoning"], "because it", "{stops}");
            assert_eq!(
                (&choice["finish_reason"], &choice["stop_reason"]),
                (&json!("stop"), &reason),
                "{stops}"
            );
            let chunks = ask_stream(server.address, PATH, &body);
            let joined: String =
                chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
            assert_eq!(joined, content.as_str().unwrap_or_default(), "{stops}");
        }
    }
}

#[test]
fn prompt_logprobs_belong_to_the_answer() {
    let server = Setup::default().start();
    let body = json!({"messages": user("hi"), "max_tokens": 1, "prompt_logprobs": 0, "temperature": 0});
    let answer = ask(server.address, PATH, &body);
    let scores = answer["prompt_logprobs"].as_array().unwrap();
    assert_eq!(json!(scores.len()), answer["usage"]["prompt_tokens"]);
    assert!(scores[0].is_null() && scores[1..].iter().all(|score| score.as_object().unwrap().len() == 1));
}

/// Stop strings begin to hold after `min_tokens`: wherever that is, the text stays as it was.
#[test]
fn nothing_is_lost_where_min_tokens_end() {
    let tokenizer = crate::support::tokenizer();
    let of = |bytes: &[u8]| (0..1024).find(|&id| tokenizer.token_bytes(id) == bytes).unwrap();
    let mut answer = vec![THINK_START, of(b"n")];
    answer.extend("🎉".bytes().map(|byte| of(&[byte])));
    answer.extend([THINK_END, of(b"\n\n"), of(b"s"), of(b" \xe2\x80"), of(b"\x99"), of(b"c")]);
    let server = scripted(of(b"\n"), &answer).start();
    let length = answer.len();
    for min_tokens in 0..=length {
        let body = json!({
            "messages": user("hi"), "temperature": 0, "max_tokens": length, "min_tokens": min_tokens, "stop": "never",
        });
        let answer = ask(server.address, PATH, &body);
        let message = &answer["choices"][0]["message"];
        assert_eq!((&message["reasoning"], &message["content"]), (&json!("n🎉"), &json!("s ’c")), "{body}");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
    }
}

#[test]
fn tokenize_and_detokenize() {
    let server = Setup::default().start();
    let with = ask(server.address, "/tokenize", &json!({"prompt": "The fox", "return_token_strs": true}));
    let without =
        ask(server.address, "/tokenize", &json!({"prompt": "The fox", "add_special_tokens": false}));
    let ids = with["tokens"].as_array().unwrap();
    assert_eq!(ids[0], 1);
    assert_eq!(without["tokens"], json!(ids[1..]));
    assert_eq!(without["token_strs"], Value::Null);
    assert_eq!((&with["count"], &with["max_model_len"]), (&json!(ids.len()), &json!(400)));
    let strings: String =
        with["token_strs"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(strings, "<|startoftext|>The fox");
    let nothing = ask(server.address, "/tokenize", &json!({"prompt": "", "add_special_tokens": false}));
    assert_eq!((&nothing["count"], &nothing["tokens"]), (&json!(0), &json!([])));
    let text = ask(server.address, "/detokenize", &json!({"model": "mock", "tokens": without["tokens"]}));
    assert_eq!(text, json!({"prompt": "The fox"}));
    for (path, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({"prompt": 3}), "prompt"),
        ("/tokenize", json!({"prompt": "x", "promt": 1}), "promt"),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": [1, 1024]}), "tokens[1]"),
        ("/detokenize", json!({"tokens": [-1]}), "tokens[0]"),
    ] {
        let response = post(server.address, path, &body);
        assert_eq!(
            (response.status, &response.json()["error"]["param"]),
            (400, &json!(param)),
            "{path} {body}"
        );
    }
}

#[test]
fn a_model_without_a_template_says_what_to_do() {
    let server = Setup { chat: false, ..Setup::default() }.start();
    let response = post(server.address, PATH, &json!({"messages": user("hi")}));
    assert_eq!(response.status, 400);
    let message = response.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("/v1/completions") && message.contains("--chat-template"), "{message}");
}
