//! Safetensors header reader: tensor table of one file, checked against the file's real size.
//!
//! Our own reader: version 0.8 of the `safetensors` crate adds an untrusted end offset to the header length
//! without an overflow check, lets a duplicate name pass, and does not say which tensor is wrong. Source: the
//! format description in the safetensors repository.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use undine_core::DType;

use crate::Error;
use crate::limits::{NAME_BYTES_MAX, SAFETENSORS_DIMS_MAX, SAFETENSORS_HEADER_BYTES_MAX, TENSORS_MAX};
use crate::tensor::{Foreign, Tensor, tensor_bytes};

/// Bytes of the header length at the start of a file.
const LENGTH_BYTES: usize = 8;
/// The header's entry that is not a tensor.
const METADATA_KEY: &str = "__metadata__";

/// The tensors of one safetensors file.
pub(crate) struct SafetensorsHeader {
    /// Byte ranges are positions in the file; `file` is 0.
    pub tensors: Vec<Tensor>,
    /// Tensors of types Undine cannot compute with.
    pub foreign: Vec<Foreign>,
}

/// A tensor as its header entry describes it; offsets count from the end of the header.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

impl SafetensorsHeader {
    /// Reads and checks the header of `bytes`, a whole file called `file`.
    pub(crate) fn read(file: &str, bytes: &[u8]) -> Result<Self, Error> {
        let fail = |reason: String| Error::Safetensors { file: file.to_owned(), reason };
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Err(fail(format!("expected a header length of 8 bytes, found {} bytes", bytes.len())));
        };
        let length = u64::from_le_bytes(*length);
        if length > SAFETENSORS_HEADER_BYTES_MAX.min(rest.len() as u64) {
            return Err(fail(format!(
                "header length {length}: the limit is {SAFETENSORS_HEADER_BYTES_MAX} and the rest of the file has {} bytes",
                rest.len()
            )));
        }
        let (header, data) = rest.split_at(length as usize);
        let Entries(entries) =
            serde_json::from_slice(header).map_err(|error| fail(format!("header: {error}")))?;
        check_layout(&entries, data.len()).map_err(fail)?;
        let data_start = bytes.len() - data.len();
        let mut found = Self { tensors: Vec::with_capacity(entries.len()), foreign: Vec::new() };
        for (name, Entry { dtype, shape, data_offsets: [start, end] }) in entries {
            let place = data_start + start..data_start + end;
            let Some(dtype) = float_type(&dtype) else {
                let count = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
                let len = other_bytes(&dtype).map(|size| count.and_then(|count| count.checked_mul(size)));
                if len.is_some_and(|len| len != Some(end - start)) {
                    return Err(fail(format!(
                        "tensor {name}: shape {shape:?} of {dtype} does not take {} bytes",
                        end - start
                    )));
                }
                found.foreign.push(Foreign { name, kind: dtype, shape, file: 0, bytes: place });
                continue;
            };
            let len = if shape.is_empty() { Some(dtype.block_bytes()) } else { tensor_bytes(dtype, &shape) };
            if len != Some(end - start) {
                return Err(fail(format!(
                    "tensor {name}: shape {shape:?} of {dtype} does not take {} bytes",
                    end - start
                )));
            }
            found.tensors.push(Tensor { name, dtype, shape, file: 0, bytes: place });
        }
        Ok(found)
    }
}

/// Data ranges must cover the data exactly, without overlap; afterwards every `start <= end <= data_bytes`.
fn check_layout(entries: &[(String, Entry)], data_bytes: usize) -> Result<(), String> {
    let mut order: Vec<&(String, Entry)> = entries.iter().collect();
    order.sort_unstable_by_key(|(_, entry)| entry.data_offsets);
    let mut at = 0;
    for (name, Entry { data_offsets: [start, end], shape, .. }) in order {
        if *start != at || end < start {
            return Err(format!("tensor {name}: data offsets {start}..{end}, expected to start at {at}"));
        }
        if *end > data_bytes {
            return Err(format!(
                "tensor {name}: data offsets {start}..{end} go beyond the {data_bytes} bytes of data; \
                 the file is probably cut short"
            ));
        }
        if shape.len() > SAFETENSORS_DIMS_MAX {
            return Err(format!(
                "tensor {name}: {} dimensions, the limit is {SAFETENSORS_DIMS_MAX}",
                shape.len()
            ));
        }
        at = *end;
    }
    if at != data_bytes {
        return Err(format!("{data_bytes} bytes of data, but the tensors take {at}"));
    }
    Ok(())
}

fn float_type(name: &str) -> Option<DType> {
    match name {
        "F32" => Some(DType::F32),
        "F16" => Some(DType::F16),
        "BF16" => Some(DType::BF16),
        _ => None,
    }
}

/// Bytes of a value of the other types that packed weights are stored in.
fn other_bytes(name: &str) -> Option<usize> {
    match name {
        "U8" | "I8" | "BOOL" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(1),
        "U16" | "I16" => Some(2),
        "U32" | "I32" => Some(4),
        "U64" | "I64" | "F64" => Some(8),
        _ => None,
    }
}

/// The header's entries in file order, names unique.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        use serde::de::Error as _;
        let mut entries = Vec::new();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.len() as u64 > NAME_BYTES_MAX {
                return Err(A::Error::custom(format!(
                    "a tensor name of {} bytes, the limit is {NAME_BYTES_MAX}",
                    name.len()
                )));
            }
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("tensor {name} appears twice")));
            }
            if name == METADATA_KEY {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            entries.push((name, map.next_value()?));
            if entries.len() as u64 > TENSORS_MAX {
                return Err(A::Error::custom(format!("more than {TENSORS_MAX} tensors")));
            }
        }
        Ok(Entries(entries))
    }
}
