//! Shared helpers of the tests in `tests/`.
