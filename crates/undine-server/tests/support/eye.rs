//! A vision tower without weights: every row is zero.

use undine_core::vision::{Normalization, VisionFactory};
use undine_core::{ExecutorError, PatchOrder, Tile, VisionConfig, VisionExecutor};

use super::mock::HIDDEN;

const CONFIG: VisionConfig = VisionConfig {
    width: 1,
    layers: 1,
    heads: 1,
    feed_forward: 1,
    patch: 16,
    grid: 16,
    norm_eps: 1e-6,
    downsample: 2,
    projector: 1,
    hidden: HIDDEN as usize,
    patch_order: PatchOrder::RowColumnChannel,
    normalization: Normalization { mean: [0.0; 3], std: [1.0; 3] },
};

struct Eye;

impl VisionExecutor for Eye {
    fn config(&self) -> &VisionConfig {
        &CONFIG
    }

    fn encode(&mut self, tiles: &[Tile]) -> Result<Vec<f32>, ExecutorError> {
        let tokens: usize = tiles.iter().map(|tile| tile.tokens(CONFIG.downsample)).sum();
        Ok(vec![0.0; tokens * CONFIG.hidden])
    }
}

/// For an engine whose mock sees.
pub fn factory() -> VisionFactory {
    Box::new(|| Ok(Box::new(Eye)))
}
