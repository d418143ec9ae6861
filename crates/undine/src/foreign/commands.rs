//! The commands of other programs, and their names.

/// What a command means here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CommandMeaning {
    /// These words.
    Is(&'static [&'static str]),
    /// There is none, for this reason.
    Reason(&'static str),
}
use CommandMeaning::{Is, Reason};

/// Names separated by blanks.
const COMMANDS: &[(&str, CommandMeaning)] = &[
    // llama.cpp.
    ("cli llama-cli llama-run chat llama generate prompt complete llama-completion", Is(&["run"])),
    ("server llama-server start", Is(&["serve"])),
    ("llama-bench llama-batched-bench", Is(&["bench"])),
    ("llama-quantize", Is(&["quantize"])),
    ("perplexity llama-perplexity", Is(&["eval"])),
    ("imatrix llama-imatrix", Is(&["calibrate"])),
    ("llama-mtmd-cli mtmd llava", Is(&["run"])),
    ("llama-gguf gguf-dump gguf-info", Is(&["inspect"])),
    ("tokenize llama-tokenize", Reason("a running `undine serve` has /tokenize and /detokenize")),
    (
        "gguf-split llama-gguf-split merge",
        Reason(
            "split files are read as they are: name any part. `undine convert PART OUT.gguf` writes one file",
        ),
    ),
    (
        "export-lora llama-export-lora",
        Reason("adapters are merged by the tools that made them, such as peft"),
    ),
    // Ollama and LM Studio.
    (
        "ps",
        Reason(
            "nothing runs in the background: a model is in memory while `undine run` or `undine serve` runs, and \
             `pgrep -a undine` lists these",
        ),
    ),
    (
        "stop unload",
        Reason(
            "nothing runs in the background: Ctrl-C ends `undine serve`, and its model leaves memory with it",
        ),
    ),
    (
        "load",
        Reason("a model is loaded by the command that uses it: `undine run MODEL` or `undine serve MODEL`"),
    ),
    (
        "create",
        Reason(
            "there are no Modelfiles: `undine run FILE.gguf --system TEXT --temperature 0.3` runs a file as it is, and \
             `undine quantize IN OUT.gguf` makes a smaller one",
        ),
    ),
    ("cp copy", Reason("a model is a file or a repository of the hub; copy or link the file (cp, ln -s)")),
    ("push upload", Reason("undine uploads nothing; `hf upload OWNER/NAME FILE` does")),
    (
        "signin signout login logout",
        Reason("HF_TOKEN, or `hf auth login`, opens gated and private repositories"),
    ),
    (
        "launch",
        Reason(
            "any client of OpenAI's interface works with `undine serve`; give it http://127.0.0.1:8000/v1",
        ),
    ),
    ("version", Is(&["--version"])),
    ("-v -version", Is(&["--version"])),
    ("download get fetch install", Is(&["pull"])),
    ("remove delete uninstall", Is(&["rm"])),
    ("info", Is(&["inspect"])),
    ("search", Is(&["models"])),
    // vLLM.
    ("run-batch", Is(&["batch"])),
    ("collect-env", Is(&["doctor"])),
    ("benchmark", Is(&["bench"])),
];

/// What a word in the place of a command means, if another program has it.
pub(super) fn find(word: &str) -> Option<CommandMeaning> {
    let found = COMMANDS.iter().find(|(names, _)| names.split(' ').any(|name| name == word));
    found.map(|(_, meaning)| *meaning)
}
