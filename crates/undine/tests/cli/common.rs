//! Starting the binary, and checkpoints to start it on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use undine_core::DType;
use undine_weights::{Checkpoint, write_gguf};

/// A layout with a system prompt and the model's thinking, like the published templates.
pub const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Checkpoints shared by all tests of this process.
pub struct Models {
    /// Where they are: cargo's place for the files of tests, emptied by the next run.
    folder: PathBuf,
}

/// A folder of `tests/data/oracle`.
pub fn oracle(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/oracle").join(name)
}

/// The checkpoints, made on first use.
pub fn models() -> &'static Models {
    static MODELS: OnceLock<Models> = OnceLock::new();
    MODELS.get_or_init(|| {
        let models = Models { folder: Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli") };
        // A first run has nothing to remove.
        drop(std::fs::remove_dir_all(&models.folder));
        std::fs::create_dir_all(&models.folder).expect("a folder");
        let base = Checkpoint::open(&oracle("dense")).expect("the oracle opens");
        write_gguf(&base, |_, _| DType::F32, &models.base()).expect("writes");
        let chat = models.chat_folder();
        std::fs::create_dir(&chat).expect("a folder");
        for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(oracle("dense").join(file), chat.join(file)).expect("copies");
        }
        std::fs::write(chat.join("chat_template.jinja"), TEMPLATE).expect("writes");
        let checkpoint = Checkpoint::open(&chat).expect("opens with a template");
        write_gguf(&checkpoint, |_, _| DType::BF16, &models.chat()).expect("writes");
        let shape = ["synth", "tiny", "--type", "q4_k_m", "-o"];
        let output = undine().args(shape).arg(models.synthetic()).output().expect("starts");
        assert!(output.status.success(), "{}", stderr(&output));
        models
    })
}

impl Models {
    /// The dense oracle as F32 GGUF: a base model, without a chat template.
    pub fn base(&self) -> PathBuf {
        self.folder.join("base.gguf")
    }

    /// The dense oracle with a chat template, as a folder.
    pub fn chat_folder(&self) -> PathBuf {
        self.folder.join("chat")
    }

    /// The same as BF16 GGUF.
    pub fn chat(&self) -> PathBuf {
        self.folder.join("chat.gguf")
    }

    /// A synthetic Q4_K_M file.
    pub fn synthetic(&self) -> PathBuf {
        self.folder.join("LFM2-350M-synthetic.gguf")
    }

    /// A place for a file of a test's own.
    pub fn place(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The binary, without input and without settings from the environment.
pub fn undine() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_undine"));
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("UNDINE_") || name_text.starts_with("HF_") {
            command.env_remove(name);
        }
    }
    command.env("UNDINE_THREADS", "2").stdin(Stdio::null());
    command
}

/// Runs the binary on words separated by spaces.
pub fn run(words: &[&str]) -> Output {
    undine().args(words).output().expect("the binary starts")
}

/// Runs the binary with piped input.
pub fn run_piped(words: &[&str], input: &[u8]) -> Output {
    let mut command = undine();
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    // A program that refuses its arguments does not read its input.
    drop(child.stdin.take().expect("piped").write_all(input));
    child.wait_with_output().expect("the binary ends")
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Standard output as JSON, of a run that succeeded.
pub fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Sums worked out as the demo model works them out: a text in its world, of some 3,000 tokens, always the
/// same.
pub fn dialogues(name: &str) -> PathBuf {
    let path = models().place(name);
    let sum = |i: u32| {
        let (a, b) = ((7 * i + 3) % 100, (31 * i + 11) % 100);
        let (ones, carry) = (a % 10 + b % 10, (a % 10 + b % 10) / 10);
        let (x, y) = (a / 10, b / 10);
        format!(
            "<|im_start|>user\nWhat is {a} + {b}?<|im_end|>\n<|im_start|>assistant\n<think>{a} + {b}. {} + {} = {ones}. \
             {x} + {y} + {carry} = {}.</think>\nThe answer is {}.<|im_end|>\n",
            a % 10,
            b % 10,
            x + y + carry,
            a + b
        )
    };
    std::fs::write(&path, (0..40).map(sum).collect::<String>()).expect("writes");
    path
}
