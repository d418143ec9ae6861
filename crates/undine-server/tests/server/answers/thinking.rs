//! Thinking over HTTP: budgets, and answers without it.

use crate::support::client::{ask, ask_stream};
use crate::support::{Setup, THINK_END, THINK_START, encode, templates};
use serde_json::{Value, json};
use undine_server::AnswerOptions;

const PATH: &str = "/v1/chat/completions";

fn body(extra: &Value) -> Value {
    let mut body =
        json!({"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 200});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn endless() -> Vec<u32> {
    encode(&"on and on ".repeat(100))
}

#[test]
fn a_budget_closes_the_thought_and_the_answer_follows() {
    for budget in [1, 7, 20] {
        let setup = Setup { template: templates::LFM2_5_2_6B, ..Setup::saying(&[endless()]) };
        let of_server = AnswerOptions { reasoning_budget: Some(budget), ..AnswerOptions::default() };
        let servers = [
            (setup.clone().start(), json!({"thinking_token_budget": budget})),
            (Setup { answers: of_server, ..setup }.start(), json!({})),
        ];
        for (server, extra) in &servers {
            let answer = ask(server.address, PATH, &body(extra));
            let choice = &answer["choices"][0];
            let message = &choice["message"];
            assert!(
                message["content"].as_str().is_some_and(|text| text.contains("and")),
                "{extra}: {choice}"
            );
            assert!(message["reasoning"].as_str().unwrap().starts_with("on"), "{extra}: {choice}");
            let thought = answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
            assert!((u64::from(budget)..u64::from(budget) + 40).contains(&thought), "{budget}: {thought}");
            let chunks = ask_stream(server.address, PATH, &body(extra));
            for field in ["content", "reasoning", "reasoning_content"] {
                let text: String =
                    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][field].as_str()).collect();
                assert_eq!(text, message[field], "{field}");
            }
        }
    }
}

#[test]
fn a_thought_that_fills_the_answer_says_length() {
    let setup = Setup { template: templates::LFM2_5_2_6B, ..Setup::saying(&[endless()]) };
    let server = setup.start();
    let answer = ask(server.address, PATH, &body(&json!({"max_tokens": 10})));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&Value::Null, &json!("length")));
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 10);
}

#[test]
fn without_thinking_the_prompt_closes_the_thought() {
    const HEAD: &str = "<|startoftext|><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
    const CLOSED: &str = "<think>\n\n</think>\n\n";
    let switched =
        "{{ bos_token }}{{ 'answer' if enable_thinking is defined and not enable_thinking else 'think' }}";
    let off = json!({"chat_template_kwargs": {"enable_thinking": false}});
    let cases = [
        (templates::LFM2_5_2_6B, &off, format!("{HEAD}{CLOSED}")),
        (templates::LFM2_5_2_6B, &json!({"reasoning_effort": "none"}), format!("{HEAD}{CLOSED}")),
        (templates::LFM2_5_2_6B, &json!({"thinking_token_budget": 0}), format!("{HEAD}{CLOSED}")),
        (templates::LFM2_5_2_6B, &json!({}), format!("{HEAD}<think>")),
        (templates::LFM2_5_8B, &off, format!("{HEAD}{CLOSED}")),
        (templates::LFM2_5_8B, &json!({}), HEAD.to_owned()),
        (templates::LFM2_5, &off, HEAD.to_owned()),
        (switched, &off, "<|startoftext|>answer".to_owned()),
        (switched, &json!({"reasoning_effort": "none"}), "<|startoftext|>answer".to_owned()),
        (switched, &json!({}), "<|startoftext|>think".to_owned()),
    ];
    for (template, extra, want) in cases {
        let server = Setup { template, ..Setup::saying(&[encode("<think>hm</think>so")]) }.start();
        let mut tokenized = extra.clone();
        tokenized["messages"] = body(&json!({}))["messages"].clone();
        let tokens = ask(server.address, "/tokenize", &tokenized)["tokens"].clone();
        let answer = ask(
            server.address,
            PATH,
            &body(
                &json!({"return_token_ids": true, "max_tokens": 20})
                    .as_object()
                    .unwrap()
                    .clone()
                    .into_iter()
                    .chain(extra.as_object().unwrap().clone())
                    .collect(),
            ),
        );
        assert_eq!(answer["prompt_token_ids"], tokens, "{extra}");
        let prompt = ask(server.address, "/detokenize", &json!({"tokens": tokens}));
        assert_eq!(prompt["prompt"], want, "{extra}");
        let ids = answer["choices"][0]["token_ids"].as_array().unwrap();
        if template == templates::LFM2_5 {
            // Nothing in the prompt says so: the model may not begin to think.
            assert_ne!(ids[0], json!(THINK_START));
        }
        assert!(ids.contains(&json!(THINK_END)), "the script is followed otherwise");
    }
}

#[test]
fn whether_a_model_thinks_is_asked_of_the_template_in_use() {
    let tools = json!([{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}]);
    let script = encode("<think>hm</think><|tool_call_start|>[now()]<|tool_call_end|>");
    let setup = Setup::saying(&[script]);
    for (with_tools, reasoning) in [(Some(templates::LFM2_5_8B), json!("hm")), (None, Value::Null)] {
        let setup = Setup { template: templates::LFM2, tool_template: with_tools, ..setup.clone() };
        let extra = json!({"tools": tools, "tool_choice": "required"});
        let message = &ask(setup.start().address, PATH, &body(&extra))["choices"][0]["message"];
        assert_eq!(message["reasoning"], reasoning, "{message}");
        assert_eq!(message["tool_calls"][0]["function"]["name"], "now", "{message}");
    }
}
