//! The oracle checkpoints in the folders of other programs: the logits are those of the same values in F32,
//! to the bit, and those of the GGUF file that is written from them.

use std::path::Path;

use serde_json::{Value as Json, json};
use undine_core::{DType, quant};
use undine_model::Oracle;
use undine_tests::{Part, capacity, cpu, data, logits, model};
use undine_weights::{Checkpoint, write_gguf};

/// Columns that share a scale.
const GROUP: usize = 32;

/// A tensor of a safetensors file.
#[derive(Clone)]
struct Tensor {
    name: String,
    kind: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn new(name: &str, kind: &'static str, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), kind, shape: shape.to_vec(), bytes }
    }

    fn floats(&self) -> Vec<f32> {
        let dtype = DType::parse(self.kind).unwrap();
        let mut values = vec![0.0; self.bytes.len() / dtype.block_bytes()];
        quant::decode(dtype, &self.bytes, &mut values);
        values
    }
}

fn read(path: &Path) -> Vec<Tensor> {
    let file = std::fs::read(path).unwrap();
    let start = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Json> = serde_json::from_slice(&file[8..start]).unwrap();
    let numbers = |value: &Json| -> Vec<usize> {
        value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
    };
    let tensors = header.iter().filter(|(name, _)| *name != "__metadata__");
    tensors
        .map(|(name, entry)| {
            let at = numbers(&entry["data_offsets"]);
            assert_eq!(entry["dtype"], "BF16");
            Tensor::new(name, "BF16", &numbers(&entry["shape"]), file[start + at[0]..start + at[1]].to_vec())
        })
        .collect()
}

fn write(path: &Path, tensors: &[Tensor]) {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for tensor in tensors {
        let end = at + tensor.bytes.len();
        header.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.kind, "shape": tensor.shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let header = Json::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    tensors.iter().for_each(|tensor| file.extend(&tensor.bytes));
    std::fs::write(path, file).unwrap();
}

fn encoded(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.block_bytes()];
    quant::encode(dtype, values, &mut bytes);
    bytes
}

fn rounded(dtype: DType, value: f32) -> f32 {
    let mut back = [0.0];
    quant::decode(dtype, &encoded(dtype, &[value]), &mut back);
    back[0]
}

/// Words of numbers of `bits` bits each, the lowest first.
fn words(bits: usize, numbers: impl Iterator<Item = u32>) -> Vec<u8> {
    let numbers: Vec<u32> = numbers.collect();
    let each = 32 / bits;
    let word = |numbers: &[u32]| numbers.iter().enumerate().fold(0, |word, (i, n)| word | n << (bits * i));
    numbers.chunks_exact(each).flat_map(|numbers| word(numbers).to_le_bytes()).collect()
}

/// A matrix in codes of four bits: a value is `scale * (code - zero)`.
struct Codes {
    rows: usize,
    cols: usize,
    codes: Vec<u32>,
    /// `rows x groups`.
    scales: Vec<f32>,
    zeros: Vec<u32>,
}

impl Codes {
    fn new(rows: usize, values: &[f32], zero_of: impl Fn(&[f32], f32) -> u32) -> Self {
        let cols = values.len() / rows;
        let (mut codes, mut scales, mut zeros) = (Vec::new(), Vec::new(), Vec::new());
        for group in values.chunks_exact(GROUP) {
            let (low, high) = group.iter().fold((0f32, 0f32), |(low, high), &v| (low.min(v), high.max(v)));
            let scale = rounded(DType::F16, ((high - low) / 15.0).max(1e-3));
            let zero = zero_of(group, scale);
            codes.extend(group.iter().map(|v| (v / scale + zero as f32).round().clamp(0.0, 15.0) as u32));
            scales.push(scale);
            zeros.push(zero);
        }
        Self { rows, cols, codes, scales, zeros }
    }

    fn symmetric(rows: usize, values: &[f32]) -> Self {
        Self::new(rows, values, |_, _| 8)
    }

    fn with_zeros(rows: usize, values: &[f32]) -> Self {
        let least = |group: &[f32]| group.iter().fold(0f32, |low, &v| low.min(v));
        Self::new(rows, values, |group, scale| (-least(group) / scale).round().clamp(1.0, 15.0) as u32)
    }

    fn values(&self) -> Vec<f32> {
        let value =
            |(i, &code): (usize, &u32)| self.scales[i / GROUP] * (code as f32 - self.zeros[i / GROUP] as f32);
        self.codes.iter().enumerate().map(value).collect()
    }

    fn groups(&self) -> usize {
        self.cols / GROUP
    }

