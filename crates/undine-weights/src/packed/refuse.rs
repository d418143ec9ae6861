//! Packings that are not read: what each is called, and what to do.

use std::path::Path;

use serde_json::Value as Json;

use crate::limits::BESIDE_MAX;
use crate::tensor::TensorTable;

/// Values of `quant_method` that are read.
const READ: [&str; 10] = [
    "gptq",
    "awq",
    "auto-round",
    "intel/auto-round",
    "compressed-tensors",
    "fp8",
    "finegrained_fp8",
    "fbgemm_fp8",
    "modelopt",
    "modelopt_fp4",
];
/// Values of `quant_method` that transformers can undo, and what they are called.
const UNDONE: [(&str, &str); 7] = [
    ("bitsandbytes", "bitsandbytes"),
    ("hqq", "HQQ"),
    ("quanto", "Quanto"),
    ("torchao", "torchao"),
    ("eetq", "EETQ"),
    ("higgs", "HIGGS"),
    ("fp_quant", "FP-Quant"),
];
/// Those with codebooks or rotations of their own.
const OTHERS: [(&str, &str); 9] = [
    ("aqlm", "AQLM"),
    ("quip", "QuIP#"),
    ("quip_sharp", "QuIP#"),
    ("exl2", "EXL2"),
    ("exl3", "EXL3"),
    ("vptq", "VPTQ"),
    ("spqr", "SpQR"),
    ("bitnet", "BitNet"),
    ("sinq", "SINQ"),
];
/// Tensors that only one packing has: how their names end, and what it is called.
const ENDINGS: [(&str, &str); 9] = [
    (".quant_state.bitsandbytes__nf4", "bitsandbytes 4-bit (NF4)"),
    (".quant_state.bitsandbytes__fp4", "bitsandbytes 4-bit (FP4)"),
    (".absmax", "bitsandbytes 4-bit"),
    (".SCB", "bitsandbytes 8-bit"),
    (".q_scale_max", "EXL2"),
    (".trellis", "EXL3"),
    (".codebooks", "AQLM"),
    (".Qidxs", "QuIP#"),
    (".W_q", "HQQ"),
];

const ORIGINAL: &str =
    "take the original weights, a GGUF file, or an MLX, GPTQ, AWQ, compressed-tensors or FP8 folder";

fn undo(name: &str) -> String {
    format!(
        "weights quantized with {name}; load the folder with transformers, call model.dequantize(), save it with \
         save_pretrained() and take that folder, or {ORIGINAL}"
    )
}

fn other(name: &str) -> String {
    format!("weights quantized with {name}, which has a codebook or layout of its own; {ORIGINAL}")
}

fn by_name(name: &str) -> String {
    if name.starts_with("bitsandbytes") || name == "HQQ" { undo(name) } else { other(name) }
}

/// Why the weights that a config.json describes cannot be read, if they cannot: the name of the method and
/// the way out.
pub(crate) fn refusal(config: &Json) -> Option<String> {
    let own = config.get("quantization_config").or_else(|| config.get("quantization"))?;
    let text = |key: &str| own.get(key).and_then(Json::as_str).unwrap_or_default().to_ascii_lowercase();
    let flag = |key: &str| own.get(key).and_then(Json::as_bool) == Some(true);
    let method = text("quant_method");
    let layout = ["version", "checkpoint_format", "packing_format", "format"].map(text).join(" ");
    if method.is_empty() && (flag("load_in_4bit") || flag("load_in_8bit")) {
        return Some(undo("bitsandbytes"));
    }
    if let Some((_, name)) = UNDONE.iter().find(|(key, _)| *key == method) {
        let bits = match (
            flag("load_in_4bit") || flag("_load_in_4bit"),
            flag("load_in_8bit") || flag("_load_in_8bit"),
        ) {
            (true, _) => " 4-bit",
            (_, true) => " 8-bit",
            _ => "",
        };
        return Some(undo(&format!("{name}{bits}")));
    }
    if let Some((_, name)) = OTHERS.iter().find(|(key, _)| *key == method) {
        return Some(other(name));
    }
    if let Some(layout) = ["gemv", "marlin", "bitblas", "ipex", "exllama", "sparse"]
        .into_iter()
        .find(|name| layout.contains(name))
    {
        return Some(format!(
            "{} weights in the layout {layout:?}; expected GPTQ's own, AWQ's \"gemm\" or \"pack-quantized\": {ORIGINAL}",
            method.to_uppercase()
        ));
    }
    let known = method.is_empty() || READ.contains(&method.as_str());
    (!known).then(|| format!("weights quantized with {method:?}; {ORIGINAL}"))
}

