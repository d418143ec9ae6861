//! GGUF header reader: metadata and tensor table of one file, checked against the file's real size.
//!
//! Source: the GGUF specification (versions 2 and 3, little endian). Nothing read here is trusted: every
//! count is bounded by what is left of the file before memory is reserved for it.

use std::collections::HashSet;

use undine_core::DType;

use crate::Error;
use crate::limits::{
    ALIGNMENT_MAX, ARRAY_MAX, GGUF_DIMS_MAX, METADATA_MAX, NAME_BYTES_MAX, STRING_BYTES_MAX, TENSORS_MAX,
};
use crate::tensor::{Tensor, tensor_bytes};
use crate::value::{ARRAY_KIND, Array, Value};

/// The first four bytes of a GGUF file.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// Alignment of tensor data when `general.alignment` is absent.
pub(crate) const ALIGNMENT_DEFAULT: u32 = 32;
/// Smallest metadata entry: a key length, a kind and one byte of value.
const METADATA_BYTES_MIN: u64 = 8 + 4 + 1;
/// Smallest tensor entry: name length, dimension count, one dimension, type, offset.
const TENSOR_BYTES_MIN: u64 = 8 + 4 + 8 + 4 + 8;

/// The header of one GGUF file.
pub(crate) struct GgufHeader {
    pub version: u32,
    pub metadata: Vec<(String, Value)>,
    /// Byte ranges are positions in the file; `file` is 0.
    pub tensors: Vec<Tensor>,
}

impl GgufHeader {
    /// Reads and checks the header of `bytes`, a whole file.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Error> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.take(4, "magic")? != MAGIC {
            return Err(Error::gguf("magic", "expected the bytes GGUF"));
        }
        let version = cursor.u32("version")?;
        match version {
            2 | 3 => {}
            1 => return Err(Error::gguf("version", "expected 2 or 3, found 1; convert the file again")),
            _ if matches!(version.swap_bytes(), 1..=3) => {
                return Err(Error::gguf(
                    "version",
                    "the file is big endian; only little-endian files can be used",
                ));
            }
            _ => return Err(Error::gguf("version", format!("expected 2 or 3, found {version}"))),
        }
        let tensor_count = cursor.count("tensor count", TENSORS_MAX, TENSOR_BYTES_MIN)?;
        let metadata_count = cursor.count("metadata count", METADATA_MAX, METADATA_BYTES_MIN)?;
        let metadata = read_metadata(&mut cursor, metadata_count)?;
        let alignment = alignment(&metadata)?;
        let entries = (0..tensor_count).map(|i| read_entry(&mut cursor, i)).collect::<Result<Vec<_>, _>>()?;
        let data = cursor.at.next_multiple_of(alignment);
        let tensors = place(entries, data, alignment, bytes.len())?;
        Ok(Self { version, metadata, tensors })
    }
}

/// A tensor table entry as it stands in the file.
struct Entry {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    offset: u64,
}

