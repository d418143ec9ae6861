//! Images through the whole house: a `data:` URI in a chat, and the tokens that transformers computed for it.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use undine_core::TokenId;
use undine_tests::{Expected, data};

use crate::server::Server;

const PATH: &str = "/v1/chat/completions";
/// As the reference's prompts.
const TEMPLATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../undine-text/tests/templates/lfm2.jinja");
const QUESTION: &str = "What is in this image?";
const IMAGES: [&str; 5] = ["256x256", "640x480", "333x517", "1600x900", "48x40"];
/// Tokens before the image: the beginning, the user's header.
const BEFORE_IMAGE: u64 = 8;
/// Tokens that are known and computed again all the same.
const REPLAYED_MAX: u64 = 8;
/// Of the pictures made here, along a side.
const SIDE: u32 = 64;

fn serve() -> Server {
    Server::start("vl", &["--chat-template", TEMPLATE])
}

fn oracle_image(name: &str) -> Value {
    let bytes = std::fs::read(data("oracle/vl").join(format!("{name}.png"))).expect("reads");
    image("png", &bytes)
}

fn image(kind: &str, bytes: &[u8]) -> Value {
    let url = format!("data:image/{kind};base64,{}", STANDARD.encode(bytes));
    json!({"type": "image_url", "image_url": {"url": url}})
}

/// A square of one colour.
fn plain_image(colour: [u8; 3]) -> Value {
    let pixels = SIDE * SIDE * 3;
    let mut bytes = b"BM".to_vec();
    // Size of the file, reserved, where the pixels begin; then a header of 40 bytes.
    for number in [54 + pixels, 0, 54, 40, SIDE, SIDE, 1 | 24 << 16, 0, pixels, 2835, 2835, 0, 0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    (0..SIDE * SIDE).for_each(|_| bytes.extend_from_slice(&colour));
    image("bmp", &bytes)
}

fn user(image: &Value) -> Value {
    json!({"role": "user", "content": [image, {"type": "text", "text": QUESTION}]})
}

fn body(messages: &[Value], max_tokens: usize) -> Value {
    json!({"messages": messages, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true, "return_token_ids": true,
        "logprobs": true, "skip_special_tokens": false})
}

fn ids(value: &Value) -> Vec<TokenId> {
    serde_json::from_value(value.clone()).expect("a list of ids")
}

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number")
}

#[test]
fn images_get_the_references_tokens() {
    let expected = Expected::open(&data("oracle/vl"));
    let server = serve();
    for name in IMAGES {
        let prompt = expected.tokens(&format!("{name}.input_ids"));
        let generated = expected.tokens(&format!("{name}.generated_ids"));
        let body = body(&[user(&oracle_image(name))], generated.len());
        let answer = server.ask(PATH, &body);
        assert_eq!(ids(&answer["prompt_token_ids"]), prompt, "{name}");
        assert_eq!(ids(&answer["choices"][0]["token_ids"]), generated, "{name}");
        assert_eq!(answer["usage"]["prompt_tokens"], prompt.len(), "{name}");
        // Again, from the caches, as a stream.
        let streamed: Vec<TokenId> = server
            .ask_stream(PATH, &body)
            .iter()
            .filter(|chunk| chunk["choices"][0]["token_ids"].is_array())
            .flat_map(|chunk| ids(&chunk["choices"][0]["token_ids"]))
            .collect();
        assert_eq!(streamed, generated, "{name}");
    }
}

#[test]
fn the_next_turn_finds_the_image_in_the_cache() {
    let server = serve();
    let first = user(&oracle_image("256x256"));
    let answer = server.ask(PATH, &body(std::slice::from_ref(&first), 6));
    let prompt = answer["usage"]["prompt_tokens"].as_u64().expect("a number");
    assert!(cached(&answer) < prompt / 2, "nothing was asked before");
    let said = json!({"role": "assistant", "content": answer["choices"][0]["message"]["content"]});
    let more = json!({"role": "user", "content": "And now?"});
    let messages = [first, said, more];
    let second = server.ask(PATH, &body(&messages, 6));
    assert!(cached(&second) + REPLAYED_MAX >= prompt, "{}: {}", prompt, second["usage"]);
    // The cache changes nothing.
    let anew = serve().ask(PATH, &body(&messages, 6));
    assert_eq!(second["choices"], anew["choices"]);
}

#[test]
fn another_image_under_the_same_text_is_another_prompt() {
    let [red, blue] = [[0, 0, 255], [255, 0, 0]].map(|colour| user(&plain_image(colour)));
    let server = serve();
    let of_red = server.ask(PATH, &body(std::slice::from_ref(&red), 4));
    let of_blue = server.ask(PATH, &body(std::slice::from_ref(&blue), 4));
    assert_eq!(of_red["prompt_token_ids"], of_blue["prompt_token_ids"], "the tokens are the same");
    assert!(cached(&of_blue) <= BEFORE_IMAGE, "{}", of_blue["usage"]);
    assert_ne!(of_red["choices"][0]["logprobs"], of_blue["choices"][0]["logprobs"]);
    let anew = serve().ask(PATH, &body(std::slice::from_ref(&blue), 4));
    assert_eq!(of_blue["choices"], anew["choices"]);
    let again = server.ask(PATH, &body(std::slice::from_ref(&red), 4));
    assert_eq!(again["choices"], of_red["choices"]);
    assert!(cached(&again) > BEFORE_IMAGE);
}

#[test]
fn flags_reach_the_server() {
    let folder = data("oracle/vl");
    let server = Server::start(
        "vl",
        &[
            "--chat-template",
            TEMPLATE,
            "--limit-mm-per-prompt",
            "{\"image\": 1}",
            "--allowed-local-media-path",
            folder.to_str().expect("UTF-8"),
            "--mm-processor-kwargs",
            "{\"do_image_splitting\": false}",
        ],
    );
    let url = format!("file://{}/1600x900.png", folder.canonicalize().expect("is there").display());
    let large = json!({"type": "image_url", "image_url": {"url": url}});
    let answer = server.ask(PATH, &body(&[user(&large)], 1));
    // As one tile of 21 x 12 tokens, with a marker at each end.
    assert_eq!(answer["usage"]["prompt_tokens"], 21 * 12 + 2 + 21, "{}", answer["usage"]);
    let two = body(&[user(&large), user(&large)], 1).to_string();
    let mut refusal = String::new();
    server.send("POST", PATH, &two).read_to_string(&mut refusal).expect("receives");
    assert!(refusal.contains("400 Bad Request") && refusal.contains("At most 1 image(s)"), "{refusal}");
}
