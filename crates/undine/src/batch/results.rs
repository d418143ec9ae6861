//! The file of results: what is in it already, and one more line.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use undine_server::Answer;

use super::input::Id;
use crate::error::Error;

/// End of the name of the file that says what results belong to.
const STATE_ENDING: &str = ".batch";
/// Longest such file.
const STATE_BYTES_MAX: u64 = 64 << 10;
/// HTTP status of an answer as asked for.
const STATUS_OK: u16 = 200;

/// What results belong to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// SHA-256 of the requests.
    pub input_sha256: String,
    /// The name of the model that answers.
    pub model: String,
    /// Where refused requests go, if not with the others.
    pub error_file: Option<PathBuf>,
}

/// What earlier runs have left.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Kept {
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were refused.
    pub refused: u64,
}

/// The results of a batch; no other process writes to them meanwhile.
pub struct Results {
    output: File,
    errors: Option<File>,
    finished: HashSet<Id>,
    kept: Kept,
}

/// The part of a result that a later run needs.
#[derive(Deserialize)]
struct Line {
    custom_id: String,
    response: Option<Response>,
}

#[derive(Deserialize)]
struct Response {
    status_code: u16,
}

impl Results {
    /// Begins anew: what there was is thrown away.
    pub fn begin(path: &Path, state: &State) -> Result<Self, Error> {
        let output = open(path)?;
        let errors = state.error_file.as_deref().map(open).transpose()?;
        for (file, path) in [(Some(&output), Some(path)), (errors.as_ref(), state.error_file.as_deref())] {
            if let (Some(file), Some(path)) = (file, path) {
                file.set_len(0).map_err(|source| Error::file(path, source))?;
            }
        }
        write_state(path, state)?;
        Ok(Self { output, errors, finished: HashSet::new(), kept: Kept::default() })
    }

    /// Goes on with what there is, if it belongs to the same batch.
    pub fn resume(path: &Path, state: &State) -> Result<Self, Error> {
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        let is_empty = length(path) == 0 && state.error_file.as_deref().is_none_or(|path| length(path) == 0);
        if is_empty {
            return Self::begin(path, state);
        }
        check_state(path, state)?;
        let output = open(path)?;
        let errors = state.error_file.as_deref().map(open).transpose()?;
        let mut results = Self { output, errors, finished: HashSet::new(), kept: Kept::default() };
        let (finished, kept) = (&mut results.finished, &mut results.kept);
        read(&results.output, path, finished, kept)?;
        if let (Some(file), Some(path)) = (&results.errors, &state.error_file) {
            read(file, path, finished, kept)?;
        }
        Ok(results)
    }

    /// What earlier runs have left.
    pub fn kept(&self) -> Kept {
        self.kept
    }

    /// Whether a request has its result.
    pub fn has(&self, custom_id: &str) -> bool {
        self.finished.contains(&Id::of(custom_id))
    }

    /// Appends the result of a request. Says whether it was answered as asked for.
    pub fn append(&mut self, custom_id: &str, answer: &Answer) -> std::io::Result<Outcome> {
        let outcome = if answer.status == STATUS_OK { Outcome::Answered } else { Outcome::Refused };
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let mut line = format!(
            "{{\"id\":{},\"custom_id\":{},\"response\":{{\"status_code\":{},\"request_id\":{},{}\"body\":",
            text(&format!("batch_req_{}", answer.request_id)),
            text(custom_id),
            answer.status,
            text(&answer.request_id),
            headers(answer)
        )
        .into_bytes();
        // As the server wrote it: one line of JSON.
        line.extend(answer.body.iter().filter(|byte| **byte != b'\n'));
        line.extend_from_slice(b"},\"error\":null}\n");
        let file = match (outcome, &mut self.errors) {
            (Outcome::Refused, Some(errors)) => errors,
            _ => &mut self.output,
        };
        // One call of the system, so that a killed process leaves a whole line or one that is cut off.
        file.write_all(&line)?;
        self.finished.insert(Id::of(custom_id));
        Ok(outcome)
    }

