//! Whether a model on the hub would run here, told from the beginnings of its files.
//!
//! What decides is what decides for files that are there: `Checkpoint::open`, on a folder with the model's
//! small files and with weight files of full size that hold only their headers; the rest is a hole and takes
//! no room. So whatever opening refuses is refused before it is fetched, and whatever opening learns to read
//! is fetched.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use undine_hub::{Beginning, Next, Repo};
use undine_weights::limits::CONFIG_BYTES_MAX;
use undine_weights::{Checkpoint, Error, FIRST_BYTES, Reach, gguf_reach, gguf_refusal, safetensors_reach};

use crate::format::Bytes;
use crate::memory;
use crate::shown::say;

/// The configuration of a folder.
const CONFIG: &str = "config.json";
/// Where a folder keeps its weights, if they are in one file.
const WEIGHTS: &str = "model.safetensors";
/// A safetensors file without tensors.
const NO_TENSORS: &[u8] = b"\x02\0\0\0\0\0\0\0{}";
/// Keys of a configuration whose weights are packed: how, only the data tells whole.
const PACKED: [&str; 2] = ["quantization_config", "quantization"];
/// Small files of a folder that do not decide and are not small.
const TEXTS: [&str; 4] = ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"];

/// Judges a model by what is known of its files; for [`undine_hub::Hub::pull_examined`].
pub fn judge(repo: &Repo, files: &[Beginning]) -> Result<Next, String> {
    check_memory(files, memory::total_bytes())?;
    let next = match files.iter().any(|file| is_gguf(file) && !is_tower(file)) {
        true => judge_gguf(files)?,
        false => judge_folder(files)?,
    };
    if next == Next::Fetch && lacks_tower(repo, files) {
        say!("{repo}: a vision model by its name, without an mmproj file for this one: it takes text only");
    }
    Ok(next)
}

/// Whether pictures are to be expected, and will not be seen.
fn lacks_tower(repo: &Repo, files: &[Beginning]) -> bool {
    let mut words = repo.name().split(['-', '_', '.']);
    words.any(|word| word.eq_ignore_ascii_case("VL"))
        && files.iter().any(is_gguf)
        && !files.iter().any(is_tower)
}

fn is_gguf(file: &Beginning) -> bool {
    file.path.ends_with(".gguf")
}

fn is_tower(file: &Beginning) -> bool {
    is_gguf(file) && file.path.to_ascii_lowercase().contains("mmproj")
}

fn is_safetensors(file: &Beginning) -> bool {
    file.path.ends_with(".safetensors")
}

/// Refuses weights that are larger than all of the memory: each token would read them from the disk again.
fn check_memory(files: &[Beginning], memory_bytes: Option<u64>) -> Result<(), String> {
    let weights = files.iter().filter(|file| is_gguf(file) || is_safetensors(file));
    let bytes = weights.fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
    match memory_bytes {
        Some(memory_bytes) if bytes > memory_bytes => Err(format!(
            "its weights are {}, and this machine has {} of memory; expected a smaller quantization or model \
             (`undine models` says what fits)",
            Bytes(bytes),
            Bytes(memory_bytes)
        )),
        _ => Ok(()),
    }
}

/// What must be seen of a file before it can be opened, if that is not there yet.
fn to_see(at: usize, file: &Beginning, reach: Reach) -> Option<Next> {
    match reach {
        Reach::Needs(bytes) if (file.known.len() as u64) < bytes.min(file.bytes) => {
            Some(Next::Show { file: at, bytes: bytes.max(FIRST_BYTES) })
        }
        _ => None,
    }
}

fn judge_gguf(files: &[Beginning]) -> Result<Next, String> {
    for (at, file) in files.iter().enumerate().filter(|(_, file)| is_gguf(file)) {
        if let Some(error) = gguf_refusal(&file.known).filter(|_| !is_tower(file)) {
            return Err(error.to_string());
        }
        if let Some(next) = to_see(at, file, gguf_reach(&file.known)) {
            return Ok(next);
        }
    }
    let first = files.iter().find(|file| is_gguf(file) && !is_tower(file)).expect("asked for before");
    let Ok(folder) = place(files.iter().filter(|file| is_gguf(file))) else { return Ok(Next::Fetch) };
    match Checkpoint::open(&folder.path().join(file_name(&first.path))) {
        // A system that has no room for so large a hole says nothing about the model.
        Ok(_) | Err(Error::Io { .. }) => Ok(Next::Fetch),
        Err(error) => Err(told(&error, folder.path())),
    }
}

fn judge_folder(files: &[Beginning]) -> Result<Next, String> {
    let is_small = |file: &&Beginning| {
        let name = file.path.as_str();
        !is_gguf(file) && !is_safetensors(file) && name.ends_with(".json") && !TEXTS.contains(&name)
    };
    // The configuration first: it may be enough.
    let order = |file: &Beginning| (file.path != CONFIG, file.path.clone());
    let mut small: Vec<(usize, &Beginning)> =
        files.iter().enumerate().filter(|(_, file)| is_small(file)).collect();
    small.sort_by_key(|(_, file)| order(file));
    if small.iter().any(|(_, file)| file.bytes > CONFIG_BYTES_MAX) {
        return Ok(Next::Fetch);
    }
    if let Some((at, file)) = small.iter().find(|(_, file)| (file.known.len() as u64) < file.bytes) {
        return Ok(Next::Show { file: *at, bytes: file.bytes });
    }
    let weights = || files.iter().enumerate().filter(|(_, file)| is_safetensors(file));
    let small: Vec<&Beginning> = small.into_iter().map(|(_, file)| file).collect();
    if weights().all(|(_, file)| file.known.is_empty()) {
        refuse_by_configuration(&small, files)?;
    }
    for (at, file) in weights() {
        if let Some(next) = to_see(at, file, safetensors_reach(&file.known)) {
            return Ok(next);
        }
    }
    let seen = small.into_iter().chain(weights().map(|(_, file)| file));
    let Ok(folder) = place(seen) else { return Ok(Next::Fetch) };
    match Checkpoint::open(folder.path()) {
        Ok(_) | Err(Error::Io { .. }) => Ok(Next::Fetch),
        Err(error) if is_packed(files) && !matches!(error, Error::MissingTensor { .. }) => Ok(Next::Fetch),
        Err(error) => Err(told(&error, folder.path())),
    }
}

