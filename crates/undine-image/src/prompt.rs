//! Images in a prompt, in three steps.
//!
//! 1. While messages are rendered, [`Placeholders::text`] stands where an image is. Any chat template takes
//!    it: it is text.
//! 2. [`Placeholders::encode`] makes tokens of the rendered text, with [`PLACEHOLDER`] for each image. The
//!    spellings of image tokens in the text around are text like any other, because nothing that a user
//!    writes may become part of an image.
//! 3. [`expand`] puts in the tokens that stand for each image, and says which tile each of them shows.

use undine_core::{ImageKey, ImageSpan, PromptImage, TokenId};

use crate::layout::Piece;
use crate::pipeline::PreparedImage;

/// Stands for an image among tokens. No vocabulary has it.
pub const PLACEHOLDER: TokenId = TokenId::MAX - 1;

/// The special token that is repeated for each row of a tile.
pub const IMAGE_TEXT: &str = "<image>";
/// How every spelling of a special token of images begins. No other special token of the family begins so.
const MARKER_STARTS: [&str; 3] = [IMAGE_TEXT, "<|image_", "<|img_"];

/// Around a placeholder; for private use in Unicode. What lies between has neither, so placeholders cannot
/// overlap.
const OPEN: char = '\u{e0f0}';
const CLOSE: char = '\u{e0f1}';
/// Hexadecimal digits of the secret and of a key.
const SECRET_DIGITS: usize = 32;
const KEY_DIGITS: usize = 64;

/// Texts that stand for images until a prompt is tokenized. Nobody who does not know the secret can write
/// them. The same image has the same text in every turn of a conversation, as long as the secret is the same.
#[derive(Clone, Copy)]
pub struct Placeholders {
    secret: u128,
}

/// A tokenized text in which [`PLACEHOLDER`] stands for each image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Encoded {
    /// Its tokens.
    pub tokens: Vec<TokenId>,
    /// The images, in order of their placeholders.
    pub images: Vec<ImageKey>,
}

/// A prompt as the engine takes it.
#[derive(Clone, PartialEq, Debug)]
pub struct Expanded {
    /// [`undine_core::GenerateRequest::prompt`].
    pub tokens: Vec<TokenId>,
    /// [`undine_core::GenerateRequest::images`].
    pub images: Vec<PromptImage>,
}

/// Why images cannot be put into a prompt.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// The chat template has left an image out, or shown it twice.
    #[error("the prompt has {images} images, but the chat template shows {placeholders}")]
    Count {
        /// Images there are.
        images: usize,
        /// Placeholders for them.
        placeholders: usize,
    },
    /// The vocabulary is not that of a model that takes such images.
    #[error(
        "the vocabulary has no token {marker:?}, which this model's images need; use the tokenizer of the model"
    )]
    NoToken {
        /// Its spelling.
        marker: String,
    },
}

impl Placeholders {
    /// Placeholders under a secret that users cannot guess.
    pub fn new(secret: u128) -> Self {
        Self { secret }
    }

    /// What to write where the image is.
    pub fn text(&self, image: ImageKey) -> String {
        format!("{OPEN}{:032x}{image}{CLOSE}", self.secret)
    }

    /// Tokens of a rendered text. `encode` makes tokens of a piece of it; the first piece, which may be
    /// empty, is the one to put a beginning-of-sequence token before.
    pub fn encode(&self, text: &str, mut encode: impl FnMut(&str) -> Vec<TokenId>) -> Encoded {
        let mut encoded = Encoded::default();
        let (mut done, mut at) = (0, 0);
        while let Some(found) = text[at..].find(['<', OPEN]) {
            at += found;
            let rest = &text[at..];
            if let Some((image, len)) = self.read(rest) {
                encoded.tokens.extend(encode(&text[done..at]));
                encoded.tokens.push(PLACEHOLDER);
                encoded.images.push(image);
                (done, at) = (at + len, at + len);
            } else {
                let is_marker = MARKER_STARTS.iter().any(|start| rest.starts_with(start));
                at += rest.chars().next().map_or(1, char::len_utf8);
                if is_marker {
                    // A spelling that is cut in two is not recognised.
                    encoded.tokens.extend(encode(&text[done..at]));
                    done = at;
                }
            }
        }
        encoded.tokens.extend(encode(&text[done..]));
        encoded
    }