fn read_metadata(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<(String, Value)>, Error> {
    let mut metadata = Vec::with_capacity(count);
    let mut keys = HashSet::with_capacity(count);
    for i in 0..count {
        let key = cursor.string(&format!("key of metadata entry {i}"), NAME_BYTES_MAX)?;
        let kind = cursor.u32(&key)?;
        let value = read_value(cursor, &key, kind)?;
        if !keys.insert(key.clone()) {
            return Err(Error::gguf(key, "the key appears twice"));
        }
        metadata.push((key, value));
    }
    Ok(metadata)
}

fn read_value(cursor: &mut Cursor<'_>, key: &str, kind: u32) -> Result<Value, Error> {
    if kind == ARRAY_KIND {
        let kind = cursor.u32(key)?;
        return Ok(Value::Array(read_array(cursor, key, kind)?));
    }
    Ok(match kind {
        0 => Value::U8(cursor.array::<1>(key)?[0]),
        1 => Value::I8(i8::from_le_bytes(cursor.array(key)?)),
        2 => Value::U16(u16::from_le_bytes(cursor.array(key)?)),
        3 => Value::I16(i16::from_le_bytes(cursor.array(key)?)),
        4 => Value::U32(u32::from_le_bytes(cursor.array(key)?)),
        5 => Value::I32(i32::from_le_bytes(cursor.array(key)?)),
        6 => Value::F32(f32::from_le_bytes(cursor.array(key)?)),
        7 => Value::Bool(boolean(key, cursor.array::<1>(key)?[0])?),
        8 => Value::String(cursor.string(key, STRING_BYTES_MAX)?),
        10 => Value::U64(u64::from_le_bytes(cursor.array(key)?)),
        11 => Value::I64(i64::from_le_bytes(cursor.array(key)?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array(key)?)),
        _ => return Err(Error::gguf(key, format!("expected a value kind from 0 to 12, found {kind}"))),
    })
}

fn read_array(cursor: &mut Cursor<'_>, key: &str, kind: u32) -> Result<Array, Error> {
    let item_bytes = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        ARRAY_KIND => return Err(Error::gguf(key, "arrays of arrays are not used by any model")),
        _ => return Err(Error::gguf(key, format!("expected an array kind from 0 to 12, found {kind}"))),
    };
    let len = cursor.count(key, ARRAY_MAX, item_bytes)?;
    if kind == 8 {
        let strings = (0..len).map(|_| cursor.string(key, STRING_BYTES_MAX)).collect::<Result<_, _>>()?;
        return Ok(Array::String(strings));
    }
    let bytes = cursor.take(len * item_bytes as usize, key)?;
    Ok(match kind {
        0 => Array::U8(bytes.to_vec()),
        1 => Array::I8(bytes.iter().map(|&byte| byte as i8).collect()),
        2 => Array::U16(items(bytes, u16::from_le_bytes)),
        3 => Array::I16(items(bytes, i16::from_le_bytes)),
        4 => Array::U32(items(bytes, u32::from_le_bytes)),
        5 => Array::I32(items(bytes, i32::from_le_bytes)),
        6 => Array::F32(items(bytes, f32::from_le_bytes)),
        7 => Array::Bool(bytes.iter().map(|&byte| boolean(key, byte)).collect::<Result<_, _>>()?),
        10 => Array::U64(items(bytes, u64::from_le_bytes)),
        11 => Array::I64(items(bytes, i64::from_le_bytes)),
        _ => Array::F64(items(bytes, f64::from_le_bytes)),
    })
}

fn items<T, const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&item| decode(item)).collect()
}

fn boolean(key: &str, byte: u8) -> Result<bool, Error> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::gguf(key, format!("expected a boolean byte 0 or 1, found {byte}"))),
    }
}

fn alignment(metadata: &[(String, Value)]) -> Result<usize, Error> {
    let key = "general.alignment";
    let alignment = match metadata.iter().find(|(name, _)| name == key) {
        None => ALIGNMENT_DEFAULT,
        Some((_, Value::U32(alignment))) => *alignment,
        Some((_, other)) => {
            return Err(Error::gguf(key, format!("expected a u32, found a {}", other.kind_name())));
        }
    };
    if !alignment.is_power_of_two() || !(8..=ALIGNMENT_MAX).contains(&alignment) {
        let reason = format!("expected a power of two from 8 to {ALIGNMENT_MAX}, found {alignment}");
        return Err(Error::gguf(key, reason));
    }
    Ok(alignment as usize)
}