    /// Of `rows x groups` numbers, those of each group together.
    fn by_group<T: Copy>(&self, numbers: &[T]) -> Vec<T> {
        (0..self.groups()).flat_map(|g| (0..self.rows).map(move |r| numbers[r * self.groups() + g])).collect()
    }
}

type Packed = (Vec<Tensor>, Vec<f32>);

fn gptq(module: &str, rows: usize, values: &[f32]) -> Packed {
    let c = Codes::symmetric(rows, values);
    // Words go down the columns of the transposed matrix.
    let down = (0..c.cols / 8)
        .flat_map(|line| (0..rows).flat_map(move |row| (0..8).map(move |i| row * c.cols + 8 * line + i)))
        .collect::<Vec<_>>();
    let name = |part: &str| format!("{module}.{part}");
    let order: Vec<u8> = (0..c.cols).flat_map(|col| ((col / GROUP) as i32).to_le_bytes()).collect();
    let tensors = vec![
        Tensor::new(&name("qweight"), "I32", &[c.cols / 8, rows], words(4, down.iter().map(|&i| c.codes[i]))),
        Tensor::new(
            &name("qzeros"),
            "I32",
            &[c.groups(), rows / 8],
            words(4, c.by_group(&c.zeros).into_iter().map(|zero| zero - 1)),
        ),
        Tensor::new(&name("scales"), "F16", &[c.groups(), rows], encoded(DType::F16, &c.by_group(&c.scales))),
        Tensor::new(&name("g_idx"), "I32", &[c.cols], order),
    ];
    (tensors, c.values())
}

fn awq(module: &str, rows: usize, values: &[f32]) -> Packed {
    const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    let c = Codes::with_zeros(rows, values);
    let across = |row: usize| row / 8 * 8 + ORDER[row % 8];
    let codes = (0..c.cols).flat_map(|col| (0..rows).map(move |row| (col, row)));
    let zeros = c.by_group(&c.zeros);
    let name = |part: &str| format!("{module}.{part}");
    let tensors = vec![
        Tensor::new(
            &name("qweight"),
            "I32",
            &[c.cols, rows / 8],
            words(4, codes.map(|(col, row)| c.codes[across(row) * c.cols + col])),
        ),
        Tensor::new(
            &name("qzeros"),
            "I32",
            &[c.groups(), rows / 8],
            words(4, (0..zeros.len()).map(|i| zeros[i / rows * rows + across(i % rows)])),
        ),
        Tensor::new(&name("scales"), "F16", &[c.groups(), rows], encoded(DType::F16, &c.by_group(&c.scales))),
    ];
    (tensors, c.values())
}

fn compressed(module: &str, rows: usize, values: &[f32]) -> Packed {
    let c = Codes::symmetric(rows, values);
    let shape: Vec<u8> = [rows, c.cols].iter().flat_map(|&n| (n as u64).to_le_bytes()).collect();
    let name = |part: &str| format!("{module}.{part}");
    let tensors = vec![
        Tensor::new(&name("weight_packed"), "I32", &[rows, c.cols / 8], words(4, c.codes.iter().copied())),
        Tensor::new(&name("weight_scale"), "F16", &[rows, c.groups()], encoded(DType::F16, &c.scales)),
        Tensor::new(&name("weight_shape"), "I64", &[2], shape),
    ];
    (tensors, c.values())
}

fn mlx(module: &str, rows: usize, values: &[f32]) -> Packed {
    let c = Codes::with_zeros(rows, values);
    let half = |v: f32| rounded(DType::BF16, v);
    let scales: Vec<f32> = c.scales.iter().map(|&scale| half(scale)).collect();
    let biases: Vec<f32> =
        scales.iter().zip(&c.zeros).map(|(scale, &zero)| half(-scale * zero as f32)).collect();
    let value = |(i, &code): (usize, &u32)| scales[i / GROUP] * code as f32 + biases[i / GROUP];
    let values = c.codes.iter().enumerate().map(value).collect();
    let name = |part: &str| format!("{module}.{part}");
    let numbers = [rows, c.groups()];
    let tensors = vec![
        Tensor::new(&name("weight"), "U32", &[rows, c.cols / 8], words(4, c.codes.iter().copied())),
        Tensor::new(&name("scales"), "BF16", &numbers, encoded(DType::BF16, &scales)),
        Tensor::new(&name("biases"), "BF16", &numbers, encoded(DType::BF16, &biases)),
    ];
    (tensors, values)
}

