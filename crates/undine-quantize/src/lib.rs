//! Making models smaller: which type each tensor gets, and with which importances it is written.
//!
//! [`Mix`] is the table of types by the name people use for a whole file; [`plan`] applies it, with what the
//! user wants otherwise, to the tensors of a [`Source`](undine_weights::Source); `Source::write` carries a
//! plan out.
#![forbid(unsafe_code)]

mod error;
mod mix;
mod options;
mod plan;

pub use error::Error;
pub use mix::{Circumstances, Mix, Place, Role, fitting};
pub use options::{Options, TypeOverride, parse_dtype};
pub use plan::{Plan, plan};
