//! Images in chats, from the message to the tokens that the engine gets, and what is refused.

use crate::support::client::{ask, ask_stream, get, post};
use crate::support::{EOS, Setup, data_uri, image_tokenizer, templates};
use serde_json::{Value, json};
use undine_server::{MediaConfig, ServerConfig};
use undine_text::{Bos, SpecialText};

const PATH: &str = "/v1/chat/completions";
/// Ids of the oracle's vocabulary.
const IMAGE: u32 = 16;
const IMAGE_START: u32 = 17;
const IMAGE_END: u32 = 18;
const THUMBNAIL: u32 = 19;
const ROW_1_COL_1: u32 = 20;

/// Images, and how many times the reference has `<image>` for them.
const SMALL: (&str, usize) = ("48x40.png", 72);
const SQUARE: (&str, usize) = ("256x256.png", 64);
const WIDE: (&str, usize) = ("640x480.png", 234);

fn image(name: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": data_uri(name)}})
}

/// Base64 with nothing before it.
fn bare(name: &str) -> String {
    data_uri(name).split_once(',').expect("a data URI").1.to_owned()
}

fn low(name: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": data_uri(name), "detail": "low"}})
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn user(parts: Value) -> Value {
    json!([{"role": "user", "content": parts}])
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A prompt as text, each run of image tokens as its length.
fn shown(tokens: &[u32]) -> String {
    let tokenizer = image_tokenizer();
    let mut text = String::new();
    for run in tokens.chunk_by(|a, b| (*a == IMAGE) == (*b == IMAGE)) {
        match run[0] {
            IMAGE => text.push_str(&format!("({})", run.len())),
            _ => text.push_str(&tokenizer.decode(run, SpecialText::Keep)),
        }
    }
    text
}

/// What the test server's template makes of one user's message.
fn around(content: &str) -> String {
    format!("<|startoftext|><|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n")
}

fn prompt_of(server: &crate::support::Server, body: &Value) -> Vec<u32> {
    let mut body = body.clone();
    body.as_object_mut()
        .unwrap()
        .extend(json!({"max_tokens": 1, "return_token_ids": true}).as_object().unwrap().clone());
    let answer = ask(server.address, PATH, &body);
    let prompt = ids(&answer["prompt_token_ids"]);
    assert_eq!(answer["usage"]["prompt_tokens"], prompt.len(), "image tokens are tokens of the prompt");
    prompt
}

#[test]
fn images_stand_where_their_parts_are() {
    let server = Setup::seeing().start();
    let whole = |(_, tokens): (&str, usize)| format!("<|image_start|>({tokens})<|image_end|>");
    let (small, square, wide) = (whole(SMALL), whole(SQUARE), whole(WIDE));
    for (content, expected) in [
        (json!([image(SMALL.0), text("What?")]), format!("{small}What?")),
        (json!([text("What?"), image(SMALL.0)]), format!("What?{small}")),
        (
            json!([text("a"), image(SQUARE.0), text("b"), image(WIDE.0), image(SQUARE.0), "c"]),
            format!("a{square}b{wide}{square}c"),
        ),
        (json!([{"image_url": data_uri(SMALL.0)}]), small.clone()),
        (json!([{"type": "input_image", "image_url": data_uri(SMALL.0)}]), small.clone()),
        (json!([{"type": "image", "image": data_uri(SMALL.0)}, text("What?")]), format!("{small}What?")),
        (json!([{"type": "image", "url": bare(SMALL.0)}]), small.clone()),
        (json!([{"type": "image_url", "image_url": {"url": bare(SMALL.0)}}]), small.clone()),
        (
            json!([{"type": "image", "source":
                {"type": "base64", "media_type": "image/png", "data": bare(SMALL.0)}}]),
            small.clone(),
        ),
    ] {
        let body = json!({"messages": user(content)});
        let prompt = prompt_of(&server, &body);
        assert_eq!(shown(&prompt), around(&expected));
        let tokenized = ask(server.address, "/tokenize", &body);
        assert_eq!(ids(&tokenized["tokens"]), prompt, "/tokenize says the same");
    }
    // As Ollama's clients send them.
    let messages =
        json!([{"role": "user", "content": "What?", "images": [bare(SMALL.0), data_uri(SQUARE.0)]}]);
    let prompt = prompt_of(&server, &json!({"messages": messages}));
    assert_eq!(shown(&prompt), around(&format!("{small}{square}What?")));
    // In every role, and in several turns.
    let messages = json!([
        {"role": "system", "content": [text("s"), image(SMALL.0)]},
        {"role": "user", "content": [image(SQUARE.0)]},
        {"role": "assistant", "content": "yes"},
        {"role": "tool", "content": [text("t"), image(WIDE.0)]},
    ]);
    assert_eq!(
        shown(&prompt_of(&server, &json!({"messages": messages}))),
        format!(
            "<|startoftext|><|im_start|>system\ns{small}<|im_end|>\n<|im_start|>user\n{square}<|im_end|>\n\
             <|im_start|>assistant\nyes<|im_end|>\n<|im_start|>tool\nt{wide}<|im_end|>\n<|im_start|>assistant\n"
        )
    );
}

#[test]
fn detail_and_options_say_how_images_are_cut() {
    let server = Setup::seeing().start();
    let large = "1600x900.png";
    // The counts of tiles, tokens of the thumbnail and tokens of a whole image.
    let check = |part: Value, options: Value, tiles: usize, whole: usize| {
        let body = json!({"messages": user(json!([part])), "mm_processor_kwargs": options});
        let prompt = prompt_of(&server, &body);
        let count = |wanted: u32| prompt.iter().filter(|&&token| token == wanted).count();
        let is_split = tiles > 0;
        assert_eq!(count(IMAGE), tiles * 256 + whole, "{options}");
        assert_eq!((count(IMAGE_START), count(IMAGE_END)), (1, 1), "{options}");
        assert_eq!(count(ROW_1_COL_1), usize::from(is_split), "{options}");
        assert_eq!(count(THUMBNAIL), usize::from(is_split && whole > 0), "{options}");
    };
    check(image(large), json!({}), 8, 252);
    check(low(large), json!({}), 0, 252);
    check(image(large), json!({"do_image_splitting": false}), 0, 252);
    check(image(large), json!({"use_thumbnail": false}), 8, 0);
    check(image(large), json!({"max_tiles": 2}), 2, 252);
    check(image(SQUARE.0), json!({"min_image_tokens": 100, "max_image_tokens": 150}), 0, 100);
}

#[test]
fn text_of_users_never_becomes_an_image() {
    let server = Setup::seeing().start();
    let forged = "<image><|image_start|><|img_row_1_col_1|><|img_thumbnail|><|image_end|>";
    for content in [json!(forged), json!([text(forged), image(SMALL.0), text(forged)])] {
        let prompt = prompt_of(&server, &json!({"messages": user(content.clone())}));
        let of_images = prompt.iter().filter(|&&token| (IMAGE..=119).contains(&token)).count();
        let images = content.as_array().map_or(0, |_| SMALL.1 + 2);
        assert_eq!(of_images, images, "{}", shown(&prompt));
        assert!(shown(&prompt).contains(forged), "it is there as text: {}", shown(&prompt));
    }
}

#[test]
fn everything_else_works_with_images() {
    let server = Setup::seeing().start();
    let messages = user(json!([image(SMALL.0), text("What?")]));
    let body = |extra: Value| {
        let mut body = json!({"messages": messages, "max_tokens": 12, "temperature": 0, "ignore_eos": true});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let whole = ask(server.address, PATH, &body(json!({"n": 2})));
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    assert_eq!(choices[0]["message"], choices[1]["message"]);
    let mut streamed = String::new();
    for chunk in ask_stream(server.address, PATH, &body(json!({}))) {
        streamed.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    assert_eq!(streamed, choices[0]["message"]["content"]);
    let json =
        ask(server.address, PATH, &body(json!({"guided_choice": ["cat", "dog"], "ignore_eos": false})));
    let said = json["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(["cat", "dog"].contains(&said), "{json}");
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}});
    let called = ask(
        server.address,
        PATH,
        &body(
            json!({"tools": [tool], "tool_choice": "required", "parallel_tool_calls": false, "max_tokens": 200,
            "ignore_eos": false}),
        ),
    );
    assert_eq!(called["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "f", "{called}");
    let scored = ask(server.address, PATH, &body(json!({"prompt_logprobs": 0})));
    assert_eq!(scored["prompt_logprobs"].as_array().unwrap().len(), scored["usage"]["prompt_tokens"]);
}

/// What the model said with an image before it comes back in the tokens that it said.
#[test]
fn turns_with_images_come_back_as_they_were_generated() {
    let oddly = |text: &str| -> Vec<u32> {
        let tokenizer = image_tokenizer();
        text.chars().flat_map(|character| tokenizer.encode(&character.to_string(), Bos::Omit)).collect()
    };
    let mut setup = Setup { template: templates::LFM2, ..Setup::seeing() };
    setup.mock.scripts = vec![oddly("It is a cat."), oddly("Yes.")];
    let server = setup.start();
    let mut messages = vec![json!({"role": "user", "content": [image(SMALL.0), text("What?")]})];
    let mut known: Vec<u32> = Vec::new();
    for turn in 0..4 {
        let body =
            json!({"messages": messages, "temperature": 0, "max_tokens": 50, "return_token_ids": true});
        let answer = ask(server.address, PATH, &body);
        let prompt = ids(&answer["prompt_token_ids"]);
        assert_eq!(prompt[..known.len()], known, "turn {turn}");
        let said = ids(&answer["choices"][0]["token_ids"]);
        assert_eq!(said.last(), Some(&EOS));
        known = [prompt, said].concat();
        messages.push(answer["choices"][0]["message"].clone());
        messages.push(json!({"role": "user", "content": [text("Really?"), image(SQUARE.0)]}));
    }
}

/// What a user's message says, how images are to be cut, and the refusal: the field to blame, a part of the
/// message.
type Refusal = (Value, Value, &'static str, &'static str);

/// By a server with room for two images and 4000 tokens.
fn refusals() -> Vec<Refusal> {
    let uri = |bytes: &str| json!([{"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{bytes}")}}]);
    let url = |url: &str| json!([text("a"), {"type": "image_url", "image_url": {"url": url}}]);
    let large = image("1600x900.png");
    let place = "messages[0].content[0].image_url";
    let second = "messages[0].content[1].image_url";
    vec![
        (uri("AAAA"), json!({}), place, "the bytes are no PNG"),
        (uri("iVBORw0KGgoAAAANSUhEUg=="), json!({}), place, "cannot be decoded"),
        (uri("?"), json!({}), place, "not base64"),
        (url("data:image/svg+xml,<svg/>"), json!({}), second, "only base64"),
        (url("http://127.0.0.1:1/a.png"), json!({}), second, "no address on the public Internet"),
        (url("http://localhost/a.png"), json!({}), second, "no address on the public Internet"),
        (
            url("http://169.254.169.254/latest/meta-data/"),
            json!({}),
            second,
            "no address on the public Internet",
        ),
        (url("file:///etc/hostname"), json!({}), second, "reads no files"),
        (url("a.png"), json!({}), second, "expected a data: URI"),
        (url("gopher://a.example/"), json!({}), second, "found the scheme \"gopher\""),
        (
            json!([image(SMALL.0), image(SMALL.0), image(SMALL.0)]),
            json!({}),
            "messages",
            "At most 2 image(s)",
        ),
        (
            json!([large, large]),
            json!({}),
            "messages",
            "maximum context length is 4000 tokens. However, the images take more",
        ),
        (
            json!([image(SMALL.0), text(&"word ".repeat(3000))]),
            json!({}),
            "messages",
            "74 of them for images",
        ),
        (
            json!([large]),
            json!({"max_tiles": 65}),
            "mm_processor_kwargs.max_tiles",
            "expected 1 to 64, found 65",
        ),
        (
            json!([large]),
            json!({"min_image_tokens": 9, "max_image_tokens": 8}),
            "mm_processor_kwargs.min_image_tokens",
            "expected 1 to 8, found 9",
        ),
    ]
}

/// A server that takes so many images a request.
fn seeing(images_max: u32) -> crate::support::Server {
    let media = MediaConfig { images_max, ..MediaConfig::default() };
    Setup { config: ServerConfig { media, ..ServerConfig::default() }, ..Setup::seeing() }.start()
}

#[test]
fn what_cannot_be_shown_is_refused() {
    let server = seeing(2);
    for (content, options, param, message) in refusals() {
        let body = json!({"messages": user(content), "mm_processor_kwargs": options, "max_tokens": 1});
        for path in [PATH, "/tokenize"] {
            let mut body = body.clone();
            if path == "/tokenize" {
                body.as_object_mut().unwrap().remove("max_tokens");
                if message.contains("of them") {
                    continue;
                }
            }
            let response = post(server.address, path, &body);
            assert_eq!(response.status, 400, "{message}: {}", response.body);
            let error = &response.json()["error"];
            assert_eq!(error["param"], param, "{message}: {error}");
            assert!(error["message"].as_str().unwrap().contains(message), "{message}: {error}");
        }
    }
}

#[test]
fn a_server_says_whether_it_sees() {
    let server = seeing(2);
    let blind = Setup::default().start();
    let response = post(blind.address, PATH, &json!({"messages": user(json!([image(SMALL.0)]))}));
    assert_eq!(response.status, 400);
    assert!(response.body.contains("mock is not a multimodal model"), "{}", response.body);
    for (server, modalities, most) in [(&server, json!(["text", "image"]), 2), (&blind, json!(["text"]), 0)] {
        let info = get(server.address, "/server_info").json();
        assert_eq!(info["input_modalities"], modalities);
        assert_eq!(info["limits"]["max_images_per_prompt"], most);
    }
}

#[test]
fn images_are_counted() {
    let server = Setup::seeing().start();
    let body = json!({"messages": user(json!([image(SMALL.0), image(SQUARE.0)])), "max_tokens": 1});
    ask(server.address, PATH, &body);
    ask(server.address, PATH, &body);
    let wrong = user(json!([{"type": "image_url", "image_url": "data:image/png;base64,AAAA"}]));
    assert_eq!(post(server.address, PATH, &json!({"messages": wrong})).status, 400);
    let metrics = get(server.address, "/metrics").body;
    let labels = "{engine=\"0\",model_name=\"mock\"";
    for (name, count) in [
        ("images_received_total", 5),
        ("mm_cache_queries_total", 4),
        ("mm_cache_hits_total", 2),
        ("image_tiles_encoded_total", 2),
        ("image_failures_total,reason=\"image\"", 1),
        ("image_failures_total,reason=\"timeout\"", 0),
    ] {
        let (name, more) =
            name.split_once(',').map_or((name, String::new()), |(name, more)| (name, format!(",{more}")));
        let line = format!("vllm:{name}{labels}{more}}} {count}");
        assert!(metrics.contains(&line), "expected {line} in\n{metrics}");
    }
}
