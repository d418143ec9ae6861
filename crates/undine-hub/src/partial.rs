//! A file that is not there completely: its bytes so far, and a record of which they are.
//!
//! `ETAG.undine.incomplete` has the size of the whole file from the start. `ETAG.undine.ranges` begins with a
//! line that says what is fetched, followed by a line with the number of each chunk that has arrived. Lines
//! are only ever added, so a process may end at any moment; a chunk written before a loss of power but not
//! yet on the disk is found by the hash. The names end differently from those of other tools, which read the
//! size of such a file as its progress.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::api::RemoteFile;
use crate::error::Error;

/// Bytes that are recorded at once: what at most is fetched again, for each connection.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes asked for in one request, at most.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Longest record: a line of at most 8 bytes for each chunk of a file of some terabytes.
const RECORD_BYTES_MAX: u64 = 8 << 20;
/// First word of a record, with the version of its form.
const MAGIC: &str = "undine-ranges-1";
const DATA: &str = ".undine.incomplete";
const RECORD: &str = ".undine.ranges";

/// A file on its way.
#[derive(Debug)]
pub(crate) struct Partial {
    data: PathBuf,
    record_path: PathBuf,
    bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    record: File,
    has: Vec<bool>,
}

fn with_ending(blob: &Path, ending: &str) -> PathBuf {
    let name = blob.file_name().expect("contents have names").to_string_lossy();
    blob.with_file_name(format!("{name}{ending}"))
}

fn header(file: &RemoteFile) -> String {
    format!("{MAGIC} {} {} {CHUNK_BYTES} {}\n", file.etag, file.bytes, file.path)
}

fn chunk_count(bytes: u64) -> usize {
    bytes.div_ceil(CHUNK_BYTES) as usize
}

/// The chunks that a record says are there, if it is about this file and the bytes are there too.
fn recorded(blob: &Path, file: &RemoteFile) -> Option<Vec<bool>> {
    let path = with_ending(blob, RECORD);
    let has_data = fs::metadata(with_ending(blob, DATA)).ok()?.len() == file.bytes;
    if !has_data || fs::metadata(&path).ok()?.len() > RECORD_BYTES_MAX {
        return None;
    }
    let text = fs::read_to_string(&path).ok()?;
    let lines = text.strip_prefix(&header(file))?;
    let mut has = vec![false; chunk_count(file.bytes)];
    // The last line may have been cut off: without its end it is not counted.
    for line in lines.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        if let Some(chunk) = line.parse::<usize>().ok().and_then(|chunk| has.get_mut(chunk)) {
            *chunk = true;
        }
    }
    Some(has)
}

fn bytes_of(has: &[bool], bytes: u64) -> u64 {
    let size = |chunk: usize| CHUNK_BYTES.min(bytes - chunk as u64 * CHUNK_BYTES);
    has.iter().enumerate().filter(|(_, has)| **has).map(|(chunk, _)| size(chunk)).sum()
}

/// Bytes of a file that have arrived earlier.
pub(crate) fn bytes_done(blob: &Path, file: &RemoteFile) -> u64 {
    recorded(blob, file).map_or(0, |has| bytes_of(&has, file.bytes))
}

/// Removes what is left of earlier contents of the same file; call with the lock of this one.
pub(crate) fn remove_outdated(blob: &Path, file: &RemoteFile) {
    let Some(Ok(folder)) = blob.parent().map(fs::read_dir) else { return };
    for entry in folder.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(etag) = name.strip_suffix(RECORD).filter(|etag| *etag != file.etag) else { continue };
        let text = entry.metadata().ok().filter(|metadata| metadata.len() <= RECORD_BYTES_MAX);
        let text = text.and_then(|_| fs::read_to_string(entry.path()).ok()).unwrap_or_default();
        let mut words = text.lines().next().unwrap_or_default().splitn(5, ' ');
        if words.next() == Some(MAGIC) && words.nth(3) == Some(&file.path) {
            let old = blob.with_file_name(etag);
            // What cannot be removed is in nobody's way.
            drop(fs::remove_file(with_ending(&old, DATA)));
            drop(fs::remove_file(with_ending(&old, RECORD)));
        }
    }
}

