//! Damaged files, places that cannot be written to and numbers beyond reason: what fails, says so, and leaves
//! nothing.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use undine_weights::Checkpoint;

use crate::common::{json, models, oracle, run, stderr, text, undine};

/// A folder of a test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = models().place("misuse").join(name);
    // A first run has nothing to remove.
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).expect("made");
    folder
}

/// The exit code, and that the program neither panicked nor was ended by a signal.
fn code(words: &[&str], output: &Output) -> i32 {
    let error = stderr(output);
    assert!(!error.contains("panicked") && !error.contains("memory allocation"), "{words:?}: {error}");
    output.status.code().unwrap_or_else(|| panic!("{words:?}: {:?}: {error}", output.status))
}

/// Changes the bytes of a file.
type Damage = fn(Vec<u8>) -> Vec<u8>;

/// Every way of damage that a header can show, as checkpoints of their own.
fn damaged(folder: &Path) -> Vec<PathBuf> {
    const FILES: [(&str, Damage); 4] = [
        ("empty.gguf", |_| Vec::new()),
        ("short.gguf", |bytes| bytes[..bytes.len() / 3].to_vec()),
        ("cut.gguf", |bytes| bytes[..bytes.len() - 1000].to_vec()),
        ("noise.gguf", |bytes| bytes.iter().map(|byte| byte.wrapping_mul(37) ^ 0x5a).collect()),
    ];
    const FOLDERS: [(&str, &str, Damage); 5] = [
        ("header-long", "model.safetensors", |bytes| [&[255; 8], &bytes[8..]].concat()),
        ("header-off", "model.safetensors", |mut bytes| {
            bytes[0] = bytes[0].wrapping_add(7);
            bytes
        }),
        ("config-list", "config.json", |_| b"[]".to_vec()),
        ("config-deep", "config.json", |_| b"[".repeat(100_000)),
        ("tokenizer-noise", "tokenizer.json", |bytes| bytes.iter().map(|byte| byte ^ 0x80).collect()),
    ];
    let good = fs::read(models().base()).expect("reads");
    let mut made: Vec<PathBuf> = Vec::new();
    for (name, damage) in FILES {
        let path = folder.join(name);
        fs::write(&path, damage(good.clone())).expect("writes");
        made.push(path);
    }
    for (name, victim, damage) in FOLDERS {
        let path = folder.join(name);
        fs::create_dir(&path).expect("made");
        for entry in
            fs::read_dir(oracle("dense")).expect("a folder").flatten().filter(|entry| entry.path().is_file())
        {
            fs::copy(entry.path(), path.join(entry.file_name())).expect("copies");
        }
        let victim = path.join(victim);
        let bytes = damage(fs::read(&victim).expect("reads"));
        // Data of tests may be read-only.
        fs::remove_file(&victim).expect("removes");
        fs::write(&victim, bytes).expect("writes");
        made.push(path);
    }
    made
}

#[test]
fn a_damaged_model_is_named_by_every_command() {
    let folder = folder("damaged");
    let out = folder.join("out");
    fs::create_dir(&out).expect("made");
    let prose = folder.join("prose.txt");
    fs::write(&prose, "What is 17 + 25? The answer is 42. ".repeat(100)).expect("writes");
    let (prose, gguf, converted) = (text(&prose), out.join("out.gguf"), out.join("folder"));
    for model in damaged(&folder.join(".")) {
        let name = model.file_name().expect("a name").to_string_lossy().into_owned();
        let model = text(&model);
        let commands: [&[&str]; 11] = [
            &["run", model, "-p", "hi"],
            &["serve", model, "--port", "0"],
            &["inspect", model],
            &["show", model],
            &["bench", model, "-p", "8", "-n", "2", "-r", "1"],
            &["eval", model, "--text", prose],
            &["eval", "--against", model, "--text", prose, "--chunks", "1"],
            &["fit", model],
            &["quantize", model, text(&gguf)],
            &["convert", model, text(&gguf)],
            &["convert", model, text(&converted)],
        ];
        for words in commands {
            let output = run(words);
            assert_eq!(code(words, &output), 1, "{words:?}: {}", stderr(&output));
            assert!(stderr(&output).contains(&name), "{words:?}: {}", stderr(&output));
        }
        let left: Vec<_> = fs::read_dir(&out).expect("a folder").collect();
        assert!(left.is_empty(), "{model}: {left:?}");
    }
}

