//! `undine run` with pictures: the tiny vision model of the oracle in both containers, in a prompt and in a
//! chat.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use undine_core::DType;
use undine_tests::Expected;
use undine_text::{SpecialText, Tokenizer};
use undine_weights::{Checkpoint, write_gguf, write_mmproj};

use crate::chat::{say, start};
use crate::common::{TEMPLATE, json, models, oracle, run, stderr, stdout, text};

const QUESTION: &str = "What is in this image?";
const GREEDY: [&str; 4] = ["--temperature", "0", "--max-tokens", "12"];

/// The vision model with a chat template: a folder, a GGUF file with its tower beside it, and one without.
struct VisionModels {
    folder: PathBuf,
    gguf: PathBuf,
    alone: PathBuf,
}

fn vision_models() -> &'static VisionModels {
    static MODELS: OnceLock<VisionModels> = OnceLock::new();
    MODELS.get_or_init(|| {
        let place = models().place("vision");
        let found = VisionModels {
            folder: place.join("folder"),
            gguf: place.join("beside/tiny-vl.gguf"),
            alone: place.join("alone/tiny-vl.gguf"),
        };
        for path in [found.folder.join("x"), found.gguf.clone(), found.alone.clone()] {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        }
        for file in [
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            std::fs::copy(oracle("vl").join(file), found.folder.join(file)).expect("copies");
        }
        std::fs::write(found.folder.join("chat_template.jinja"), TEMPLATE).expect("writes");
        let checkpoint = Checkpoint::open(&found.folder).expect("opens with a template");
        write_gguf(&checkpoint, |_, _| DType::F32, &found.gguf).expect("writes");
        write_mmproj(&checkpoint, |_, _| DType::F32, &found.mmproj()).expect("writes");
        std::fs::copy(&found.gguf, &found.alone).expect("copies");
        found
    })
}

impl VisionModels {
    fn mmproj(&self) -> PathBuf {
        self.gguf.with_file_name("mmproj-tiny-vl.gguf")
    }
}

fn picture(name: &str) -> PathBuf {
    oracle("vl").join(format!("{name}.png"))
}

/// What the reference answers about a picture.
fn expected(name: &str) -> String {
    let checkpoint = Checkpoint::open(&oracle("vl")).expect("the oracle opens");
    let tokenizer = Tokenizer::new(checkpoint.vocabulary(), checkpoint.special_tokens());
    let tokenizer = tokenizer.expect("reads").expect("there is one");
    let tokens = Expected::open(&oracle("vl")).tokens(&format!("{name}.generated_ids"));
    tokenizer.decode(&tokens, SpecialText::Keep)
}

fn ask(model: &Path, images: &[&Path], more: &[&str]) -> std::process::Output {
    let images = images.iter().flat_map(|image| ["--image", text(image)]);
    let words: Vec<&str> = ["run", text(model), "-p", QUESTION].into_iter().chain(images).collect();
    run(&[&words, more, &GREEDY].concat())
}

#[test]
fn every_container_answers_as_the_reference() {
    let models = vision_models();
    let mmproj = models.mmproj();
    for (what, model, more) in [
        ("a folder", &models.folder, &[][..]),
        ("a tower beside the file", &models.gguf, &[]),
        ("a tower that is named", &models.alone, &["--mmproj", text(&mmproj)]),
    ] {
        for name in ["333x517", "640x480"] {
            let answer = json(&ask(model, &[&picture(name)], &[&["--json"], more].concat()));
            assert_eq!(answer["text"].as_str().expect("text"), expected(name), "{what}, {name}");
            let tokens = Expected::open(&oracle("vl")).tokens(&format!("{name}.input_ids")).len();
            assert_eq!(answer["usage"]["prompt_tokens"], tokens, "{what}, {name}");
        }
    }
}