impl Partial {
    /// Goes on with what is there, or starts.
    pub fn open(blob: &Path, file: &RemoteFile) -> Result<Self, Error> {
        let (data, record_path) = (with_ending(blob, DATA), with_ending(blob, RECORD));
        let options = || {
            let mut options = File::options();
            options.create(true).append(true);
            options
        };
        let (record, has) = match recorded(blob, file) {
            Some(has) => {
                // Written again: a last line that was cut off must not be completed by what follows.
                let mut text = header(file);
                text.extend(
                    has.iter().enumerate().filter(|(_, has)| **has).map(|(chunk, _)| format!("{chunk}\n")),
                );
                let fresh = with_ending(blob, ".undine.ranges.new");
                fs::write(&fresh, text).map_err(Error::file(&fresh))?;
                fs::rename(&fresh, &record_path).map_err(Error::file(&record_path))?;
                (options().open(&record_path).map_err(Error::file(&record_path))?, has)
            }
            None => {
                let fresh = File::create(&data).map_err(Error::file(&data))?;
                fresh.set_len(file.bytes).map_err(Error::file(&data))?;
                drop(fs::remove_file(&record_path));
                let mut record = options().open(&record_path).map_err(Error::file(&record_path))?;
                record.write_all(header(file).as_bytes()).map_err(Error::file(&record_path))?;
                (record, vec![false; chunk_count(file.bytes)])
            }
        };
        Ok(Self { data, record_path, bytes: file.bytes, state: Mutex::new(State { record, has }) })
    }

    /// Where the bytes are.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The size of the whole file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// For writing; every user has a position of its own.
    pub fn writer(&self) -> Result<File, Error> {
        File::options().write(true).open(&self.data).map_err(Error::file(&self.data))
    }

    /// Ranges to ask for, each beginning with a chunk: about one for each of `connections`, more of a large
    /// file.
    pub fn missing(&self, connections: usize) -> VecDeque<Range<u64>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.bytes - bytes_of(&state.has, self.bytes);
        let range_bytes = left.div_ceil(connections as u64).next_multiple_of(CHUNK_BYTES).min(SEGMENT_BYTES);
        let mut ranges: VecDeque<Range<u64>> = VecDeque::new();
        for (chunk, _) in state.has.iter().enumerate().filter(|(_, has)| !**has) {
            let start = chunk as u64 * CHUNK_BYTES;
            let end = (start + CHUNK_BYTES).min(self.bytes);
            match ranges.back_mut() {
                Some(last) if last.end == start && end - last.start <= range_bytes => last.end = end,
                _ => ranges.push_back(start..end),
            }
        }
        ranges
    }

    /// Bytes that are there.
    pub fn bytes_done(&self) -> u64 {
        bytes_of(&self.state.lock().unwrap_or_else(PoisonError::into_inner).has, self.bytes)
    }

    /// Records every chunk that ends in `before..=after`: all before it in its range has been written.
    pub fn record(&self, before: u64, after: u64) -> Result<(), Error> {
        let ended = |at: u64| if at == self.bytes { chunk_count(at) } else { (at / CHUNK_BYTES) as usize };
        let chunks = (before / CHUNK_BYTES) as usize..ended(after);
        if chunks.is_empty() {
            return Ok(());
        }
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: String = chunks.clone().map(|chunk| format!("{chunk}\n")).collect();
        state.record.write_all(lines.as_bytes()).map_err(Error::file(&self.record_path))?;
        state.has[chunks].fill(true);
        Ok(())
    }

    /// Puts the complete file into its place, at once.
    pub fn finish(&self, blob: &Path) -> Result<(), Error> {
        let file = File::open(&self.data).map_err(Error::file(&self.data))?;
        match file.sync_all() {
            // Some file systems know no such thing.
            Err(error) if error.kind() != io::ErrorKind::Unsupported => {
                return Err(Error::file(&self.data)(error));
            }
            _ => {}
        }
        fs::rename(&self.data, blob).map_err(Error::file(blob))?;
        drop(fs::remove_file(&self.record_path));
        Ok(())
    }

    /// Throws everything away.
    pub fn discard(&self) {
        drop(fs::remove_file(&self.record_path));
        drop(fs::remove_file(&self.data));
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "what is missing is a list of ranges")]
mod tests {
    use super::*;
    use crate::hash::Digest;

