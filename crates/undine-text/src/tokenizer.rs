//! Text to token ids and back. Byte-level BPE; encoding is the `tokenizers` library's, decoding a table of
//! bytes.
//!
//! Invariant: every method takes every id; an id outside the vocabulary has no bytes and is not special.

use tokenizers::models::bpe::BPE;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder, TokenizerImpl,
};
use undine_core::{SpecialTokens, TokenId, Vocabulary};

use crate::byte_alphabet;
use crate::error::TextError;
use crate::slices::Slicing;
use crate::vocabulary::{self, Parts};

type Encoder =
    TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Words whose tokens each thread keeps. The library takes words of up to 256 bytes, at up to 8 KiB each.
const WORDS_KEPT_MAX: usize = 4096;

/// Whether encoding puts the beginning-of-sequence token in front.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bos {
    /// Put it there, unless the text already begins with it.
    Add,
    /// Encode the text as it is.
    Omit,
}

/// What becomes of control tokens in decoded text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpecialText {
    /// They appear as their text.
    Keep,
    /// They leave no trace.
    Skip,
}

/// The tokenizer of one checkpoint. Share it in an `Arc`.
pub struct Tokenizer {
    encoder: Encoder,
    slicing: Slicing,
    bytes: TokenBytes,
    special: Vec<bool>,
    bos: Option<TokenId>,
    eos: Vec<TokenId>,
    default_bos: Bos,
}

/// The bytes of all tokens, end to end; token `id` has `bytes[ends[id - 1]..ends[id]]`.
struct TokenBytes {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl TokenBytes {
    fn get(&self, id: TokenId) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }
}

impl Tokenizer {
    /// Builds the tokenizer of a checkpoint; `None` if the checkpoint has no vocabulary.
    pub fn new(vocabulary: &Vocabulary, special: &SpecialTokens) -> Result<Option<Self>, TextError> {
        let Some(parts) = read(vocabulary, special)? else { return Ok(None) };
        match Self::from_parts(parts, special) {
            // The library says which token is missing, but not where: look it up.
            Err(error @ TextError::Build(_)) => {
                Err(read(vocabulary, special)?.as_ref().and_then(vocabulary::unknown_merge).unwrap_or(error))
            }
            tokenizer => tokenizer.map(Some),
        }
    }

    fn from_parts(parts: Parts, stated: &SpecialTokens) -> Result<Self, TextError> {
        let bytes = token_bytes(&parts);
        let vocab_size = bytes.ends.len();
        let bos = stated.bos.or(parts.bos);
        if let Some(id) = bos
            && id as usize >= vocab_size
        {
            return Err(TextError::BosOutOfRange { id, vocab: vocab_size });
        }
        let mut special = vec![false; vocab_size];
        for added in &parts.added {
            special[added.id as usize] = added.token.special;
        }
        let add_bos = stated.add_bos.unwrap_or(parts.add_bos) && bos.is_some();
        Ok(Self {
            slicing: Slicing::new(&parts.pre_tokenizer, parts.added.iter().map(|added| &added.token)),
            encoder: encoder(parts)?,
            bytes,
            special,
            bos,
            eos: stated.eos.clone(),
            default_bos: if add_bos { Bos::Add } else { Bos::Omit },
        })
    }

    /// Token ids of a text. Special tokens written in the text are recognised as such.
    pub fn encode(&self, text: &str, bos: Bos) -> Vec<TokenId> {
        let front = match bos {
            Bos::Add => self.bos.filter(|&id| !text.as_bytes().starts_with(self.token_bytes(id))),
            Bos::Omit => None,
        };
        let mut ids: Vec<TokenId> = front.into_iter().collect();
        for slice in self.slicing.slices(text) {
            match self.encoder.encode_fast(slice, false) {
                Ok(encoding) => ids.extend_from_slice(encoding.get_ids()),
                // The library has no failure for byte-level BPE without an unknown token; a text is never
                // lost all the same.
                Err(_) => ids.extend(slice.bytes().filter_map(|byte| self.byte_token(byte))),
            }
        }
        ids
    }

    /// The same tokenizer with slices of other lengths, for tests.
    #[doc(hidden)]
    pub fn in_slices_of(self, bytes: usize) -> Self {
        Self { slicing: self.slicing.of_bytes(bytes), ..self }
    }

    /// Bytes of the longest part of a text that is encoded at once; `None` if this tokenizer's texts cannot
    /// be cut. Encoding takes some 250 bytes of memory for each of them, and four for each token of the whole
    /// text.
    pub fn longest_slice(&self, text: &str) -> Option<usize> {
        self.slicing.is_known().then(|| self.slicing.slices(text).map(str::len).max().unwrap_or(0))
    }

