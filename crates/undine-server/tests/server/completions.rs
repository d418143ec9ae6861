//! `/v1/completions` over HTTP, against a model whose logits are known.

use crate::support::client::{ask, ask_stream, post};
use crate::support::mock::{IMPOSSIBLE_TOKEN, MockExecutor, next_token};
use crate::support::{EOS, Setup, encode};
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";

/// Token ids the mock generates greedily after `last`.
fn chain(last: u32, count: usize) -> Vec<u32> {
    std::iter::successors(Some(next_token(last)), |&token| Some(next_token(token))).take(count).collect()
}

fn logprob(last: u32, token: u32) -> f64 {
    let logits = MockExecutor::default().logits(last);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    f64::from(logits[token as usize]) - sum.ln()
}

fn assert_close(value: &Value, want: f64) {
    let value = value.as_f64().unwrap();
    assert!((value - want).abs() < 1e-4, "{value} is not {want}");
}

#[test]
fn greedy_tokens_are_the_models() {
    let server = Setup::default().start();
    let body = json!({"model": "mock", "prompt": [1, 40, 50], "max_tokens": 6, "temperature": 0, "return_token_ids": true});
    let answer = ask(server.address, PATH, &body);
    let choice = &answer["choices"][0];
    let want = chain(50, 6);
    assert_eq!(choice["token_ids"], json!(want));
    assert_eq!(choice["prompt_token_ids"], json!([1, 40, 50]));
    assert_eq!(choice["text"], crate::support::tokenizer().decode(&want, undine_text::SpecialText::Skip));
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["stop_reason"], Value::Null);
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["model"], "mock");
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}})
    );
}

#[test]
fn default_length_is_sixteen_or_what_fits() {
    let server = Setup::default().start();
    let answer = ask(server.address, PATH, &json!({"prompt": "hello", "temperature": 0}));
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    let answer = ask(server.address, PATH, &json!({"prompt": vec![40; 390], "temperature": 0}));
    assert_eq!(answer["usage"]["completion_tokens"], 10);
}

#[test]
fn prompts_of_every_form_and_several_choices() {
    let server = Setup::default().start();
    let text = "The quick brown fox";
    let ids = ask(server.address, "/tokenize", &json!({"prompt": text}))["tokens"].clone();
    let cases = [
        (json!(text), 1),
        (json!([text, "Other"]), 2),
        (ids.clone(), 1),
        (json!([ids, [1, 40]]), 2),
        (json!([text, [1, 40]]), 2),
    ];
    for (prompt, prompts) in cases {
        let answer =
            ask(server.address, PATH, &json!({"prompt": prompt, "n": 2, "max_tokens": 3, "temperature": 0}));
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.len(), prompts * 2, "{prompt}");
        for (i, choice) in choices.iter().enumerate() {
            assert_eq!(choice["index"], i);
        }
        assert_eq!(choices[0]["text"], choices[1]["text"], "greedy choices of one prompt are equal");
        assert_eq!(answer["usage"]["completion_tokens"], 6 * prompts);
    }
}

#[test]
fn seeds_decide_and_choices_differ() {
    let server = Setup::default().start();
    let sample = |seed: Value| {
        let body = json!({"prompt": "x", "n": 3, "max_tokens": 12, "temperature": 2, "logit_bias": {}, "seed": seed});
        let answer = ask(server.address, PATH, &body);
        let texts = answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].clone());
        texts.collect::<Vec<Value>>()
    };
    let first = sample(json!(11));
    assert_eq!(first, sample(json!(11)));
    assert_ne!(first, sample(json!(-12)));
    assert_ne!(sample(Value::Null), sample(Value::Null), "without a seed nothing repeats");
    assert!(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
}

