//! Memory of keys and values.

use undine_core::{BlockCopy, BlockId, Config};

use crate::kernels::attention::{BLOCK_HEADS, KvF16, KvF32, KvQ8, PAGE, RANGE, page_head_bytes, state_len};
use crate::memory::SharedSlice;

/// Keys start at whole cache lines; a page's keys are a multiple of one for every head size in use.
const ALIGNMENT: usize = 64;
/// A step whose pieces of work are fewer than this for each thread splits them further, by ranges of keys.
pub(crate) const PIECES_PER_THREAD: usize = 4;
/// Query heads for which there is memory to split a piece.
const SPLIT_HEADS: usize = 16;

/// Element type of the K/V cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvType {
    /// 4 bytes a value; what the reference computes with.
    F32,
    /// 2 bytes a value.
    F16,
    /// A byte a value, and an f32 scale for each head's key and value of a position.
    Q8_0,
}

impl KvType {
    /// Bytes of one position's key (as many are its value's) of one head.
    pub fn head_bytes(self, head_dim: usize) -> usize {
        self.page_head_bytes(head_dim) / PAGE
    }

    /// Bytes of one position's keys and values in all layers.
    pub fn token_bytes(self, config: &Config) -> usize {
        config.attention_layers() * config.kv_heads * 2 * self.head_bytes(config.head_dim)
    }

    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Q8_0 => "q8_0",
        }
    }

    fn page_head_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F32 => page_head_bytes::<KvF32>(head_dim),
            Self::F16 => page_head_bytes::<KvF16>(head_dim),
            Self::Q8_0 => page_head_bytes::<KvQ8>(head_dim),
        }
    }
}

/// The cache: per layer the keys and then the values, `2 x heads x blocks` pages of one head. So a sequence
/// whose blocks follow each other, as those of a fresh cache do, is read as one stream. Tried at 16384 tokens
/// of 350M, two turns, where this gives 41.2 and 44.7 tokens/s: all heads of a block side by side, 41.7 and
/// 47.3; huge pages, 43.8 and 43.8; both, 43.2 and 42.9.
pub(crate) struct KvCache {
    pub kind: KvType,
    /// Bytes from one page to the next.
    pub page_stride: usize,
    heads: usize,
    blocks: usize,
    layers: Vec<SharedSlice<u8>>,
    /// Results of ranges, where a step splits its work so.
    pub states: SharedSlice<f32>,
}

/// Values in the results of ranges, which threads that share a long context put together.
fn range_states(config: &Config, blocks: usize, threads: usize) -> usize {
    let ranges = (blocks * PAGE).min(config.context_max).div_ceil(RANGE);
    let pieces = if threads > 1 { PIECES_PER_THREAD * threads } else { 0 };
    pieces * SPLIT_HEADS.min(BLOCK_HEADS) * ranges * state_len(config.head_dim)
}

/// Bytes with which `threads` threads share the attention of long contexts, beside `blocks` pages.
pub fn shared_attention_bytes(config: &Config, blocks: usize, threads: usize) -> usize {
    range_states(config, blocks, threads) * size_of::<f32>()
}

impl KvCache {
    /// Bytes of the keys and values of one layer.
    pub fn layer_bytes(config: &Config, kind: KvType, blocks: usize) -> usize {
        2 * config.kv_heads * blocks * kind.page_head_bytes(config.head_dim) + ALIGNMENT
    }

    /// Room for `blocks` pages. Memory is taken as it is first used.
    pub fn new(config: &Config, kind: KvType, blocks: usize, threads: usize) -> Self {
        let page_stride = kind.page_head_bytes(config.head_dim);
        let layer_bytes = Self::layer_bytes(config, kind, blocks);
        Self {
            kind,
            page_stride,
            heads: config.kv_heads,
            blocks,
            layers: (0..config.attention_layers()).map(|_| SharedSlice::new(layer_bytes)).collect(),
            states: SharedSlice::new(range_states(config, blocks, threads)),
        }
    }

    /// Size of the pages.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(SharedSlice::bytes).sum()
    }

    /// Parts a page consists of: the keys and the values of each layer and head.
    pub fn parts(&self) -> usize {
        2 * self.layers.len() * self.heads
    }

    /// Copies one part of a page.
    /// # Safety
    /// Nobody uses this part of either page meanwhile, and both pages exist.
    pub unsafe fn copy_part(&self, part: usize, copy: BlockCopy) {
        let [keys, values] = self.head((part / 2 / self.heads) as u32, part / 2 % self.heads);
        let base = if part.is_multiple_of(2) { keys } else { values };
        let page = |block: BlockId| base.wrapping_add(block.0 as usize * self.page_stride);
        // SAFETY: as the caller says; different pages do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(page(copy.from), page(copy.to), self.page_stride) };
    }

    /// The keys and the values of a head in page 0.
    pub fn head(&self, layer: u32, head: usize) -> [*mut u8; 2] {
        let base = self.layers[layer as usize].as_ptr();
        let base = base.wrapping_add(base.align_offset(ALIGNMENT));
        let at = |part: usize| (part * self.heads + head) * self.blocks * self.page_stride;
        [base.wrapping_add(at(0)), base.wrapping_add(at(1))]
    }
}