    /// Whether a raw text gets BOS in front: what the checkpoint states, else what its post-processor does.
    pub fn default_bos(&self) -> Bos {
        self.default_bos
    }

    /// The text of some tokens. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[TokenId], special: SpecialText) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            if special == SpecialText::Keep || !self.is_special(id) {
                bytes.extend_from_slice(self.token_bytes(id));
            }
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// The bytes of one token: for a special token its text, for an unknown id nothing.
    pub fn token_bytes(&self, id: TokenId) -> &[u8] {
        self.bytes.get(id)
    }

    /// The id of a token by its exact text: a special token, or one token that stands for just these bytes.
    pub fn token_id(&self, text: &str) -> Option<TokenId> {
        let added = self.encoder.get_added_vocabulary().get_vocab().get(text).copied();
        added.or_else(|| {
            let spelled: String = text.bytes().map(byte_alphabet::char_of).collect();
            self.encoder.token_to_id(&spelled).filter(|&id| self.token_bytes(id) == text.as_bytes())
        })
    }

    /// Whether a token is a control token, which is not part of what the model says.
    pub fn is_special(&self, id: TokenId) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// Number of ids: the largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.bytes.ends.len()
    }

    /// Beginning of sequence.
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// Every id that ends an answer.
    pub fn eos(&self) -> &[TokenId] {
        &self.eos
    }

    fn byte_token(&self, byte: u8) -> Option<TokenId> {
        self.encoder.token_to_id(byte_alphabet::char_of(byte).encode_utf8(&mut [0; 4]))
    }
}

fn read(vocabulary: &Vocabulary, special: &SpecialTokens) -> Result<Option<Parts>, TextError> {
    Ok(match vocabulary {
        Vocabulary::HuggingFace(bytes) => Some(vocabulary::from_hugging_face(bytes)?),
        Vocabulary::Gguf { tokens, kinds, merges, pre } => {
            let mut parts = vocabulary::from_gguf(tokens, kinds, merges, pre)?;
            mark_control(&mut parts, tokens, special);
            Some(parts)
        }
        Vocabulary::None => None,
    })
}

/// Some GGUF files forget to mark the tokens that begin, end or pad a sequence as control tokens.
fn mark_control(parts: &mut Parts, tokens: &[String], stated: &SpecialTokens) {
    for &id in stated.bos.iter().chain(&stated.eos).chain(&stated.pad) {
        let Some(text) = tokens.get(id as usize) else { continue };
        if parts.vocab.get(text) != Some(&id) {
            continue;
        }
        let token = AddedToken::from(text.as_str(), true).normalized(false);
        match parts.added.iter_mut().find(|added| added.id == id) {
            Some(added) => added.token = token,
            None => parts.added.push(vocabulary::Added { id, token }),
        }
    }
}

fn token_bytes(parts: &Parts) -> TokenBytes {
    let ids = parts.vocab.values().max().map_or(0, |&id| id as usize + 1);
    let mut texts: Vec<Option<&str>> = vec![None; ids];
    for (text, &id) in &parts.vocab {
        // Two texts may claim an id; the choice must not depend on the order of a hash map.
        let place = &mut texts[id as usize];
        if place.is_none_or(|other| text.as_str() < other) {
            *place = Some(text);
        }
    }
    let mut is_added = vec![false; ids];
    for added in &parts.added {
        texts[added.id as usize] = Some(&added.token.content);
        is_added[added.id as usize] = true;
    }
    let mut table = TokenBytes { bytes: Vec::new(), ends: Vec::with_capacity(ids) };
    for (text, is_added) in texts.into_iter().zip(is_added) {
        match text {
            Some(text) if is_added => table.bytes.extend_from_slice(text.as_bytes()),
            Some(text) => byte_alphabet::push_bytes(text, &mut table.bytes),
            None => {}
        }
        table.ends.push(table.bytes.len());
    }
    table
}

fn encoder(parts: Parts) -> Result<Encoder, TextError> {
    let build = |error: tokenizers::Error| TextError::Build(error.to_string());
    let bpe = BPE::builder()
        .vocab_and_merges(parts.vocab, parts.merges)
        .ignore_merges(parts.ignore_merges)
        .cache_capacity(WORDS_KEPT_MAX)
        .build()
        .map_err(build)?;
    let mut encoder: Encoder = TokenizerBuilder::new()
        .with_model(bpe)
        .with_pre_tokenizer(Some(parts.pre_tokenizer))
        .build()
        .map_err(build)?;
    encoder.add_tokens(parts.added.into_iter().map(|added| added.token)).map_err(build)?;
    Ok(encoder)
}
