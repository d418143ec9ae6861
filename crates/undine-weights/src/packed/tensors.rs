//! Tensors of any type, by the names that packings give them.

use std::sync::Arc;

use super::grid::{Grid, Number, Piece};
use crate::Error;
use crate::map::Bytes;
use crate::tensor::TensorTable;

/// A tensor of any type.
pub(super) struct Raw {
    /// As spelled in the file.
    pub name: String,
    /// Its type in safetensors.
    pub kind: String,
    pub shape: Vec<usize>,
    pub piece: Piece,
}

/// The tensors of a folder and where their bytes are.
pub(super) struct Tensors<'a> {
    pub table: &'a TensorTable,
    pub files: &'a [Arc<Bytes>],
}

impl Tensors<'_> {
    pub(super) fn get(&self, key: &str) -> Option<Raw> {
        let (name, kind, shape, file, range) = match self.table.index(key) {
            Some(index) => {
                let tensor = &self.table.tensors[index];
                (&tensor.name, tensor.dtype.name(), &tensor.shape, tensor.file, &tensor.bytes)
            }
            None => {
                let tensor = self.table.foreign.get(key)?;
                (&tensor.name, tensor.kind.as_str(), &tensor.shape, tensor.file, &tensor.bytes)
            }
        };
        Some(Raw {
            name: name.clone(),
            kind: kind.to_owned(),
            shape: shape.clone(),
            piece: Piece { file: Arc::clone(&self.files[file]), range: range.clone() },
        })
    }

    pub(super) fn required(&self, key: &str, of: &str) -> Result<Raw, Error> {
        let hint = format!("; {of} is packed and cannot be read without it");
        self.get(key).ok_or_else(|| Error::MissingTensor { name: key.to_owned(), hint })
    }
}

impl Raw {
    /// Refuses another type.
    pub(super) fn of_kind(self, kinds: &[&str]) -> Result<Self, Error> {
        if kinds.contains(&self.kind.as_str()) {
            return Ok(self);
        }
        Err(Error::TensorType { name: self.name, found: self.kind, expected: kinds.join(" or ") })
    }

    /// Refuses another shape.
    pub(super) fn of_shape(self, expected: &[usize]) -> Result<Self, Error> {
        if self.shape == expected {
            return Ok(self);
        }
        Err(Error::Shape { name: self.name, expected: expected.to_vec(), found: self.shape })
    }

    pub(super) fn number(&self) -> Result<Number, Error> {
        Number::of(&self.kind).ok_or_else(|| Error::TensorType {
            name: self.name.clone(),
            found: self.kind.clone(),
            expected: "a float type".to_owned(),
        })
    }

    /// Rows of all matrices, and columns; `None` for a vector or what is too large to count.
    pub(super) fn rows_cols(&self) -> Option<[usize; 2]> {
        let (&cols, outer) = self.shape.split_last()?;
        let rows = outer.iter().try_fold(1usize, |rows, &dim| rows.checked_mul(dim))?;
        (!outer.is_empty() && rows > 0 && cols > 0).then_some([rows, cols])
    }

    /// `rows x groups` numbers for a matrix, of `group` columns each.
    pub(super) fn grid(self, rows: usize, groups: usize, group: usize) -> Result<Grid, Error> {
        self.grid_of(None, rows, groups, group)
    }

    /// The same of bytes that stand for numbers of another type.
    pub(super) fn grid_of(
        self,
        stored: Option<Number>,
        rows: usize,
        groups: usize,
        group: usize,
    ) -> Result<Grid, Error> {
        let found: Option<usize> = self.shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
        if found != Some(rows * groups) {
            return Err(Error::Shape { name: self.name, expected: vec![rows, groups], found: self.shape });
        }
        let number = match stored {
            Some(number) if ["U8", "F8_E4M3", "F8_E8M0"].contains(&self.kind.as_str()) => number,
            _ => self.number()?,
        };
        Ok(Grid { piece: self.piece, number, each: [1, group], stride: [groups, 1] })
    }

    /// The same, stored as `groups x rows`.
    pub(super) fn grid_by_columns(self, rows: usize, groups: usize, group: usize) -> Result<Grid, Error> {
        let raw = self.of_shape(&[groups, rows])?;
        let number = raw.number()?;
        Ok(Grid { piece: raw.piece, number, each: [1, group], stride: [1, rows] })
    }
}
