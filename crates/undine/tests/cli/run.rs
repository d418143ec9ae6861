//! `undine run` with a prompt.

use std::io::Read;
use std::process::Stdio;

use crate::common::{json, models, oracle, run, run_piped, stderr, stdout, text, undine};

const GREEDY: [&str; 4] = ["--temperature", "0", "--max-tokens", "12"];

fn run_greedy(model: &str, more: &[&str]) -> std::process::Output {
    run(&[&["run", model], more, &GREEDY].concat())
}

#[test]
fn a_folder_and_a_gguf_of_the_same_weights_say_the_same() {
    let prompt = ["--raw", "-p", "The quick brown fox"];
    let folder = run_greedy(text(&oracle("dense")), &prompt);
    let gguf = run_greedy(text(&models().base()), &prompt);
    assert!(folder.status.success(), "{}", stderr(&folder));
    assert!(!stdout(&folder).trim().is_empty());
    assert_eq!(stdout(&folder), stdout(&gguf));
    let moe = run_greedy(text(&oracle("moe")), &prompt);
    assert!(moe.status.success(), "{}", stderr(&moe));
}

#[test]
fn json_is_one_object_with_text_usage_and_timings() {
    let output = run_greedy(text(&models().chat()), &["--json", "-p", "Hello", "--system", "Be brief."]);
    let answer = json(&output);
    let plain = run_greedy(text(&models().chat()), &["-p", "Hello", "--system", "Be brief."]);
    assert_eq!(answer["text"].as_str().expect("text").trim_end(), stdout(&plain).trim_end());
    let usage = &answer["usage"];
    let number = |name: &str| usage[name].as_u64().expect("a count");
    assert_eq!(number("total_tokens"), number("prompt_tokens") + number("completion_tokens"));
    assert_eq!((answer["finish_reason"].as_str(), number("completion_tokens")), (Some("length"), 12));
    assert!(answer["timings"]["prefill_tokens_per_second"].as_f64().expect("a speed") > 0.0);
}

#[test]
fn a_chat_model_sees_the_template_and_raw_does_not() {
    let tokens = |more: &[&str]| {
        let output = run_greedy(text(&models().chat()), &[&["--json", "-p", "Hello"], more].concat());
        json(&output)["usage"]["prompt_tokens"].as_u64().expect("a count")
    };
    let (raw, chat, system) = (tokens(&["--raw"]), tokens(&[]), tokens(&["--system", "Be brief."]));
    assert!(raw < chat && chat < system, "{raw} {chat} {system}");
}

#[test]
fn piped_input_is_the_prompt_or_follows_it() {
    let model = models().base();
    let whole = run_greedy(text(&model), &["-p", "Sum:\n\none two"]);
    let words = [&["run", text(&model), "-p", "Sum:"], &GREEDY[..]].concat();
    assert_eq!(stdout(&run_piped(&words, b"one two\n")), stdout(&whole));
    let words = [&["run", text(&model)], &GREEDY[..]].concat();
    assert_eq!(stdout(&run_piped(&words, b"Sum:\n\none two\n")), stdout(&whole));
    let latin = run_piped(&words, b"caf\xe9");
    assert_eq!(latin.status.code(), Some(1));
    assert!(stderr(&latin).contains("not UTF-8"), "{}", stderr(&latin));
}

#[test]
fn the_same_seed_says_the_same() {
    let model = models().chat();
    let say = |seed: &str| {
        let words =
            ["run", text(&model), "-p", "Hi", "--temperature", "1.5", "--max-tokens", "16", "--seed", seed];
        stdout(&run(&words))
    };
    assert_eq!(say("7"), say("7"));
    assert_ne!(say("7"), say("8"));
}

#[test]
fn a_stop_text_ends_the_answer() {
    let model = models().base();
    let whole = stdout(&run_greedy(text(&model), &["-p", "The quick brown fox"]));
    let stop: String = whole.trim_end().chars().skip(4).take(3).collect();
    let output = run_greedy(text(&model), &["-p", "The quick brown fox", "--json", "--stop", &stop]);
    let answer = json(&output);
    let text = answer["text"].as_str().expect("text");
    assert_eq!(answer["finish_reason"], "stop");
    assert!(whole.starts_with(text) && !text.contains(&stop), "{text:?} of {whole:?} at {stop:?}");
}

#[test]
fn verbose_tells_load_time_and_speeds_on_standard_error() {
    let output = run_greedy(text(&models().base()), &["-p", "Hi", "--verbose"]);
    for part in ["loaded base.gguf", "first token after", "prefill", "decode", "tok/s"] {
        assert!(stderr(&output).contains(part), "{part}: {}", stderr(&output));
    }
    // All there is to say otherwise is that it is cut.
    let plain = stderr(&run_greedy(text(&models().base()), &["--raw", "-p", "Hi"]));
    assert_eq!(plain, "note: the answer is cut after 12 tokens (-n, which is --max-tokens)\n");
}