/// The magnitudes of E4M3 in order, without its NaN.
fn e4m3() -> Vec<f32> {
    let value = |code: u32| match (code >> 3, (code & 7) as f32) {
        (0, mantissa) => mantissa / 512.0,
        (exponent, mantissa) => (1.0 + mantissa / 8.0) * 2f32.powi(exponent as i32 - 7),
    };
    (0..127).map(value).collect()
}

/// One scale a row; values are kept as F16, but those of routers as they are.
fn fp8(module: &str, rows: usize, values: &[f32]) -> Packed {
    let (cols, levels) = (values.len() / rows, e4m3());
    let (mut codes, mut scales, mut out) = (Vec::new(), Vec::new(), Vec::new());
    for row in values.chunks_exact(cols) {
        let scale = row.iter().fold(1e-6f32, |max, v| max.max(v.abs())) / 448.0;
        for v in row {
            let code = levels.partition_point(|level| *level < v.abs() / scale).min(126);
            codes.push(code as u8 | if *v < 0.0 { 128 } else { 0 });
            let value = scale * if *v < 0.0 { -levels[code] } else { levels[code] };
            out.push(if module.ends_with("feed_forward.gate") { value } else { rounded(DType::F16, value) });
        }
        scales.push(scale);
    }
    let tensors = vec![
        Tensor::new(&format!("{module}.weight"), "F8_E4M3", &[rows, cols], codes),
        Tensor::new(&format!("{module}.weight_scale"), "F32", &[rows, 1], encoded(DType::F32, &scales)),
    ];
    (tensors, out)
}

/// A folder as another program writes it, and the same values in F32.
struct Twins {
    packed: tempfile::TempDir,
    plain: tempfile::TempDir,
}

fn twins(case: &str, quantization: Json, pack: fn(&str, usize, &[f32]) -> Packed) -> Twins {
    let oracle = data("oracle").join(case);
    let (mut packed, mut plain) = (Vec::new(), Vec::new());
    for tensor in read(&oracle.join("model.safetensors")) {
        let module = tensor.name.strip_suffix(".weight");
        match (module, &*tensor.shape) {
            (Some(module), &[rows, cols]) if cols.is_multiple_of(GROUP) && rows.is_multiple_of(8) => {
                let (tensors, values) = pack(module, rows, &tensor.floats());
                packed.extend(tensors);
                plain.push(Tensor { kind: "F32", bytes: encoded(DType::F32, &values), ..tensor });
            }
            _ => {
                packed.push(tensor.clone());
                plain.push(tensor);
            }
        }
    }
    let folders = Twins { packed: tempfile::tempdir().unwrap(), plain: tempfile::tempdir().unwrap() };
    let config: Json = serde_json::from_slice(&std::fs::read(oracle.join("config.json")).unwrap()).unwrap();
    for (folder, tensors) in [(&folders.packed, &packed), (&folders.plain, &plain)] {
        let mut config = config.clone();
        if std::ptr::eq(tensors, &raw const packed) {
            let quantization = quantization.as_object().unwrap().clone();
            config.as_object_mut().unwrap().extend(quantization);
        }
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(oracle.join(file), folder.path().join(file)).unwrap();
        }
        write(&folder.path().join("model.safetensors"), tensors);
    }
    folders
}

fn bits(rows: Vec<Vec<f32>>) -> Vec<u32> {
    rows.concat().into_iter().map(f32::to_bits).collect()
}

const TOKENS: [u32; 6] = [1, 17, 400, 23, 900, 5];

fn oracle_logits(path: &Path) -> Vec<u32> {
    let model = model(path);
    let mut oracle = Oracle::new(model.clone(), capacity(&model));
    bits(logits(&mut oracle, &[Part { sequence: 0, start: 0, tokens: &TOKENS }]))
}

fn cpu_logits(path: &Path) -> Vec<u32> {
    bits(logits(&mut cpu(&model(path), 2), &[Part { sequence: 0, start: 0, tokens: &TOKENS }]))
}

