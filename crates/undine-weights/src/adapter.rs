//! Files that change or accompany a model and are none: adapters, and the other kinds of GGUF. None of them
//! may be ignored, for the model without it is another one.

use crate::Error;
use crate::config_gguf::Metadata;
use crate::tensor::TensorTable;
use crate::vision;

/// The file that PEFT keeps beside an adapter's weights.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// What the weights of an adapter are called.
const WEIGHTS: [&str; 2] = ["adapter_model.", "adapters.safetensors"];
/// Parts of the names of tensors that only a model with an adapter in it has.
const TENSORS: [&str; 22] = [
    ".lora_A.",
    ".lora_B.",
    ".lora_a",
    ".lora_b",
    ".lora_embedding_A",
    ".lora_embedding_B",
    ".lora_magnitude_vector",
    ".lora_down.",
    ".lora_up.",
    ".base_layer.",
    ".modules_to_save.",
    ".hada_w",
    ".ia3_l",
    ".oft_r",
    ".oft_R",
    ".boft_",
    ".lokr_w",
    ".vera_lambda",
    ".randlora_",
    ".ln_tuning_layers",
    "prompt_embeddings",
    "prompt_encoder",
];
/// What to do.
const MERGE: &str = "Undine runs whole models, so merge it first: python -c \"from peft import AutoPeftModelForCausalLM \
    as M; M.from_pretrained('ADAPTER').merge_and_unload().save_pretrained('MERGED')\", copy the tokenizer's files to \
    MERGED, and give that";

/// Whether a folder with files of these names has an adapter in it.
pub(crate) fn is_in(names: &[String]) -> bool {
    file_of(names).is_some()
}

fn file_of(names: &[String]) -> Option<&String> {
    let is_weights = |name: &String| WEIGHTS.iter().any(|start| name.starts_with(start));
    names.iter().find(|name| *name == CONFIG).or_else(|| names.iter().find(|name| is_weights(name)))
}

/// Refuses a folder that has an adapter in it. `config` is the text of its adapter_config.json.
pub(crate) fn refuse_folder(names: &[String], has_model: bool, base: Option<&str>) -> Result<(), Error> {
    let Some(file) = file_of(names) else { return Ok(()) };
    let of = base.map_or(String::new(), |base| format!(" of {base}"));
    let what = match has_model {
        true => format!("beside the model lies an adapter{of} ({file}), which would change what it says"),
        false => format!("this folder is an adapter{of} ({file}) and no model"),
    };
    let otherwise = if has_model { "; to run the model without it, move its files elsewhere" } else { "" };
    Err(Error::Unsupported(format!("{what}: {MERGE}{otherwise}")))
}

/// Refuses a table with tensors of an adapter.
pub(crate) fn refuse_tensors(table: &TensorTable) -> Result<(), Error> {
    let is_adapter = |name: &&str| TENSORS.iter().any(|part| name.contains(part));
    let names = table.tensors.iter().map(|tensor| tensor.name.as_str());
    match names.chain(table.foreign.keys().map(String::as_str)).find(is_adapter) {
        Some(name) => Err(Error::Unsupported(format!(
            "tensor {name} belongs to an adapter that was not merged into the weights: {MERGE}"
        ))),
        None => Ok(()),
    }
}

/// Refuses a GGUF file that says of itself that it is no model. A vision tower passes: it is told apart by
/// its architecture.
pub(crate) fn refuse_gguf(metadata: &Metadata<'_>, table: &TensorTable) -> Result<(), Error> {
    let text = |key: &str| metadata.text(key).ok().flatten();
    let (kind, architecture) =
        (text("general.type").unwrap_or("model"), text("general.architecture").unwrap_or(""));
    let base = text("general.base_model.0.name").map_or(String::new(), |base| format!(" of {base}"));
    let refuse = |what: String| Err(Error::Unsupported(what));
    match kind {
        "adapter" => {
            return refuse(format!(
                "this file is an adapter{base} (general.type = adapter) and no model: {MERGE}"
            ));
        }
        "imatrix" => {
            return refuse(
                "this file is an importance matrix (general.type = imatrix) and no model: it is for \
                 `undine quantize --imatrix`, beside the model"
                    .to_owned(),
            );
        }
        "model" | "mmproj" => {}
        other => return refuse(format!("this file is no model: general.type = {other}; expected model")),
    }
    if architecture == "controlvector" {
        return refuse("this file is a control vector and no model; Undine does not apply such".to_owned());
    }
    refuse_tensors(table)?;
    if table.tensors.is_empty() && !metadata.with_prefix("tokenizer.").is_empty() {
        return refuse("this file holds a vocabulary only, and no weights; give the model itself".to_owned());
    }
    Ok(())
}

/// Refuses a vision tower where a language model is wanted.
pub(crate) fn refuse_tower(metadata: &Metadata<'_>) -> Result<(), Error> {
    if metadata.text("general.architecture").ok().flatten() != Some(vision::ARCHITECTURE) {
        return Ok(());
    }
    Err(Error::Unsupported(
        "this file is the vision tower of a model (an mmproj file) and no model: give the file of the language model, \
         with this one beside it or named with --mmproj"
            .to_owned(),
    ))
}
