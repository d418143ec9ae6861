//! What a path means: a model file, or a folder; and what lies there when it is no model.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::adapter;
use crate::gguf::MAGIC;
use crate::hf::{CONFIG, INDEX};
use crate::limits::BESIDE_MAX;
use crate::packed::other_weights;

/// Bytes of a file that tell what it is.
const HEAD_BYTES: usize = 4096;
/// Names that a message lists, at most.
const LISTED_MAX: usize = 12;
/// What the first line of a Git LFS pointer begins with.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
/// The folder of a repository in the hub's cache that has its revisions.
const SNAPSHOTS: &str = "snapshots";
/// What to do about a file of PyTorch's.
const NOT_SAFE: &str =
    "save the model with safetensors (`save_pretrained` in transformers does), or take its GGUF";

/// What to do about a picture.
const PICTURE: &str = "a picture and no model: show it to a vision model with --image, as in `undine run MODEL \
    --image FILE \"What is this?\"`";
const DOCUMENT: &str = "a document and no model: save it as text, which `undine run MODEL -f FILE` takes";
const PROGRAM: &str = "a program and no model: expected a GGUF file, a folder or a name";
const SOUND: &str = "sound or a film and no model: models here take text and pictures";
/// How files that people have lying about begin, `?` being any byte, and what to say.
const KINDS: [(&[u8], &str); 26] = [
    (b"\x89PNG\r\n\x1a\n", PICTURE),
    (b"\xff\xd8\xff", PICTURE),
    (b"GIF8", PICTURE),
    (b"RIFF????WEBP", PICTURE),
    (b"II*\0", PICTURE),
    (b"MM\0*", PICTURE),
    (b"BM??\0?\0\0\0\0", PICTURE),
    (b"BM???\0\0\0\0\0", PICTURE),
    (b"\0\0\x01\0", PICTURE),
    (b"????ftypavif", PICTURE),
    (b"????ftyphei", PICTURE),
    (b"????ftypmif1", PICTURE),
    (b"qoif", PICTURE),
    (b"8BPS", PICTURE),
    (b"%PDF-", DOCUMENT),
    (b"\xd0\xcf\x11\xe0", DOCUMENT),
    (b"\x7fELF", PROGRAM),
    (b"MZ", PROGRAM),
    (b"\xcf\xfa\xed\xfe", PROGRAM),
    (b"\xca\xfe\xba\xbe", PROGRAM),
    (b"#!", PROGRAM),
    (b"RIFF????WAVE", SOUND),
    (b"ID3", SOUND),
    (b"OggS", SOUND),
    (b"fLaC", SOUND),
    (b"????ftyp", SOUND),
];

/// What a path means.
#[derive(PartialEq, Debug)]
pub(crate) enum Place {
    /// A Hugging Face folder.
    Folder(PathBuf),
    /// A GGUF file, or what should be one.
    File(PathBuf),
}

impl Place {
    /// What `path` means: a folder itself or the one GGUF file in it; of a `.safetensors` or `.json` file its
    /// folder.
    pub(crate) fn of(path: &Path) -> Result<Self, Error> {
        let kind = fs::metadata(path).map_err(|source| Error::io(path, source))?;
        if kind.is_dir() {
            return Self::of_folder(path);
        }
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        let of_a_folder =
            extension.is_some_and(|extension| extension == "safetensors" || extension == "json");
        match path.parent().filter(|_| of_a_folder) {
            Some(folder) if folder.as_os_str().is_empty() => Self::of_folder(Path::new(".")),
            Some(folder) => Self::of_folder(folder),
            None => Ok(Self::File(path.to_owned())),
        }
    }

    /// The one snapshot of a repository in the hub's cache.
    fn of_snapshots(path: &Path) -> Result<Self, Error> {
        match names(path).as_slice() {
            [one] => Self::of_folder(&path.join(one)),
            several => {
                let reason = format!(
                    "expected one snapshot of the repository, found {}; name one: {}",
                    several.len(),
                    listed(several)
                );
                Err(Error::NotACheckpoint { path: path.to_owned(), reason })
            }
        }
    }

    fn of_folder(path: &Path) -> Result<Self, Error> {
        let names = names(path);
        let has_weights = |name: &String| name.ends_with(".safetensors") || name == INDEX;
        let is_whole = names.iter().any(|name| name == CONFIG) && names.iter().any(has_weights);
        if is_whole || adapter::is_in(&names) {
            return Ok(Self::Folder(path.to_owned()));
        }
        match models(&names).as_slice() {
            [] if names.iter().any(|name| name == SNAPSHOTS) => Self::of_snapshots(&path.join(SNAPSHOTS)),
            [] => Ok(Self::Folder(path.to_owned())),
            [one] => Ok(Self::File(path.join(one))),
            several => {
                let reason =
                    format!("the folder has {} models; name one of them: {}", several.len(), listed(several));
                Err(Error::NotACheckpoint { path: path.to_owned(), reason })
            }
        }
    }
}

