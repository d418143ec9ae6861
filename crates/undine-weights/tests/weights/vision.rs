//! Vision towers: in Hugging Face folders under all prefixes, in GGUF files of their own, and what is wrong
//! with damaged ones.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use tempfile::TempDir;
use undine_core::{DType, ImageSettings, Normalization, PatchOrder, Resample, VisionConfig, quant};
use undine_weights::{Checkpoint, VisionLayerWeight, VisionWeight, write_gguf, write_mmproj};

fn oracle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/oracle/vl")
}

const CONFIG: VisionConfig = VisionConfig {
    width: 96,
    layers: 3,
    heads: 4,
    feed_forward: 192,
    patch: 16,
    grid: 16,
    norm_eps: 1e-6,
    downsample: 2,
    projector: 192,
    hidden: 128,
    patch_order: PatchOrder::RowColumnChannel,
    normalization: Normalization { mean: [127.5; 3], std: [127.5; 3] },
};

/// A copy of the oracle's folder, open to changes before it is written.
struct Folder {
    config: Json,
    processor: Option<Json>,
    preprocessor: Option<Json>,
    /// Name, header entry, data.
    tensors: Vec<(String, Json, Vec<u8>)>,
}

impl Folder {
    fn new() -> Self {
        let read = |name: &str| std::fs::read(oracle().join(name)).unwrap();
        let json = |name: &str| serde_json::from_slice::<Json>(&read(name)).unwrap();
        let bytes = read("model.safetensors");
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Json = serde_json::from_slice(&bytes[8..start]).unwrap();
        let entries = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
        let tensors = entries.map(|(name, entry)| {
            let at = |i: usize| start + entry["data_offsets"][i].as_u64().unwrap() as usize;
            (name.clone(), entry.clone(), bytes[at(0)..at(1)].to_vec())
        });
        Self {
            config: json("config.json"),
            processor: None,
            preprocessor: Some(json("preprocessor_config.json")),
            tensors: tensors.collect(),
        }
    }

    fn rename(&mut self, change: impl Fn(&str) -> String) {
        self.tensors.iter_mut().for_each(|(name, ..)| *name = change(name));
    }

    fn remove(&mut self, part: &str) {
        self.tensors.retain(|(name, ..)| !name.contains(part));
    }

    fn open(&self) -> Result<Checkpoint, String> {
        let folder = TempDir::new().unwrap();
        let write =
            |name: &str, json: &Json| std::fs::write(folder.path().join(name), json.to_string()).unwrap();
        write("config.json", &self.config);
        self.processor.iter().for_each(|json| write("processor_config.json", json));
        self.preprocessor.iter().for_each(|json| write("preprocessor_config.json", json));
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, entry, bytes) in &self.tensors {
            let mut entry = entry.clone();
            entry["data_offsets"] = json!([data.len(), data.len() + bytes.len()]);
            data.extend_from_slice(bytes);
            header.insert(name.clone(), entry);
        }
        let header = Json::Object(header).to_string().into_bytes();
        let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
        std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
        Checkpoint::open(folder.path()).map_err(|error| error.to_string())
    }
}

#[test]
fn a_folder_opens_with_its_tower() {
    let checkpoint = Checkpoint::open(&oracle()).unwrap();
    assert_eq!(checkpoint.vision_config(), Some(&CONFIG));
    assert_eq!(checkpoint.image_settings(), Some(&ImageSettings::default()));
    assert_eq!(checkpoint.repairs(), &[] as &[String]);
    let down = VisionWeight::Layer(2, VisionLayerWeight::Down);
    let down = checkpoint.vision_weight(down).unwrap();
    assert_eq!((down.dtype, down.rows, down.cols), (DType::F32, 96, 192));
    assert!(checkpoint.vision_weight(VisionWeight::ProjectorNorm).is_some());
}

#[test]
fn every_prefix_is_known() {
    let old = |name: &str| {
        let name = name.strip_prefix("model.").unwrap();
        name.strip_prefix("language_model.")
            .map_or(name.to_owned(), |rest| format!("language_model.model.{rest}"))
    };
    let outer = |name: &str| name.replace("vision_tower.", "vision_tower.vision_model.");
    let cases: [&dyn Fn(&str) -> String; 3] = [&old, &outer, &|name| outer(&old(name))];
    for change in cases {
        let mut folder = Folder::new();
        folder.rename(change);
        let checkpoint = folder.open().unwrap();
        assert_eq!(checkpoint.vision_config(), Some(&CONFIG), "{}", folder.tensors[100].0);
    }
}

#[test]
fn tensors_decide_about_norm_biases_and_layers() {
    let mut folder = Folder::new();
    folder.remove("multi_modal_projector.layer_norm");
    folder.remove("linear_1.bias");
    let checkpoint = folder.open().unwrap();
    assert_eq!(checkpoint.vision_weight(VisionWeight::ProjectorNorm), None);
    assert_eq!(checkpoint.vision_weight(VisionWeight::Projector1Bias), None);
    assert!(checkpoint.vision_weight(VisionWeight::Projector2Bias).is_some());

    let mut folder = Folder::new();
    folder.remove("encoder.layers.2.");
    let checkpoint = folder.open().unwrap();
    assert_eq!(checkpoint.vision_config().unwrap().layers, 2);
    assert_eq!(checkpoint.repairs(), ["The configuration says 3 vision layers, but 2 have tensors."]);
}

