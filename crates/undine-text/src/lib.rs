//! Text on both sides of the model: tokenizer, chat template, incremental detokenizer, stop strings and
//! reasoning.
//!
//! Invariant: nothing here panics on a hostile vocabulary, template or prompt; the errors say what was
//! expected. Knows no HTTP and no model; the words are Hugging Face's (`tokenizer.json`, chat templates) and
//! GGUF's.
#![forbid(unsafe_code)]

pub mod byte_alphabet;
pub mod detokenizer;
pub mod error;
pub mod exact;
pub mod grammar;
pub mod helper;
mod piece;
pub mod presets;
mod slices;
pub mod stream;
pub mod template;
pub mod tokenizer;
pub mod tools;
mod vocabulary;

pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use grammar::{
    AnswerFormat, AnswerRules, GrammarCompiler, MaskWorker, ReasoningRules, ToolChoice, ToolRules,
};
pub use piece::Piece;
pub use presets::{Preset, Training, preset, training};
pub use stream::{IncludeStop, Reasoning, StreamOptions, StreamState, TextStream};
pub use template::own;
pub use template::thinking::{THINKING_SWITCHES, answer_at_once, is_thinking_off, switch_off};
pub use template::{ChatInput, ChatTemplate, TemplateTraits, ends_in_think, json_dumps};
pub use tokenizer::{Bos, SpecialText, Tokenizer};
pub use tools::ToolFormat;
pub use undine_helper::{
    Budget, Cancel, Helpers, JobError, Program, Urgency, come_after_computing, in_background,
    is_work_in_background,
};
