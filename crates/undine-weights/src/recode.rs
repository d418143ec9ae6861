//! Writing a [`Source`] as GGUF with other tensor types: on all cores, in little memory, whatever the size.
//!
//! Rows are cut into chunks; threads decode and encode them, one thread writes them in order. There are only
//! so many buffers, and a thread takes its buffer before its chunk: the chunk that is written next always has
//! one.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{channel, sync_channel};
use std::thread::{self, available_parallelism};

use undine_core::quant::Correlations;
use undine_core::{DType, quant};

use crate::Error;
use crate::gguf::ALIGNMENT_DEFAULT;
use crate::gguf_write::{GgufWriter, TensorDeclaration};
use crate::imatrix::Coefficients;
use crate::source::{Source, SourceTensor};
use crate::weight::Weight;

/// Values of a chunk, if rows are not longer.
const CHUNK_ELEMS: usize = 1 << 19;
/// Buffers for each thread: one being filled, one waiting to be written.
const BUFFERS_PER_THREAD: usize = 2;
/// Smallest magnitude that rounds to infinity in F16 and in BF16.
const F16_OVERFLOW: f32 = 65520.0;
const BF16_OVERFLOW: f32 = 3.396_177_5e38;

/// What a tensor becomes.
#[derive(Clone, PartialEq, Debug)]
pub struct Recoding {
    /// Its type.
    pub dtype: DType,
    /// How much the error of each input column counts, `matrices x cols`; without it all count the same.
    pub importance: Option<Vec<f32>>,
    /// How the columns of a tensor of one matrix go together; only with importances.
    pub coefficients: Option<Coefficients>,
}

impl Recoding {
    /// A type, with every column counting the same.
    pub fn plain(dtype: DType) -> Self {
        Self { dtype, importance: None, coefficients: None }
    }
}

/// What a thread works with.
#[derive(Default)]
struct Workplace<'a> {
    values: Vec<f32>,
    /// Of the matrix that the last chunk was of. They take longer to prepare than to use for one chunk, and
    /// several times the memory of a row.
    correlations: Option<(&'a Recoding, Correlations)>,
}

impl<'a> Workplace<'a> {
    fn correlations(&mut self, recoding: &'a Recoding) -> Option<&Correlations> {
        let (coefficients, importance) = recoding.coefficients.as_ref().zip(recoding.importance.as_ref())?;
        if !self.correlations.as_ref().is_some_and(|(of, _)| std::ptr::eq(*of, recoding)) {
            // Freed first: both together would be the peak.
            self.correlations = None;
            self.correlations = Some((recoding, coefficients.correlations(importance)));
        }
        self.correlations.as_ref().map(|(_, correlations)| correlations)
    }
}

/// Some rows of one matrix.
struct Chunk<'a> {
    tensor: &'a SourceTensor,
    recoding: &'a Recoding,
    part: &'a Weight,
    /// Rows of the part.
    rows: Range<usize>,
    matrix: usize,
}

