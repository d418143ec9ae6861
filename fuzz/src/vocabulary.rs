//! The vocabularies of undine-text's tests.

#[path = "../../crates/undine-text/tests/text/common/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "made for tests")]
mod common;

pub use common::{ThinkKind, small, with_tools};