    /// Makes sure that all of it is on the disk.
    pub fn sync(&self) -> std::io::Result<()> {
        self.output.sync_data()?;
        self.errors.as_ref().map_or(Ok(()), File::sync_data)
    }
}

/// What of the request was not heeded, as a server would tell it: nothing, or a field of the result with its
/// comma.
fn headers(answer: &Answer) -> String {
    if answer.remarks.is_empty() {
        return String::new();
    }
    let remarks = answer.remarks.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into()));
    format!("\"headers\":{},", serde_json::Value::Object(remarks.collect()))
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It has an answer.
    Answered,
    /// It has an error.
    Refused,
}

/// Opens a file to read and write, for this process alone.
fn open(path: &Path) -> Result<File, Error> {
    let fail = |source| Error::file(path, source);
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::refused(format!("{}: another batch is writing to it", path.display())))
        }
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

fn state_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(STATE_ENDING);
    name.into()
}

fn write_state(path: &Path, state: &State) -> Result<(), Error> {
    let path = state_path(path);
    let fail = |source| Error::file(&path, source);
    let text = serde_json::to_string(state).expect("texts are JSON");
    let mut beside = OsString::from(&path);
    beside.push(".new");
    std::fs::write(&beside, text + "\n").map_err(fail)?;
    std::fs::rename(&beside, &path).map_err(fail)
}

fn check_state(path: &Path, state: &State) -> Result<(), Error> {
    let shown = path.display();
    let place = state_path(path);
    let known = std::fs::metadata(&place).is_ok_and(|found| found.len() <= STATE_BYTES_MAX);
    let text = if known { std::fs::read_to_string(&place).ok() } else { None };
    let found: Option<State> = text.and_then(|text| serde_json::from_str(&text).ok());
    let Some(found) = found else {
        return Err(Error::refused(format!(
            "{shown}: not empty, and {} does not say which requests it belongs to; expected results of this command. \
             Give another --output, or --restart to throw them away",
            place.display()
        )));
    };
    let differs = match () {
        () if found.input_sha256 != state.input_sha256 => "other requests (the input has changed)".to_owned(),
        () if found.model != state.model => format!("the model {}, and this is {}", found.model, state.model),
        () if found.error_file != state.error_file => "another --error-file".to_owned(),
        () => return Ok(()),
    };
    Err(Error::refused(format!(
        "{shown}: its results belong to {differs}. Give another --output, or --restart to throw them away"
    )))
}

