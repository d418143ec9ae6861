//! How much of the beginning of a weight file tells what is in it, for whoever wants to know before the rest
//! is fetched.
//!
//! Nothing is decided here: with the headers in place, in files of full size whose rest is a hole,
//! [`crate::Checkpoint::open`] decides, as it will for the whole files. Data of weights must not be trusted
//! then: all of it reads as zero.

use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::gguf::MAGIC;
use crate::gguf_write::GgufWriter;
use crate::limits::{METADATA_MAX, SAFETENSORS_HEADER_BYTES_MAX, TENSORS_MAX};
use crate::value::{ARRAY_KIND, Value};

/// Bytes that are asked for first: the general keys of a GGUF file are among them, and a small model's
/// safetensors header.
pub const FIRST_BYTES: u64 = 64 << 10;
/// How many times as many are asked for when they were too few.
const GROWTH: u64 = 4;
/// Kind of a text among GGUF's values.
const STRING_KIND: u32 = 8;
/// What the keys about the file as a whole begin with.
const GENERAL: &str = "general.";
/// Without this one nothing can be said.
const ARCHITECTURE: &str = "general.architecture";

/// Whether a header is among the bytes that are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// All of it; or what is there is no header, which opening the file will say.
    Whole,
    /// So many bytes from the file's start must be there to go on.
    Needs(u64),
}

/// How far the beginning of a safetensors file reaches.
pub fn safetensors_reach(known: &[u8]) -> Reach {
    let Some(length) = known.first_chunk::<8>() else { return Reach::Needs(FIRST_BYTES) };
    let needed = u64::from_le_bytes(*length).saturating_add(8);
    match needed > SAFETENSORS_HEADER_BYTES_MAX || needed <= known.len() as u64 {
        true => Reach::Whole,
        false => Reach::Needs(needed),
    }
}

/// How far the beginning of a GGUF file reaches.
pub fn gguf_reach(known: &[u8]) -> Reach {
    match walk(known).0 {
        Some(()) => Reach::Whole,
        None => Reach::Needs((known.len() as u64 * GROWTH).max(FIRST_BYTES)),
    }
}

/// Why a language model's GGUF file that begins so is not opened, whatever else it holds: what opening it
/// would say of the general keys among these bytes.
pub fn gguf_refusal(known: &[u8]) -> Option<Error> {
    let general = walk(known).1;
    if !general.iter().any(|(key, _)| key == ARCHITECTURE) {
        return None;
    }
    let bytes = GgufWriter::new(Vec::new(), &general, &[]).and_then(GgufWriter::finish).ok()?;
    match Checkpoint::from_gguf_bytes(bytes) {
        // Everything else is missing, of course.
        Err(error @ Error::Unsupported(_)) => Some(error),
        _ => None,
    }
}

/// Whether a header ends among these bytes, and the texts of general keys.
fn walk(known: &[u8]) -> (Option<()>, Vec<(String, Value)>) {
    let mut walk = Walk { bytes: known, at: 0 };
    let mut general = Vec::new();
    let ended = walk.header(&mut general);
    (ended, general)
}

/// A walk through a GGUF header that keeps nothing but texts of general keys.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    /// `None` where the bytes end.
    fn header(&mut self, general: &mut Vec<(String, Value)>) -> Option<()> {
        if self.take(4)? != MAGIC {
            return Some(());
        }
        self.u32()?;
        let (tensors, entries) = (self.u64()?, self.u64()?);
        if tensors > TENSORS_MAX || entries > METADATA_MAX {
            return Some(());
        }
        for _ in 0..entries {
            let key = self.text()?;
            let kind = self.u32()?;
            if kind == STRING_KIND && key.starts_with(GENERAL.as_bytes()) {
                let (Ok(key), Ok(text)) = (std::str::from_utf8(key), std::str::from_utf8(self.text()?))
                else {
                    return Some(());
                };
                general.push((key.to_owned(), Value::String(text.to_owned())));
            } else if !self.value(kind)? {
                return Some(());
            }
        }
        for _ in 0..tensors {
            self.text()?;
            let dims = u64::from(self.u32()?);
            self.skip(dims.checked_mul(8)?)?;
            self.skip(4 + 8)?;
        }
        // The last bytes were skipped and not looked at.
        (self.at <= self.bytes.len()).then_some(())
    }

    /// Skips a value; `Some(false)` for a kind that there is not.
    fn value(&mut self, kind: u32) -> Option<bool> {
        if kind == STRING_KIND {
            self.text()?;
            return Some(true);
        }
        if kind != ARRAY_KIND {
            let Some(bytes) = value_bytes(kind) else { return Some(false) };
            self.skip(bytes)?;
            return Some(true);
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        if kind == STRING_KIND {
            for _ in 0..count {
                self.text()?;
            }
            return Some(true);
        }
        let Some(bytes) = value_bytes(kind) else { return Some(false) };
        self.skip(bytes.checked_mul(count)?)?;
        Some(true)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let found = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(found)
    }

    fn skip(&mut self, len: u64) -> Option<()> {
        self.at = self.at.checked_add(usize::try_from(len).ok()?)?;
        Some(())
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes were taken")))
    }

    /// A text with its length; keys and tokens are alike here.
    fn text(&mut self) -> Option<&'a [u8]> {
        let len = self.u64()?;
        self.take(usize::try_from(len).ok()?)
    }
}

