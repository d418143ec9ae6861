//! GGUF checkpoints, in one file or split into several.

use std::path::Path;
use std::sync::Arc;

use undine_core::DType;

use crate::bind::bind;
use crate::checkpoint::Checkpoint;
use crate::config_gguf::{Metadata, declare};
use crate::gguf::GgufHeader;
use crate::limits::{FILES_MAX, TENSORS_MAX};
use crate::map::Bytes;
use crate::names::Names;
use crate::tensor::{Tensor, TensorTable};
use crate::value::Value;
use crate::vocabulary::gguf;
use crate::{Error, adapter, left_out, place};

/// What the keys of split files begin with.
pub(crate) const SPLIT_PREFIX: &str = "split.";
const SPLIT_NO: &str = "split.no";
const SPLIT_COUNT: &str = "split.count";
const SPLIT_TENSORS: &str = "split.tensors.count";

/// Opens the file at `path`, and its siblings if it is a part of a split checkpoint.
pub(crate) fn open(path: &Path) -> Result<Checkpoint, Error> {
    let (name, files) = map(path)?;
    assemble(name, files)
}

/// Maps the file at `path`, and its siblings if it is a part of a split checkpoint; and a name from that of
/// the file.
pub(crate) fn map(path: &Path) -> Result<(String, Vec<Bytes>), Error> {
    let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some(split) = SplitName::parse(&file_name) else {
        let stem = file_name.strip_suffix(".gguf").unwrap_or(&file_name).to_owned();
        let bytes = Bytes::map(path)?;
        place::check_head(path, &bytes)?;
        return Ok((stem, vec![bytes]));
    };
    if split.count > FILES_MAX {
        let reason = format!("the name says {} files, the limit is {FILES_MAX}", split.count);
        return Err(Error::NotACheckpoint { path: path.to_owned(), reason });
    }
    let files = (1..=split.count).map(|number| Bytes::map(&path.with_file_name(split.name(number))));
    Ok((split.stem.clone(), files.collect::<Result<_, _>>()?))
}

/// A name such as `model-00001-of-00003.gguf`.
#[derive(PartialEq, Debug)]
struct SplitName {
    stem: String,
    count: usize,
}

impl SplitName {
    fn parse(file_name: &str) -> Option<Self> {
        let (rest, count) = file_name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let parse = |digits: &str| -> Option<usize> {
            (digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit()))
                .then(|| digits.parse().ok())?
        };
        let (number, count) = (parse(number)?, parse(count)?);
        (1..=count).contains(&number).then(|| Self { stem: stem.to_owned(), count })
    }

    fn name(&self, number: usize) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }
}

/// What the headers of all parts say.
pub(crate) struct Parts {
    version: u32,
    /// Of the first part.
    pub metadata: Vec<(String, Value)>,
    pub table: TensorTable,
}

/// Reads and checks the headers of whole files in order.
pub(crate) fn read_parts(files: &[Bytes]) -> Result<Parts, Error> {
    let mut table = TensorTable::default();
    let mut first = None;
    for (index, bytes) in files.iter().enumerate() {
        let header = GgufHeader::read(bytes)?;
        check_split(&Metadata::new(&header.metadata), index, files.len())?;
        for mut tensor in header.tensors {
            tensor.file = index;
            table.add(tensor).map_err(|reason| Error::gguf("tensor table", reason))?;
        }
        if table.tensors.len() as u64 > TENSORS_MAX {
            return Err(Error::gguf("tensor table", format!("more than {TENSORS_MAX} tensors")));
        }
        first.get_or_insert((header.version, header.metadata));
    }
    let (version, metadata) = first.ok_or_else(|| Error::gguf("files", "expected at least one"))?;
    let stated = Metadata::new(&metadata).integer(SPLIT_TENSORS)?;
    if let Some(expected) = stated.filter(|&expected| expected != table.tensors.len()) {
        let reason = format!("expected {expected} tensors in all files, found {}", table.tensors.len());
        return Err(Error::gguf(SPLIT_TENSORS, reason));
    }
    check_tensor_scales(&table)?;
    Ok(Parts { version, metadata, table })
}

/// Some writers of NVFP4 keep a factor for the whole matrix in a tensor of its own; without it every value
/// would be wrong.
fn check_tensor_scales(table: &TensorTable) -> Result<(), Error> {
    let scaled = |tensor: &&Tensor| {
        let module = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        tensor.dtype == DType::NVFP4 && table.contains(&format!("{module}.scale"))
    };
    match table.tensors.iter().find(scaled) {
        None => Ok(()),
        Some(tensor) => Err(Error::Unsupported(format!(
            "tensor {} is NVFP4 with a factor in another tensor, which Undine does not apply; \
             expected NVFP4 without one, or a file in another type, such as Q4_K_M",
            tensor.name
        ))),
    }
}

/// Builds and checks the checkpoint from whole files in order; `name` is used if the metadata states none.
pub(crate) fn assemble(name: String, files: Vec<Bytes>) -> Result<Checkpoint, Error> {
    let Parts { version, metadata: entries, table } = read_parts(&files)?;
    let metadata = Metadata::new(&entries);
    adapter::refuse_gguf(&metadata, &table)?;
    adapter::refuse_tower(&metadata)?;
    let mut repairs = Vec::new();
    let declared = declare(&metadata, &table)?;
    let bound = bind(&declared, &table, Names::Gguf, &mut repairs)?;
    left_out::tell(&table, bound.weights.values(), None, &mut repairs);
    let text = gguf(&metadata, bound.config.vocab, &mut repairs)?;
    let stated =
        metadata.text("general.name").unwrap_or(None).filter(|name| !name.is_empty()).map(str::to_owned);
    let format = match files.len() {
        1 => format!("GGUF v{version}"),
        count => format!("GGUF v{version}, {count} files"),
    };
    Ok(Checkpoint {
        name: stated.unwrap_or_else(|| name.clone()),
        file_name: name,
        format,
        files: files.into_iter().map(Arc::new).collect(),
        table,
        repairs,
        config: bound.config,
        weights: bound.weights,
        text,
        vision: None,
        metadata: entries,
    })
}

/// Checks that a file says of itself what its place says.
fn check_split(metadata: &Metadata<'_>, index: usize, count: usize) -> Result<(), Error> {
    let stated = metadata.integer(SPLIT_COUNT)?.unwrap_or(1);
    if stated.max(1) != count {
        let reason = format!(
            "the file says it is one of {stated}, its name says one of {count}; \
             parts must be named like model-00001-of-00003.gguf"
        );
        return Err(Error::gguf(SPLIT_COUNT, reason));
    }
    match metadata.integer(SPLIT_NO)? {
        Some(number) if number != index => {
            Err(Error::gguf(SPLIT_NO, format!("expected {index} for this file's name, found {number}")))
        }
        None if count > 1 => Err(Error::gguf(SPLIT_NO, "the key is required in a split file and absent")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_names() {
        let cases = [
            ("m-00001-of-00003.gguf", Some(("m", 3))),
            ("a-b-00003-of-00003.gguf", Some(("a-b", 3))),
            ("m-00004-of-00003.gguf", None),
            ("m-00000-of-00003.gguf", None),
            ("m-1-of-3.gguf", None),
            ("m-+0001-of-00003.gguf", None),
            ("m-00001-of-00003.bin", None),
            ("m.gguf", None),
        ];
        for (name, expected) in cases {
            let expected = expected.map(|(stem, count)| SplitName { stem: stem.to_owned(), count });
            assert_eq!(SplitName::parse(name), expected, "{name}");
        }
    }
}
