//! The vocabulary as it stood in the file: what `undine-weights` finds and `undine-text` builds a tokenizer
//! from.

use crate::TokenId;

/// Where the tokenizer of a checkpoint comes from.
#[derive(Clone, PartialEq, Debug)]
pub enum Vocabulary {
    /// The bytes of a Hugging Face `tokenizer.json`.
    HuggingFace(Vec<u8>),
    /// Byte-level BPE from GGUF metadata.
    Gguf {
        /// Token texts in the byte-level alphabet, by id.
        tokens: Vec<String>,
        /// Token kinds by id as in GGUF: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
        kinds: Vec<i32>,
        /// Merge rules, best first, each `left right`.
        merges: Vec<String>,
        /// `tokenizer.ggml.pre`, the name of the pre-tokenizer.
        pre: String,
    },
    /// The checkpoint has none (a synthetic or stripped file): only token ids can be used.
    None,
}

/// Special ids and habits the checkpoint states about its vocabulary.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SpecialTokens {
    /// Beginning of sequence.
    pub bos: Option<TokenId>,
    /// Every id that ends a generation, from all places that name one.
    pub eos: Vec<TokenId>,
    /// Padding.
    pub pad: Option<TokenId>,
    /// Whether encoding a raw text puts BOS in front; `None` if the file does not say.
    pub add_bos: Option<bool>,
}
