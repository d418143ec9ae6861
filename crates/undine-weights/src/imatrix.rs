//! Importance matrices: how strongly each input column of each matrix is driven by real text.
//!
//! An entry holds, per matrix, the sum over tokens of each input column's square, and the number of tokens.
//! Their quotient weights the squared error of a weight in that column: it is what the error adds to the
//! squared error of the output. Read are the GGUF form (`general.type` `imatrix`, tensors `NAME.in_sum2` of
//! `matrices x columns` and `NAME.counts` of `matrices x 1`) and the older `.dat` form; written is the GGUF
//! form. Source: llama.cpp's imatrix tool.
//!
//! Beside them the GGUF form may have, for tensors of one matrix, `NAME.in_corr`, F16 of `columns x 256`: how
//! the input columns of a run of 256 go together (see [`quant::Correlations`]). Other programs pass over
//! these tensors.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use undine_core::quant::CORRELATED_COLUMNS;
use undine_core::{DType, quant};

use crate::Error;
use crate::config_gguf::Metadata;
use crate::gguf::{GgufHeader, MAGIC};
use crate::gguf_write::{GgufWriter, TensorDeclaration};
use crate::limits::{IMATRIX_DATASETS_MAX, NAME_BYTES_MAX, STRING_BYTES_MAX, TENSORS_MAX};
use crate::map::Bytes;
use crate::tensor::Tensor;
use crate::value::{Array, Value};

const TYPE: &str = "imatrix";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const CORRELATIONS: &str = ".in_corr";

/// What text drives through each matrix of a model.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Imatrix {
    /// Names of the texts.
    pub datasets: Vec<String>,
    /// Chunks of text that were computed.
    pub chunks: u32,
    /// Tokens of a chunk; 0 if the file does not say.
    pub chunk_tokens: u32,
    /// By GGUF tensor name, such as `blk.0.ffn_down.weight`.
    pub entries: BTreeMap<String, ImatrixEntry>,
}

/// Input columns of one tensor: of one matrix, or of the matrices of all experts of a layer.
#[derive(Clone, PartialEq, Debug)]
pub struct ImatrixEntry {
    /// Tokens that went through each matrix.
    counts: Vec<f32>,
    /// `matrices x columns`: sums of squares.
    sums: Vec<f32>,
    /// F16, `columns x CORRELATED_COLUMNS`: see [`quant::Correlations::new`]. Of a single matrix only.
    coefficients: Option<Arc<[u8]>>,
}

/// How the input columns of a matrix go together, as it lies in a file.
#[derive(Clone, PartialEq, Debug)]
pub struct Coefficients {
    f16s: Arc<[u8]>,
    rows: f32,
}

impl Coefficients {
    /// Prepares them for encoding; `mean_squares` are those of the same entry.
    pub fn correlations(&self, mean_squares: &[f32]) -> quant::Correlations {
        let mut values = vec![0.0; self.f16s.len() / 2];
        quant::decode(DType::F16, &self.f16s, &mut values);
        quant::Correlations::new(mean_squares, &values, self.rows)
    }
}