fn read_entry(cursor: &mut Cursor<'_>, index: usize) -> Result<Entry, Error> {
    let name = cursor.string(&format!("name of tensor {index}"), NAME_BYTES_MAX)?;
    let field = format!("tensor {name}");
    let dims = cursor.u32(&field)? as usize;
    if !(1..=GGUF_DIMS_MAX).contains(&dims) {
        return Err(Error::gguf(field, format!("expected 1 to {GGUF_DIMS_MAX} dimensions, found {dims}")));
    }
    let mut shape = Vec::with_capacity(dims);
    for _ in 0..dims {
        let dim = cursor.u64(&field)?;
        match usize::try_from(dim) {
            Ok(dim) if dim > 0 => shape.push(dim),
            _ => return Err(Error::gguf(field, format!("dimension {dim} is zero or too large"))),
        }
    }
    shape.reverse();
    let number = cursor.u32(&field)?;
    let Some(dtype) = DType::from_ggml(number) else {
        let found = type_name(number).map_or_else(|| format!("number {number}"), str::to_owned);
        let known: Vec<_> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
        return Err(Error::TensorType { name, found, expected: format!("one of {}", known.join(", ")) });
    };
    let offset = cursor.u64(&field)?;
    Ok(Entry { name, dtype, shape, offset })
}

/// Turns offsets into ranges of the file; ranges must be aligned, inside, and not overlap. `data` is where
/// tensor data begins.
fn place(
    entries: Vec<Entry>,
    data: usize,
    alignment: usize,
    file_bytes: usize,
) -> Result<Vec<Tensor>, Error> {
    let mut tensors = Vec::with_capacity(entries.len());
    for Entry { name, dtype, shape, offset } in entries {
        let fail = |reason: String| Error::gguf(format!("tensor {name}"), reason);
        if offset % alignment as u64 != 0 {
            return Err(fail(format!("offset {offset} is not a multiple of the alignment {alignment}")));
        }
        let Some(len) = tensor_bytes(dtype, &shape) else {
            return Err(fail(format!("shape {shape:?} of {dtype} is not whole blocks, or too large")));
        };
        let start = usize::try_from(offset).ok().and_then(|offset| data.checked_add(offset));
        let range = start.and_then(|start| Some(start..start.checked_add(len)?));
        match range {
            Some(bytes) if bytes.end <= file_bytes => {
                tensors.push(Tensor { name, dtype, shape, file: 0, bytes })
            }
            _ => {
                let reason = format!(
                    "{len} bytes at offset {offset} of the data at {data} go beyond the file's {file_bytes} bytes; \
                     the file is probably cut short"
                );
                return Err(fail(reason));
            }
        }
    }
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_unstable_by_key(|&i| tensors[i].bytes.start);
    for pair in order.windows(2) {
        let (before, after) = (&tensors[pair[0]], &tensors[pair[1]]);
        if before.bytes.end > after.bytes.start {
            return Err(Error::gguf(
                format!("tensor {}", after.name),
                format!("overlaps tensor {}", before.name),
            ));
        }
    }
    Ok(tensors)
}

/// Names of the type numbers Undine cannot compute with, for messages. Source: ggml's public header.
fn type_name(number: u32) -> Option<&'static str> {
    Some(match number {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}

/// A reading position; every read names the field it is for.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize, field: &str) -> Result<&'a [u8], Error> {
        if len > self.left() {
            let reason =
                format!("expected {len} bytes at {}, but the file ends after {}", self.at, self.left());
            return Err(Error::gguf(field, reason));
        }
        let start = self.at;
        self.at += len;
        Ok(&self.bytes[start..self.at])
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Error> {
        Ok(self.take(N, field)?.try_into().expect("take returns as many bytes as were asked for"))
    }

    fn u32(&mut self, field: &str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &str) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A count of things of which each takes at least `bytes_each` bytes of the rest of the file.
    fn count(&mut self, field: &str, max: u64, bytes_each: u64) -> Result<usize, Error> {
        let count = self.u64(field)?;
        let possible = self.left() as u64 / bytes_each;
        if count > max.min(possible) {
            let reason =
                format!("found {count}; the limit is {max} and the rest of the file can hold {possible}");
            return Err(Error::gguf(field, reason));
        }
        Ok(count as usize)
    }

    fn string(&mut self, field: &str, max: u64) -> Result<String, Error> {
        let len = self.count(field, max, 1)?;
        let bytes = self.take(len, field)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(Error::gguf(field, format!("not UTF-8 text: {error}"))),
        }
    }
}