    /// Spoils a record and its data.
    type Damage = fn(&Path, &Path);

    fn remote(etag: &str, bytes: u64) -> RemoteFile {
        RemoteFile { path: "a b.gguf".to_owned(), bytes, etag: etag.to_owned(), digest: Digest::Unknown }
    }

    #[test]
    fn what_has_arrived_is_known_later_and_only_for_the_same_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let blob = folder.path().join("abc");
        let bytes = 3 * CHUNK_BYTES + 5;
        let file = remote("abc", bytes);
        let partial = Partial::open(&blob, &file).expect("opens");
        assert_eq!(partial.missing(1), [0..bytes]);
        assert_eq!(partial.missing(2), [0..2 * CHUNK_BYTES, 2 * CHUNK_BYTES..bytes]);
        assert_eq!(partial.missing(8).len(), 4);
        // Half a chunk; its end and half of the next; the last, short one.
        partial.record(0, CHUNK_BYTES / 2).expect("records");
        assert_eq!(partial.bytes_done(), 0);
        partial.record(CHUNK_BYTES / 2, CHUNK_BYTES + 9).expect("records");
        partial.record(3 * CHUNK_BYTES, bytes).expect("records");
        assert_eq!(partial.missing(1), [CHUNK_BYTES..3 * CHUNK_BYTES]);
        drop(partial);
        // A process that ended in the middle of a line.
        let record = with_ending(&blob, RECORD);
        let mut torn = fs::read(&record).expect("reads");
        torn.extend_from_slice(b"1");
        fs::write(&record, &torn).expect("writes");
        assert_eq!(bytes_done(&blob, &file), CHUNK_BYTES + 5);
        let partial = Partial::open(&blob, &file).expect("opens");
        partial.record(2 * CHUNK_BYTES, 3 * CHUNK_BYTES).expect("records");
        drop(partial);
        assert_eq!(Partial::open(&blob, &file).expect("opens").missing(1), [CHUNK_BYTES..2 * CHUNK_BYTES]);
    }

    #[test]
    fn records_that_do_not_fit_start_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let blob = folder.path().join("abc");
        let bytes = 2 * CHUNK_BYTES;
        let damage: [(&str, Damage); 4] = [
            ("other etag", |record, _| {
                fs::write(record, format!("{MAGIC} abd {} {CHUNK_BYTES} a b.gguf\n0\n", 2 * CHUNK_BYTES))
                    .expect("writes");
            }),
            ("bytes gone", |_, data| fs::remove_file(data).expect("removes")),
            ("bytes cut", |_, data| {
                File::options().write(true).open(data).expect("opens").set_len(9).expect("cuts")
            }),
            ("no text", |record, _| fs::write(record, [255, 254, 0]).expect("writes")),
        ];
        for (what, damage) in damage {
            let partial = Partial::open(&blob, &remote("abc", bytes)).expect("opens");
            partial.record(0, CHUNK_BYTES).expect("records");
            damage(&partial.record_path, &partial.data);
            let partial = Partial::open(&blob, &remote("abc", bytes)).expect("opens");
            assert_eq!(partial.bytes_done(), 0, "{what}");
            partial.discard();
        }
        let partial = Partial::open(&blob, &remote("abc", bytes)).expect("opens");
        partial.record(0, CHUNK_BYTES).expect("records");
        let text = fs::read_to_string(&partial.record_path).expect("reads");
        fs::write(&partial.record_path, text + "7\n-1\nx\n99999999999999999999\n").expect("writes");
        assert_eq!(bytes_done(&blob, &remote("abc", bytes)), CHUNK_BYTES);
        // A new content of the same file takes the place of the old one's beginning.
        let other = folder.path().join("new");
        remove_outdated(&other, &remote("new", 1));
        assert!(!partial.data.exists() && !partial.record_path.exists());
    }
}