/// Names of a folder's files, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .take(BESIDE_MAX)
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Whether a file's name is that of a vision tower.
pub(crate) fn is_mmproj(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("mmproj") && name.ends_with(".gguf")
}

/// GGUF files that can be models: of a split one the first.
fn models(names: &[String]) -> Vec<&str> {
    let is_later_part = |name: &str| {
        let number =
            name.rsplit_once("-of-").and_then(|(rest, _)| rest.rsplit_once('-')).map(|(_, number)| number);
        number.is_some_and(|number| number.parse::<u32>().is_ok_and(|number| number > 1))
    };
    let is_model = |name: &&str| {
        let lower = name.to_ascii_lowercase();
        lower.ends_with(".gguf") && !is_mmproj(name) && !lower.contains("imatrix") && !is_later_part(name)
    };
    names.iter().map(String::as_str).filter(is_model).collect()
}

/// A list of names for a message.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    let shown: Vec<&str> = names.iter().take(LISTED_MAX).map(AsRef::as_ref).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Why a folder is no model.
pub(crate) fn no_model(path: &Path) -> Error {
    let names = names(path);
    let with = |ends: &[&str]| names.iter().find(|name| ends.iter().any(|end| name.ends_with(end)));
    let has_config = names.iter().any(|name| name == CONFIG);
    let what =
        if has_config { "no model.safetensors and no GGUF file".to_owned() } else { format!("no {CONFIG}") };
    let mut reason = format!(
        "expected a GGUF file or a folder with {CONFIG} and model.safetensors; the folder has {what}"
    );
    if let Some(other) = other_weights(path) {
        reason += &format!("; {other}");
    } else if with(&[".safetensors"]).is_some() {
        reason += ": copy it from where the weights are from";
    } else if with(&[".gguf"]).is_some() {
        reason += ", and its GGUF files are no models by themselves";
    }
    Error::NotACheckpoint { path: path.to_owned(), reason }
}

/// Refuses a file that says of itself that it is something else.
///
/// # Errors
/// [`Error::NotACheckpoint`] with what it is, and what to do.
pub(crate) fn check_head(path: &Path, head: &[u8]) -> Result<(), Error> {
    match what_it_is(head, &path.to_string_lossy()) {
        Some(what) => Err(Error::NotACheckpoint { path: path.to_owned(), reason: format!("this is {what}") }),
        None => Ok(()),
    }
}

/// Refuses a Git LFS pointer in the place of a file that is not opened by itself.
pub(crate) fn check_lfs(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if bytes.starts_with(LFS_POINTER) { check_head(path, bytes) } else { Ok(()) }
}

/// What a file is that has these first bytes and is no GGUF file, if that can be told, and what to do.
fn what_it_is(head: &[u8], name: &str) -> Option<String> {
    let head = &head[..head.len().min(HEAD_BYTES)];
    if head.starts_with(MAGIC) {
        return None;
    }
    let text = String::from_utf8_lossy(head);
    let lower = text.trim_start().to_ascii_lowercase();
    let known = if head.starts_with(LFS_POINTER) {
        "a Git LFS pointer, some lines in the place of the file: run `git lfs pull` in its folder, or fetch the model \
         with `undine pull`"
    } else if lower.starts_with("<!doctype") || lower.starts_with("<html") || lower.starts_with("<?xml") {
        "a web page and no model: download the file itself, by a link with /resolve/ instead of /blob/, or with \
         `undine pull`"
    } else if let Some(from) = modelfile(&text) {
        return Some(format!("an Ollama Modelfile: give the file or the model that it is made from, {from}"));
    } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"\x80\x02") {
        return Some(format!("an archive or a file of PyTorch's: {NOT_SAFE}"));
    } else if head.starts_with(b"\x1f\x8b")
        || head.starts_with(b"\x28\xb5\x2f\xfd")
        || head.starts_with(b"BZh")
    {
        "a compressed file: unpack it first"
    } else if head.get(8) == Some(&b'{') && head.get(4..8) == Some(&[0; 4]) {
        "a safetensors file: its name must end in .safetensors, with config.json beside it"
    } else if [&b"lmgg"[..], b"fmgg", b"tjgg"].iter().any(|magic| head.starts_with(magic)) {
        "a file of the formats before GGUF: convert the model again"
    } else if head.starts_with(b"{\\rtf") {
        DOCUMENT
    } else if lower.starts_with('{') {
        "a JSON file and no model: give the GGUF file, or the folder with config.json and model.safetensors"
    } else if name.contains("imatrix") {
        "an importance matrix by its name: it is for `undine quantize --imatrix`, beside the model"
    } else if let Some((_, what)) = KINDS.iter().find(|(signature, _)| has(head, signature)) {
        what
    } else if is_text(head) {
        "a text file and no model: `undine run MODEL -f FILE` makes its text the prompt, MODEL being a GGUF file, a folder \
         or a name"
    } else if head.len() < MAGIC.len() || name.to_ascii_lowercase().ends_with(".gguf") {
        // The beginning of a download, or what is left of a file.
        return None;
    } else {
        "no model: expected a GGUF file, which begins with the letters GGUF, or a folder with config.json and \
         model.safetensors"
    };
    Some(known.to_owned())
}

