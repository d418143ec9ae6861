//! The smallest models that have every kind of layer, as GGUF and as safetensors, open to any change before
//! they are built.

use serde_json::{Value as Json, json};
use undine_core::DType;
use undine_weights::{Array, Checkpoint, Error, GgufWriter, TensorDeclaration, Value};

pub const HIDDEN: usize = 8;
pub const VOCAB: usize = 10;
pub const WIDTH: usize = 12;
pub const EXPERTS: usize = 4;
pub const EXPERT_WIDTH: usize = 6;
pub const HEAD_DIM: usize = 4;
pub const KV: usize = HEAD_DIM;
pub const TAPS: usize = 3;

/// Role of a tensor in both spellings: GGUF name, Hugging Face name, Hugging Face shape.
type Row = (String, String, Vec<usize>);

fn layer_rows(layer: usize, conv: bool) -> Vec<Row> {
    let h = HIDDEN;
    let operator: &[(&str, &str, &[usize])] = if conv {
        &[
            ("shortconv.in_proj.weight", "conv.in_proj.weight", &[3 * HIDDEN, HIDDEN]),
            ("shortconv.conv.weight", "conv.conv.weight", &[HIDDEN, 1, TAPS]),
            ("shortconv.out_proj.weight", "conv.out_proj.weight", &[HIDDEN, HIDDEN]),
        ]
    } else {
        &[
            ("attn_q.weight", "self_attn.q_proj.weight", &[HIDDEN, HIDDEN]),
            ("attn_k.weight", "self_attn.k_proj.weight", &[KV, HIDDEN]),
            ("attn_v.weight", "self_attn.v_proj.weight", &[KV, HIDDEN]),
            ("attn_output.weight", "self_attn.out_proj.weight", &[HIDDEN, HIDDEN]),
            ("attn_q_norm.weight", "self_attn.q_layernorm.weight", &[HEAD_DIM]),
            ("attn_k_norm.weight", "self_attn.k_layernorm.weight", &[HEAD_DIM]),
        ]
    };
    let norms: [(&str, &str, &[usize]); 2] =
        [("attn_norm.weight", "operator_norm.weight", &[h]), ("ffn_norm.weight", "ffn_norm.weight", &[h])];
    let name = |&(gguf, hf, shape): &(&str, &str, &[usize])| {
        (format!("blk.{layer}.{gguf}"), format!("model.layers.{layer}.{hf}"), shape.to_vec())
    };
    norms.iter().chain(operator).map(name).collect()
}

fn dense_rows(layer: usize) -> Vec<Row> {
    [("gate", "w1", [WIDTH, HIDDEN]), ("up", "w3", [WIDTH, HIDDEN]), ("down", "w2", [HIDDEN, WIDTH])]
        .map(|(gguf, hf, shape)| {
            let hf = format!("model.layers.{layer}.feed_forward.{hf}.weight");
            (format!("blk.{layer}.ffn_{gguf}.weight"), hf, shape.to_vec())
        })
        .to_vec()
}

fn outer_rows() -> Vec<Row> {
    vec![
        ("token_embd.weight".into(), "model.embed_tokens.weight".into(), vec![VOCAB, HIDDEN]),
        ("token_embd_norm.weight".into(), "model.embedding_norm.weight".into(), vec![HIDDEN]),
    ]
}

/// Values that differ from place to place and are exact in BF16.
pub fn values(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + seed * 101) % 251) as f32 / 64.0 - 2.0).collect()
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// A GGUF file in parts.
#[derive(Clone)]
pub struct Gguf {
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<(TensorDeclaration, Vec<u8>)>,
}

impl Gguf {
    pub fn dense() -> Self {
        let rows =
            [outer_rows(), layer_rows(0, true), dense_rows(0), layer_rows(1, false), dense_rows(1)].concat();
        let mut file = Self { metadata: metadata("lfm2"), tensors: Vec::new() };
        for (name, _, shape) in rows {
            let shape: Vec<_> = if shape.len() == 3 { vec![shape[0], shape[2]] } else { shape };
            file.add_f32(&name, shape);
        }
        file
    }