impl Source {
    /// Writes a GGUF file to `out`, which appears when everything is written, with one entry of `recodings`
    /// for each tensor; `progress` gets the bytes of each piece that was written and may end the writing.
    ///
    /// # Errors
    /// If rows are not whole blocks of the chosen type, a value is not finite or too large for it, the system
    /// refuses, or `progress` says so.
    ///
    /// # Panics
    /// If there is not one entry for each tensor, or an importance has another shape than its tensor.
    pub fn write(
        &self,
        recodings: &[Recoding],
        file_type: u32,
        out: &Path,
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let declare = |(tensor, recoding): (&SourceTensor, &Recoding)| TensorDeclaration {
            name: tensor.name.clone(),
            dtype: recoding.dtype,
            shape: tensor.shape.clone(),
        };
        let declarations: Vec<_> = self.tensors.iter().zip(recodings).map(declare).collect();
        let mut writer = GgufWriter::create(out, &self.metadata_of(file_type), &declarations)?;
        self.recode(recodings, |data| {
            writer.append(data)?;
            match progress(data.len() as u64) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(Error::Stopped),
            }
        })?;
        writer.commit()
    }

    /// Gives all rows of all tensors in their new types to `sink`, in order.
    pub(crate) fn recode(
        &self,
        recodings: &[Recoding],
        mut sink: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        assert_eq!(recodings.len(), self.tensors.len(), "one recoding for each tensor");
        let tensors = self.tensors.iter().zip(recodings);
        let chunks: Vec<Chunk<'_>> =
            tensors.flat_map(|(tensor, recoding)| chunks(tensor, recoding)).collect();
        let threads = available_parallelism().map_or(1, NonZero::get);
        let (give_back, buffers) = sync_channel(BUFFERS_PER_THREAD * threads);
        for _ in 0..BUFFERS_PER_THREAD * threads {
            give_back.send(Vec::new()).expect("the receiver is in the queue");
        }
        let queue = &Mutex::new((buffers, chunks.iter().enumerate()));
        let recoded = thread::scope(|scope| {
            // Dropped with the closure, so that threads which wait for a buffer end when the writing does.
            let give_back = give_back;
            let (finished, results) = channel();
            for number in 0..threads {
                let finished = finished.clone();
                let work = move || {
                    let mut workplace = Workplace::default();
                    loop {
                        let mut queue = queue.lock().expect("no thread panics with the lock");
                        // The writer has left when there is no buffer to come.
                        let Ok(mut buffer) = queue.0.recv() else { return };
                        let Some((number, chunk)) = queue.1.next() else { return };
                        drop(queue);
                        // The others would wait for the buffer of a thread that panics.
                        let encode = || self.encode(chunk, &mut workplace, &mut buffer).map(|()| buffer);
                        let result = catch_unwind(AssertUnwindSafe(encode));
                        if finished.send((number, result)).is_err() {
                            return;
                        }
                    }
                };
                match thread::Builder::new().spawn_scoped(scope, work) {
                    Ok(_) => {}
                    Err(error) if number == 0 => {
                        return Err(Error::Write(format!("no thread could be started: {error}")));
                    }
                    // Those there are do it.
                    Err(_) => break,
                }
            }
            drop(finished);
            let (mut waiting, mut next) = (BTreeMap::new(), 0);
            for (number, result) in results {
                waiting.insert(number, result);
                while let Some(result) = waiting.remove(&next) {
                    let buffer = result.unwrap_or_else(|panic| resume_unwind(panic))?;
                    sink(&buffer)?;
                    // Threads that have no more to do have left.
                    let _ = give_back.send(buffer);
                    next += 1;
                }
            }
            Ok(())
        });
        // First, because it may be the reason for any other error.
        self.check_files()?;
        recoded
    }

    /// `general.file_type`: the number other programs know for the type most values have. Source: llama.cpp's
    /// public header.
    pub fn file_type(&self, recodings: &[Recoding]) -> u32 {
        let elems = |dtype: DType| -> usize {
            let of_type = self.tensors.iter().zip(recodings).filter(|(_, recoding)| recoding.dtype == dtype);
            of_type.map(|(tensor, _)| tensor.rows() * tensor.cols()).sum()
        };
        match DType::ALL.iter().copied().max_by_key(|&dtype| elems(dtype)).unwrap_or(DType::F32) {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::Q4_0 => 2,
            DType::Q4_1 => 3,
            DType::Q8_0 => 7,
            DType::Q5_0 => 8,
            DType::Q5_1 => 9,
            DType::Q2_K => 10,
            DType::Q3_K => 12,
            DType::Q4_K => 15,
            DType::Q5_K => 17,
            DType::Q6_K => 18,
            DType::IQ2_XXS => 19,
            DType::IQ2_XS => 20,
            DType::IQ3_XXS => 23,
            DType::IQ1_S => 24,
            DType::IQ2_S => 28,
            DType::IQ1_M => 31,
            DType::TQ1_0 => 36,
            DType::TQ2_0 => 37,
            DType::MXFP4 => 38,
            DType::NVFP4 => 39,
            DType::IQ3_S => 26,
            DType::IQ4_NL => 25,
            DType::IQ4_XS => 30,
            DType::BF16 => 32,
        }
    }

    /// Bytes of a written file that do not depend on the types of its matrices: the header, and tensors that
    /// are no matrices. Each matrix adds its own bytes, padded to a multiple of 32.
    ///
    /// # Errors
    /// If a name or value is beyond the limits of the format.
    pub fn fixed_bytes(&self) -> Result<u64, Error> {
        let kept =
            |tensor: &SourceTensor| if tensor.is_matrix() { tensor.dtype() } else { tensor.kept_dtype() };
        let declare = |tensor: &SourceTensor| TensorDeclaration {
            name: tensor.name.clone(),
            dtype: kept(tensor),
            shape: tensor.shape.clone(),
        };
        let declarations: Vec<_> = self.tensors.iter().map(declare).collect();
        let mut header = Vec::new();
        GgufWriter::new(&mut header, &self.metadata_of(0), &declarations)?;
        let others = self.tensors.iter().filter(|tensor| !tensor.is_matrix());
        let bytes = |tensor: &SourceTensor| tensor.bytes_as(tensor.kept_dtype()).unwrap_or(0);
        let padded = others.map(|tensor| bytes(tensor).next_multiple_of(ALIGNMENT_DEFAULT.into()));
        Ok(header.len() as u64 + padded.sum::<u64>())
    }

    /// Writes a GGUF file with the types that `dtype_of` gives the matrices.
    pub(crate) fn write_as(
        &self,
        dtype_of: impl Fn(&str, &Weight) -> DType,
        out: &Path,
    ) -> Result<(), Error> {
        let choose = |tensor: &SourceTensor| match tensor.is_matrix() {
            true => dtype_of(&tensor.name, &tensor.parts[0]),
            false => tensor.kept_dtype(),
        };
        let recodings: Vec<_> = self.tensors.iter().map(|tensor| Recoding::plain(choose(tensor))).collect();
        self.write(&recodings, self.file_type(&recodings), out, |_| ControlFlow::Continue(()))
    }

    /// Decodes the rows of a chunk and appends them to the empty `buffer` in their new type.
    fn encode<'a>(
        &self,
        chunk: &Chunk<'a>,
        workplace: &mut Workplace<'a>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let &Chunk { tensor, recoding, part, ref rows, matrix } = chunk;
        let dtype = recoding.dtype;
        let row_bytes = |dtype: DType| dtype.row_bytes(part.cols).expect("shapes were checked when declared");
        let start = part.start + rows.start * row_bytes(part.dtype);
        let range = start..start + rows.len() * row_bytes(part.dtype);
        let file = &self.files[part.file];
        buffer.clear();
        if part.dtype == dtype && !dtype.is_float() {
            buffer.extend_from_slice(&file.part(range.clone()));
        } else {
            let mut values = std::mem::take(&mut workplace.values);
            values.resize(rows.len() * part.cols, 0.0);
            buffer.resize(rows.len() * row_bytes(dtype), 0);
            quant::decode(part.dtype, &file.part(range.clone()), &mut values);
            check_values(&tensor.name, dtype, &values)?;
            match &recoding.importance {
                Some(importance) => {
                    let importance = &importance[matrix * part.cols..][..part.cols];
                    let correlations = workplace.correlations(recoding);
                    quant::encode_weighted(dtype, &values, importance, correlations, buffer);
                }
                None => quant::encode(dtype, &values, buffer),
            }
            workplace.values = values;
        }
        file.release(range);
        Ok(())
    }
}