impl ImatrixEntry {
    /// An entry of `counts.len()` matrices; `sums` is `matrices x columns`, row-major.
    ///
    /// # Errors
    /// If there is no matrix, `sums` is not the same number of columns for each, or a number is negative or
    /// not finite.
    pub fn new(counts: Vec<f32>, sums: Vec<f32>) -> Result<Self, Error> {
        let fail = |reason: String| Err(Error::Imatrix(reason));
        if counts.is_empty() || sums.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            return fail(format!(
                "expected a sum per matrix and column, found {} sums of {} matrices",
                sums.len(),
                counts.len()
            ));
        }
        match counts.iter().chain(&sums).find(|x| !(x.is_finite() && **x >= 0.0)) {
            Some(bad) => fail(format!("expected finite numbers of at least 0, found {bad}")),
            None => Ok(Self { counts, sums, coefficients: None }),
        }
    }

    /// Adds how the columns of a single matrix go together. `products` is `columns x CORRELATED_COLUMNS`: in
    /// row `c` the sums of the products of column `c` with each column up to itself of its run.
    ///
    /// # Panics
    /// If there are several matrices, or sums of another number of columns.
    pub fn with_products(mut self, products: &[f32]) -> Self {
        let cols = self.sums.len();
        assert!(
            self.counts.len() == 1 && products.len() == cols * CORRELATED_COLUMNS,
            "products of one matrix"
        );
        let mut coefficients = vec![0.0; products.len()];
        for (column, products) in products.chunks_exact(CORRELATED_COLUMNS).enumerate() {
            let start = column - column % CORRELATED_COLUMNS;
            for (other, product) in (start..=column).zip(products) {
                let root = (f64::from(self.sums[column]) * f64::from(self.sums[other])).sqrt();
                // A column that nothing went through goes together with none.
                let coefficient = if root > 0.0 { (f64::from(*product) / root) as f32 } else { 0.0 };
                coefficients[column * CORRELATED_COLUMNS + other - start] = coefficient;
                coefficients[other * CORRELATED_COLUMNS + column - start] = coefficient;
            }
        }
        let mut f16s = vec![0; 2 * coefficients.len()];
        quant::encode(DType::F16, &coefficients, &mut f16s);
        self.coefficients = Some(f16s.into());
        self
    }

    /// How the columns go together, if that is known: of a single matrix that something went through.
    pub fn coefficients(&self) -> Option<Coefficients> {
        let f16s = self.coefficients.clone()?;
        (self.counts[0] > 0.0).then(|| Coefficients { f16s, rows: self.counts[0] })
    }

    /// Tokens that went through each matrix.
    pub fn counts(&self) -> &[f32] {
        &self.counts
    }

    /// Sums of squares, `matrices x columns`.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// The mean square of each input column of a tensor of `matrices` matrices: `matrices x cols`, row-major.
    ///
    /// A matrix that no token went through takes the mean of the others; if there are none, every column
    /// counts 1.
    ///
    /// # Errors
    /// If the entry belongs to a tensor of another shape.
    pub fn mean_squares(&self, matrices: usize, cols: usize) -> Result<Vec<f32>, Error> {
        // The older form keeps one count for all experts.
        let shared = self.counts.len() == 1;
        if matrices.checked_mul(cols) != Some(self.sums.len()) || !(shared || self.counts.len() == matrices) {
            return Err(Error::Imatrix(format!(
                "expected {matrices} matrices of {cols} columns, found {} of {}",
                self.counts.len(),
                self.sums.len() / self.counts.len()
            )));
        }
        let count = |matrix: usize| self.counts[if shared { 0 } else { matrix }];
        let seen = (0..matrices).filter(|&matrix| count(matrix) > 0.0).count();
        let mut means = vec![1.0; self.sums.len()];
        let mut mean_of_seen = vec![0.0; cols];
        for (matrix, (means, sums)) in
            means.chunks_exact_mut(cols).zip(self.sums.chunks_exact(cols)).enumerate()
        {
            if count(matrix) > 0.0 {
                for ((mean, total), sum) in means.iter_mut().zip(&mut mean_of_seen).zip(sums) {
                    *mean = sum / count(matrix);
                    *total += *mean / seen as f32;
                }
            }
        }
        if seen > 0 {
            let unseen = means.chunks_exact_mut(cols).enumerate().filter(|(matrix, _)| count(*matrix) == 0.0);
            unseen.for_each(|(_, means)| means.copy_from_slice(&mean_of_seen));
        }
        Ok(means)
    }
}

