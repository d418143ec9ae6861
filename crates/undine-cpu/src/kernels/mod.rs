//! The kernels: free computations over slices, compiled once per instruction set.
//!
//! The rule that keeps logits equal to the bit however rows are batched: each output element is one fixed
//! sequence of f32 operations that depends on the weight's format and on K alone. It is written down in
//! [`activations`] for the inputs and in [`rows`] for the products; [`panels`] reaches the same sequence from
//! the other side.
//!
//! Kernels use loops where `std::array::from_fn` and `map` would be shorter. What is passed to those is
//! compiled as a function of its own, without the instruction set of the kernel around it, and then each
//! intrinsic in it is a call with its registers in memory.
#![allow(
    clippy::needless_range_loop,
    reason = "lanes and rows index several arrays at once, some of them by pointer"
)]

pub mod activations;
pub mod attention;
pub mod elementwise;
pub mod expanded;
pub mod floats;
pub mod formats;
pub mod matmul;
#[cfg(test)]
mod matmul_tests;
pub mod panels;
pub mod rows;

/// Runs a statement with a constant for each of the eight blocks of a group.
macro_rules! each_block {
    ($block:ident, $body:block) => {
        each_block!(@ $block, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $block:ident, $body:block, $($n:literal)*) => {
        $({
            const $block: usize = $n;
            $body
        })*
    };
}
pub(crate) use each_block;
