//! Hugging Face folders: which files there are, and how they become one checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value as Json;

use crate::bind::{Bound, bind};
use crate::checkpoint::Checkpoint;
use crate::config_hf::HfConfig;
use crate::declared::{Declared, Presence};
use crate::limits::{CONFIG_BYTES_MAX, FILES_MAX, INDEX_BYTES_MAX, TENSORS_MAX};
use crate::map::Bytes;
use crate::names::{self, Names};
use crate::packed::unpack;
use crate::safetensors::SafetensorsHeader;
use crate::tensor::TensorTable;
use crate::text_files::{PROCESSOR, TextFiles};
use crate::value::{Array, Value};
use crate::vision::{Vision, VisionNames, bind_vision, declare_hf, settings_hf};
use crate::vocabulary::hugging_face;
use crate::weight::WeightName;
use crate::{Error, adapter, embedding, json, left_out, place};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const PREPROCESSOR: &str = "preprocessor_config.json";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// Depth to which nested objects of config.json become dotted keys.
const FLATTEN_DEPTH_MAX: usize = 4;

/// The shape that a `config.json` declares, for a model whose weights are not there. Where weights are, they
/// decide.
///
/// # Errors
/// The file cannot be read, is longer than [`CONFIG_BYTES_MAX`], is not JSON, or lacks a key.
pub fn read_config(path: &Path) -> Result<undine_core::Config, Error> {
    let (folder, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
    let Some(bytes) = read(folder, &name.to_string_lossy(), CONFIG_BYTES_MAX)? else {
        return Err(Error::io(path, std::io::ErrorKind::NotFound.into()));
    };
    HfConfig::new(&json::parse(CONFIG, &bytes)?)?.declare()?.config_without_weights()
}

/// The `model_type` of the folder's config.json.
pub(crate) fn model_type(folder: &Path) -> Result<String, Error> {
    let Some(bytes) = read(folder, CONFIG, CONFIG_BYTES_MAX)? else {
        return Err(Error::io(&folder.join(CONFIG), std::io::ErrorKind::NotFound.into()));
    };
    let found = json::parse(CONFIG, &bytes)?.get("model_type").and_then(Json::as_str).map(str::to_owned);
    found.ok_or_else(|| Error::config("model_type", "the key is required and absent"))
}

/// The contents of a folder.
pub(crate) struct Folder {
    pub name: String,
    pub config: Vec<u8>,
    pub text: TextFiles,
    pub preprocessor: Option<Vec<u8>>,
    /// Weight files by name.
    pub weights: Vec<(String, Bytes)>,
    /// Which file holds which tensor, if there is an index.
    pub index: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens the folder at `path`.
pub(crate) fn open(path: &Path) -> Result<Checkpoint, Error> {
    let names = place::names(path);
    refuse_adapter(path, &names)?;
    embedding::refuse(path)?;
    let Some(config) = read(path, CONFIG, CONFIG_BYTES_MAX)? else { return Err(place::no_model(path)) };
    let index = if path.join(WEIGHTS).exists() { None } else { read_index(path)? };
    let files = match &index {
        None => vec![weights_name(path, &names)?],
        Some(index) => index.values().collect::<BTreeSet<_>>().into_iter().cloned().collect(),
    };
    if files.is_empty() || files.len() > FILES_MAX {
        let reason = format!("weight_map: expected 1 to {FILES_MAX} files, found {}", files.len());
        return Err(Error::Json { file: INDEX.to_owned(), reason });
    }
    let map = |file: String| -> Result<(String, Bytes), Error> {
        let path = path.join(&file);
        let bytes = Bytes::map(&path)?;
        place::check_lfs(&path, &bytes)?;
        Ok((file, bytes))
    };
    assemble(Folder {
        name: name(path),
        config,
        text: TextFiles::read(path)?,
        preprocessor: read(path, PREPROCESSOR, CONFIG_BYTES_MAX)?,
        weights: files.into_iter().map(map).collect::<Result<_, _>>()?,
        index,
    })
}

/// Refuses a folder with an adapter in it, by the names of its files.
fn refuse_adapter(path: &Path, names: &[String]) -> Result<(), Error> {
    if !adapter::is_in(names) {
        return Ok(());
    }
    let config = read(path, adapter::CONFIG, CONFIG_BYTES_MAX)?;
    let config = config.and_then(|bytes| json::parse(adapter::CONFIG, &bytes).ok()).unwrap_or_default();
    let base = config.get("base_model_name_or_path").and_then(Json::as_str);
    let has_model = names.iter().any(|name| name == WEIGHTS || name == INDEX);
    adapter::refuse_folder(names, has_model, base)
}

/// The weights of a folder without an index: under their usual name, else the one file there is.
fn weights_name(path: &Path, names: &[String]) -> Result<String, Error> {
    let found: Vec<&String> = names.iter().filter(|name| name.ends_with(".safetensors")).collect();
    match found.as_slice() {
        _ if path.join(WEIGHTS).exists() => Ok(WEIGHTS.to_owned()),
        [] => Err(place::no_model(path)),
        [one] => Ok((*one).clone()),
        several => {
            let reason =
                format!("expected {WEIGHTS} or {INDEX}; found {} without either", place::listed(several));
            Err(Error::NotACheckpoint { path: path.to_owned(), reason })
        }
    }
}

/// Reads a small file whole; `None` if it does not exist.
pub(crate) fn read(folder: &Path, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
    let path = folder.join(name);
    let fail = |source| Error::io(&path, source);
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
        Ok(kind) if !kind.is_file() || kind.len() > bytes_max => {
            let reason =
                format!("expected a regular file of at most {bytes_max} bytes, found {} bytes", kind.len());
            return Err(Error::NotACheckpoint { path, reason });
        }
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    // The file may have grown since it was asked for its length.
    File::open(&path).and_then(|file| file.take(bytes_max).read_to_end(&mut bytes)).map_err(fail)?;
    place::check_lfs(&path, &bytes)?;
    Ok(Some(bytes))
}

/// The index of a sharded checkpoint. File names are checked: an index must not reach outside its folder.
fn read_index(folder: &Path) -> Result<Option<BTreeMap<String, String>>, Error> {
    let Some(bytes) = read(folder, INDEX, INDEX_BYTES_MAX)? else { return Ok(None) };
    let fail = |reason: String| Error::Json { file: INDEX.to_owned(), reason };
    let Index { weight_map } =
        serde_json::from_slice(json::without_mark(&bytes)).map_err(|error| fail(error.to_string()))?;
    for file in weight_map.values() {
        let mut parts = Path::new(file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || file.contains(['\\', '/']) {
            return Err(fail(format!("weight_map: expected a plain file name, found {file:?}")));
        }
    }
    Ok(Some(weight_map))
}

/// The folder's name; for a snapshot in the hub's cache the repository's.
fn name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let repository =
        path.parent().filter(|parent| parent.ends_with("snapshots")).and_then(Path::parent).and_then(last);
    let repository =
        repository.as_deref().and_then(|name| name.strip_prefix("models--")?.rsplit("--").next());
    repository.map(str::to_owned).or_else(|| last(&path)).unwrap_or_else(|| "model".to_owned())
}

/// Builds and checks the checkpoint.
pub(crate) fn assemble(folder: Folder) -> Result<Checkpoint, Error> {
    let config_json = json::parse(CONFIG, &folder.config)?;
    let hf_config = HfConfig::new(&config_json)?;
    let declared = hf_config.declare()?;
    let mut repairs = hf_config.take_odd();
    let mut folder = folder;
    let (mut table, mut files) = table(&mut folder, &mut repairs)?;
    adapter::refuse_tensors(&table)?;
    names::unwrap_prefix(&mut table, &mut repairs)
        .map_err(|reason| Error::Safetensors { file: "the folder".to_owned(), reason })?;
    let file_count = files.len();
    let packing = unpack(&config_json, &mut table, &mut files, &mut repairs)?;
    if !table.foreign.is_empty() {
        let kinds = table.foreign.values().map(|tensor| tensor.kind.as_str());
        let mut types: Vec<_> = kinds.collect::<BTreeSet<_>>().into_iter().collect();
        types.truncate(8);
        let count = table.foreign.len();
        repairs.push(format!(
            "{count} tensors of types Undine does not compute with ({}) were left out.",
            types.join(", ")
        ));
    }
    let names = Names::hugging_face(&table);
    let bound = bind(&declared, &table, names, &mut repairs)?;
    let vision = vision(&folder, &config_json, &table, declared.hidden, &mut repairs)?;
    tell_left_out(&files, &declared, (&table, names), (&bound, vision.as_ref()), &mut repairs);
    let text = hugging_face(folder.text.parse(Some(&config_json))?, bound.config.vocab, &mut repairs)?;
    let stated =
        config_json.get("_name_or_path").and_then(Json::as_str).and_then(|path| path.rsplit('/').next());
    let mut metadata = Vec::new();
    flatten("", &config_json, FLATTEN_DEPTH_MAX, &mut metadata);
    let mut format = match file_count {
        1 => "safetensors".to_owned(),
        count => format!("safetensors, {count} files"),
    };
    if let Some(method) = packing {
        format = format!("{format}, {method}");
    }
    Ok(Checkpoint {
        name: stated.filter(|name| !name.is_empty()).map_or_else(|| folder.name.clone(), str::to_owned),
        file_name: folder.name,
        format,
        files,
        table,
        metadata,
        repairs,
        config: bound.config,
        weights: bound.weights,
        text,
        vision,
    })
}

/// Tells of tensors that nobody computes with.
fn tell_left_out(
    files: &[Arc<Bytes>],
    declared: &Declared,
    (table, names): (&TensorTable, Names),
    (bound, vision): (&Bound, Option<&Vision>),
    repairs: &mut Vec<String>,
) {
    let head = match declared.head {
        Presence::Absent => table.find(&names.spellings(WeightName::Head)).ok().flatten(),
        Presence::Required | Presence::IfPresent => None,
    };
    let head = head.map(|index| &table.tensors[index]);
    if let (Some(head), Some(embedding)) = (head, bound.weights.get(&WeightName::TokenEmbedding)) {
        left_out::tell_tied_head(head, embedding, files, repairs);
    }
    let tower = vision.into_iter().flat_map(|vision| vision.weights.values());
    left_out::tell(table, bound.weights.values().chain(tower), head, repairs);
}

/// The vision tower, if the configuration describes one and its weights are there.
fn vision(
    folder: &Folder,
    config: &Json,
    table: &TensorTable,
    hidden: usize,
    repairs: &mut Vec<String>,
) -> Result<Option<Vision>, Error> {
    let Some(names) = VisionNames::hugging_face(table) else { return Ok(None) };
    let file = |name: &str, bytes: &Option<Vec<u8>>| {
        bytes.as_deref().map(|bytes| json::parse(name, bytes)).transpose()
    };
    let processor = file(PROCESSOR, &folder.text.processor)?;
    let preprocessor = file(PREPROCESSOR, &folder.preprocessor)?;
    let (settings, normalization) = settings_hf(processor.as_ref(), preprocessor.as_ref())?;
    let Some(declared) = declare_hf(config, normalization)? else { return Ok(None) };
    bind_vision(&declared, settings, table, names, hidden, repairs).map(Some)
}

/// All tensors of all weight files, and these. An index may be wrong about one: where it lies, and whether it
/// is needed, is seen anyway.
fn table(folder: &mut Folder, repairs: &mut Vec<String>) -> Result<(TensorTable, Vec<Arc<Bytes>>), Error> {
    let mut table = TensorTable::default();
    let (file_names, files): (Vec<String>, Vec<Bytes>) =
        std::mem::take(&mut folder.weights).into_iter().unzip();
    for (file, (name, bytes)) in file_names.iter().zip(&files).enumerate() {
        let fail = |reason| Error::Safetensors { file: name.clone(), reason };
        let header = SafetensorsHeader::read(name, bytes)?;
        for mut tensor in header.tensors {
            tensor.file = file;
            table.add_as(names::unwrapped(&tensor.name), tensor).map_err(fail)?;
        }
        for mut tensor in header.foreign {
            tensor.file = file;
            table.add_foreign(names::unwrapped(&tensor.name), tensor).map_err(fail)?;
        }
        if (table.tensors.len() + table.foreign.len()) as u64 > TENSORS_MAX {
            return Err(fail(format!("more than {TENSORS_MAX} tensors")));
        }
    }
    let is_absent = |tensor: &&String| {
        let key = names::unwrapped(tensor);
        table.index(&key).is_none() && !table.foreign.contains_key(&key)
    };
    let absent: Vec<&String> =
        folder.index.iter().flatten().map(|(tensor, _)| tensor).filter(is_absent).collect();
    if !absent.is_empty() {
        repairs.push(format!("{INDEX} names tensors that are in no file: {}.", place::listed(&absent)));
    }
    Ok((table, files.into_iter().map(Arc::new).collect()))
}

/// config.json as a list of keys and values; nested objects become dotted keys.
fn flatten(prefix: &str, value: &Json, depth_left: usize, out: &mut Vec<(String, Value)>) {
    let value = match value {
        Json::Object(object) if depth_left > 0 => {
            for (key, value) in object {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, depth_left - 1, out);
            }
            return;
        }
        Json::Bool(value) => Value::Bool(*value),
        Json::String(text) => Value::String(text.clone()),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(n), _) => Value::U64(n),
            (None, Some(n)) => Value::I64(n),
            (None, None) => Value::F64(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::Array(items) => Value::Array(flatten_array(items)),
        other => Value::String(other.to_string()),
    };
    out.push((prefix.to_owned(), value));
}

fn flatten_array(items: &[Json]) -> Array {
    if let Some(numbers) = items.iter().map(Json::as_u64).collect() {
        return Array::U64(numbers);
    }
    if let Some(numbers) = items.iter().map(Json::as_f64).collect() {
        return Array::F64(numbers);
    }
    Array::String(
        items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect(),
    )
}