/// Whether a file begins like this, with `?` for any byte.
fn has(head: &[u8], signature: &[u8]) -> bool {
    head.len() >= signature.len()
        && signature.iter().zip(head).all(|(&expected, &found)| expected == b'?' || expected == found)
}

/// Whether bytes are the beginning of a text.
fn is_text(head: &[u8]) -> bool {
    let is_cut = |error: &std::str::Utf8Error| error.error_len().is_none() && error.valid_up_to() > 0;
    let is_printed = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\u{c}' | '\u{1b}');
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if is_cut(&error) => {
            std::str::from_utf8(&head[..error.valid_up_to()]).expect("valid up to there")
        }
        // UTF-16, as some editors write it.
        Err(_) => return head.len() > 2 && (head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff")),
    };
    !text.is_empty() && text.chars().all(is_printed)
}

/// What the `FROM` of a Modelfile names.
fn modelfile(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (word, rest) = lines.next()?.split_once(char::is_whitespace)?;
    word.eq_ignore_ascii_case("from").then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_models_are_known() {
        for (head, name, expected) in [
            (&b"GGUF\x03\0\0\0"[..], "imatrix.gguf", None),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
                "a.gguf",
                Some("Git LFS pointer"),
            ),
            (
                b"# mine\n\nFROM ./a.gguf\nTEMPLATE x",
                "Modelfile",
                Some("Modelfile: give the file or the model that it is made from, ./a.gguf"),
            ),
            (b"from lfm2:1.2b\n", "Modelfile", Some("lfm2:1.2b")),
            (b"<!DOCTYPE html><html>", "a.gguf", Some("web page")),
            (b"PK\x03\x04rest", "pytorch_model.bin", Some("PyTorch")),
            (b"\x1f\x8b\x08", "a.gguf.gz", Some("compressed")),
            (b"\x10\0\0\0\0\0\0\0{\"a\"", "model", Some("safetensors")),
            (b"tjgg\x03", "ggml-model.bin", Some("before GGUF")),
            (b"\x02\0\0\0", "imatrix.dat", Some("importance matrix")),
            (b"{\"schemaVersion\": 2}", "manifest", Some("JSON file")),
            (b"from", "a", Some("text file")),
            (b"", "a", None),
            (b"\xff\xfe", "a", None),
            (
                b"\x89PNG\r\n\x1a\n\0\0",
                "cat.png",
                Some("a picture and no model: show it to a vision model with --image"),
            ),
            (b"\x89PNG\r\n\x1a\n\0\0", "cat.gguf", Some("picture")),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", "cat.jpg", Some("picture")),
            (b"GIF89a", "a.gif", Some("picture")),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "a.webp", Some("picture")),
            (b"BM\x36\x10\0\0\0\0\0\0\x36\0", "a.bmp", Some("picture")),
            (b"\0\0\0\x1cftypavif\0", "a.avif", Some("picture")),
            (b"\0\0\0\x1cftypheic\0", "a.heic", Some("picture")),
            (b"RIFF\x10\0\0\0WAVEfmt ", "a.wav", Some("sound")),
            (b"\0\0\0\x1cftypisom\0", "a.mp4", Some("film")),
            (b"%PDF-1.7\n\xe2", "a.pdf", Some("document")),
            (b"{\\rtf1\\ansi", "a.rtf", Some("document")),
            (b"\x7fELF\x02\x01", "undine", Some("program")),
            (b"#!/bin/sh\n", "run.sh", Some("program")),
            (b"Buy milk.\n", "note.txt", Some("a text file and no model: `undine run MODEL -f FILE`")),
            ("Gr\u{fc}\u{df}e".as_bytes(), "note.txt", Some("text file")),
            (b"abc\xc3", "note.txt", Some("text file")),
            (b"\xff\xfeH\0i\0", "note.txt", Some("text file")),
            (b"\x01\x02\x03\x04\x05", "a.bin", Some("no model: expected a GGUF file")),
            (b"\x01\x02\x03\x04\x05", "a.gguf", None),
            (b"\0\0\0\0\0", "a.gguf", None),
        ] {
            let found = what_it_is(head, name);
            match expected {
                Some(expected) => assert!(
                    found.as_deref().is_some_and(|found| found.contains(expected)),
                    "{name}: {found:?}"
                ),
                None => assert_eq!(found, None, "{name}"),
            }
        }
    }

    #[test]
    fn the_models_of_a_folder() {
        let names = [
            "mmproj-a.gguf",
            "a.gguf",
            "imatrix.gguf",
            "b-00001-of-00002.gguf",
            "b-00002-of-00002.gguf",
            "c.bin",
        ];
        assert_eq!(models(&names.map(str::to_owned)), ["a.gguf", "b-00001-of-00002.gguf"]);
    }
}