#[test]
fn folders_of_other_programs_give_the_logits_of_their_values() {
    let own = |method: Json| json!({"quantization_config": method});
    type Pack = fn(&str, usize, &[f32]) -> Packed;
    let forms: [(Json, Pack, &str, DType); 5] = [
        (json!({"quantization": {"group_size": GROUP, "bits": 4}}), mlx, "MLX 4-bit", DType::Q4_1),
        (
            own(json!({"quant_method": "gptq", "bits": 4, "group_size": GROUP})),
            gptq,
            "GPTQ 4-bit",
            DType::Q4_0,
        ),
        (own(json!({"quant_method": "awq", "bits": 4, "version": "gemm"})), awq, "AWQ", DType::Q5_0),
        (
            own(json!({"quant_method": "compressed-tensors", "format": "pack-quantized"})),
            compressed,
            "compressed-tensors W4A16",
            DType::Q4_0,
        ),
        (own(json!({"quant_method": "fp8"})), fp8, "FP8", DType::F16),
    ];
    for (config, pack, method, dtype) in forms {
        for case in ["dense", "moe"] {
            let what = format!("{case} in {method}");
            let folders = twins(case, config.clone(), pack);
            let checkpoint =
                Checkpoint::open(folders.packed.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(checkpoint.format(), format!("safetensors, {method}"));
            let embedding = checkpoint.tensors().find(|tensor| tensor.name.contains("embed_tokens")).unwrap();
            assert_eq!(embedding.dtype, dtype, "{what}");
            let wanted = oracle_logits(folders.plain.path());
            assert!(oracle_logits(folders.packed.path()) == wanted, "{what}: not the logits of its values");
            let gguf = folders.packed.path().join("converted.gguf");
            write_gguf(&checkpoint, |_, weight| weight.dtype, &gguf).unwrap();
            assert!(oracle_logits(&gguf) == wanted, "{what}: GGUF");
            assert!(cpu_logits(&gguf) == cpu_logits(folders.packed.path()), "{what}: on the CPU backend");
        }
    }
}

/// MLX keeps the taps of a convolution in another place and stacks experts; training programs put words
/// around names.
#[test]
fn names_and_shapes_of_other_programs_mean_the_same_model() {
    for case in ["dense", "moe"] {
        let oracle = data("oracle").join(case);
        let wanted = oracle_logits(&oracle);
        let check = |what: &str, tensors: &[Tensor]| {
            let folder = tempfile::tempdir().unwrap();
            for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
                std::fs::copy(oracle.join(file), folder.path().join(file)).unwrap();
            }
            write(&folder.path().join("model.safetensors"), tensors);
            assert!(oracle_logits(folder.path()) == wanted, "{case} {what}");
        };
        let tensors = read(&oracle.join("model.safetensors"));
        for prefix in
            ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod.", "some_wrapper.text."]
        {
            let renamed =
                |tensor: &Tensor| Tensor { name: format!("{prefix}{}", tensor.name), ..tensor.clone() };
            check(prefix, &tensors.iter().map(renamed).collect::<Vec<_>>());
        }
        check("as MLX has it", &as_mlx(tensors));
    }
}

fn as_mlx(tensors: Vec<Tensor>) -> Vec<Tensor> {
    let mut stacked: std::collections::BTreeMap<String, Vec<(usize, Tensor)>> = Default::default();
    let mut out = Vec::new();
    for mut tensor in tensors {
        if tensor.name.ends_with("conv.conv.weight") {
            tensor.shape.swap(1, 2);
        }
        let name = tensor.name.clone();
        if let Some((layer, rest)) = name.split_once(".experts.") {
            if let Some(part) = rest.strip_prefix("gate_up_proj") {
                // Both halves of each expert.
                let [experts, rows, cols] = tensor.shape[..] else { panic!("three dimensions") };
                let half = rows / 2 * cols * 2;
                for (place, projection) in [(0, "gate_proj"), (1, "up_proj")] {
                    let bytes =
                        tensor.bytes.chunks_exact(half).skip(place).step_by(2).flatten().copied().collect();
                    let name = format!("{layer}.switch_mlp.{projection}.weight{part}");
                    out.push(Tensor::new(&name, "BF16", &[experts, rows / 2, cols], bytes));
                }
            } else if rest == "down_proj" {
                tensor.name = format!("{layer}.switch_mlp.down_proj.weight");
                out.push(tensor);
            } else {
                let (expert, part) = rest.split_once('.').unwrap();
                let projection = [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")]
                    .into_iter()
                    .find_map(|(own, theirs)| part.starts_with(own).then_some(theirs))
                    .unwrap();
                let name = format!("{layer}.switch_mlp.{projection}.weight");
                stacked.entry(name).or_default().push((expert.parse().unwrap(), tensor));
            }
            continue;
        }
        tensor.name = name
            .replace("feed_forward.w1.", "feed_forward.gate_proj.")
            .replace("feed_forward.w3.", "feed_forward.up_proj.")
            .replace("feed_forward.w2.", "feed_forward.down_proj.");
        out.push(tensor);
    }
    for (name, mut experts) in stacked {
        experts.sort_by_key(|(expert, _)| *expert);
        let shape = [&[experts.len()], &experts[0].1.shape[..]].concat();
        out.push(Tensor::new(
            &name,
            "BF16",
            &shape,
            experts.into_iter().flat_map(|(_, tensor)| tensor.bytes).collect(),
        ));
    }
    out
}