#[test]
fn a_model_without_its_tower_opens_as_text() {
    let mut folder = Folder::new();
    folder.remove("vision_tower");
    assert_eq!(folder.open().unwrap().vision_config(), None);
    let mut folder = Folder::new();
    folder.config.as_object_mut().unwrap().remove("vision_config");
    assert_eq!(folder.open().unwrap().vision_config(), None);
}

#[test]
fn settings_are_read_and_not_assumed() {
    let given = json!({
        "min_tiles": 1, "max_tiles": 6, "use_thumbnail": false, "resample": 3, "max_pixels_tolerance": 1.5,
        "min_image_tokens": 32, "max_image_tokens": 128, "tile_size": 256,
        "image_mean": [0.25, 0.5, 0.75], "image_std": 0.125, "rescale_factor": 0.0078125
    });
    let expected = ImageSettings {
        min_tiles: 1,
        max_tiles: 6,
        thumbnail: false,
        resample: Resample::Bicubic,
        tolerance: 1.5,
        min_tokens: 32,
        max_tokens: 128,
        tile: 256,
        ..ImageSettings::default()
    };
    let mut folder = Folder::new();
    folder.preprocessor = Some(given.clone());
    let checkpoint = folder.open().unwrap();
    assert_eq!(checkpoint.image_settings(), Some(&expected));
    let normalization = Normalization { mean: [32.0, 64.0, 96.0], std: [16.0; 3] };
    assert_eq!(checkpoint.vision_config().unwrap().normalization, normalization);

    // The newer file wins.
    let mut folder = Folder::new();
    folder.processor = Some(json!({ "processor_class": "Lfm2VlProcessor", "image_processor": given }));
    assert_eq!(folder.open().unwrap().image_settings(), Some(&expected));

    let mut folder = Folder::new();
    folder.preprocessor =
        Some(json!({ "do_image_splitting": false, "do_normalize": false, "do_rescale": false }));
    let checkpoint = folder.open().unwrap();
    let whole = ImageSettings { min_tiles: 1, max_tiles: 1, ..ImageSettings::default() };
    assert_eq!(checkpoint.image_settings(), Some(&whole));
    let plain = Normalization { mean: [0.0; 3], std: [1.0; 3] };
    assert_eq!(checkpoint.vision_config().unwrap().normalization, plain);
}

#[test]
fn wrong_towers_are_refused() {
    type Change = fn(&mut Folder);
    let cases: &[(Change, &str)] = &[
        (|f| f.remove("layers.1.self_attn.k_proj.bias"), "is missing"),
        (|f| f.remove("encoder.layers.1."), "layers.1.layer_norm1.weight is missing"),
        (|f| f.remove("projector.layer_norm.bias"), "projector.layer_norm.bias is missing"),
        (|f| f.remove("multi_modal_projector"), "linear_1.weight is missing"),
        (|f| f.config["vision_config"]["hidden_size"] = json!(64), "has shape [96, 768], expected [64, 768]"),
        (
            |f| f.config["vision_config"]["intermediate_size"] = json!(100),
            "has shape [192, 96], expected [100, 96]",
        ),
        (|f| f.config["vision_config"]["num_attention_heads"] = json!(5), "divisor of the width 96, found 5"),
        (|f| f.config["vision_config"]["num_patches"] = json!(255), "expected a square number, found 255"),
        (|f| f.config["vision_config"]["patch_size"] = json!(0), "vision patch size"),
        (|f| f.config["vision_config"]["patch_size"] = json!("big"), "found \"big\""),
        (|f| f.config["vision_config"]["hidden_act"] = json!("relu"), "hidden_act \"relu\""),
        (|f| f.config["vision_config"]["num_channels"] = json!(1), "num_channels 1"),
        (|f| f.config["vision_config"]["layer_norm_eps"] = json!(0.0), "layer norm epsilon"),
        (|f| f.config["projector_hidden_act"] = json!("silu"), "projector_hidden_act \"silu\""),
        (|f| f.config["downsample_factor"] = json!(3), "expected [864]"),
        (|f| f.preprocessor = Some(json!({ "encoder_patch_size": 14 })), "tile_size"),
        (
            |f| f.preprocessor = Some(json!({ "encoder_patch_size": 8 })),
            "encoder_patch_size: expected the tower's 16",
        ),
        (|f| f.preprocessor = Some(json!({ "max_tiles": 1_000_000 })), "max_tiles: expected 1 to 64"),
        (|f| f.preprocessor = Some(json!({ "max_image_tokens": -1 })), "non-negative integer"),
        (|f| f.preprocessor = Some(json!({ "resample": 0 })), "resample 0"),
        (|f| f.preprocessor = Some(json!({ "image_std": [0.5, 0.0, 0.5] })), "image_mean and image_std"),
        (|f| f.preprocessor = Some(json!({ "rescale_factor": 0.0 })), "image_mean and image_std"),
    ];
    for (change, expected) in cases {
        let mut folder = Folder::new();
        change(&mut folder);
        let message = folder.open().map(|_| ()).expect_err(expected);
        assert!(message.contains(expected), "{message}, expected {expected}");
    }
}