/// Bytes of a value that is not a text or a list.
fn value_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use undine_core::DType;

    use super::*;
    use crate::gguf_write::TensorDeclaration;
    use crate::value::Array;

    fn gguf(architecture: &str, tokens: usize) -> Vec<u8> {
        let metadata = [
            ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
            ("a.flag".to_owned(), Value::Bool(true)),
            ("a.numbers".to_owned(), Value::Array(Array::U32(vec![7; tokens]))),
            ("a.tokens".to_owned(), Value::Array(Array::String(vec!["token".to_owned(); tokens]))),
            ("general.name".to_owned(), Value::String("late".to_owned())),
        ];
        let tensor = TensorDeclaration { name: "x".to_owned(), dtype: DType::F32, shape: vec![2, 2] };
        let mut writer = GgufWriter::new(Vec::new(), &metadata, &[tensor]).expect("begins");
        writer.append(&[0; 16]).expect("appends");
        writer.finish().expect("ends")
    }

    #[test]
    fn a_header_is_whole_or_asks_for_more() {
        let bytes = gguf("lfm2", 30_000);
        // Where the last byte of the table is: name, dimensions, type and offset of the only tensor, then
        // padding and data.
        let header = bytes.len() - 16;
        let reach = |len: usize| gguf_reach(&bytes[..len]);
        for (len, whole) in
            [(0, false), (3, false), (100, false), (header / 2, false), (header, true), (bytes.len(), true)]
        {
            assert_eq!(reach(len) == Reach::Whole, whole, "{len} of {header}");
        }
        assert_eq!(reach(100), Reach::Needs(FIRST_BYTES));
        assert_eq!(reach(200_000), Reach::Needs(800_000));
        // At every step of asking it gets further, and it ends.
        let (mut known, mut steps) = (0, 0);
        while let Reach::Needs(bytes_needed) = reach(known) {
            assert!(bytes_needed as usize > known);
            (known, steps) = ((bytes_needed as usize).min(bytes.len()), steps + 1);
        }
        assert!(steps <= 4, "{steps}");
        assert_eq!(gguf_reach(b"no GGUF at all"), Reach::Whole, "opening it will say so");
        assert!(gguf_refusal(&bytes[..200]).is_none(), "its architecture is known");
    }

    #[test]
    fn general_keys_decide_before_the_rest_is_there() {
        let bytes = gguf("llama", 30_000);
        let error = gguf_refusal(&bytes[..200]).expect("another architecture").to_string();
        assert!(error.contains("\"llama\"") && error.contains("lfm2"), "{error}");
        assert!(gguf_refusal(&bytes[..20]).is_none(), "not yet");
    }

    #[test]
    fn a_safetensors_header_says_its_length() {
        let mut bytes = 100_u64.to_le_bytes().to_vec();
        assert_eq!(safetensors_reach(&bytes[..7]), Reach::Needs(FIRST_BYTES));
        assert_eq!(safetensors_reach(&bytes), Reach::Needs(108));
        bytes.resize(108, b' ');
        assert_eq!(safetensors_reach(&bytes), Reach::Whole);
        assert_eq!(safetensors_reach(&[0xFF; 8]), Reach::Whole, "opening it will say so");
    }
}
