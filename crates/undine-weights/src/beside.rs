//! Text files beside a GGUF file. What the file itself holds is right; what it lacks may lie there, if it is
//! the same model's.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use undine_core::{TokenId, Vocabulary};

use crate::checkpoint::Checkpoint;
use crate::text_files::{TOKENIZER, TextFiles};
use crate::vocabulary::{hugging_face, tokenizer_file};
use crate::{Error, json};

/// How much of the embedding's rows a tokenizer must have words for, in hundredths, to be thought the
/// model's.
const ROWS_NAMED_MIN: usize = 80;

/// The tokens of a tokenizer.json.
#[derive(Deserialize)]
struct Tokens {
    model: Words,
}

#[derive(Deserialize)]
struct Words {
    vocab: HashMap<String, TokenId>,
}

/// Gives a GGUF checkpoint what it lacks and what lies beside it: a vocabulary, a chat template. Nothing is
/// taken from another model's files, and a sentence says so.
pub(crate) fn adopt_text(checkpoint: &mut Checkpoint, path: &Path) {
    let has_words = checkpoint.text.vocabulary != Vocabulary::None;
    if has_words && !checkpoint.text.chat_templates.is_empty() {
        return;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match adopted(checkpoint, folder) {
        Ok(Some(sentence)) => checkpoint.repairs.push(sentence),
        Ok(None) => {}
        Err(error) => checkpoint.repairs.push(format!("Files beside the model are not used: {error}.")),
    }
}

fn adopted(checkpoint: &mut Checkpoint, folder: &Path) -> Result<Option<String>, Error> {
    let files = TextFiles::read(folder)?;
    let same = files.tokenizer.as_deref().map(|bytes| is_the_same(checkpoint, bytes)).transpose()?;
    let vocab = checkpoint.config.vocab;
    if same == Some(false) {
        return Ok(Some(format!(
            "{TOKENIZER} and the templates beside the file are not used: their tokens are not those of this model."
        )));
    }
    let has_words = checkpoint.text.vocabulary != Vocabulary::None;
    let mut parsed = files.parse(None)?;
    if !has_words {
        if same.is_none() {
            return Ok(None);
        }
        // What the file says of sampling stays.
        let sampling_defaults = checkpoint.text.sampling_defaults;
        let own = std::mem::take(&mut checkpoint.text.chat_templates);
        let mut text = hugging_face(parsed, vocab, &mut checkpoint.repairs)?;
        text.chat_templates = own.or(text.chat_templates);
        text.sampling_defaults = sampling_defaults;
        checkpoint.text = text;
        return Ok(Some(format!("The file has no tokenizer; {TOKENIZER} beside it is used.")));
    }
    parsed.tokenizer = None;
    let templates = hugging_face(parsed, vocab, &mut Vec::new())?.chat_templates;
    let Some(plain) = templates.plain() else { return Ok(None) };
    if same.is_none() && !writes_known_tokens(checkpoint, plain) {
        return Ok(Some(
            "The chat template beside the file is not used: it writes no token of this model.".to_owned(),
        ));
    }
    checkpoint.text.chat_templates = templates;
    Ok(Some("The file has no chat template; the one in the files beside it is used.".to_owned()))
}

/// Whether a tokenizer.json has the tokens of the checkpoint, or as many as it needs if it has none.
fn is_the_same(checkpoint: &Checkpoint, bytes: &[u8]) -> Result<bool, Error> {
    let bytes = json::without_mark(bytes);
    let added = tokenizer_file(bytes)?;
    let fail =
        |error: serde_json::Error| Error::Json { file: TOKENIZER.to_owned(), reason: error.to_string() };
    let Tokens { model } = serde_json::from_slice(bytes).map_err(fail)?;
    let words = || model.vocab.iter().map(|(text, id)| (*id, text.as_str())).chain(added.added());
    let rows = checkpoint.config.vocab;
    let count = words().map(|(id, _)| id as usize + 1).max().unwrap_or(0);
    Ok(match &checkpoint.text.vocabulary {
        Vocabulary::Gguf { tokens, .. } => {
            let is_same =
                |(id, text): (TokenId, &str)| tokens.get(id as usize).is_some_and(|token| token == text);
            count > 0 && words().all(is_same)
        }
        Vocabulary::HuggingFace(_) | Vocabulary::None => {
            count <= rows && 100 * count >= ROWS_NAMED_MIN * rows
        }
    })
}

/// Whether a template writes a special token that the vocabulary has.
fn writes_known_tokens(checkpoint: &Checkpoint, template: &str) -> bool {
    let Vocabulary::Gguf { tokens, kinds, .. } = &checkpoint.text.vocabulary else { return false };
    let special = tokens.iter().zip(kinds).filter(|(text, kind)| **kind != 1 && text.len() > 2);
    let mut special = special.map(|(text, _)| text.as_str());
    special.any(|text| template.contains(text))
}