    pub fn moe() -> Self {
        let rows = [outer_rows(), layer_rows(0, true), dense_rows(0), layer_rows(1, false)].concat();
        let mut file = Self { metadata: metadata("lfm2moe"), tensors: Vec::new() };
        for (name, _, shape) in rows {
            let shape: Vec<_> = if shape.len() == 3 { vec![shape[0], shape[2]] } else { shape };
            file.add_f32(&name, shape);
        }
        file.add_f32("blk.1.ffn_gate_inp.weight", vec![EXPERTS, HIDDEN]);
        file.add_f32("blk.1.exp_probs_b.bias", vec![EXPERTS]);
        file.add_f32("blk.1.ffn_gate_exps.weight", vec![EXPERTS, EXPERT_WIDTH, HIDDEN]);
        file.add_f32("blk.1.ffn_up_exps.weight", vec![EXPERTS, EXPERT_WIDTH, HIDDEN]);
        file.add_f32("blk.1.ffn_down_exps.weight", vec![EXPERTS, HIDDEN, EXPERT_WIDTH]);
        for (key, value) in [
            ("expert_count", EXPERTS as u32),
            ("expert_used_count", 2),
            ("expert_feed_forward_length", EXPERT_WIDTH as u32),
            ("leading_dense_block_count", 1),
            ("expert_gating_func", 2),
        ] {
            file.set(&format!("lfm2moe.{key}"), Value::U32(value));
        }
        file
    }

    pub fn add_f32(&mut self, name: &str, shape: Vec<usize>) {
        let data = f32_bytes(&values(self.tensors.len(), shape.iter().product()));
        self.tensors.push((TensorDeclaration { name: name.to_owned(), dtype: DType::F32, shape }, data));
    }

    pub fn set(&mut self, key: &str, value: Value) {
        self.remove(key);
        self.metadata.push((key.to_owned(), value));
    }

    pub fn remove(&mut self, key: &str) {
        self.metadata.retain(|(other, _)| other != key);
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let tensor = self.tensors.iter_mut().find(|(tensor, _)| tensor.name == from).unwrap();
        tensor.0.name = to.to_owned();
    }

    pub fn drop_tensor(&mut self, name: &str) {
        let before = self.tensors.len();
        self.tensors.retain(|(tensor, _)| tensor.name != name);
        assert_eq!(self.tensors.len() + 1, before, "{name} was there");
    }

    pub fn bytes(&self) -> Vec<u8> {
        let declarations: Vec<_> = self.tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
        let mut writer = GgufWriter::new(Vec::new(), &self.metadata, &declarations).unwrap();
        self.tensors.iter().for_each(|(_, data)| writer.append(data).unwrap());
        writer.finish().unwrap()
    }

    pub fn open(&self) -> Result<Checkpoint, Error> {
        Checkpoint::from_gguf_bytes(self.bytes())
    }
}

fn metadata(architecture: &str) -> Vec<(String, Value)> {
    let texts =
        |texts: &[&str]| Value::Array(Array::String(texts.iter().map(|&text| text.to_owned()).collect()));
    let tokens = [
        "<|pad|>",
        "<|startoftext|>",
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "a",
        "b",
        "ab",
        "c",
        "d",
    ];
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
        ("general.name".to_owned(), Value::String("Tiny".to_owned())),
        ("tokenizer.ggml.model".to_owned(), Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre".to_owned(), Value::String("lfm2".to_owned())),
        ("tokenizer.ggml.tokens".to_owned(), texts(&tokens)),
        (
            "tokenizer.ggml.token_type".to_owned(),
            Value::Array(Array::I32(vec![3, 3, 3, 3, 3, 1, 1, 1, 1, 1])),
        ),
        ("tokenizer.ggml.merges".to_owned(), texts(&["a b"])),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(1)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(4)),
        ("tokenizer.ggml.padding_token_id".to_owned(), Value::U32(0)),
        ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(true)),
        ("tokenizer.chat_template".to_owned(), Value::String("{{ messages }}".to_owned())),
    ];
    let shape = [
        ("block_count", Value::U32(2)),
        ("context_length", Value::U32(128)),
        ("embedding_length", Value::U32(HIDDEN as u32)),
        ("feed_forward_length", Value::U32(WIDTH as u32)),
        ("vocab_size", Value::U32(VOCAB as u32)),
        ("attention.head_count", Value::U32(2)),
        ("attention.head_count_kv", Value::Array(Array::I32(vec![0, 1]))),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("rope.freq_base", Value::F32(1e6)),
        ("shortconv.l_cache", Value::U32(TAPS as u32)),
    ];
    metadata.extend(shape.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value)));
    metadata
}

