//! A reference's predictions in a file: the form that llama-perplexity's `--kl-divergence-base` has, as
//! `tools/perplexity/perplexity.cpp` of llama.cpp writes and reads it.
//!
//! Little endian: the 8 bytes `_logits_`; tokens of a window, tokens of the vocabulary and windows, in 32
//! bits each; the tokens of the windows, in 32 bits each; then for every prediction that counts a row: scale
//! and smallest log-probability as f32, for every token of the vocabulary the 16-bit code of its
//! log-probability, in steps of the scale above the smallest, and 2 bytes more if these are odd in number. At
//! most [`RANGE`] nats below the best are told apart.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use undine_core::TokenId;
use undine_weights::NewFile;

use super::measures::log_sum_exp;
use super::windows::Windows;
use crate::error::Error;
use crate::recode::check_room;

const MAGIC: &[u8; 8] = b"_logits_";
/// Bytes before the tokens.
const HEADER_BYTES: u64 = 20;
/// Nats below the best log-probability that are told apart.
const RANGE: f32 = 16.0;
/// Largest code.
const CODE_MAX: f32 = 65535.0;
/// Bytes of a row before its codes.
const ROW_HEADER_BYTES: usize = 8;
/// A range this near to [`RANGE`] has been cut off: what is below was not told apart.
const RANGE_SLACK: f32 = 1e-3;

/// Bytes of a row.
fn row_bytes(vocab: usize) -> usize {
    ROW_HEADER_BYTES + 2 * vocab.next_multiple_of(2)
}

/// Log-probabilities of one prediction.
#[derive(Clone, PartialEq, Debug)]
pub struct SavedRow {
    scale: f32,
    smallest: f32,
    codes: Vec<u16>,
}

impl SavedRow {
    /// From logits, which are finite.
    fn new(logits: &[f32]) -> Option<Self> {
        let norm = log_sum_exp(logits)?;
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let least = logits.iter().copied().fold(f32::INFINITY, f32::min).max(best - RANGE);
        let scale = (best - least) / CODE_MAX;
        let code = |&logit: &f32| match scale > 0.0 && logit > least {
            true => ((logit - least) / scale).round().min(CODE_MAX) as u16,
            false => 0,
        };
        let smallest = (f64::from(least) - norm) as f32;
        Some(Self { scale, smallest, codes: logits.iter().map(code).collect() })
    }

    /// Tokens of the vocabulary.
    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// The log-probability of a token, at most.
    pub fn log_prob(&self, token: usize) -> f64 {
        f64::from(self.scale) * f64::from(self.codes[token]) + f64::from(self.smallest)
    }

    /// Whether the token is so far below the best that it counts as nothing.
    pub fn is_cut_off(&self, token: usize) -> bool {
        self.codes[token] == 0 && self.scale * CODE_MAX > RANGE - RANGE_SLACK
    }

    /// The best token.
    pub fn best(&self) -> TokenId {
        let best = self.codes.iter().max();
        let place = self.codes.iter().position(|code| Some(code) == best);
        place.unwrap_or(0) as TokenId
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.extend(self.scale.to_le_bytes());
        bytes.extend(self.smallest.to_le_bytes());
        bytes.extend(self.codes.iter().flat_map(|code| code.to_le_bytes()));
        bytes.resize(row_bytes(self.codes.len()), 0);
    }

    /// From the bytes of a row; `None` if it is no row of log-probabilities.
    fn get(bytes: &[u8], vocab: usize) -> Option<Self> {
        let number = |at: usize| f32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let (scale, smallest) = (number(0), number(4));
        let pairs = bytes[ROW_HEADER_BYTES..].chunks_exact(2).take(vocab);
        let codes = pairs.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        // A log-probability is at most 0, but for rounding.
        let is_sound =
            (0.0..=2.0 * RANGE / CODE_MAX).contains(&scale) && smallest.is_finite() && smallest < RANGE;
        is_sound.then_some(Self { scale, smallest, codes })
    }
}

/// Writes a file, which appears when it is complete.
pub struct Writer {
    path: PathBuf,
    file: NewFile,
    row: Vec<u8>,
}

