//! The next turn of a chat is made of the tokens that were generated.

use crate::support::client::ask;
use crate::support::{Setup, encode, encode_oddly, templates, tokenizer};
use serde_json::{Value, json};
use undine_text::SpecialText;

const PATH: &str = "/v1/chat/completions";

fn body(messages: &Value, extra: &Value) -> Value {
    let tool = json!({"type": "function", "function": {"name": "get", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}});
    let mut body = json!({
        "messages": messages, "tools": [tool], "temperature": 0, "max_tokens": 200, "return_token_ids": true,
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A call between its markers, spelled and cut as neither the templates nor the tokenizer would.
fn call() -> Vec<u32> {
    let inner = encode_oddly("[get(city=\"Paris\", days=3)]");
    [encode("<|tool_call_start|>"), inner, encode("<|tool_call_end|>")].concat()
}

#[test]
fn a_turn_of_calls_comes_back_as_it_was_generated() {
    let thought = encode_oddly("Let me look.\n</think>\n\n");
    let cases = [
        ("lfm2", templates::LFM2, call()),
        ("lfm2.5", templates::LFM2_5, call()),
        ("8b", templates::LFM2_5_8B, [encode("<think>"), thought.clone(), call()].concat()),
        ("2.6b", templates::LFM2_5_2_6B, [thought, call()].concat()),
    ];
    for (name, template, first) in cases {
        let server = Setup { template, ..Setup::saying(&[first, encode_oddly("It rains.")]) }.start();
        let question = json!({"role": "user", "content": "Rain?"});
        let answer = ask(server.address, PATH, &body(&json!([question]), &json!({})));
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{name}: {choice}");
        // What is known after the first turn, the end of the answer included.
        let known = [ids(&answer["prompt_token_ids"]), ids(&choice["token_ids"])].concat();

        let message = choice["message"].clone();
        let result =
            json!({"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "yes"});
        let messages = json!([question, message, result]);
        let second = ask(server.address, PATH, &body(&messages, &json!({})));
        let prompt = ids(&second["prompt_token_ids"]);
        assert_eq!(prompt[..known.len()], known, "{name}");
        let text = tokenizer().decode(&prompt, SpecialText::Keep);
        assert!(text.contains("[get(city=\"Paris\", days=3)]"), "{name}: {text}");

        // The same text, cut anew: the model sees nothing else.
        let whole = tokenizer().encode(&text, undine_text::Bos::Omit);
        assert_ne!(whole, prompt, "{name}");

        // Whoever changes the call gets what the template makes of it, or the call as it would be written.
        let mut changed = messages.clone();
        changed[1]["tool_calls"][0]["function"]["arguments"] = json!("{\"days\": 4}");
        let third = ask(server.address, PATH, &body(&changed, &json!({})));
        let text = tokenizer().decode(&ids(&third["prompt_token_ids"]), SpecialText::Keep);
        assert!(text.contains("<|tool_call_start|>[get(days=4)]<|tool_call_end|>"), "{name}: {text}");
    }
}

#[test]
fn a_turn_of_text_comes_back_as_it_was_generated() {
    let server = Setup {
        template: templates::LFM2,
        ..Setup::saying(&[encode_oddly("It rains."), encode_oddly("Yes.")])
    }
    .start();
    let mut messages = vec![json!({"role": "user", "content": "Rain?"})];
    let mut known: Vec<u32> = Vec::new();
    for turn in 0..4 {
        let answer = ask(server.address, PATH, &body(&json!(messages), &json!({})));
        let prompt = ids(&answer["prompt_token_ids"]);
        assert_eq!(prompt[..known.len()], known, "turn {turn}");
        known = [prompt, ids(&answer["choices"][0]["token_ids"])].concat();
        messages.push(answer["choices"][0]["message"].clone());
        messages.push(json!({"role": "user", "content": "Really?"}));
    }
}

#[test]
fn thoughts_that_a_client_leaves_out_stay_out() {
    let thought = encode("Let me look.</think>");
    let first = [thought, call()].concat();
    let server = Setup { template: templates::LFM2_5_2_6B, ..Setup::saying(&[first]) }.start();
    let question = json!({"role": "user", "content": "Rain?"});
    let answer = ask(server.address, PATH, &body(&json!([question]), &json!({})));
    let mut message = answer["choices"][0]["message"].clone();
    for (with_thoughts, shown) in [(true, true), (false, false)] {
        if !with_thoughts {
            message.as_object_mut().unwrap().retain(|name, _| !name.starts_with("reasoning"));
        }
        let result = json!({"role": "tool", "tool_call_id": "x", "content": "yes"});
        let second = ask(server.address, PATH, &body(&json!([question, message, result]), &json!({})));
        let text = tokenizer().decode(&ids(&second["prompt_token_ids"]), SpecialText::Keep);
        assert_eq!(text.contains("Let me look."), shown, "{text}");
        assert!(text.contains("[get(city=\"Paris\", days=3)]"), "{text}");
    }
}
