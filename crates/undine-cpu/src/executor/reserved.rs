//! How much memory an executor has reserved.

use crate::memory::SharedSlice;

use super::CpuExecutor;

/// Bytes that an executor has reserved beside the weights. All are taken as they are first used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReservedBytes {
    /// Keys and values.
    pub kv: usize,
    /// Convolution states of sequences.
    pub states: usize,
    /// Copies of convolution states.
    pub snapshots: usize,
    /// What a step works in: rows between operations, inputs of products, experts, shared attention.
    pub activations: usize,
}

impl CpuExecutor {
    /// What it has reserved.
    pub fn reserved_bytes(&self) -> ReservedBytes {
        let state = &self.state;
        let sum = |buffers: &[SharedSlice<f32>]| buffers.iter().map(SharedSlice::bytes).sum();
        let experts = state.moe.as_ref().map_or(0, |moe| moe.bytes());
        let rotary = state.cos.bytes() + state.sin.bytes();
        ReservedBytes {
            kv: state.kv.bytes(),
            states: sum(&state.conv),
            snapshots: sum(&state.snapshots),
            activations: state.arena.bytes()
                + state.input.bytes()
                + rotary
                + experts
                + state.kv.states.bytes(),
        }
    }
}