#[test]
fn several_pictures_are_seen_in_order_and_words_are_no_pictures() {
    let model = &vision_models().folder;
    let (a, b) = (picture("48x40"), picture("333x517"));
    let said = |images: &[&Path]| stdout(&ask(model, images, &[]));
    assert_ne!(said(&[&a, &b]), said(&[&b, &a]));
    let tokens = |prompt: &str| {
        let output = run(&["run", text(model), "--json", "--max-tokens", "1", "-p", prompt]);
        json(&output)["usage"]["prompt_tokens"].as_u64().expect("a count")
    };
    assert!(tokens("<image>") > tokens("x"), "the word is one token, as if it were a picture");
}

#[test]
fn what_is_no_picture_is_refused() {
    let models = vision_models();
    let place = models.folder.join("..");
    let (empty, broken, words) = (place.join("empty.png"), place.join("broken.png"), place.join("words.png"));
    std::fs::write(&empty, b"").expect("writes");
    std::fs::write(&words, b"no picture at all").expect("writes");
    let whole = std::fs::read(picture("256x256")).expect("reads");
    std::fs::write(&broken, &whole[..whole.len() / 2]).expect("writes");
    for (model, image, part) in [
        (&models.folder, Path::new("/no/such/file.png"), "/no/such/file.png"),
        (&models.folder, &models.folder, "found a folder"),
        (&models.folder, &empty, "no PNG, JPEG"),
        (&models.folder, &words, "no PNG, JPEG"),
        (&models.folder, &broken, "cannot be decoded"),
        (&models.alone, &picture("256x256"), "takes no pictures"),
        (&oracle("dense"), &picture("256x256"), "--mmproj"),
    ] {
        let output = ask(model, &[image], &[]);
        assert_eq!(output.status.code(), Some(1), "{image:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{image:?}: {}", stderr(&output));
    }
    let output = run(&["run", text(&models.folder), "--image", text(&picture("256x256"))]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let mmproj = models.mmproj();
    let output = run(&["run", text(&crate::common::models().base()), "-p", "x", "--mmproj", text(&mmproj)]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("width of the language model"), "{}", stderr(&output));
}

#[test]
fn a_chat_shows_pictures_by_command_and_by_path() {
    let models = vision_models();
    let place = models.folder.join("../my pictures");
    std::fs::create_dir_all(&place).expect("a folder");
    let place = place.canonicalize().expect("a path");
    let cat = place.join("a cat.png");
    std::fs::copy(picture("333x517"), &cat).expect("copies");
    let saved = place.join("saved.json");
    let mut chat = start(&[
        "run",
        text(&models.folder),
        "--temperature",
        "0",
        "--max-tokens",
        "4",
        "--verbose",
        "--image",
        text(&picture("256x256")),
    ]);
    // The chat begins with it.
    say(&mut chat, "Hello", "prompt ");
    say(&mut chat, "/help", "/image FILE");
    say(&mut chat, "/image", "expected /image FILE");
    say(&mut chat, "/image /no/such.png", "/no/such.png");
    say(&mut chat, &format!("/image {}", text(&picture("48x40"))), "48x40.png, 72 tokens)");
    // Pictures, before the text.
    say(&mut chat, QUESTION, "first token");
    say(&mut chat, &text(&cat).replace(' ', "\\ "), "a cat.png, 160 tokens)");
    say(&mut chat, &format!("and '{}' here?", text(&cat)), "a cat.png, 160 tokens)");
    say(&mut chat, &format!("/save {}", text(&saved)), "saved 6 messages");
    say(&mut chat, &format!("/load {}", text(&saved)), "loaded 6 messages");
    say(&mut chat, "/clear", "empty");
    chat.send_line(&format!("file://{} /bye", text(&cat).replace(' ', "%20"))).expect("types");
    chat.exp_eof().expect("ends");
    let conversation: serde_json::Value =
        serde_json::from_slice(&std::fs::read(saved).expect("saved")).expect("JSON");
    let images =
        |message: usize| conversation["messages"][message]["images"].as_array().expect("a list").len();
    assert_eq!((images(0), images(2), images(4)), (1, 1, 2));
    assert_eq!(conversation["messages"][4]["content"], "and here?");
}