impl Imatrix {
    /// Reads a file in either form.
    ///
    /// # Errors
    /// If the system refuses, or the file is damaged or no importance matrix.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::read(&Bytes::map(path)?)
    }

    /// Reads the bytes of a file in either form.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.starts_with(MAGIC) { Self::read_gguf(bytes) } else { Self::read_dat(bytes) }
    }

    /// Writes the GGUF form to `path`, which appears when everything is written.
    ///
    /// # Errors
    /// If the system refuses, or a name is beyond the reader's limits.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let metadata = [
            ("general.type", Value::String(TYPE.to_owned())),
            (DATASETS, Value::Array(Array::String(self.datasets.clone()))),
            (CHUNK_COUNT, Value::U32(self.chunks)),
            (CHUNK_SIZE, Value::U32(self.chunk_tokens)),
        ];
        let metadata: Vec<_> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let declare = |name: String, dtype, shape| TensorDeclaration { name, dtype, shape };
        let mut declarations = Vec::new();
        for (name, entry) in &self.entries {
            let (matrices, f32) = (entry.counts.len(), DType::F32);
            let cols = entry.sums.len() / matrices;
            declarations.push(declare(format!("{name}{SUMS}"), f32, vec![matrices, cols]));
            declarations.push(declare(format!("{name}{COUNTS}"), f32, vec![matrices, 1]));
            if entry.coefficients.is_some() {
                let shape = vec![cols, CORRELATED_COLUMNS];
                declarations.push(declare(format!("{name}{CORRELATIONS}"), DType::F16, shape));
            }
        }
        let mut writer = GgufWriter::create(path, &metadata, &declarations)?;
        for entry in self.entries.values() {
            for values in [&entry.sums, &entry.counts] {
                let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                writer.append(&bytes)?;
            }
            if let Some(coefficients) = &entry.coefficients {
                writer.append(coefficients)?;
            }
        }
        writer.commit()
    }

    fn read_gguf(bytes: &[u8]) -> Result<Self, Error> {
        let header = GgufHeader::read(bytes)?;
        let metadata = Metadata::new(&header.metadata);
        let found = metadata.text("general.type")?;
        if found != Some(TYPE) {
            let found = found.unwrap_or("nothing");
            return Err(Error::Imatrix(format!("expected a file of general.type {TYPE:?}, found {found:?}")));
        }
        let number =
            |key: &str| Ok::<u32, Error>(metadata.integer(key)?.unwrap_or(0).try_into().unwrap_or(u32::MAX));
        let datasets = metadata.strings(DATASETS)?.unwrap_or_default();
        let mut imatrix = Self {
            datasets: datasets.iter().take(IMATRIX_DATASETS_MAX).cloned().collect(),
            chunks: number(CHUNK_COUNT)?,
            chunk_tokens: number(CHUNK_SIZE)?,
            entries: BTreeMap::new(),
        };
        let by_name: BTreeMap<&str, &Tensor> =
            header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        if by_name.len() != header.tensors.len() {
            return Err(Error::gguf("tensor table", "a tensor appears twice"));
        }
        for (tensor, name) in
            by_name.values().filter_map(|tensor| Some((*tensor, tensor.name.strip_suffix(SUMS)?)))
        {
            let counts = by_name.get(format!("{name}{COUNTS}").as_str());
            let counts = counts.ok_or_else(|| Error::Imatrix(format!("{name}{COUNTS} is missing")))?;
            let mut entry = ImatrixEntry::new(floats(bytes, counts)?, floats(bytes, tensor)?)
                .map_err(|error| about(name, &error))?;
            if let Some(tensor) = by_name.get(format!("{name}{CORRELATIONS}").as_str()) {
                entry.coefficients = Some(coefficients(bytes, tensor, &entry)?);
            }
            imatrix.entries.insert(name.to_owned(), entry);
        }
        Ok(imatrix)
    }

    /// The older form: a number of entries; per entry a name, a number of calls and values that are mean
    /// squares times that number; then, in newer files, the number of chunks and the name of a text. Numbers
    /// are i32 and f32.
    fn read_dat(bytes: &[u8]) -> Result<Self, Error> {
        let mut cursor = Cursor { rest: bytes };
        let count = cursor.count("number of entries", TENSORS_MAX)?;
        if count == 0 {
            return Err(Error::Imatrix("expected at least one entry, found none".to_owned()));
        }
        let mut imatrix = Self::default();
        for _ in 0..count {
            let name = cursor.text("name", NAME_BYTES_MAX)?;
            let calls = cursor.i32(&name)?.max(1) as f32;
            let len = cursor.count(&name, cursor.rest.len() as u64 / 4)?;
            let values = decode(cursor.take(4 * len, &name)?);
            let entry = ImatrixEntry::new(vec![calls], values).map_err(|error| about(&name, &error))?;
            if imatrix.entries.insert(name.clone(), entry).is_some() {
                return Err(Error::Imatrix(format!("{name} appears twice")));
            }
        }
        if !cursor.rest.is_empty() {
            imatrix.chunks = cursor.i32("number of chunks")?.max(0) as u32;
            imatrix.datasets.push(cursor.text("name of the text", STRING_BYTES_MAX)?);
        }
        Ok(imatrix)
    }
}