impl Writer {
    /// Begins a file for these windows, which do not overlap.
    ///
    /// # Errors
    /// If there is something else at `path`, too little room, or the system refuses.
    pub fn create(path: &Path, windows: &Windows, vocab: usize) -> Result<Self, Error> {
        let fail = |source| Error::file(path, source);
        if path.exists() {
            let mut magic = [0; MAGIC.len()];
            let is_ours = File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok();
            if !is_ours || magic != *MAGIC {
                return Err(Error::refused(format!(
                    "--save-logits {}: it exists and holds something else; choose another name or remove it",
                    path.display()
                )));
            }
        }
        let tokens = windows.tokens(windows.count());
        let rows = windows.scored_tokens() as u64 * row_bytes(vocab) as u64;
        check_room(path, HEADER_BYTES + 4 * tokens.len() as u64 + rows)?;
        let mut file = NewFile::create(path)?;
        let mut header = MAGIC.to_vec();
        // Limits checked at open keep every count far below 2^31.
        for count in [windows.context(), vocab, windows.count()] {
            header.extend((count as u32).to_le_bytes());
        }
        header.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        file.write_all(&header).map_err(fail)?;
        Ok(Self { path: path.to_owned(), file, row: Vec::new() })
    }

    /// Writes the next prediction that counts.
    pub fn append(&mut self, logits: &[f32]) -> Result<(), Error> {
        let row = SavedRow::new(logits).ok_or_else(super::not_finite)?;
        row.put(&mut self.row);
        self.file.write_all(&self.row).map_err(|source| Error::file(&self.path, source))
    }

    /// Puts the file in place.
    pub fn commit(self) -> Result<(), Error> {
        Ok(self.file.commit()?)
    }
}

/// A file that is read.
pub struct Saved {
    path: PathBuf,
    file: BufReader<File>,
    context: usize,
    vocab: usize,
    windows: usize,
    row: Vec<u8>,
}

