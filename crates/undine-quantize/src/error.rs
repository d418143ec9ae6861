//! What can be wrong with a wish to quantize.

/// Why no plan can be made. Every message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The importance matrix has none of the model's tensors.
    #[error(
        "the importance matrix names {found} tensors, but none of this model's, such as {expected}; \
         make one of this model with `undine calibrate`"
    )]
    OtherModel {
        /// Entries in the matrix.
        found: usize,
        /// A tensor of the model.
        expected: String,
    },
    /// An entry of the importance matrix does not fit its tensor.
    #[error("tensor {tensor}: {source}; make an importance matrix of this model with `undine calibrate`")]
    Importance {
        /// The tensor.
        tensor: String,
        /// What was expected and what was found.
        source: undine_weights::Error,
    },
    /// A type that the user named for a tensor cannot hold its rows.
    #[error(
        "tensor {tensor} has rows of {cols} values, which are not whole blocks of {dtype}; choose another type for it"
    )]
    Rows {
        /// The tensor.
        tensor: String,
        /// Values in a row.
        cols: usize,
        /// The type that was named.
        dtype: undine_core::DType,
    },
    /// A type that cannot be chosen well blindly.
    #[error(
        "tensor {tensor} as {dtype} needs an importance matrix that has it; make one with `undine calibrate` and give it with \
         --imatrix"
    )]
    NeedsImatrix {
        /// The tensor.
        tensor: String,
        /// The type.
        dtype: undine_core::DType,
    },
    /// A pattern matches nothing that could have another type.
    #[error(
        "--tensor-type {pattern}: no matrix of this model has a name that matches; see --dry-run for the names"
    )]
    NoMatch {
        /// The pattern.
        pattern: String,
    },
}