#[test]
fn logprobs_in_the_older_shape() {
    let server = Setup::default().start();
    let body = json!({"prompt": [1, 40], "max_tokens": 3, "temperature": 0, "logprobs": 2});
    let answer = ask(server.address, PATH, &body);
    let logprobs = &answer["choices"][0]["logprobs"];
    let tokenizer = crate::support::tokenizer();
    let want = chain(40, 3);
    let mut offset = 0;
    let mut last = 40;
    for (i, &token) in want.iter().enumerate() {
        let name = String::from_utf8_lossy(tokenizer.token_bytes(token)).into_owned();
        assert_eq!(logprobs["tokens"][i], name.as_str());
        assert_eq!(logprobs["text_offset"][i], offset);
        offset += name.chars().count();
        assert_close(&logprobs["token_logprobs"][i], logprob(last, token));
        let top = logprobs["top_logprobs"][i].as_object().unwrap();
        assert!((1..=2).contains(&top.len()));
        assert_close(&top[&name], logprob(last, token));
        last = token;
    }
    let body = json!({"prompt": [1, 40], "max_tokens": 1, "temperature": 0, "logprobs": 0, "return_tokens_as_token_ids": true});
    let answer = ask(server.address, PATH, &body);
    let name = format!("token_id:{}", want[0]);
    assert_eq!(answer["choices"][0]["logprobs"]["tokens"], json!([name]));
    let top = answer["choices"][0]["logprobs"]["top_logprobs"][0].as_object().unwrap();
    assert_eq!(top.keys().collect::<Vec<_>>(), [&name], "0 alternatives still shows the chosen token");
}

/// Clients cut `text` at the offsets: special tokens take no room in it, and a character of several tokens
/// takes one place.
#[test]
fn offsets_count_the_text() {
    let tokenizer = crate::support::tokenizer();
    let server = Setup::default().start();
    let special = tokenizer.token_id("<|im_start|>").unwrap();
    let bytes = encode("\u{13000}");
    assert!(bytes.len() > 1, "a character of several tokens");
    let prompt: Vec<u32> = [&encode("ab")[..], &[special], &bytes, &encode("c")].concat();
    for (skip, shown) in [(true, 0), (false, "<|im_start|>".chars().count())] {
        let body = json!({"prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": true, "logprobs": 1, "skip_special_tokens": skip});
        let choice = ask(server.address, PATH, &body)["choices"][0].clone();
        let offsets: Vec<usize> = choice["logprobs"]["text_offset"]
            .as_array()
            .unwrap()
            .iter()
            .map(|at| at.as_u64().unwrap() as usize)
            .collect();
        let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
        let start = encode("ab").len();
        assert_eq!(offsets[start], 2, "the special token begins after ab: {offsets:?}");
        assert_eq!(offsets[start + 1], 2 + shown, "{offsets:?}");
        assert!(offsets[start + 1..start + 1 + bytes.len()].iter().all(|at| *at == 2 + shown), "{offsets:?}");
        assert_eq!(text[offsets[start + 1 + bytes.len()]], 'c', "{offsets:?}");
    }
}

#[test]
fn echo_scores_the_prompt() {
    let server = Setup::default().start();
    // Longer than a prefill chunk, and scored without generating.
    let prompt: Vec<u32> = (0..50).map(|i| 20 + i * 13 % 900).collect();
    for max_tokens in [0, 1] {
        let body = json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "echo": true, "logprobs": 1});
        let answer = ask(server.address, PATH, &body);
        let choice = &answer["choices"][0];
        let text = crate::support::tokenizer().decode(&prompt, undine_text::SpecialText::Skip);
        assert!(choice["text"].as_str().unwrap().starts_with(&text));
        assert_eq!(choice["finish_reason"], "length");
        let logprobs = &choice["logprobs"];
        let values = logprobs["token_logprobs"].as_array().unwrap();
        assert_eq!(values.len(), prompt.len() + max_tokens);
        assert_eq!(logprobs["tokens"].as_array().unwrap().len(), values.len());
        assert_eq!(logprobs["text_offset"].as_array().unwrap().len(), values.len());
        assert_eq!((&values[0], &logprobs["top_logprobs"][0]), (&Value::Null, &Value::Null));
        for i in 1..prompt.len() {
            assert_close(&values[i], logprob(prompt[i - 1], prompt[i]));
            let best = next_token(prompt[i - 1]);
            let top = logprobs["top_logprobs"][i].as_object().unwrap();
            let max = top.values().map(|value| value.as_f64().unwrap()).fold(f64::MIN, f64::max);
            assert_close(&json!(max), logprob(prompt[i - 1], best));
        }
        assert_eq!(answer["usage"]["completion_tokens"], max_tokens);
        assert_eq!(answer["usage"]["prompt_tokens"], prompt.len());
    }
}