impl Saved {
    /// Opens a file; nothing but its header is read.
    ///
    /// # Errors
    /// If the system refuses, or it is no such file or cut short.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::file(path, source);
        let refuse = |reason: String| Error::refused(format!("--logits {}: {reason}", path.display()));
        let mut file = BufReader::new(File::open(path).map_err(fail)?);
        let found = file.get_ref().metadata().map_err(fail)?.len();
        let mut header = [0; HEADER_BYTES as usize];
        let is_read = file.read_exact(&mut header).is_ok();
        if !is_read || !header.starts_with(MAGIC) {
            return Err(refuse(
                "expected a file that --save-logits or llama-perplexity's --kl-divergence-base wrote"
                    .to_owned(),
            ));
        }
        let count = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let [context, vocab, windows] = [8, 12, 16].map(|at| u64::from(count(at)));
        // Of 32 bits each, so the products of two cannot overflow 64, and those of three not 128.
        let rows = u128::from(context.saturating_sub(1 + context / 2)) * u128::from(windows);
        let tokens = 4 * u128::from(context * windows);
        let expected = u128::from(HEADER_BYTES) + tokens + rows * row_bytes(vocab as usize) as u128;
        if u128::from(found) != expected || rows == 0 || vocab == 0 {
            return Err(refuse(format!(
                "{windows} windows of {context} tokens of a vocabulary of {vocab} would take {expected} bytes, and \
                 {found} are there; it is damaged or was cut short, save it again"
            )));
        }
        let [context, vocab, windows] = [context, vocab, windows].map(|count| count as usize);
        Ok(Self { path: path.to_owned(), file, context, vocab, windows, row: vec![0; row_bytes(vocab)] })
    }

    /// Makes sure that it is of this text, and leaves `windows` as many as it has unless fewer were asked
    /// for.
    ///
    /// # Errors
    /// If it is of another vocabulary, text or window, or has too few windows.
    pub fn check(&mut self, windows: &mut Windows, vocab: usize, asked: Option<u32>) -> Result<(), Error> {
        let place = self.path.display().to_string();
        let refuse = |reason: String| Err(Error::refused(format!("--logits {place}: {reason}")));
        if vocab != self.vocab {
            return refuse(format!(
                "it is of a model with {} tokens, and this one has {vocab}; expected the same tokenizer",
                self.vocab
            ));
        }
        if windows.context() != self.context {
            return refuse(format!(
                "it has windows of {} tokens, found {}; add --context {}",
                self.context,
                windows.context(),
                self.context
            ));
        }
        if asked.is_some() && windows.count() > self.windows {
            return refuse(format!(
                "it has {} windows, found --chunks {}; take fewer, or save more",
                self.windows,
                windows.count()
            ));
        }
        if asked.is_none() && windows.count() < self.windows {
            return refuse(format!(
                "it has {} windows and the text {}; expected the text that it was made from",
                self.windows,
                windows.count()
            ));
        }
        windows.truncate(self.windows);
        for (i, &token) in windows.tokens(windows.count()).iter().enumerate() {
            let mut bytes = [0; 4];
            self.file.read_exact(&mut bytes).map_err(|source| Error::file(&self.path, source))?;
            let found = u32::from_le_bytes(bytes);
            if found != token {
                return refuse(format!(
                    "its token {i} is {found}, and the text's is {token}; expected the same text and tokenizer"
                ));
            }
        }
        let rows = HEADER_BYTES + 4 * (self.context * self.windows) as u64;
        self.file.seek(SeekFrom::Start(rows)).map_err(|source| Error::file(&self.path, source))?;
        Ok(())
    }

    /// How many predictions there are, all of which can be read, whatever the text.
    pub fn count_rows(mut self) -> Result<u64, Error> {
        let rows = HEADER_BYTES + 4 * (self.context * self.windows) as u64;
        self.file.seek(SeekFrom::Start(rows)).map_err(|source| Error::file(&self.path, source))?;
        let end = self.file.get_ref().metadata().map_err(|source| Error::file(&self.path, source))?.len();
        let count = (end - rows) / self.row.len() as u64;
        for _ in 0..count {
            let row = self.read()?;
            assert!((row.best() as usize) < row.len(), "the best token is one of the vocabulary");
        }
        Ok(count)
    }

    /// The next prediction that counts.
    pub fn read(&mut self) -> Result<SavedRow, Error> {
        self.file.read_exact(&mut self.row).map_err(|source| Error::file(&self.path, source))?;
        SavedRow::get(&self.row, self.vocab).ok_or_else(|| {
            Error::refused(format!(
                "--logits {}: it has log-probabilities that are no numbers below 0; it is damaged, save it again",
                self.path.display()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::windows::Scoring;
    use super::*;

    #[test]
    fn rows_keep_log_probabilities_to_a_step() {
        let odd = [2.0, 1.0, -3.0, -40.0, 2.5];
        for logits in [&odd[..], &[0.0; 4], &[1000.0, 999.0], &[-5.0]] {
            let row = SavedRow::new(logits).expect("finite");
            let mut bytes = Vec::new();
            row.put(&mut bytes);
            assert_eq!(bytes.len(), row_bytes(logits.len()));
            assert_eq!(SavedRow::get(&bytes, logits.len()), Some(row.clone()));
            let norm = log_sum_exp(logits).expect("finite");
            for (token, &logit) in logits.iter().enumerate() {
                let expected = f64::from(logit) - norm;
                if row.is_cut_off(token) {
                    assert!(expected < -16.0, "{expected}");
                } else {
                    assert!((row.log_prob(token) - expected).abs() < 1.3e-4, "{logits:?}: {token}");
                }
            }
        }
        let row = SavedRow::new(&odd).expect("finite");
        assert_eq!((row.best(), row.is_cut_off(3), row.is_cut_off(2)), (4, true, false));
        assert_eq!(SavedRow::new(&[0.0, f32::NAN]), None);
        for (scale, smallest) in
            [(f32::NAN, -1.0), (0.1, f32::INFINITY), (-0.1, -1.0), (1e9, -1.0), (0.1, 90.0)]
        {
            let mut bytes = vec![0; row_bytes(2)];
            bytes[..4].copy_from_slice(&scale.to_le_bytes());
            bytes[4..8].copy_from_slice(&smallest.to_le_bytes());
            assert_eq!(SavedRow::get(&bytes, 2), None, "{scale} {smallest}");
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.logits");
        let windows =
            Windows::cut((0..9).collect(), 4, Scoring::SecondHalf, None, None).expect("two windows");
        let mut writer = Writer::create(&path, &windows, 3).expect("creates");
        assert!(!path.exists(), "it appears when it is complete");
        (0..windows.scored_tokens()).for_each(|_| writer.append(&[0.0, 1.0, 2.0]).expect("writes"));
        writer.commit().expect("commits");
        let good = std::fs::read(&path).expect("there");
        let mut saved = Saved::open(&path).expect("opens");
        let mut same =
            Windows::cut((0..9).collect(), 4, Scoring::SecondHalf, None, None).expect("two windows");
        saved.check(&mut same, 3, None).expect("the same text");
        (0..same.scored_tokens()).for_each(|_| assert_eq!(saved.read().expect("a row").best(), 2));
        let changed = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            bad
        };
        let most = u32::MAX.to_le_bytes();
        for bad in [
            Vec::new(),
            b"_logits_".to_vec(),
            good[..good.len() - 1].to_vec(),
            [&good[..], &[0]].concat(),
            changed(0, b"x"),
            changed(8, &most),
            changed(12, &most),
            changed(16, &most),
            changed(8, &[most, most, most].concat()),
            changed(8, &[0; 12]),
        ] {
            std::fs::write(&path, &bad).expect("writes");
            assert!(matches!(Saved::open(&path), Err(Error::Refused(_))), "{} bytes", bad.len());
        }
    }
}
