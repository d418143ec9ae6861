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

#[derive(Default)]
struct Eye {
    begun: Vec<Tile>,
}

impl VisionExecutor for Eye {
    fn config(&self) -> &VisionConfig {
        &CONFIG
    }

    fn begin(&mut self, tiles: &[Tile]) {
        self.begun = tiles.to_vec();
    }

    fn advance(&mut self) -> Result<Option<Vec<f32>>, ExecutorError> {
        let tokens: usize = self.begun.drain(..).map(|tile| tile.tokens(CONFIG.downsample)).sum();
        Ok(Some(vec![0.0; tokens * CONFIG.hidden]))
    }
}

/// For an engine whose mock sees.
pub fn factory() -> VisionFactory {
    Box::new(|| Ok(Box::new(Eye::default())))
}
