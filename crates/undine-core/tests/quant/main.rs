//! Blocks of quantized values.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod quant_golden;
mod quant_roundtrip;
