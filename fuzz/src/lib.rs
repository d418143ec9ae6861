//! What the fuzz targets share.
#![forbid(unsafe_code)]

use undine_weights::{Checkpoint, ExpertPart, WeightName};

/// Touches the first and last byte of what an opened checkpoint offers, so that a view beyond its file is noticed.
pub fn read_all(checkpoint: &Checkpoint) {
    let layers = checkpoint.config().layers.len();
    let experts = checkpoint.config().moe.map_or(0, |moe| moe.experts);
    let outer = [WeightName::TokenEmbedding, WeightName::FinalNorm, WeightName::Head];
    let parts = [ExpertPart::Gate, ExpertPart::Up, ExpertPart::Down];
    let of_expert = |layer| {
        (0..experts).flat_map(move |expert| parts.map(|part| WeightName::Expert { layer, expert, part }))
    };
    let names = outer.into_iter().chain((0..layers).flat_map(of_expert));
    for weight in names.filter_map(|name| checkpoint.weight(name)) {
        let bytes = checkpoint.bytes(&weight);
        assert_eq!(Some(bytes.len()), weight.dtype.row_bytes(weight.cols).map(|row| row * weight.rows));
        std::hint::black_box((bytes.first(), bytes.last()));
    }
    assert!(checkpoint.tensors().all(|tensor| tensor.bytes <= checkpoint.file_bytes()));
}