/// The same, told from the tensors.
pub(super) fn by_tensors(table: &TensorTable) -> Option<String> {
    let keys = || table.keys().chain(table.foreign.keys().map(String::as_str));
    let (_, name) = ENDINGS.iter().find(|(ending, _)| keys().any(|key| key.ends_with(ending)))?;
    Some(by_name(name))
}

/// What a folder without safetensors holds instead, and what to do: endings of file names.
const FILES: [(&str, &str); 10] = [
    (".onnx", "ONNX files"),
    (".onnx_data", "ONNX files"),
    (".nemo", "a NeMo archive"),
    (".engine", "a TensorRT engine"),
    (".plan", "a TensorRT engine"),
    (".tflite", "a LiteRT model"),
    (".mlpackage", "a Core ML model"),
    (".pte", "an ExecuTorch model"),
    (".npz", "weights of an old MLX version"),
    (".pdparams", "Paddle weights"),
];

/// A sentence on the weights that a folder has in place of safetensors; `None` if it has none that are known.
pub(crate) fn other_weights(folder: &Path) -> Option<String> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(BESIDE_MAX);
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut all = names(folder);
    all.extend(names(&folder.join("onnx")));
    let found =
        |endings: &[&str]| all.iter().find(|name| endings.iter().any(|ending| name.ends_with(ending)));
    if let Some(name) = found(&[".bin", ".pt", ".pth"]).filter(|name| *name != "training_args.bin") {
        return Some(format!(
            "it has PyTorch weights ({name}), which can run programs when they are read; load them with transformers and save them \
             with save_pretrained(), which writes safetensors"
        ));
    }
    FILES.iter().find_map(|(ending, what)| {
        let name = found(&[ending])?;
        Some(format!(
            "it has {what} ({name}), which Undine does not run; take a safetensors folder or a GGUF file"
        ))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn methods_are_named_with_a_way_out() {
        for (config, expected) in [
            (
                json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
                "bitsandbytes 4-bit; load the folder with transformers, call model.dequantize()",
            ),
            (json!({"load_in_8bit": true}), "bitsandbytes; load"),
            (json!({"quant_method": "hqq"}), "HQQ; load"),
            (json!({"quant_method": "aqlm"}), "AQLM, which has a codebook"),
            (json!({"quant_method": "exl2"}), "EXL2, which"),
            (json!({"quant_method": "awq", "version": "GEMV"}), "AWQ weights in the layout \"gemv\""),
            (
                json!({"quant_method": "gptq", "checkpoint_format": "marlin"}),
                "GPTQ weights in the layout \"marlin\"",
            ),
            (json!({"quant_method": "something"}), "quantized with \"something\""),
        ] {
            let found = refusal(&json!({"quantization_config": config})).unwrap_or_default();
            assert!(found.contains(expected) && found.contains("GGUF"), "{config}: {found}");
        }
        for config in [
            json!({"quant_method": "gptq", "bits": 4}),
            json!({"quant_method": "awq", "version": "gemm"}),
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}),
            json!({"quant_method": "fp8"}),
            json!({"group_size": 64, "bits": 4}),
        ] {
            assert_eq!(refusal(&json!({"quantization_config": config})), None, "{config}");
        }
        assert_eq!(refusal(&json!({})), None);
    }

    #[test]
    fn folders_of_other_programs_are_named() {
        for (file, expected) in [
            ("pytorch_model.bin", "PyTorch weights (pytorch_model.bin)"),
            ("consolidated.00.pth", "PyTorch weights"),
            ("onnx/model_q4.onnx", "ONNX files (model_q4.onnx)"),
            ("model.nemo", "a NeMo archive"),
            ("rank0.engine", "a TensorRT engine"),
            ("weights.npz", "an old MLX version"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("made");
            std::fs::write(&path, "x").expect("written");
            let found = other_weights(folder.path()).unwrap_or_default();
            assert!(found.contains(expected) && found.contains("safetensors"), "{file}: {found}");
        }
        let empty = tempfile::tempdir().expect("a folder");
        assert_eq!(other_weights(empty.path()), None);
    }
}
