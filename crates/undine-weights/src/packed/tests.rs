//! Matrices that other programs packed, see `tests/data/packed.py`.

use serde_json::Value as Json;
use undine_core::quant;

use super::*;
use crate::names;
use crate::safetensors::SafetensorsHeader;

const FILE: &[u8] = include_bytes!("../../tests/data/packed.safetensors");
const CASES: &str = include_str!("../../tests/data/packed.json");

/// The tensors of one case, as those of a module `m`, but for what is expected.
fn table(case: &str) -> TensorTable {
    let header = SafetensorsHeader::read("packed.safetensors", FILE).expect("a valid file");
    let mut table = TensorTable::default();
    let part = |name: &str| {
        let part = name.strip_prefix(case)?.strip_prefix('.')?;
        (part != "expected").then(|| names::unwrapped(&format!("m.{part}")))
    };
    for tensor in header.tensors {
        if let Some(key) = part(&tensor.name) {
            table.add_as(key, tensor).expect("once");
        }
    }
    for tensor in header.foreign {
        if let Some(key) = part(&tensor.name) {
            table.add_foreign(key, tensor).expect("once");
        }
    }
    table
}

fn expected(case: &str) -> Vec<f32> {
    let header = SafetensorsHeader::read("packed.safetensors", FILE).expect("a valid file");
    let tensor = header.tensors.into_iter().find(|tensor| tensor.name == format!("{case}.expected"));
    FILE[tensor.expect("there is one").bytes]
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn rounded(dtype: DType, values: &[f32]) -> Vec<f32> {
    let (mut bytes, mut back) = (vec![0; values.len() * dtype.block_bytes()], vec![0.0; values.len()]);
    quant::encode(dtype, values, &mut bytes);
    quant::decode(dtype, &bytes, &mut back);
    back
}

#[test]
fn matrices_of_every_packing_become_what_they_mean() {
    let cases: Vec<Json> = serde_json::from_str(CASES).expect("valid");
    assert!(cases.len() > 20);
    for case in cases {
        let name = case["name"].as_str().expect("a name");
        let (mut table, mut repairs) = (table(name), Vec::new());
        let mut files = vec![Arc::new(Bytes::Static(FILE))];
        let method = unpack(&case["config"], &mut table, &mut files, &mut repairs);
        method.unwrap_or_else(|error| panic!("{name}: {error}")).expect("a packing");
        let tensor = &table.tensors[table.index("m.weight").expect("a matrix")];
        assert_eq!(tensor.dtype.name(), case["becomes"], "{name}");
        assert!(table.foreign.is_empty(), "{name}: {:?}", table.foreign);
        let exact = expected(name);
        let is_rounded = tensor.dtype == DType::F16;
        assert_eq!(repairs.len(), usize::from(is_rounded), "{name}: {repairs:?}");
        let wanted = if is_rounded { rounded(tensor.dtype, &exact) } else { exact };
        let file = &files[tensor.file];
        // A few rows first, then all of them: what is made piece by piece is the same.
        let row = tensor.bytes.len() / 32;
        let rows = [
            file.part(0..row).into_owned(),
            file.part(row..21 * row).into_owned(),
            file.part(21 * row..32 * row).into_owned(),
        ];
        assert!(rows.concat() == file[..], "{name}: in pieces");
        let mut found = vec![0.0; wanted.len()];
        quant::decode(tensor.dtype, file, &mut found);
        for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert_eq!(found, wanted, "{name} value {i}");
        }
    }
}

#[test]
fn tensors_that_do_not_fit_together_are_refused_by_name() {
    let config = |case: &str| {
        let cases: Vec<Json> = serde_json::from_str(CASES).expect("valid");
        cases.into_iter().find(|found| found["name"] == case).expect("there")["config"].take()
    };
    type Change = fn(&mut TensorTable);
    let gone: [(&str, Change, &str); 6] = [
        ("gptq4", |t| t.remove(&HashSet::from(["m.qzeros".to_owned()])), "m.qzeros"),
        ("mlx4", |t| t.remove(&HashSet::from(["m.biases".to_owned()])), "m.biases"),
        ("w4a16", |t| t.remove(&HashSet::from(["m.weight_shape".to_owned()])), "m.weight_shape"),
        ("awq", |t| t.foreign.get_mut("m.qzeros").expect("there").shape = vec![2, 5], "awq.qzeros"),
        (
            "gptq4_order",
            |t| t.foreign.get_mut("m.g_idx").expect("there").shape = vec![64],
            "gptq4_order.qzeros",
        ),
        (
            "w4a16_zeros",
            |t| t.foreign.get_mut("m.weight_zero_point").expect("there").shape = vec![4, 1],
            "weight_zero_point",
        ),
    ];
    for (case, change, expected) in gone {
        let mut table = table(case);
        change(&mut table);
        let found =
            unpack(&config(case), &mut table, &mut vec![Arc::new(Bytes::Static(FILE))], &mut Vec::new());
        let message = found.expect_err(case).to_string();
        assert!(message.contains(expected), "{case}: {message}");
    }
    // Bits that do not give whole groups.
    for (case, key, value) in [("mlx4", "bits", 7), ("mlx4", "group_size", 0), ("mlx4", "bits", 5)] {
        let mut config = config(case);
        config["quantization"][key] = value.into();
        let found =
            unpack(&config, &mut table(case), &mut vec![Arc::new(Bytes::Static(FILE))], &mut Vec::new());
        assert!(found.is_err(), "{case} with {key} {value}");
    }
}