#[test]
fn impossible_tokens_have_a_finite_logprob() {
    let server = Setup::default().start();
    let body = json!({"prompt": [40, IMPOSSIBLE_TOKEN], "max_tokens": 0, "echo": true, "logprobs": 0, "prompt_logprobs": 0});
    let choice = ask(server.address, PATH, &body)["choices"][0].clone();
    assert_eq!(choice["logprobs"]["token_logprobs"], json!([null, -9999.0]));
    assert_eq!(choice["prompt_logprobs"][1][IMPOSSIBLE_TOKEN.to_string()]["logprob"], -9999.0);
}

#[test]
fn prompt_logprobs_in_vllms_shape() {
    let server = Setup::default().start();
    let body = json!({"prompt": [1, 40, 50], "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1});
    let answer = ask(server.address, PATH, &body);
    let scores = answer["choices"][0]["prompt_logprobs"].as_array().unwrap();
    assert_eq!(scores.len(), 3);
    assert_eq!(scores[0], Value::Null);
    for (i, last, token) in [(1, 1, 40), (2, 40, 50)] {
        let own = &scores[i][token.to_string()];
        assert_close(&own["logprob"], logprob(last, token));
        assert!(own["rank"].as_u64().unwrap() > 1);
        let best = &scores[i][next_token(last).to_string()];
        assert_eq!(best["rank"], 1);
        assert!(best["decoded_token"].is_string());
    }
}

#[test]
fn a_stream_adds_up_to_the_answer() {
    let server = Setup::default().start();
    let bodies = [
        json!({"prompt": "abc", "max_tokens": 20, "temperature": 0}),
        json!({"prompt": "abc", "max_tokens": 9, "temperature": 1.3, "seed": 5, "n": 3, "logprobs": 3}),
        json!({"prompt": ["abc", "d"], "max_tokens": 5, "temperature": 0, "echo": true, "logprobs": 1}),
        json!({"prompt": [1, 40], "max_tokens": 4, "temperature": 0, "return_token_ids": true}),
        json!({"prompt": "abc", "max_tokens": 0, "echo": true}),
    ];
    for mut body in bodies {
        let whole = ask(server.address, PATH, &body);
        body["stream_options"] = json!({"include_usage": true});
        let mut chunks = ask_stream(server.address, PATH, &body);
        let mut last = chunks.pop().unwrap();
        assert_eq!(last["choices"], json!([]));
        // The second time the prompt is known.
        last["usage"]["prompt_tokens_details"] = whole["usage"]["prompt_tokens_details"].clone();
        assert_eq!(last["usage"], whole["usage"]);
        for choice in whole["choices"].as_array().unwrap() {
            let parts = || {
                let choices = chunks.iter().map(|chunk| {
                    assert_eq!(chunk["usage"], Value::Null);
                    &chunk["choices"][0]
                });
                choices.filter(|part| part["index"] == choice["index"])
            };
            let text: String = parts().map(|part| part["text"].as_str().unwrap()).collect();
            assert_eq!(text, choice["text"], "{body}");
            let reasons: Vec<&Value> =
                parts().map(|part| &part["finish_reason"]).filter(|r| !r.is_null()).collect();
            assert_eq!(reasons, [&choice["finish_reason"]]);
            for (list, of) in
                [("token_logprobs", "logprobs"), ("tokens", "logprobs"), ("text_offset", "logprobs")]
            {
                let joined = parts().flat_map(|part| part[of][list].as_array().cloned().unwrap_or_default());
                let whole = choice[of][list].as_array().cloned().unwrap_or_default();
                assert_eq!(joined.collect::<Vec<Value>>(), whole, "{body}: {list}");
            }
            let ids = parts().flat_map(|part| part["token_ids"].as_array().cloned().unwrap_or_default());
            assert_eq!(
                ids.collect::<Vec<Value>>(),
                choice["token_ids"].as_array().cloned().unwrap_or_default()
            );
        }
    }
}

#[test]
fn continuous_usage_counts_up() {
    let server = Setup::default().start();
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let body = json!({"prompt": [1, 40], "max_tokens": 4, "temperature": 0, "logprobs": 0, "stream_options": options});
    let counts: Vec<Value> = ask_stream(server.address, PATH, &body)
        .iter()
        .map(|chunk| chunk["usage"]["completion_tokens"].clone())
        .collect();
    assert_eq!(json!(counts), json!([1, 2, 3, 4, 4]));
    let body = json!({"prompt": [1, 40], "max_tokens": 2, "temperature": 0});
    for chunk in ask_stream(server.address, PATH, &body) {
        assert!(chunk.get("usage").is_none(), "usage only when asked for");
    }
}

#[test]
fn ends() {
    let server = Setup::default().start();
    let greedy = |extra: Value| {
        let mut body =
            json!({"prompt": [1, 40], "max_tokens": 8, "temperature": 0, "return_token_ids": true});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = ask(server.address, PATH, &body);
        let choice = answer["choices"][0].clone();
        assert_eq!(answer["usage"]["completion_tokens"], choice["token_ids"].as_array().unwrap().len());
        choice
    };
    let ids = chain(40, 8);
    let tokenizer = crate::support::tokenizer();
    let text = |ids: &[u32]| tokenizer.decode(ids, undine_text::SpecialText::Skip);

    let eos = greedy(json!({"logit_bias": {"7": 100}}));
    assert_eq!((&eos["text"], &eos["finish_reason"]), (&json!(""), &json!("stop")));
    assert_eq!(eos["token_ids"], json!([EOS]));
    let ignored = greedy(json!({"logit_bias": {"7": 100}, "ignore_eos": true}));
    assert_eq!((&ignored["text"], &ignored["finish_reason"]), (&json!(""), &json!("length")));
    let shown = greedy(
        json!({"logit_bias": {"7": 100}, "ignore_eos": true, "skip_special_tokens": false, "max_tokens": 2}),
    );
    assert_eq!(shown["text"], "<|im_end|><|im_end|>");
    let later = greedy(json!({"logit_bias": {"7": 100}, "min_tokens": 3}));
    assert!(later["token_ids"].as_array().unwrap().len() > 3);

    let token = greedy(json!({"stop_token_ids": [ids[2]]}));
    assert_eq!((&token["stop_reason"], &token["text"]), (&json!(ids[2]), &json!(text(&ids[..2]))));
    let token = greedy(json!({"stop_token_ids": [ids[2]], "include_stop_str_in_output": true}));
    assert_eq!(token["text"], text(&ids[..3]));

    let all = text(&ids);
    let stop: String = all.chars().skip(3).take(3).collect();
    let before = &all[..all.find(&stop).unwrap()];
    for given in [json!(stop), json!(["never", stop])] {
        let cut = greedy(json!({"stop": given}));
        assert_eq!((&cut["text"], &cut["finish_reason"]), (&json!(before), &json!("stop")));
        assert_eq!(cut["stop_reason"], stop);
    }
    let shown = greedy(json!({"stop": stop, "include_stop_str_in_output": true}));
    assert_eq!(shown["text"], format!("{before}{stop}"));
}

/// As in vLLM: `min_tokens` holds off stop strings too.
#[test]
fn stop_strings_wait_for_min_tokens() {
    let tokenizer = crate::support::tokenizer();
    let text = |ids: &[u32]| tokenizer.decode(ids, undine_text::SpecialText::Skip);
    // Ascii, so that each is a character of its own; `a b c a b c ...`
    let id = |text: &str| tokenizer.token_id(text).unwrap();
    let ring = [id("a"), id("b"), id("c")];
    let successors = (0..3).map(|i| (ring[i], ring[(i + 1) % 3])).collect();
    let mock = MockExecutor { successors, ..MockExecutor::default() };
    let server = Setup { mock, ..Setup::default() }.start();
    assert_eq!(text(&ring), "abc");
    for (min_tokens, want) in [(0, "ab"), (1, "ab"), (2, "ab"), (3, "abcab"), (5, "abcab"), (6, "abcabcab")] {
        for (shown, include) in [("", false), ("c", true)] {
            let body = json!({
                "prompt": [1, ring[2]], "max_tokens": 12, "min_tokens": min_tokens, "temperature": 0,
                "stop": ["never", "c"], "include_stop_str_in_output": include,
            });
            let choice = ask(server.address, PATH, &body)["choices"][0].clone();
            assert_eq!(choice["text"], format!("{want}{shown}"), "{body}");
            assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!("c")));
            let parts = ask_stream(server.address, PATH, &body);
            let parts = parts.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap());
            assert_eq!(parts.collect::<String>(), format!("{want}{shown}"), "{body}");
        }
    }
    let body = json!({
        "prompt": [1, ring[2]], "max_tokens": 4, "min_tokens": 4, "temperature": 0, "stop": "c",
    });
    let choice = ask(server.address, PATH, &body)["choices"][0].clone();
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("abca"), &json!("length")));
}