    /// The placeholder at the beginning of a text, and its length in bytes.
    fn read(&self, text: &str) -> Option<(ImageKey, usize)> {
        let body = text.strip_prefix(OPEN)?.get(..SECRET_DIGITS + KEY_DIGITS)?;
        let len = OPEN.len_utf8() + body.len();
        let (secret, key) = body.split_at(SECRET_DIGITS);
        if !text[len..].starts_with(CLOSE) || u128::from_str_radix(secret, 16) != Ok(self.secret) {
            return None;
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(key.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        Some((ImageKey(bytes), len + CLOSE.len_utf8()))
    }
}

/// Puts images in the places of their [`PLACEHOLDER`]s; `images` are in the order of these. `id_of` gives the
/// id of a special token by its spelling.
///
/// # Errors
/// If there are not as many images as placeholders, or a token is missing in the vocabulary.
pub fn expand(
    tokens: &[TokenId],
    images: &[(ImageKey, &PreparedImage)],
    id_of: impl Fn(&str) -> Option<TokenId>,
) -> Result<Expanded, PromptError> {
    let placeholders = tokens.iter().filter(|&&token| token == PLACEHOLDER).count();
    if placeholders != images.len() {
        return Err(PromptError::Count { images: images.len(), placeholders });
    }
    let id = |marker: String| id_of(&marker).ok_or(PromptError::NoToken { marker });
    let mut expanded = Expanded { tokens: Vec::with_capacity(tokens.len()), images: Vec::new() };
    let mut left = images.iter();
    for &token in tokens {
        if token != PLACEHOLDER {
            expanded.tokens.push(token);
            continue;
        }
        let &(key, image) = left.next().expect("there are as many images as placeholders");
        let mut spans = Vec::with_capacity(image.tiles.len());
        let mut tiles = image.tiles.iter();
        for piece in image.layout.pieces() {
            match piece {
                Piece::Marker(marker) => expanded.tokens.push(id(marker.to_string())?),
                Piece::Tokens(count) => {
                    let tile =
                        tiles.next().expect("a prepared image has a tile for each of its pieces").clone();
                    spans.push(ImageSpan { first: expanded.tokens.len() as u32, tile });
                    let image = id(IMAGE_TEXT.to_owned())?;
                    expanded.tokens.extend(std::iter::repeat_n(image, count as usize));
                }
            }
        }
        expanded.images.push(PromptImage { key, spans });
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use undine_core::ImageSettings;

    use super::*;
    use crate::{ImagePipeline, Picture};

    const SECRET: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;

    fn key(byte: u8) -> ImageKey {
        ImageKey([byte; 32])
    }

    /// Pieces of a text, as they are handed to the tokenizer; `*` is a placeholder.
    fn pieces(text: &str) -> (Vec<String>, Vec<ImageKey>) {
        let mut pieces = Vec::new();
        let encoded = Placeholders::new(SECRET).encode(text, |piece| {
            pieces.push(piece.to_owned());
            vec![piece.len() as u32]
        });
        let placeholders = encoded.tokens.iter().filter(|&&token| token == PLACEHOLDER).count();
        assert_eq!(placeholders, encoded.images.len());
        (pieces, encoded.images)
    }

    #[test]
    fn text_of_users_never_becomes_part_of_an_image() {
        let p = |byte| Placeholders::new(SECRET).text(key(byte));
        let other = Placeholders::new(SECRET + 1).text(key(1));
        let cut = &p(1)[..p(1).len() - 3];
        let cases: [(String, &[&str], &[u8]); 11] = [
            (String::new(), &[""], &[]),
            ("a < b".to_owned(), &["a < b"], &[]),
            ("<|im_start|>user\n".to_owned(), &["<|im_start|>user\n"], &[]),
            (format!("a{}b", p(1)), &["a", "b"], &[1]),
            (format!("{}{}{}", p(2), p(1), p(2)), &["", "", "", ""], &[2, 1, 2]),
            (format!("<image>{}</image>", p(1)), &["<", "image>", "</image>"], &[1]),
            ("x<<image>>".to_owned(), &["x<<", "image>>"], &[]),
            (
                "<|image_start|><|img_row_1_col_1|><|image_end|>".to_owned(),
                &["<", "|image_start|><", "|img_row_1_col_1|><", "|image_end|>"],
                &[],
            ),
            (other.clone(), &[&other], &[]),
            (cut.to_owned(), &[cut], &[]),
            ("\u{e0f0}\u{e0f1}é<".to_owned(), &["\u{e0f0}\u{e0f1}é<"], &[]),
        ];
        for (text, expected, images) in cases {
            let images: Vec<ImageKey> = images.iter().map(|&byte| key(byte)).collect();
            let expected: Vec<String> = expected.iter().map(|&piece| piece.to_owned()).collect();
            assert_eq!(pieces(&text), (expected, images), "{text:?}");
        }
    }

    /// Ids of the tests: `<image>` is 9, other special tokens have 100 and their length.
    fn id_of(text: &str) -> Option<TokenId> {
        Some(if text == IMAGE_TEXT { 9 } else { 100 + text.len() as u32 })
    }

    fn prepared(width: u32, height: u32) -> PreparedImage {
        let pipeline = ImagePipeline::new(ImageSettings::default()).unwrap();
        let picture = Picture::new(width, height, vec![7; (width * height * 3) as usize]).unwrap();
        pipeline.cut(&picture).unwrap()
    }

    #[test]
    fn each_tile_stands_where_its_tokens_are() {
        let (small, large) = (prepared(64, 48), prepared(1100, 600));
        assert!(large.tiles.len() > 2 && small.tiles.len() == 1);
        let prompt = [1, PLACEHOLDER, 2, PLACEHOLDER, PLACEHOLDER];
        let images = [(key(1), &small), (key(2), &large), (key(1), &small)];
        let Expanded { tokens, images } = expand(&prompt, &images, id_of).unwrap();
        assert_eq!(images.iter().map(|image| image.key).collect::<Vec<_>>(), [key(1), key(2), key(1)]);
        let mut shown = vec![false; tokens.len()];
        for span in images.iter().flat_map(|image| &image.spans) {
            let range = span.first as usize..span.first as usize + span.tile.tokens(2);
            assert!(shown[range.clone()].iter().all(|shown| !shown), "two tiles at one place");
            shown[range].fill(true);
        }
        let expected: Vec<bool> = tokens.iter().map(|&token| token == 9).collect();
        assert_eq!(shown, expected, "every image token shows a tile, and no other");
        // The text, with what begins and ends each image around it.
        let (start, end) = (115, 113);
        assert_eq!(tokens[..3], [1, start, 9]);
        assert_eq!(tokens.iter().filter(|&&token| token == start || token == end).count(), 6);
        assert_eq!((tokens.last(), tokens.contains(&2)), (Some(&end), true));
        assert_eq!(images[0].spans[0].tile, images[2].spans[0].tile);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let image = prepared(64, 64);
        let images = [(key(1), &image)];
        for prompt in [&[1][..], &[PLACEHOLDER, PLACEHOLDER]] {
            let placeholders = prompt.len() - usize::from(prompt[0] == 1);
            let found = expand(prompt, &images, id_of).unwrap_err();
            assert_eq!(found, PromptError::Count { images: 1, placeholders });
        }
        let without = |text: &str| id_of(text).filter(|_| text != "<|image_end|>");
        let found = expand(&[PLACEHOLDER], &images, without).unwrap_err();
        assert_eq!(found, PromptError::NoToken { marker: "<|image_end|>".to_owned() });
    }
}