/// Opens the folder as if it had no weights: of that it complains at last, after what its small files say.
fn refuse_by_configuration(small: &[&Beginning], files: &[Beginning]) -> Result<(), String> {
    let stub = |path: &str| Beginning {
        path: path.to_owned(),
        bytes: NO_TENSORS.len() as u64,
        known: NO_TENSORS.to_vec(),
    };
    // An adapter's weights are known by their name.
    let named = files.iter().filter(|file| is_safetensors(file)).map(|file| stub(&file.path));
    // Without a configuration it is no model's folder, and must not look like one.
    let whole = small.iter().any(|file| file.path == CONFIG).then(|| stub(WEIGHTS));
    let stubs: Vec<Beginning> = named.chain(whole).collect();
    let Ok(folder) = place(small.iter().copied().chain(&stubs)) else { return Ok(()) };
    match Checkpoint::open(folder.path()) {
        Err(
            error @ (Error::Unsupported(_)
            | Error::NotACheckpoint { .. }
            | Error::Config { .. }
            | Error::Json { .. }),
        ) => Err(told(&error, folder.path())),
        _ => Ok(()),
    }
}

/// Whether the weights are packed in a way that their data belongs to.
fn is_packed(files: &[Beginning]) -> bool {
    let config = files.iter().find(|file| file.path == CONFIG);
    let config = config.and_then(|file| serde_json::from_slice::<serde_json::Value>(&file.known).ok());
    config.is_some_and(|config| {
        let parts = [Some(&config), config.get("text_config")];
        parts.into_iter().flatten().any(|part| PACKED.iter().any(|key| part.get(key).is_some()))
    })
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A folder with these files, of full size, with what is known of them. It is gone when the value is.
fn place<'a>(files: impl Iterator<Item = &'a Beginning>) -> std::io::Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("undine-look-").tempdir()?;
    for file in files {
        let mut there = File::create(folder.path().join(file_name(&file.path)))?;
        there.write_all(&file.known)?;
        there.set_len(file.bytes)?;
    }
    Ok(folder)
}

/// An error without the place that nobody knows of.
fn told(error: &Error, folder: &Path) -> String {
    let shown = |folder: &Path| folder.display().to_string();
    let mut text = error.to_string();
    for place in [Some(shown(folder)), fs::canonicalize(folder).ok().map(|folder| shown(&folder))] {
        let Some(place) = place else { continue };
        text = text.replace(&format!("{place}/"), "").replace(&place, "the repository");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beginning(path: &str, bytes: u64, known: &[u8]) -> Beginning {
        Beginning { path: path.to_owned(), bytes, known: known.to_vec() }
    }

    #[test]
    fn what_is_larger_than_the_memory_is_refused() {
        let files = [beginning("a.gguf", 5 << 30, b""), beginning("README.md", 1 << 40, b"")];
        assert_eq!(check_memory(&files, Some(6 << 30)), Ok(()));
        assert_eq!(check_memory(&files, None), Ok(()));
        let error = check_memory(&files, Some(4 << 30)).expect_err("too large");
        assert!(error.contains("5.00 GiB") && error.contains("4.00 GiB"), "{error}");
    }

    #[test]
    fn a_configuration_is_looked_at_before_the_weights() {
        let config = |text: &str| beginning(CONFIG, text.len() as u64, text.as_bytes());
        let weights = beginning(WEIGHTS, 5 << 30, b"");
        let unseen =
            [beginning(CONFIG, 100, b""), weights.clone(), beginning("tokenizer.json", 9 << 20, b"")];
        assert_eq!(judge_folder(&unseen), Ok(Next::Show { file: 0, bytes: 100 }));
        let seen = |text: &str| judge_folder(&[config(text), weights.clone()]);
        let error = seen("{\"model_type\": \"qwen3\"}").expect_err("another model");
        assert!(error.contains("\"qwen3\"") && !error.contains("undine-look"), "{error}");
        assert!(seen("{").expect_err("no JSON").contains("config.json"));
        let ours = "{\"model_type\": \"lfm2\", \"hidden_size\": 64, \"num_attention_heads\": 2, \
            \"num_key_value_heads\": 1, \"vocab_size\": 100, \"num_hidden_layers\": 1, \"layer_types\": [\"conv\"], \
            \"max_position_embeddings\": 100, \"intermediate_size\": 64}";
        assert_eq!(seen(ours), Ok(Next::Show { file: 1, bytes: FIRST_BYTES }));
        let lone = judge_folder(&[beginning("adapter_model.safetensors", 5 << 30, b"")]);
        let error = lone.expect_err("no model");
        assert!(error.contains("adapter"), "{error}");
    }
}