/// A value that `dtype` cannot hold would be lost silently.
fn check_values(tensor: &str, dtype: DType, values: &[f32]) -> Result<(), Error> {
    let limit = match dtype {
        DType::F16 => F16_OVERFLOW,
        DType::BF16 => BF16_OVERFLOW,
        _ => f32::INFINITY,
    };
    match values.iter().find(|value| value.is_nan() || value.abs() >= limit) {
        None => Ok(()),
        Some(&value) => Err(Error::Value { tensor: tensor.to_owned(), value, dtype }),
    }
}

/// The rows of a tensor in pieces of one matrix each.
fn chunks<'a>(tensor: &'a SourceTensor, recoding: &'a Recoding) -> impl Iterator<Item = Chunk<'a>> {
    let rows_each = tensor.rows() / tensor.matrices();
    let rows_max = (CHUNK_ELEMS / tensor.cols()).max(1);
    let mut done = 0;
    tensor.parts.iter().flat_map(move |part| {
        let first = done;
        done += part.rows;
        let mut start = 0;
        std::iter::from_fn(move || {
            let matrix = (first + start) / rows_each;
            let end = part.rows.min(start + rows_max).min((matrix + 1) * rows_each - first);
            let rows = start..end;
            start = end;
            (!rows.is_empty()).then_some(Chunk { tensor, recoding, part, rows, matrix })
        })
    })
}
