//! What can be wrong with a vocabulary, a chat template or the form of an answer that came from outside.

use undine_helper::JobError;

/// Why a tokenizer could not be built or a template not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// `tokenizer.json` is not JSON of the expected shape.
    #[error(
        "tokenizer.json could not be read: {0}; expected the format of the Hugging Face tokenizers library"
    )]
    TokenizerJson(String),
    /// `tokenizer.json` asks for something Undine does not do.
    #[error("tokenizer.json uses {found}; expected {expected}")]
    Unsupported {
        /// What the file has.
        found: String,
        /// What works.
        expected: &'static str,
    },
    /// `tokenizer.ggml.pre` names no known way to split text.
    #[error("unknown pre-tokenizer {found:?} (tokenizer.ggml.pre); expected one of {known}")]
    UnknownPreTokenizer {
        /// The name in the file.
        found: String,
        /// The names that work.
        known: String,
    },
    /// A vocabulary without any token.
    #[error("the vocabulary is empty; expected at least one token")]
    EmptyVocabulary,
    /// An id so large that a table over all ids would be unreasonable.
    #[error("token id {id} is too large; expected ids below {limit}")]
    TooManyTokens {
        /// The largest id in the file.
        id: u64,
        /// See `TOKENS_MAX`.
        limit: usize,
    },
    /// GGUF lists of tokens and of their kinds differ in length.
    #[error(
        "{tokens} tokens but {kinds} token types (tokenizer.ggml.token_type); expected one type per token, or none"
    )]
    KindCount {
        /// Tokens in the file.
        tokens: usize,
        /// Kinds in the file.
        kinds: usize,
    },
    /// A merge rule that is not two texts.
    #[error("merge rule {rank} is {found:?}; expected two tokens with one space between them")]
    MergeFormat {
        /// Place in the list of merges.
        rank: usize,
        /// The rule.
        found: String,
    },
    /// A merge rule over a token the vocabulary lacks.
    #[error("merge rule {rank} needs token {missing:?}, which is not in the vocabulary")]
    MergeUnknown {
        /// Place in the list of merges.
        rank: usize,
        /// The token.
        missing: String,
    },
    /// The beginning-of-sequence id has no token.
    #[error("bos token id is {id}, but the vocabulary has {vocab} ids")]
    BosOutOfRange {
        /// The id stated.
        id: u32,
        /// Number of ids.
        vocab: usize,
    },
    /// The tokenizers library refused what passed all checks above.
    #[error("the tokenizer could not be built: {0}")]
    Build(String),
    /// A template longer than any real one.
    #[error("the chat template has {bytes} bytes; expected at most {limit}")]
    TemplateTooLong {
        /// Its length.
        bytes: usize,
        /// See `TEMPLATE_BYTES_MAX`.
        limit: usize,
    },
    /// The template is not Jinja.
    #[error("the chat template does not parse: {0}")]
    TemplateSyntax(String),
    /// The template failed on these messages.
    #[error("the chat template failed: {0}")]
    TemplateRender(String),
    /// The template itself refuses the messages with `raise_exception`.
    #[error("the chat template refuses these messages: {0}")]
    TemplateRaised(String),
    /// What is to be rendered nests too deeply.
    #[error("`{place}` nests deeper than {limit} levels of lists and objects; flatten it")]
    TemplateDepth {
        /// The variable of the template.
        place: &'static str,
        /// See `VALUE_DEPTH_MAX`.
        limit: usize,
    },
    /// The template took more than it may, and was ended.
    #[error("the chat template was stopped: {0}; use another template")]
    TemplateExhausts(JobError),
    /// The tools of a request are not what was expected; says which one and why.
    #[error("{0}")]
    Tools(String),
    /// An answer format that cannot be enforced; says why.
    #[error("{0}")]
    Grammar(String),
    /// An answer format that is beyond a limit: where, and which.
    #[error("the form of the answer is too large: {place}: {message}")]
    GrammarLimit {
        /// The place in the schema, such as `properties.a.items`, or the line or rule of a grammar.
        place: String,
        /// What was expected and found.
        message: String,
    },
    /// Compiling an answer format took more than it may, and was stopped.
    #[error("the form of the answer cannot be enforced: {0}; simplify it")]
    GrammarExhausts(JobError),
    /// Work that no helper process did: cancelled, or none can be had.
    #[error("{0}")]
    Helper(JobError),
    /// The grammar library failed on an answer format: not the request's fault. It caught its own panic.
    #[error("the grammar library failed on the form of the answer: {0}")]
    GrammarPanic(String),
}

impl TextError {
    /// Why a template has no result.
    pub(crate) fn of_template(error: JobError) -> Self {
        if error.is_of_job() { Self::TemplateExhausts(error) } else { Self::Helper(error) }
    }

    /// Why rules have none.
    pub(crate) fn of_grammar(error: JobError) -> Self {
        if error.is_of_job() { Self::GrammarExhausts(error) } else { Self::Helper(error) }
    }

    /// A helper that is not of this program's version.
    pub(crate) fn confused() -> Self {
        Self::Helper(JobError::Died("it does not speak as this program does".to_owned()))
    }
}
