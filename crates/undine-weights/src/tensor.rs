//! The tensors of a checkpoint, whatever file format they came from.

use std::collections::HashMap;
use std::ops::Range;

use undine_core::DType;

use crate::Error;

/// A tensor whose bytes are known to lie inside its file.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Tensor {
    pub name: String,
    pub dtype: DType,
    /// Outermost dimension first; every entry at least 1.
    pub shape: Vec<usize>,
    /// Index of the file.
    pub file: usize,
    /// Place in the file; as long as shape and type say.
    pub bytes: Range<usize>,
}

impl Tensor {
    /// The shape without outer dimensions of 1: formats differ in whether they keep them.
    pub(crate) fn shape_trimmed(&self) -> &[usize] {
        trim_leading_ones(&self.shape)
    }
}

pub(crate) fn trim_leading_ones(shape: &[usize]) -> &[usize] {
    let ones = shape.iter().take(shape.len().saturating_sub(1)).take_while(|&&dim| dim == 1).count();
    &shape[ones..]
}

/// Bytes of a tensor of this type and shape (outermost first), or `None` if the innermost dimension is not a whole number
/// of blocks or the size overflows.
pub(crate) fn tensor_bytes(dtype: DType, shape: &[usize]) -> Option<usize> {
    let (&cols, outer) = shape.split_last()?;
    outer.iter().try_fold(dtype.row_bytes(cols)?, |bytes, &dim| bytes.checked_mul(dim))
}

/// Tensors by name.
#[derive(Default)]
pub(crate) struct TensorTable {
    pub tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
    /// Tensors of types Undine cannot compute with: type by name.
    pub foreign: HashMap<String, String>,
}

impl TensorTable {
    /// Adds a tensor, or says that the name is taken.
    pub(crate) fn add(&mut self, tensor: Tensor) -> Result<(), String> {
        if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
            return Err(format!("tensor {} appears twice", tensor.name));
        }
        self.tensors.push(tensor);
        Ok(())
    }

    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The first of `spellings` that exists; an error if it exists but its type cannot be used.
    pub(crate) fn find(&self, spellings: &[String]) -> Result<Option<usize>, Error> {
        for name in spellings {
            if let Some(index) = self.index(name) {
                return Ok(Some(index));
            }
            if let Some(found) = self.foreign.get(name) {
                let expected = "F32, F16 or BF16".to_owned();
                return Err(Error::TensorType { name: name.clone(), found: found.clone(), expected });
            }
        }
        Ok(None)
    }
}