/// Takes in the results that a file has, and cuts off what a killed run has left of a line.
fn read(file: &File, path: &Path, finished: &mut HashSet<Id>, kept: &mut Kept) -> Result<(), Error> {
    let fail = |source| Error::file(path, source);
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut whole_bytes: u64 = 0;
    let mut number: u64 = 0;
    let length = file.metadata().map_err(fail)?.len();
    loop {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line).map_err(fail)? as u64;
        if bytes == 0 {
            break;
        }
        number += 1;
        let parsed = serde_json::from_slice::<Line>(&line).ok().filter(|_| line.ends_with(b"\n"));
        let Some(result) = parsed else {
            // After a power failure the last line may even be whole and not written.
            if whole_bytes + bytes < length {
                let message =
                    "expected a result with a custom_id; repair the file, or --restart to throw it away";
                return Err(Error::refused(format!("{}: line {number}: {message}", path.display())));
            }
            break;
        };
        whole_bytes += bytes;
        if finished.insert(Id::of(&result.custom_id)) {
            let is_answered = result.response.is_some_and(|response| response.status_code == STATUS_OK);
            *(if is_answered { &mut kept.answered } else { &mut kept.refused }) += 1;
        }
    }
    if whole_bytes < length {
        file.set_len(whole_bytes).map_err(fail)?;
    }
    // What comes next is written behind it.
    let mut file = file;
    file.seek(SeekFrom::Start(whole_bytes)).map(drop).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State { input_sha256: "ab".to_owned(), model: "m".to_owned(), error_file: None }
    }

    fn answer(status: u16) -> Answer {
        Answer { status, request_id: "r".to_owned(), remarks: Vec::new(), body: "{\"x\":1}".into() }
    }

    #[test]
    fn results_say_what_was_not_heeded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("results.jsonl");
        let mut results = Results::resume(&path, &state()).expect("begins");
        let remarks = vec![("x-undine-ignored-fields", "top_a, \"b\"".to_owned())];
        results.append("a", &Answer { remarks, ..answer(200) }).expect("writes");
        let line: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).expect("text")).expect("one line of JSON");
        let expected = serde_json::json!({"status_code": 200, "request_id": "r", "body": {"x": 1},
            "headers": {"x-undine-ignored-fields": "top_a, \"b\""}});
        assert_eq!(line["response"], expected);
        drop(results);
        assert!(Results::resume(&path, &state()).expect("resumes").has("a"));
    }

    #[test]
    fn torn_lines_are_cut_and_whole_ones_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("results.jsonl");
        let mut results = Results::resume(&path, &state()).expect("begins");
        results.append("a\"\n", &answer(200)).expect("writes");
        results.append("b", &answer(400)).expect("writes");
        drop(results);
        let whole = std::fs::read_to_string(&path).expect("text");
        let first: serde_json::Value =
            serde_json::from_str(whole.lines().next().expect("a line")).expect("JSON");
        let expected = serde_json::json!({
            "id": "batch_req_r", "custom_id": "a\"\n",
            "response": {"status_code": 200, "request_id": "r", "body": {"x": 1}}, "error": null,
        });
        assert_eq!(first, expected);
        let second = whole.find('\n').expect("a line") + 1;
        for cut in second..=whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("writes");
            let results = Results::resume(&path, &state()).expect("resumes");
            assert!(results.has("a\"\n"), "{cut}");
            assert_eq!(results.has("b"), cut == whole.len(), "{cut}");
            let kept = Kept { answered: 1, refused: u64::from(cut == whole.len()) };
            assert_eq!(results.kept(), kept, "{cut}");
            let left = std::fs::read_to_string(&path).expect("text");
            assert_eq!(left, if cut == whole.len() { &whole[..] } else { &whole[..second] }, "{cut}");
        }
    }

    #[test]
    fn other_batches_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("results.jsonl");
        let refusal = |state: &State| match Results::resume(&path, state) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        };
        std::fs::write(&path, "mine\n").expect("writes");
        assert!(refusal(&state()).contains("does not say"));
        let mut results = Results::begin(&path, &state()).expect("begins");
        results.append("a", &answer(200)).expect("writes");
        assert!(refusal(&state()).contains("another batch is writing"));
        drop(results);
        for (other, part) in [
            (State { input_sha256: "cd".to_owned(), ..state() }, "input has changed"),
            (State { model: "n".to_owned(), ..state() }, "the model m, and this is n"),
            (State { error_file: Some("e".into()), ..state() }, "another --error-file"),
        ] {
            let found = refusal(&other);
            assert!(found.contains(part) && found.contains("--restart"), "{found}");
        }
        std::fs::write(&path, "{}\n{\"custom_id\":\"a\"}\n").expect("writes");
        assert!(refusal(&state()).contains("line 1"));
        assert_eq!(Results::begin(&path, &state()).expect("begins").kept(), Kept::default());
    }

    #[test]
    fn refused_requests_may_have_a_file_of_their_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, errors) = (folder.path().join("results.jsonl"), folder.path().join("errors.jsonl"));
        let state = State { error_file: Some(errors.clone()), ..state() };
        let mut results = Results::resume(&path, &state).expect("begins");
        assert_eq!(results.append("a", &answer(400)).expect("writes"), Outcome::Refused);
        drop(results);
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "");
        assert!(std::fs::read_to_string(&errors).expect("text").contains("\"status_code\":400"));
        let results = Results::resume(&path, &state).expect("resumes");
        assert!(results.has("a"));
    }
}
