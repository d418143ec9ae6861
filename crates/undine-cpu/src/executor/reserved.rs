//! How much memory an executor has reserved.

use undine_core::{Config, RowOutput};

use crate::memory::{SharedSlice, try_to_map};
use crate::plan::Plan;

use super::kv::KvCache;
use super::{CpuExecutor, CpuOptions, Error, Row};

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

/// Bytes beside the large parts: what else is reserved, and what the rest of the program takes.
const BESIDE_BYTES: usize = 32 << 20;

/// Refuses what the system would not give: the allocations proper end the process where they fail. Keys and
/// values are asked for layer by layer, as they will be: a system may give in parts what it refuses in one
/// piece.
pub(super) fn try_out(config: &Config, plan: &Plan, options: &CpuOptions) -> Result<(), Error> {
    let (rows, outputs) = (options.rows as usize, options.outputs as usize);
    let states = options.slots as usize + options.snapshots as usize;
    let parts = [
        (plan.arena_len, size_of::<f32>()),
        (rows.max(outputs).saturating_mul(plan.float_width), size_of::<f32>()),
        (states.saturating_mul(config.conv_state_elems()), size_of::<f32>()),
        (rows, size_of::<Row>()),
        (outputs, size_of::<RowOutput>()),
        (BESIDE_BYTES, 1),
    ];
    let sum = |sum: usize, (count, bytes): (usize, usize)| sum.saturating_add(count.saturating_mul(bytes));
    let work = parts.into_iter().fold(0, sum);
    let layer = KvCache::layer_bytes(config, options.kv, options.blocks as usize);
    let layers = config.attention_layers();
    // All at once, until it is known that they can be had.
    let mut held = Vec::with_capacity(layers + 1);
    for bytes in std::iter::repeat_n(layer, layers).chain([work]) {
        let bytes_all = work.saturating_add(layer.saturating_mul(layers));
        held.push(try_to_map(bytes).ok_or(Error::Memory { bytes: bytes_all })?);
    }
    Ok(())
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
