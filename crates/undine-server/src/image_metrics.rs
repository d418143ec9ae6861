//! Numbers about the images of requests.

use prometheus::{IntCounter, IntCounterVec};
use undine_engine::EngineStats;

use crate::media::{Found, MediaError};
use crate::metrics::Maker;

/// Counted where images are got (`images`), but for those of the engine.
pub(crate) struct ImageMetrics {
    pub(crate) received: IntCounter,
    queries: IntCounter,
    hits: IntCounter,
    failures: IntCounterVec,
    encoded: IntCounter,
    reused: IntCounter,
}

impl ImageMetrics {
    pub(crate) fn new(make: &Maker<'_>) -> Self {
        let failures = make.add(IntCounterVec::new(
            make.options("image_failures_total", "Images of requests that could not be had, by reason."),
            &["reason"],
        ));
        // From the start, so that a rate can be taken of the first failure.
        for reason in MediaError::REASONS {
            failures.with_label_values(&[reason]);
        }
        Self {
            received: make.counter("images_received_total", "Images that requests showed."),
            queries: make.counter("mm_cache_queries_total", "Images looked up among those already prepared."),
            hits: make.counter("mm_cache_hits_total", "Of them, those that were found."),
            failures,
            encoded: make
                .counter("image_tiles_encoded_total", "Tiles of images that the vision tower encoded."),
            reused: make.counter(
                "image_tiles_reused_total",
                "Tiles that it need not encode: what came of them was still known.",
            ),
        }
    }

    /// Takes over the engine's own counts.
    pub(crate) fn publish(&self, stats: &EngineStats) {
        self.encoded.inc_by(stats.image_tiles_encoded_total.saturating_sub(self.encoded.get()));
        self.reused.inc_by(stats.image_tiles_reused_total.saturating_sub(self.reused.get()));
    }

    pub(crate) fn prepared(&self, found: Found) {
        self.queries.inc();
        if found == Found::InCache {
            self.hits.inc();
        }
    }

    pub(crate) fn failed(&self, reason: &str) {
        self.failures.with_label_values(&[reason]).inc();
    }
}