#[test]
fn the_preset_of_the_model_applies_unless_overridden() {
    // The file is named after a model with a published preset.
    let words =
        ["run", text(&models().synthetic()), "-p", "Hi", "--max-tokens", "1", "--verbose"].map(str::to_owned);
    let sampling = |more: &[&str]| {
        let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
        stderr(&run(&words))
    };
    let preset = sampling(&[]);
    assert!(
        preset.contains("temperature 0.3, top_k 0, top_p 1, min_p 0.15, repetition_penalty 1.05"),
        "{preset}"
    );
    let overridden = sampling(&["--min-p", "0", "--top-k", "5"]);
    assert!(overridden.contains("temperature 0.3, top_k 5, top_p 1, min_p 0, repetition"), "{overridden}");
}

#[test]
fn key_value_types_are_accepted() {
    for more in [
        ["--kv-cache-dtype", "float16"],
        ["--kv-cache-dtype", "q8_0"],
        ["--dtype", "float32"],
        ["--dtype", "bfloat16"],
    ] {
        let output = run_greedy(text(&models().base()), &[&["-p", "Hi"], &more[..]].concat());
        assert!(output.status.success(), "{more:?}: {}", stderr(&output));
        assert_eq!(stderr(&output).contains("--dtype"), more[1] == "bfloat16", "{}", stderr(&output));
    }
}

#[test]
fn huge_pages_change_no_token() {
    // The copies are complete after the first of these steps.
    let answer = |choice: &str| {
        let output = run_greedy(text(&models().base()), &["-p", "Hi", "--huge-pages", choice]);
        assert!(output.status.success(), "{choice}: {}", stderr(&output));
        stdout(&output)
    };
    let expected = answer("off");
    assert!(!expected.is_empty());
    assert_eq!(answer("on"), expected);
    assert_eq!(answer("auto"), expected);
    let reports = |choice: &str| {
        let model = models().base();
        let words =
            ["bench", text(&model), "-p", "8", "-n", "4", "-r", "1", "--json", "--huge-pages", choice];
        let output = run(&words);
        assert!(output.status.success(), "{choice}: {}", stderr(&output));
        serde_json::from_str::<serde_json::Value>(&stdout(&output)).expect("JSON")[0]["huge_pages"].clone()
    };
    assert_eq!(reports("on"), true);
    // So small a model is read fast as it is.
    assert_eq!(reports("auto"), false);
}

#[test]
fn failures_say_why_and_set_the_exit_code() {
    let model = models().base();
    let junk = models().place("junk.gguf");
    std::fs::write(&junk, "this is not a model").expect("writes");
    let long = "word ".repeat(100);
    for (words, code, part) in [
        (vec!["run", "/no/such/file.gguf", "-p", "x"], 1, "/no/such/file.gguf"),
        (vec!["run", text(&junk), "-p", "x"], 1, "GGUF"),
        (vec!["run", text(&model), "-p", &long, "--ctx", "32"], 1, "--max-model-len"),
        (vec!["run", text(&model), "-p", "x", "--ctx", "1G"], 1, "128000"),
        (vec!["run", text(&model), "-p", "x", "--system", "s"], 1, "no chat template"),
        (vec!["run", text(&model), "-p", ""], 2, "prompt is empty"),
        (vec!["run", text(&model), "-p", "x", "--top-p", "7"], 2, "--top-p"),
        (vec!["run", text(&model), "--no-such-flag"], 2, "--no-such-flag"),
        (vec!["dance"], 2, "dance"),
    ] {
        let output = run(&words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{words:?}: {}", stderr(&output));
        // Notes on the model may come before.
        let first = stderr(&output).lines().find(|line| !line.starts_with("note: ")).map(str::to_owned);
        assert!(first.is_some_and(|line| line.starts_with("error: ")), "{}", stderr(&output));
    }
}

#[test]
fn a_checkpoint_without_a_tokenizer_says_so() {
    let folder = models().place("no-tokenizer");
    std::fs::create_dir_all(&folder).expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(oracle("dense").join(file), folder.join(file)).expect("copies");
    }
    let output = run(&["run", text(&folder), "-p", "x"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no tokenizer"), "{}", stderr(&output));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let mut command = undine();
    let raw = ["--raw", "--temperature", "0", "--max-tokens", "400"];
    command.args(["run", text(&models().base()), "-p", "Hi"]).args(raw);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut reader = child.stdout.take().expect("piped");
    let mut first = [0; 1];
    reader.read_exact(&mut first).expect("an answer begins");
    drop(reader);
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}
