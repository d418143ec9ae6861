//! One odd value does not keep a model from running: it is passed over, and told where that could matter.

use serde_json::{Value as Json, json};
use undine_core::Vocabulary;
use undine_weights::{Array, Checkpoint, SamplingDefaults, Value, WeightName};

use crate::tiny::{Folder, Gguf, HIDDEN, VOCAB, f32_bytes};

/// The dense folder with one file more, or another.
fn open(file: &str, bytes: &[u8]) -> Checkpoint {
    let folder = Folder::dense();
    let config = folder.config.to_string().into_bytes();
    let mut files = vec![("config.json", config), ("model.safetensors", folder.weights())];
    files.retain(|(name, _)| *name != file);
    files.push((file, bytes.to_vec()));
    Checkpoint::from_folder_bytes(files).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn with(key: &str, value: Json) -> Checkpoint {
    let mut config = Folder::dense().config;
    config[key] = value;
    open("config.json", config.to_string().as_bytes())
}

/// One sentence with this in it, or none.
#[track_caller]
fn tells(checkpoint: &Checkpoint, expected: Option<&str>) {
    match (expected, checkpoint.repairs()) {
        (None, lines) => assert_eq!(lines, &[] as &[String]),
        (Some(expected), [line]) => assert!(line.contains(expected), "{line}, expected {expected}"),
        (Some(expected), lines) => panic!("one line with {expected}, not {lines:?}"),
    }
}

#[test]
fn ids_of_special_tokens() {
    for (value, eos, told) in [
        (json!(-1), &[][..], None),
        (json!(null), &[], None),
        (json!([]), &[], None),
        (json!([4, -1, null]), &[4], None),
        (json!("4"), &[4], None),
        (json!(4.0), &[4], None),
        (json!(4_294_967_295u64), &[], None),
        (json!("none"), &[], Some("config.json: eos_token_id is \"none\"")),
        (json!(true), &[], Some("eos_token_id is true")),
        (json!({"id": 4}), &[], Some("eos_token_id is {\"id\":4}")),
        (json!(99), &[], Some("end-of-sequence token 99 is beyond")),
        (json!(1u64 << 40), &[], Some("eos_token_id is 1099511627776")),
    ] {
        let checkpoint = with("eos_token_id", value);
        assert_eq!(checkpoint.special_tokens().eos, eos);
        tells(&checkpoint, told);
    }
    assert_eq!(with("bos_token_id", json!([1])).special_tokens().bos, Some(1));
    assert_eq!(with("pad_token_id", json!(-1)).special_tokens().pad, None);

    for (key, value, told) in [
        ("eos_token_id", Value::I32(-1), None),
        ("eos_token_id", Value::U32(u32::MAX), None),
        ("eos_token_id", Value::Array(Array::I32(vec![4, -1])), None),
        ("bos_token_id", Value::I64(-1), None),
        ("padding_token_id", Value::String("<pad>".to_owned()), Some("padding_token_id is <pad>")),
        ("eot_token_id", Value::F32(0.5), Some("eot_token_id is 0.5")),
        ("add_bos_token", Value::U8(1), None),
        ("add_bos_token", Value::String("yes".to_owned()), Some("tokenizer.ggml.add_bos_token")),
    ] {
        let mut file = Gguf::dense();
        file.set(&format!("tokenizer.ggml.{key}"), value);
        tells(&file.open().unwrap(), told);
    }
}

#[test]
fn values_of_the_configuration() {
    let plain = Folder::dense().open().unwrap().config().clone();
    for (key, value, told) in [
        ("rope_scaling", json!({"type": "linear", "factor": 1.0}), None),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 1}), None),
        ("rope_scaling", json!({"rope_type": "default"}), None),
        ("rope_scaling", json!({"type": "none"}), None),
        ("rope_scaling", json!(null), None),
        ("rope_parameters", json!({"rope_type": "linear", "factor": 1.0, "rope_theta": 1e6}), None),
        ("num_hidden_layers", json!("2"), None),
        ("conv_bias", json!(0), None),
        ("tie_word_embeddings", json!("true"), None),
        ("head_dim", json!(-1), Some("config.json: head_dim is -1")),
        ("torch_dtype", json!("float32"), None),
        ("dtype", json!(7), None),
    ] {
        let checkpoint = with(key, value);
        assert_eq!(checkpoint.config(), &plain, "{key}");
        tells(&checkpoint, told);
    }
    let text = Folder::dense().config.to_string();
    let marked = format!("\u{feff}{text}");
    let infinite = text.replacen('{', "{\"initializer_range\": NaN, \"x\": [Infinity, -Infinity], ", 1);
    let mut norm = Folder::dense().config;
    norm["norm_eps"] = json!("?");
    let norm = norm.to_string().replacen("\"?\"", "NaN", 1);
    for (text, told) in [(marked, None), (infinite, None), (norm, Some("norm_eps is \"NaN\""))] {
        let checkpoint = open("config.json", text.as_bytes());
        assert_eq!(checkpoint.config(), &plain);
        tells(&checkpoint, told);
    }

    for (key, value) in [
        ("rope.scaling.type", Value::String("linear".to_owned())),
        ("attention.causal", Value::U8(1)),
        ("expert_weights_norm", Value::U32(1)),
    ] {
        let mut file = Gguf::dense();
        file.set(&format!("lfm2.{key}"), value);
        tells(&file.open().unwrap(), None);
    }
}