fn about(name: &str, error: &Error) -> Error {
    Error::Imatrix(match error {
        Error::Imatrix(reason) => format!("{name}: {reason}"),
        other => format!("{name}: {other}"),
    })
}

fn decode(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect()
}

fn floats(bytes: &[u8], tensor: &Tensor) -> Result<Vec<f32>, Error> {
    check_type(tensor, DType::F32)?;
    Ok(decode(&bytes[tensor.bytes.clone()]))
}

fn check_type(tensor: &Tensor, expected: DType) -> Result<(), Error> {
    if tensor.dtype == expected {
        return Ok(());
    }
    let (name, found) = (tensor.name.clone(), tensor.dtype.to_string());
    Err(Error::TensorType { name, found, expected: expected.to_string() })
}

/// The coefficients of an entry: as many as its columns need, and numbers.
fn coefficients(bytes: &[u8], tensor: &Tensor, entry: &ImatrixEntry) -> Result<Arc<[u8]>, Error> {
    check_type(tensor, DType::F16)?;
    let f16s = &bytes[tensor.bytes.clone()];
    let expected = entry.sums.len() * CORRELATED_COLUMNS;
    if entry.counts.len() != 1 || f16s.len() != 2 * expected {
        return Err(Error::Imatrix(format!(
            "{}: expected {expected} values for one matrix of {} columns, found {} for {} matrices",
            tensor.name,
            entry.sums.len(),
            f16s.len() / 2,
            entry.counts.len()
        )));
    }
    let mut values = vec![0.0; expected];
    quant::decode(DType::F16, f16s, &mut values);
    match values.iter().find(|value| !value.is_finite()) {
        Some(bad) => Err(Error::Imatrix(format!("{}: expected finite numbers, found {bad}", tensor.name))),
        None => Ok(f16s.into()),
    }
}

/// A reading position in the older form.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize, field: &str) -> Result<&'a [u8], Error> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            let found = self.rest.len();
            return Err(Error::Imatrix(format!(
                "{field}: expected {len} bytes, the file ends after {found}; it is cut short, or no importance matrix"
            )));
        };
        self.rest = rest;
        Ok(taken)
    }

    fn i32(&mut self, field: &str) -> Result<i32, Error> {
        let bytes = self.take(4, field)?;
        Ok(i32::from_le_bytes(bytes.try_into().expect("take returns as many bytes as were asked for")))
    }

    fn count(&mut self, field: &str, max: u64) -> Result<usize, Error> {
        let found = self.i32(field)?;
        match usize::try_from(found) {
            Ok(count) if count as u64 <= max => Ok(count),
            _ => Err(Error::Imatrix(format!(
                "{field}: expected a number from 0 to {max}, found {found}; the file is damaged, or no importance matrix"
            ))),
        }
    }

    fn text(&mut self, field: &str, max: u64) -> Result<String, Error> {
        let len = self.count(field, max)?;
        let bytes = self.take(len, field)?;
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|error| Error::Imatrix(format!("{field}: not UTF-8 text: {error}")))
    }
}