#[test]
fn places_that_cannot_be_written_to_are_refused_and_stay() {
    let folder = folder("places");
    let socket = folder.join("socket");
    let listener = UnixListener::bind(&socket).expect("binds");
    let (base, chat) = (models().base(), models().chat_folder());
    let missing = folder.join("missing").join("out.gguf");
    let cases: [(&Path, &str); 3] =
        [(&missing, "a folder that exists"), (&folder, "folder"), (&socket, "a device, a pipe or a socket")];
    for (place, why) in cases {
        let place = text(place);
        let commands: [&[&str]; 3] = [
            &["quantize", text(&base), place, "--force"],
            &["quantize", text(&chat), place, "--force", "--type", "BF16"],
            &["synth", "tiny", "-o", place],
        ];
        for words in commands {
            let output = run(words);
            assert_eq!(code(words, &output), 1, "{words:?}: {}", stderr(&output));
            let error = stderr(&output);
            assert!(error.contains(place) && error.contains(why), "{words:?}: {error}");
            assert!(!error.contains("partial"), "{words:?}: {error}");
        }
    }
    use std::os::unix::fs::FileTypeExt;
    assert!(fs::symlink_metadata(&socket).expect("there").file_type().is_socket(), "it is as it was");
    drop(listener);
}

#[test]
fn numbers_beyond_reason_are_refused() {
    let huge = "9".repeat(40);
    // What is given, the exit code, and words of the message.
    let cases: [(&[&str], i32, &str); 27] = [
        (&["run", "-p", "hi", "-c", "99999999999"], 2, "at most 4294967295"),
        (&["run", "-p", "hi", "-c", &huge], 2, "expected a whole number"),
        (&["run", "-p", "hi", "-c", "4"], 1, "raise --max-model-len"),
        (&["run", "-p", "hi", "-n", "0"], 2, "expected at least 1"),
        (&["run", "-p", "hi", "--temperature", "nan"], 2, "expected a number"),
        (&["run", "-p", "hi", "--temperature", "-1"], 2, "at least 0, found -1"),
        (&["run", "-p", "hi", "--top-k", "-2"], 2, "or -1"),
        (&["run", "-p", "hi", "--top-p", "-0.5"], 2, "above 0, at most 1, found -0.5"),
        (&["run", "-p", "hi", "-t", "100000"], 2, "1..=256"),
        (&["serve", "--max-num-seqs", "4000000000", "--port", "0"], 1, "--max-num-seqs"),
        (&["serve", "--max-num-batched-tokens", "4000000000", "--port", "0"], 1, "--max-num-batched-tokens"),
        (&["serve", "--gpu-memory-utilization", "nan"], 2, "above 0"),
        (&["serve", "--port", "99999"], 2, "0..=65535"),
        // Endless ones, which say that they are empty.
        (&["serve", "--chat-template", "/dev/zero"], 1, "/dev/zero: expected at most"),
        (&["serve", "--api-key-file", "/dev/zero"], 1, "/dev/zero: expected at most"),
        (&["serve", "--config", "/dev/zero"], 1, "/dev/zero: expected at most"),
        (&["serve", "--config", "/dev/urandom"], 1, "/dev/urandom: expected at most"),
        (&["eval", "--text", "/dev/zero"], 1, "/dev/zero: expected at most"),
        (&["bench", "-p", "1000000000", "-n", "0"], 1, "do not fit"),
        (&["bench", "-r", "0"], 2, "1..=10000"),
        (&["eval", "--text", "x", "-c", "1"], 2, "at least 4"),
        (&["quantize", "a", "b", "--target-size", "-1"], 2, "-1"),
        (&["quantize", "a", "b", "--sensitivity", "every"], 2, "--target-size"),
        (&["quantize", "a", "b", "--text", "x"], 2, "--target-size"),
        (&["fit", "LFM2-1.2B", "--users", "4294967295"], 2, "1..=65536"),
        (&["bench", "serve", "--base-url", "nonsense"], 1, "--base-url http://HOST:PORT"),
        (&["bench", "serve", "--base-url", "http://127.0.0.1:1"], 1, "expected a server that runs"),
    ];
    for (words, expected, why) in cases {
        let output = run(words);
        assert_eq!(code(words, &output), expected, "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(why), "{words:?}: {}", stderr(&output));
    }
    let all = json(&run(&["run", "-p", "hi", "--top-k", "-1", "-n", "2", "--json"]));
    assert_eq!(all["usage"]["completion_tokens"], 2, "-1 keeps all tokens, as for vLLM");
}

#[test]
fn two_writers_of_one_file_do_not_disturb_each_other() {
    let folder = folder("writers");
    let out = folder.join("out.gguf");
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let mut writer = undine();
            writer.args(["synth", "tiny", "-o", text(&out)]).stderr(Stdio::piped());
            writer.spawn().expect("starts")
        })
        .collect();
    for writer in writers {
        let output = writer.wait_with_output().expect("ends");
        assert!(output.status.success(), "{}", stderr(&output));
    }
    Checkpoint::open(&out).expect("the last one wins, and is whole");
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1);
}