/// The oracle as two GGUF files: the model, and the tower in `matrices`.
fn written(folder: &Path, matrices: DType) -> (PathBuf, PathBuf) {
    let checkpoint = Checkpoint::open(&oracle()).unwrap();
    let (model, tower) = (folder.join("model.gguf"), folder.join("mmproj-model.gguf"));
    write_gguf(&checkpoint, |_, _| DType::F32, &model).unwrap();
    write_mmproj(&checkpoint, |_, _| matrices, &tower).unwrap();
    (model, tower)
}

#[test]
fn a_gguf_model_finds_its_tower() {
    let folder = TempDir::new().unwrap();
    let (model, tower) = written(folder.path(), DType::Q8_0);
    let expected = VisionConfig { patch_order: PatchOrder::ChannelRowColumn, ..CONFIG };
    for checkpoint in [Checkpoint::open(&model), Checkpoint::open_with_mmproj(&model, &tower)] {
        let checkpoint = checkpoint.unwrap();
        assert_eq!(checkpoint.vision_config(), Some(&expected));
        assert_eq!(checkpoint.image_settings(), Some(&ImageSettings::default()));
        assert_eq!(checkpoint.repairs(), &[] as &[String]);
        let query = checkpoint.vision_weight(VisionWeight::Layer(0, VisionLayerWeight::Query)).unwrap();
        assert_eq!((query.dtype, query.rows, query.cols), (DType::Q8_0, 96, 96));
        assert!(checkpoint.tensors().any(|tensor| tensor.name == "v.blk.2.ffn_down.weight"));
    }
    // The patch embedding is the same but for the order of a patch's values.
    let decode = |checkpoint: &Checkpoint| {
        let weight = checkpoint.vision_weight(VisionWeight::PatchEmbedding).unwrap();
        let mut values = vec![0.0; weight.rows * weight.cols];
        quant::decode(weight.dtype, checkpoint.bytes(&weight), &mut values);
        values
    };
    let (gguf, hf) =
        (decode(&Checkpoint::open(&model).unwrap()), decode(&Checkpoint::open(&oracle()).unwrap()));
    for (row, pixel, channel) in [(0, 0, 0), (5, 17, 2), (95, 255, 1)] {
        assert_eq!(gguf[row * 768 + channel * 256 + pixel], hf[row * 768 + pixel * 3 + channel]);
    }
    std::fs::remove_file(&tower).unwrap();
    assert_eq!(Checkpoint::open(&model).unwrap().vision_config(), None);
}

#[test]
fn towers_beside_a_model_that_do_not_fit_are_left_alone() {
    let folder = TempDir::new().unwrap();
    let (model, tower) = written(folder.path(), DType::F32);
    // Not a GGUF file, and first by name.
    std::fs::write(folder.path().join("a-mmproj.gguf"), b"GGUF, no more").unwrap();
    let checkpoint = Checkpoint::open(&model).unwrap();
    assert!(checkpoint.vision_config().is_some());
    assert!(checkpoint.repairs()[0].contains("mmproj-model.gguf"), "{:?}", checkpoint.repairs());
    // Asked for by name, the same file is an error; so is a model in place of a tower.
    for wrong in [folder.path().join("a-mmproj.gguf"), model.clone(), folder.path().join("absent.gguf")] {
        assert!(Checkpoint::open_with_mmproj(&model, &wrong).is_err(), "{}", wrong.display());
    }
    // A model of another width.
    let dense = oracle().join("../dense");
    let message = Checkpoint::open_with_mmproj(&dense, &tower).unwrap_err().to_string();
    assert!(message.contains("expected 256, the width of the language model, found 128"), "{message}");
}

#[test]
fn damaged_towers_are_errors_and_change_nothing() {
    let folder = TempDir::new().unwrap();
    let (model, tower) = written(folder.path(), DType::F16);
    let bytes = std::fs::read(&tower).unwrap();
    let header = 8192.min(bytes.len());
    let mut checkpoint = Checkpoint::open(&oracle().join("../moe")).unwrap();
    let tensors = checkpoint.tensors().count();
    for at in (0..header).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        if checkpoint.attach_mmproj_bytes(damaged).is_ok() {
            checkpoint = Checkpoint::open(&oracle().join("../moe")).unwrap();
        }
        assert_eq!(checkpoint.tensors().count(), tensors);
    }
    for len in (0..bytes.len()).step_by(bytes.len() / 100) {
        assert!(checkpoint.attach_mmproj_bytes(bytes[..len].to_vec()).is_err(), "{len}");
    }
    drop(model);
}
