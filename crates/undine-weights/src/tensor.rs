//! The tensors of a checkpoint, whatever file format they came from.

use std::collections::{HashMap, HashSet};
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

/// Bytes of a tensor of this type and shape (outermost first), or `None` if the innermost dimension is not a
/// whole number of blocks or the size overflows.
pub(crate) fn tensor_bytes(dtype: DType, shape: &[usize]) -> Option<usize> {
    let (&cols, outer) = shape.split_last()?;
    outer.iter().try_fold(dtype.row_bytes(cols)?, |bytes, &dim| bytes.checked_mul(dim))
}

/// A tensor of a type Undine cannot compute with.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Foreign {
    pub name: String,
    /// The type as the file calls it.
    pub kind: String,
    pub shape: Vec<usize>,
    pub file: usize,
    /// Place in the file; as long as shape and type say, if the type is one whose size is known.
    pub bytes: Range<usize>,
}

/// Tensors by key: their names, or these without what other programs put around them.
#[derive(Default)]
pub(crate) struct TensorTable {
    pub tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
    /// Tensors of types Undine cannot compute with.
    pub foreign: HashMap<String, Foreign>,
}

impl TensorTable {
    /// Adds a tensor, or says that the name is taken.
    pub(crate) fn add(&mut self, tensor: Tensor) -> Result<(), String> {
        self.add_as(tensor.name.clone(), tensor)
    }

    /// The same under another key.
    pub(crate) fn add_as(&mut self, key: String, tensor: Tensor) -> Result<(), String> {
        if self.by_name.insert(key, self.tensors.len()).is_some() {
            return Err(format!("tensor {} appears twice", tensor.name));
        }
        self.tensors.push(tensor);
        Ok(())
    }

    /// Adds a tensor of a type that cannot be computed with.
    pub(crate) fn add_foreign(&mut self, key: String, tensor: Foreign) -> Result<(), String> {
        match self.foreign.insert(key, tensor) {
            None => Ok(()),
            Some(before) => Err(format!("tensor {} appears twice", before.name)),
        }
    }

    /// Keys of the tensors that can be computed with.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Forgets the tensors of these keys, those that there are.
    pub(crate) fn remove(&mut self, keys: &HashSet<String>) {
        self.foreign.retain(|key, _| !keys.contains(key));
        let gone: HashSet<usize> = keys.iter().filter_map(|key| self.index(key)).collect();
        if gone.is_empty() {
            return;
        }
        let mut places = Vec::with_capacity(self.tensors.len());
        let mut left = Vec::with_capacity(self.tensors.len());
        for (index, tensor) in std::mem::take(&mut self.tensors).into_iter().enumerate() {
            places.push(left.len());
            if !gone.contains(&index) {
                left.push(tensor);
            }
        }
        self.tensors = left;
        self.by_name.retain(|_, index| !gone.contains(index));
        self.by_name.values_mut().for_each(|index| *index = places[*index]);
    }

    /// Gives every tensor another key.
    pub(crate) fn rename(&mut self, key: impl Fn(&str) -> String) -> Result<(), String> {
        let (tensors, foreign) = (self.by_name.len(), self.foreign.len());
        self.by_name = self.by_name.drain().map(|(old, index)| (key(&old), index)).collect();
        self.foreign = self.foreign.drain().map(|(old, tensor)| (key(&old), tensor)).collect();
        let same = (tensors, foreign) == (self.by_name.len(), self.foreign.len());
        same.then_some(()).ok_or_else(|| "two tensors have the same name but for their prefixes".to_owned())
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
                return Err(Error::TensorType {
                    name: found.name.clone(),
                    found: found.kind.clone(),
                    expected,
                });
            }
        }
        Ok(None)
    }
}
