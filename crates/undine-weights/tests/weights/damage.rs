//! Any damage ends in an error or in a checkpoint whose every view lies inside its file; never in a panic.

use proptest::prelude::*;
use undine_weights::{Checkpoint, ExpertPart, LayerWeight, WeightName};

use crate::tiny::{Folder, Gguf};

/// The seeds of the fuzz targets are these models; with `UNDINE_WRITE_SEEDS` set they are written, else
/// compared.
#[test]
fn seeds_of_the_fuzz_targets() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let folder = |folder: Folder| [folder.config.to_string().as_bytes(), &[0], &folder.weights()].concat();
    for (path, bytes) in [
        ("gguf/dense.gguf", Gguf::dense().bytes()),
        ("gguf/moe.gguf", Gguf::moe().bytes()),
        ("safetensors/dense", folder(Folder::dense())),
        ("safetensors/moe", folder(Folder::moe())),
    ] {
        let path = root.join(path);
        if std::env::var_os("UNDINE_WRITE_SEEDS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert!(std::fs::read(&path).unwrap() == bytes, "{} is out of date", path.display());
    }
}

/// Reads every weight that exists, so that a bad view would be noticed.
fn read_all(checkpoint: &Checkpoint) -> u64 {
    use LayerWeight as L;
    let parts = [L::OperatorNorm, L::FfnNorm, L::ConvIn, L::Conv, L::ConvOut, L::Query, L::Key, L::Value]
        .into_iter()
        .chain([
            L::AttentionOut,
            L::QueryNorm,
            L::KeyNorm,
            L::Gate,
            L::Up,
            L::Down,
            L::Router,
            L::ExpertBias,
        ]);
    let layers = checkpoint.config().layers.len();
    let experts = checkpoint.config().moe.map_or(0, |moe| moe.experts);
    let mut names = vec![WeightName::TokenEmbedding, WeightName::FinalNorm];
    names.extend(parts.flat_map(|part| (0..layers).map(move |layer| WeightName::Layer(layer, part))));
    for part in [ExpertPart::Gate, ExpertPart::Up, ExpertPart::Down] {
        let of_layer = |layer| (0..experts).map(move |expert| WeightName::Expert { layer, expert, part });
        names.extend((0..layers).flat_map(of_layer));
    }
    let mut sum = 0u64;
    for weight in names.into_iter().filter_map(|name| checkpoint.weight(name)) {
        let bytes = checkpoint.bytes(&weight);
        assert_eq!(Some(bytes.len()), weight.dtype.row_bytes(weight.cols).map(|row| row * weight.rows));
        sum += bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    }
    sum
}

fn open_gguf(bytes: Vec<u8>) -> bool {
    Checkpoint::from_gguf_bytes(bytes).map(|checkpoint| read_all(&checkpoint)).is_ok()
}

fn open_folder(config: Vec<u8>, weights: Vec<u8>) -> bool {
    Checkpoint::from_safetensors_bytes(config, weights).map(|checkpoint| read_all(&checkpoint)).is_ok()
}

#[test]
fn gguf_truncated_at_every_byte() {
    for file in [Gguf::dense(), Gguf::moe()] {
        let bytes = file.bytes();
        let last = file.tensors.last().unwrap().1.len();
        // Only the padding behind the last tensor may be missing.
        let needed = bytes.len() - (last.next_multiple_of(32) - last);
        for len in 0..bytes.len() {
            assert_eq!(open_gguf(bytes[..len].to_vec()), len >= needed, "{len} of {} bytes", bytes.len());
        }
        assert!(open_gguf(bytes));
    }
}

#[test]
fn safetensors_truncated_at_every_byte() {
    for folder in [Folder::dense(), Folder::moe()] {
        let (config, weights) = (folder.config.to_string().into_bytes(), folder.weights());
        for len in 0..weights.len() {
            assert!(
                !open_folder(config.clone(), weights[..len].to_vec()),
                "{len} of {} bytes",
                weights.len()
            );
        }
        for len in 0..config.len() {
            assert!(!open_folder(config[..len].to_vec(), weights.clone()), "{len} of {} bytes", config.len());
        }
        assert!(open_folder(config, weights));
    }
}

/// Damage concentrates on the front, where the structure is.
fn damage() -> impl Strategy<Value = Vec<(usize, u8)>> {
    let place = prop_oneof![0usize..64, 0usize..2048, 0usize..16384];
    let byte = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x7f), Just(1)];
    prop::collection::vec((place, byte), 1..6)
}

fn apply(mut bytes: Vec<u8>, damage: &[(usize, u8)]) -> Vec<u8> {
    let len = bytes.len();
    damage.iter().for_each(|&(place, byte)| bytes[place % len] = byte);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gguf_with_changed_bytes(damage in damage()) {
        open_gguf(apply(Gguf::dense().bytes(), &damage));
        open_gguf(apply(Gguf::moe().bytes(), &damage));
    }

    #[test]
    fn safetensors_with_changed_bytes(damage in damage()) {
        let folder = Folder::moe();
        let config = folder.config.to_string().into_bytes();
        open_folder(config.clone(), apply(folder.weights(), &damage));
        open_folder(apply(config, &damage), folder.weights());
    }
}