#[test]
fn a_full_disk_is_an_error_whatever_was_to_be_written() {
    let (base, folder) = (models().base(), folder("full"));
    let cache = folder.join("cache");
    fs::create_dir_all(cache.join("models--x--y/snapshots/main")).expect("made");
    let prose = folder.join("prose.txt");
    fs::write(&prose, "What is 17 + 25? The answer is 42. ".repeat(100)).expect("writes");
    let (base, prose, out) = (text(&base), text(&prose), folder.join("out.gguf"));
    let commands: [&[&str]; 20] = [
        &["--help"],
        &["--version"],
        &["help"],
        &["serve", "--help"],
        &["serve", "-h"],
        &["help", "bench", "serve"],
        &["run", "--version"],
        &["models"],
        &["models", "--json"],
        &["list", "--json"],
        &["inspect", base],
        &["inspect", base, "--json"],
        &["show", base],
        &["synth", "--list"],
        &["fit", "LFM2-1.2B"],
        &["doctor", "--json"],
        &["run", base, "-p", "hi", "-n", "3"],
        &["run", base, "-p", "hi", "-n", "3", "--json"],
        &["eval", base, "--text", prose, "--chunks", "1"],
        &["quantize", base, text(&out), "--dry-run"],
    ];
    for words in commands {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has one");
        let output = undine().args(words).env("HF_HUB_CACHE", &cache).stdout(full).output().expect("starts");
        assert_eq!(code(words, &output), 1, "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("No space left"), "{words:?}: {}", stderr(&output));
    }
    // Help on an error is no output.
    let output = undine().output().expect("starts");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn without_a_home_a_cache_has_to_be_named() {
    let folder = folder("homeless");
    let base = models().base();
    let homeless = |words: &[&str]| {
        let mut command = undine();
        for name in ["HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_STATE_HOME", "HUGGINGFACE_HUB_CACHE"] {
            command.env_remove(name);
        }
        command.args(words).current_dir(&folder).output().expect("starts")
    };
    for words in [
        &["list"][..],
        &["pull", "lfm2.5:1.2b"],
        &["show", "lfm2.5:1.2b"],
        &["run", "lfm2.5:1.2b", "-p", "x"],
    ] {
        let output = homeless(words);
        assert_eq!(code(words, &output), 1, "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("HF_HOME"), "{words:?}: {}", stderr(&output));
    }
    for words in
        [&["inspect", text(&base)][..], &["run", text(&base), "-p", "x", "-n", "1"], &["models"], &["--help"]]
    {
        let output = homeless(words);
        assert_eq!(code(words, &output), 0, "{words:?}: {}", stderr(&output));
    }
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 0, "nothing was made where it ran");
}