#[test]
fn files_with_a_byte_order_mark() {
    let tokenizer =
        br#"{"added_tokens": [{"id": 6, "content": "<x>"}], "model": {"vocab": {}, "merges": []}}"#;
    let marked = |bytes: &[u8]| [b"\xef\xbb\xbf", bytes].concat();
    let checkpoint = open("tokenizer.json", &marked(tokenizer));
    assert!(matches!(checkpoint.vocabulary(), Vocabulary::HuggingFace(bytes) if bytes == tokenizer));
    assert_eq!(open("chat_template.jinja", &marked(b"hello")).chat_template(), Some("hello"));
    let sampling = open("generation_config.json", &marked(b"{\"top_k\": 5}"));
    assert_eq!(sampling.sampling_defaults().top_k, Some(5));
    tells(&sampling, None);
}

#[test]
fn whether_bos_is_added_is_read_in_any_spelling() {
    for (value, expected, told) in [
        (json!(true), Some(true), None),
        (json!(0), Some(false), None),
        (json!(1), Some(true), None),
        (json!("False"), Some(false), None),
        (json!(null), None, None),
        (json!("maybe"), None, Some("add_bos_token is \"maybe\"")),
    ] {
        let checkpoint =
            open("tokenizer_config.json", json!({"add_bos_token": value}).to_string().as_bytes());
        assert_eq!(checkpoint.special_tokens().add_bos, expected);
        tells(&checkpoint, told);
    }
}

#[test]
fn pre_tokenizers_of_other_families() {
    for pre in ["llama-bpe", "llama3", "qwen2", "gpt-2", "default", "smollm"] {
        let mut file = Gguf::dense();
        file.set("tokenizer.ggml.pre", Value::String(pre.to_owned()));
        let checkpoint = file.open().unwrap();
        assert!(matches!(checkpoint.vocabulary(), Vocabulary::Gguf { pre, .. } if pre == "lfm2"), "{pre}");
        tells(&checkpoint, Some(&format!("tokenizer.ggml.pre is {pre}; used lfm2")));
    }
}

#[test]
fn sampling_values_that_make_no_sense() {
    let json = br#"{"temperature": 0.3, "repetition_penalty": 0, "top_k": -1, "top_p": NaN}"#;
    let checkpoint = open("generation_config.json", json);
    let expected = SamplingDefaults { temperature: Some(0.3), top_k: Some(0), ..Default::default() };
    assert_eq!(*checkpoint.sampling_defaults(), expected);
    let lines = checkpoint.repairs();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines.iter().any(|line| line.contains("generation_config.json: repetition_penalty is 0")),
        "{lines:?}"
    );
    assert!(lines.iter().any(|line| line.contains("generation_config.json: top_p is \"NaN\"")), "{lines:?}");
    for (key, value) in [
        ("penalty_repeat", Value::F32(0.0)),
        ("temp", Value::F32(f32::NAN)),
        ("temp", Value::String("hot".to_owned())),
        ("top_p", Value::F32(-1.0)),
        ("top_k", Value::F32(2.5)),
        ("min_p", Value::F32(3.0)),
    ] {
        let mut file = Gguf::dense();
        file.set(&format!("general.sampling.{key}"), value);
        let checkpoint = file.open().unwrap();
        assert_eq!(*checkpoint.sampling_defaults(), SamplingDefaults::default(), "{key}");
        tells(&checkpoint, Some(&format!("general.sampling.{key} is ")));
    }
}