/// A Hugging Face folder's two essential files in parts.
#[derive(Clone)]
pub struct Folder {
    pub config: Json,
    /// Name, type, shape, data.
    pub tensors: Vec<(String, &'static str, Vec<usize>, Vec<u8>)>,
}

impl Folder {
    pub fn dense() -> Self {
        let rows =
            [outer_rows(), layer_rows(0, true), dense_rows(0), layer_rows(1, false), dense_rows(1)].concat();
        let mut folder = Self { config: config(), tensors: Vec::new() };
        rows.into_iter().for_each(|(_, name, shape)| folder.add_f32(&name, shape));
        folder
    }

    /// Experts one by one.
    pub fn moe() -> Self {
        let mut folder = Self::moe_without_experts();
        for (part, shape) in
            [("w1", [EXPERT_WIDTH, HIDDEN]), ("w3", [EXPERT_WIDTH, HIDDEN]), ("w2", [HIDDEN, EXPERT_WIDTH])]
        {
            for expert in 0..EXPERTS {
                let name = format!("model.layers.1.feed_forward.experts.{expert}.{part}.weight");
                folder.add_f32(&name, shape.to_vec());
            }
        }
        folder
    }

    pub fn moe_without_experts() -> Self {
        let rows = [outer_rows(), layer_rows(0, true), dense_rows(0), layer_rows(1, false)].concat();
        let mut folder = Self { config: config(), tensors: Vec::new() };
        rows.into_iter().for_each(|(_, name, shape)| folder.add_f32(&name, shape));
        folder.add_f32("model.layers.1.feed_forward.gate.weight", vec![EXPERTS, HIDDEN]);
        folder.add_f32("model.layers.1.feed_forward.expert_bias", vec![EXPERTS]);
        for (key, value) in [
            ("model_type", json!("lfm2_moe")),
            ("num_experts", json!(EXPERTS)),
            ("num_experts_per_tok", json!(2)),
            ("num_dense_layers", json!(1)),
            ("moe_intermediate_size", json!(EXPERT_WIDTH)),
            ("norm_topk_prob", json!(true)),
            ("use_expert_bias", json!(true)),
        ] {
            folder.config[key] = value;
        }
        folder
    }

    pub fn add_f32(&mut self, name: &str, shape: Vec<usize>) {
        let data = f32_bytes(&values(self.tensors.len(), shape.iter().product()));
        self.tensors.push((name.to_owned(), "F32", shape, data));
    }

    pub fn rename_all(&mut self, rename: impl Fn(&str) -> String) {
        self.tensors.iter_mut().for_each(|(name, ..)| *name = rename(name));
    }

    pub fn weights(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        let mut data = Vec::new();
        header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
        for (name, dtype, shape, bytes) in &self.tensors {
            let offsets = [data.len(), data.len() + bytes.len()];
            header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
            data.extend_from_slice(bytes);
        }
        safetensors(&Json::Object(header).to_string(), &data)
    }

    pub fn open(&self) -> Result<Checkpoint, Error> {
        Checkpoint::from_safetensors_bytes(self.config.to_string().into_bytes(), self.weights())
    }
}

pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn config() -> Json {
    json!({
        "architectures": ["Lfm2ForCausalLM"],
        "model_type": "lfm2",
        "hidden_size": HIDDEN,
        "vocab_size": VOCAB,
        "num_hidden_layers": 2,
        "layer_types": ["conv", "full_attention"],
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "conv_L_cache": TAPS,
        "conv_bias": false,
        "norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "max_position_embeddings": 128,
        "intermediate_size": WIDTH,
        "block_auto_adjust_ff_dim": false,
        "tie_word_embeddings": true,
        "bos_token_id": 1,
        "eos_token_id": 4,
        "pad_token_id": 0
    })
}

/// The error's message, for a checkpoint that must not open.
pub fn refused(result: Result<Checkpoint, Error>) -> String {
    match result {
        Ok(_) => panic!("the file must be refused"),
        Err(error) => error.to_string(),
    }
}