#[test]
fn sampling_fields_reach_the_sampler() {
    let server = Setup::default().start();
    let ids = |body: Value| {
        let mut body = body;
        body["prompt"] = json!([1, 40]);
        body["return_token_ids"] = true.into();
        body["max_tokens"] = json!(6);
        ask(server.address, PATH, &body)["choices"][0]["token_ids"].clone()
    };
    let greedy = json!(chain(40, 6));
    for narrow in
        [json!({"top_k": 1}), json!({"top_p": 1e-6}), json!({"min_p": 1.0}), json!({"temperature": 0})]
    {
        let mut body = narrow.clone();
        body["seed"] = json!(3);
        if body.get("temperature").is_none() {
            body["temperature"] = json!(2);
        }
        assert_eq!(ids(body), greedy, "{narrow}");
    }
    assert_eq!(ids(json!({"temperature": 0, "logit_bias": {"99": 100}})), json!([99, 99, 99, 99, 99, 99]));
    let repeated = json!({"temperature": 0, "logit_bias": {"99": 10, "98": 9}});
    let mut penalized = repeated.clone();
    penalized["presence_penalty"] = json!(2);
    assert_ne!(ids(repeated), ids(penalized));

    let greedy_by_default =
        Setup { defaults: undine_core::SamplingParams::greedy(), ..Setup::default() }.start();
    let body = json!({"prompt": [1, 40], "max_tokens": 6, "return_token_ids": true});
    let answer = ask(greedy_by_default.address, PATH, &body);
    assert_eq!(answer["choices"][0]["token_ids"], greedy, "the model's defaults fill what is absent");
}

#[test]
fn a_model_without_a_tokenizer_takes_ids() {
    let server = Setup { text: false, ..Setup::default() }.start();
    let body = json!({"prompt": [1, 40], "max_tokens": 3, "temperature": 0, "return_token_ids": true, "logprobs": 1});
    let answer = ask(server.address, PATH, &body);
    assert_eq!(answer["choices"][0]["token_ids"], json!(chain(40, 3)));
    assert_eq!(answer["choices"][0]["text"], "");
    for (path, body, param) in [
        (PATH, json!({"prompt": "x"}), "prompt"),
        (PATH, json!({"prompt": [1], "stop": "x"}), "stop"),
        ("/tokenize", json!({"prompt": "x"}), "prompt"),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "x"}]}), "messages"),
    ] {
        let response = post(server.address, path, &body);
        assert_eq!((response.status, &response.json()["error"]["param"]), (400, &json!(param)), "{path}");
    }
}