#[test]
fn heads_that_the_configuration_is_wrong_about() {
    let head = "lm_head.weight";
    let mut folder = Folder::dense();
    let embedding =
        folder.tensors.iter().find(|(name, ..)| name == "model.embed_tokens.weight").unwrap().3.clone();
    // The same values, as some programs save it.
    folder.tensors.push((head.to_owned(), "F32", vec![VOCAB, HIDDEN], embedding.clone()));
    tells(&folder.open().unwrap(), None);
    // A trained one.
    let mut trained = embedding;
    trained[..4].copy_from_slice(&f32_bytes(&[7.5]));
    folder.tensors.last_mut().unwrap().3 = trained;
    let checkpoint = folder.open().unwrap();
    assert_eq!(checkpoint.weight(WeightName::Head), None);
    tells(&checkpoint, Some("lm_head.weight is not the embedding, but the configuration ties the two"));
    folder.config["tie_word_embeddings"] = json!(false);
    let checkpoint = folder.open().unwrap();
    assert!(checkpoint.weight(WeightName::Head).is_some());
    tells(&checkpoint, None);
    folder.tensors.pop();
    let checkpoint = folder.open().unwrap();
    assert_eq!(checkpoint.weight(WeightName::Head), None);
    tells(&checkpoint, Some("lm_head.weight is absent"));
}

#[test]
fn tensors_that_have_no_place_are_named() {
    let mut folder = Folder::dense();
    for name in ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.embeddings.position_ids"] {
        folder.add_f32(name, vec![HIDDEN]);
    }
    tells(&folder.open().unwrap(), None);
    folder.add_f32("mtp.head.weight", vec![HIDDEN]);
    tells(
        &folder.open().unwrap(),
        Some("A tensor has no place in this model and is not used: mtp.head.weight."),
    );
    for layer in 2..6 {
        folder.add_f32(&format!("model.layers.{layer}.operator_norm.weight"), vec![HIDDEN]);
    }
    tells(
        &folder.open().unwrap(),
        Some("5 tensors have no place in this model and are not used: mtp.head.weight, model.layers.2"),
    );
    tells(&folder.open().unwrap(), Some("and 2 more."));
    let mut file = Gguf::dense();
    file.add_f32("rope_freqs.weight", vec![HIDDEN]);
    tells(&file.open().unwrap(), Some("rope_freqs.weight"));
}

#[test]
fn stale_entries_of_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::dense();
    let shard = "model-00001-of-00001.safetensors";
    let mut index: serde_json::Map<String, Json> =
        folder.tensors.iter().map(|(name, ..)| (name.clone(), shard.into())).collect();
    index.insert("lm_head.weight".to_owned(), shard.into());
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    put("config.json", folder.config.to_string().as_bytes());
    put(shard, &folder.weights());
    put("model.safetensors.index.json", json!({"weight_map": index}).to_string().as_bytes());
    // What is in another file than it says is found all the same.
    put(
        "model.safetensors.index.json",
        json!({"weight_map": index}).to_string().replacen(shard, "b.safetensors", 1).as_bytes(),
    );
    let mut other = folder.clone();
    other.tensors.clear();
    put("b.safetensors", &other.weights());
    assert!(Checkpoint::open(dir.path()).unwrap().weight(WeightName::TokenEmbedding).is_some());
    put("model.safetensors.index.json", json!({"weight_map": index}).to_string().as_bytes());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    tells(&checkpoint, Some("names tensors that are in no file: lm_head.weight."));
}
