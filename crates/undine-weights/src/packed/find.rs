//! Which tensors of a folder are packed matrices, by their names, types and shapes; the configuration says
//! what these leave open.

use std::sync::Arc;

use serde_json::Value as Json;

use super::fp8;
use super::grid::{Number, Piece, ZeroLayout, ZeroPoints};
use super::matrix::{Codes, Recipe, Zero};
use super::tensors::{Raw, Tensors};
use crate::Error;
use crate::config_hf::json_integer;
use crate::map::Bytes;
use crate::tensor::TensorTable;

/// A packed matrix, or several stacked ones.
pub(super) struct Found {
    /// What the packing is called.
    pub method: &'static str,
    /// The key and the name that it gets.
    pub key: String,
    pub name: String,
    pub shape: Vec<usize>,
    /// Keys of the tensors that it is made of.
    pub used: Vec<String>,
    pub recipe: Recipe,
}

/// All packed matrices of a folder, by name.
pub(super) fn all(config: &Json, table: &TensorTable, files: &[Arc<Bytes>]) -> Result<Vec<Found>, Error> {
    let finder = Finder { settings: Settings::new(config), tensors: Tensors { table, files } };
    let mut keys: Vec<&String> = table.foreign.keys().collect();
    keys.sort_unstable();
    keys.into_iter().filter_map(|key| finder.one(key).transpose()).collect()
}

/// What the configuration says of a packing.
pub(super) struct Settings<'a> {
    /// `quantization_config`, which MLX calls `quantization`.
    own: Option<&'a Json>,
}

impl<'a> Settings<'a> {
    fn new(config: &'a Json) -> Self {
        let get = |key| config.get(key).filter(|value: &&Json| value.is_object());
        // MLX writes both, the second for other programs.
        Self { own: get("quantization").or_else(|| get("quantization_config")) }
    }

    fn get(&self, key: &str) -> Option<&'a Json> {
        self.own?.get(key)
    }

    fn text(&self, key: &str) -> String {
        self.get(key).and_then(Json::as_str).unwrap_or_default().to_ascii_lowercase()
    }

    /// Rows and columns of FP8 blocks.
    pub(super) fn block(&self) -> Option<[usize; 2]> {
        let sizes: Vec<usize> =
            self.get("weight_block_size")?.as_array()?.iter().filter_map(json_integer).collect();
        sizes.try_into().ok().filter(|sizes: &[usize; 2]| sizes.iter().all(|&size| size > 0))
    }
}

pub(super) struct Finder<'a> {
    pub settings: Settings<'a>,
    pub tensors: Tensors<'a>,
}

/// The whole columns of a matrix of which `words` 32-bit words of a row have `bits` bits each.
fn columns(words: usize, bits: usize) -> Option<usize> {
    let all = words.checked_mul(32)?;
    all.is_multiple_of(bits).then_some(all / bits)
}

fn shape_error(raw: &Raw, expected: &[usize]) -> Error {
    Error::Shape { name: raw.name.clone(), expected: expected.to_vec(), found: raw.shape.clone() }
}

fn group_error(raw: &Raw, cols: usize) -> Error {
    Error::Unsupported(format!(
        "tensor {}: shape {:?} gives no groups of equal size to {cols} columns",
        raw.name, raw.shape
    ))
}

impl Finder<'_> {
    /// The matrix that the tensor `key` holds the codes of, if it does.
    fn one(&self, key: &str) -> Result<Option<Found>, Error> {
        let raw = self.tensors.required(key, key)?;
        if let Some(module) = key.strip_suffix(".qweight") {
            return self.gptq_or_awq(raw.of_kind(&["I32", "U32"])?, module).map(Some);
        }
        if let Some(module) = key.strip_suffix(".weight_packed") {
            return match raw.kind.as_str() {
                "U8" => self.fp4(raw, module, key).map(Some),
                _ => self.compressed(raw.of_kind(&["I32"])?, module).map(Some),
            };
        }
        match (key.strip_suffix(".weight"), raw.kind.as_str()) {
            (Some(module), "U32") if self.tensors.get(&format!("{module}.scales")).is_some() => {
                self.mlx(raw, module).map(Some)
            }
            (Some(module), "I8") if self.tensors.get(&format!("{module}.weight_scale")).is_some() => {
                self.int8(raw, module).map(Some)
            }
            (Some(module), "U8") if self.tensors.get(&format!("{module}.weight_scale")).is_some() => {
                self.fp4(raw, module, key).map(Some)
            }
            (_, "F8_E4M3") => fp8::find(self, raw, key),
            _ => Ok(None),
        }
    }

    /// MLX: `rows x cols * bits / 32` words with scales and, unless floats are packed, biases for groups of
    /// columns.
    fn mlx(&self, raw: Raw, module: &str) -> Result<Found, Error> {
        let own = |key: &str| {
            let of_module = |name: &str| self.settings.get(name).and_then(|settings| settings.get(key));
            let file_module = raw.name.strip_suffix(".weight").unwrap_or(&raw.name);
            of_module(file_module).or_else(|| of_module(module)).or_else(|| self.settings.get(key))
        };
        let number = |key: &str, default: usize| own(key).and_then(json_integer).unwrap_or(default);
        let mode = own("mode").and_then(Json::as_str).unwrap_or("affine");
        let default = if mode == "affine" { 64 } else { 32 };
        let (bits, group) = (number("bits", 4), number("group_size", default));
        if !(2..=8).contains(&bits) || bits == 7 || group == 0 {
            let reason =
                format!("expected 2 to 6 or 8 bits in groups, found {bits} bits in groups of {group}");
            return Err(Error::config("quantization", reason));
        }
        let [rows, words] = raw.rows_cols().ok_or_else(|| shape_error(&raw, &[0, 0]))?;
        let Some(cols) = columns(words, bits).filter(|cols| cols.is_multiple_of(group)) else {
            return Err(group_error(&raw, group));
        };
        let scales = self.tensors.required(&format!("{module}.scales"), module)?;
        let mut used = vec![format!("{module}.weight"), format!("{module}.scales")];
        let grid = |raw: Raw, number: Option<Number>| raw.grid_of(number, rows, cols / group, group);
        let (method, codes, scales, zero) = match mode {
            "affine" => {
                let key = format!("{module}.biases");
                let bias = grid(self.tensors.required(&key, module)?, None)?;
                used.push(key);
                let method = MLX[bits];
                (method, Codes::Rows { piece: raw.piece, bits }, grid(scales, None)?, Zero::Bias(bias))
            }
            "mxfp4" | "nvfp4" if bits == 4 => {
                let (method, number) =
                    if mode == "mxfp4" { ("MLX MXFP4", Number::E8M0) } else { ("MLX NVFP4", Number::E4M3) };
                (method, Codes::E2M1 { piece: raw.piece }, grid(scales, Some(number))?, Zero::Fixed(0))
            }
            "mxfp8" if bits == 8 => {
                let scales = grid(scales, Some(Number::E8M0))?;
                ("MLX MXFP8", Codes::E4M3 { piece: raw.piece }, scales, Zero::Fixed(0))
            }
            other => {
                let reason =
                    format!("expected affine, mxfp4, mxfp8 or nvfp4, found {other:?} of {bits} bits");
                return Err(Error::config("quantization.mode", reason));
            }
        };
        let recipe = Recipe { rows, cols, codes, scales: Some(scales), factor: 1.0, zero, order: None };
        let shape = [&raw.shape[..raw.shape.len() - 1], &[cols]].concat();
        Ok(Found { method, key: format!("{module}.weight"), name: raw.name, shape, used, recipe })
    }

    /// GPTQ and AWQ, which have the same names; the shape says which.
    fn gptq_or_awq(&self, raw: Raw, module: &str) -> Result<Found, Error> {
        let key = |part: &str| format!("{module}.{part}");
        let scales = self.tensors.required(&key("scales"), module)?;
        let zeros = self.tensors.required(&key("qzeros"), module)?.of_kind(&["I32", "U32"])?;
        let ([words, across], [groups, rows]) = match (&*raw.shape, &*scales.shape) {
            (&[a, b], &[c, d]) if a * b > 0 && c * d > 0 => ([a, b], [c, d]),
            _ => return Err(shape_error(&raw, &[0, 0])),
        };
        let is_awq = across * 8 == rows && across != rows;
        let order = self.tensors.get(&key("g_idx"));
        let bits = self.settings.get("bits").and_then(json_integer);
        let bits = match &order {
            Some(order) => order.shape.first().filter(|&&cols| cols > 0).map(|cols| words * 32 / cols),
            None => bits,
        };
        let (cols, bits) = if is_awq {
            (words, 4)
        } else {
            let bits = bits.filter(|bits| [2, 3, 4, 8].contains(bits)).ok_or_else(|| {
                Error::config("quantization_config.bits", "expected 2, 3, 4 or 8, as GPTQ has")
            })?;
            let cols = columns(words, bits).ok_or_else(|| group_error(&raw, words))?;
            (cols, bits)
        };
        if !is_awq && across != rows {
            return Err(shape_error(&raw, &[words, rows]));
        }
        if !cols.is_multiple_of(groups) || !(rows * bits).is_multiple_of(32) {
            return Err(group_error(&scales, cols));
        }
        let group = cols / groups;
        let zeros = zeros.of_shape(&[groups, rows * bits / 32])?;
        // Version 1 of the format stores zero points less one.
        let plus = if self.settings.text("checkpoint_format") == "gptq_v2" { 0 } else { 1 };
        let (method, layout, codes) = match is_awq {
            true => ("AWQ", ZeroLayout::Awq, Codes::Awq { piece: raw.piece }),
            false => (GPTQ[bits], ZeroLayout::Gptq { bits, plus }, Codes::Columns { piece: raw.piece, bits }),
        };
        let points = ZeroPoints { piece: zeros.piece, layout, group, rows, groups };
        let order = order.map(|order| self.order(order, cols, group)).transpose()?.flatten();
        let used = ["qweight", "qzeros", "scales", "g_idx"].map(key).into();
        let recipe = Recipe {
            rows,
            cols,
            codes,
            scales: Some(scales.grid_by_columns(rows, groups, group)?),
            factor: 1.0,
            zero: Zero::Points(points),
            order,
        };
        let name = raw.name.replace("qweight", "weight");
        Ok(Found { method, key: key("weight"), name, shape: vec![rows, cols], used, recipe })
    }

    /// The group of each column; `None` if they are runs, as without it.
    fn order(&self, raw: Raw, cols: usize, group: usize) -> Result<Option<Piece>, Error> {
        let raw = raw.of_kind(&["I32"])?.of_shape(&[cols])?;
        let groups = raw.piece.bytes().as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize);
        if groups.clone().any(|found| found >= cols / group) {
            let reason = format!("tensor {}: expected groups below {}", raw.name, cols / group);
            return Err(Error::Unsupported(reason));
        }
        let are_runs = groups.enumerate().all(|(col, found)| found == col / group);
        Ok((!are_runs).then_some(raw.piece))
    }

    /// compressed-tensors, `pack-quantized`: `rows x cols * bits / 32` words.
    fn compressed(&self, raw: Raw, module: &str) -> Result<Found, Error> {
        let key = |part: &str| format!("{module}.{part}");
        let stated = self.tensors.required(&key("weight_shape"), module)?.of_kind(&["I64", "I32"])?;
        let width = if stated.kind == "I64" { 8 } else { 4 };
        let cols = stated
            .piece
            .bytes()
            .chunks_exact(width)
            .last()
            .map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize);
        let [rows, words] = raw.rows_cols().ok_or_else(|| shape_error(&raw, &[0, 0]))?;
        let bits =
            words.checked_mul(32).filter(|all| cols > 0 && all.is_multiple_of(cols)).map(|all| all / cols);
        let Some(bits) = bits.filter(|bits| (2..=8).contains(bits)) else {
            return Err(group_error(&raw, cols));
        };
        let scales = self.tensors.required(&key("weight_scale"), module)?;
        let half = 1 << (bits - 1);
        let (scales, group) = self.scales_of_rows(scales, rows, cols)?;
        let zero = match self.tensors.get(&key("weight_zero_point")) {
            None => Zero::Fixed(half),
            Some(zeros) => {
                let groups = cols / group;
                let layout = if zeros.kind == "I8" {
                    ZeroLayout::Bytes { plus: half }
                } else {
                    ZeroLayout::Compressed { bits }
                };
                let zeros = zeros.of_kind(&["I8", "I32"])?;
                let lines = if zeros.kind == "I8" { rows } else { (rows * bits).div_ceil(32) };
                if zeros.rows_cols() != Some([lines, groups]) {
                    return Err(shape_error(&zeros, &[lines, groups]));
                }
                Zero::Points(ZeroPoints { piece: zeros.piece, layout, group, rows, groups })
            }
        };
        let order = self.tensors.get(&key("weight_g_idx"));
        let order = order.map(|order| self.order(order, cols, group)).transpose()?.flatten();
        let codes = Codes::Rows { piece: raw.piece, bits };
        let recipe = Recipe { rows, cols, codes, scales: Some(scales), factor: 1.0, zero, order };
        let parts = ["weight_packed", "weight_shape", "weight_scale", "weight_zero_point", "weight_g_idx"];
        let shape = [&raw.shape[..raw.shape.len() - 1], &[cols]].concat();
        let name = raw.name.replace("weight_packed", "weight");
        Ok(Found {
            method: COMPRESSED[bits],
            key: key("weight"),
            name,
            shape,
            used: parts.map(key).into(),
            recipe,
        })
    }

    /// Scales for groups of columns of each row, or one for the row; and the size of a group.
    fn scales_of_rows(
        &self,
        raw: Raw,
        rows: usize,
        cols: usize,
    ) -> Result<(super::grid::Grid, usize), Error> {
        let count = raw.shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim)).unwrap_or(0);
        if count == 1 {
            let grid = raw.grid(1, 1, cols)?;
            return Ok((super::grid::Grid { each: [rows, cols], ..grid }, cols));
        }
        if count == 0 || !count.is_multiple_of(rows) || !cols.is_multiple_of(count / rows) {
            return Err(group_error(&raw, cols));
        }
        let group = cols / (count / rows);
        Ok((raw.grid(rows, count / rows, group)?, group))
    }

    /// compressed-tensors, `int-quantized`: signed bytes.
    fn int8(&self, raw: Raw, module: &str) -> Result<Found, Error> {
        let key = |part: &str| format!("{module}.{part}");
        let [rows, cols] = raw.rows_cols().ok_or_else(|| shape_error(&raw, &[0, 0]))?;
        let scales = self.tensors.required(&key("weight_scale"), module)?;
        let (scales, group) = self.scales_of_rows(scales, rows, cols)?;
        let zero = match self.tensors.get(&key("weight_zero_point")) {
            None => Zero::Fixed(0),
            Some(zeros) => {
                let (zeros, groups) = (zeros.of_kind(&["I8"])?, cols / group);
                if zeros.rows_cols() != Some([rows, groups]) {
                    return Err(shape_error(&zeros, &[rows, groups]));
                }
                let layout = ZeroLayout::Bytes { plus: 0 };
                Zero::Points(ZeroPoints { piece: zeros.piece, layout, group, rows, groups })
            }
        };
        let codes = Codes::Bytes { piece: raw.piece };
        let recipe = Recipe { rows, cols, codes, scales: Some(scales), factor: 1.0, zero, order: None };
        let used = ["weight", "weight_scale", "weight_zero_point", "input_scale"].map(key).into();
        let method = "compressed-tensors INT8";
        Ok(Found { method, key: key("weight"), name: raw.name, shape: raw.shape, used, recipe })
    }

    /// FP4 in bytes of two: compressed-tensors (a divisor for the whole matrix) and ModelOpt (a factor).
    fn fp4(&self, raw: Raw, module: &str, codes: &str) -> Result<Found, Error> {
        let key = |part: &str| format!("{module}.{part}");
        let [rows, half] = raw.rows_cols().ok_or_else(|| shape_error(&raw, &[0, 0]))?;
        let cols = half.checked_mul(2).ok_or_else(|| shape_error(&raw, &[0, 0]))?;
        let scales =
            self.tensors.required(&key("weight_scale"), module)?.of_kind(&["U8", "F8_E8M0", "F8_E4M3"])?;
        let (number, group, method) = match scales.kind.as_str() {
            "F8_E4M3" => (Number::E4M3, 16, "NVFP4"),
            _ => (Number::E8M0, 32, "MXFP4"),
        };
        if !cols.is_multiple_of(group) {
            return Err(group_error(&raw, cols));
        }
        let scales = scales.grid_of(Some(number), rows, cols / group, group)?;
        let whole = |part: &str| -> Result<Option<f32>, Error> {
            let Some(raw) = self.tensors.get(&key(part)) else { return Ok(None) };
            Ok(Some(raw.grid(1, 1, 1)?.at(0, 0)))
        };
        let divisor = whole("weight_global_scale")?.map(|divisor| 1.0 / divisor);
        let factor = whole("weight_scale_2")?.or(divisor).unwrap_or(1.0);
        if !factor.is_finite() {
            return Err(Error::Unsupported(format!("tensor {}: its factor is not finite", raw.name)));
        }
        let zero = Zero::Fixed(0);
        let codes_of = Codes::E2M1 { piece: raw.piece };
        let recipe = Recipe { rows, cols, codes: codes_of, scales: Some(scales), factor, zero, order: None };
        let shape = [&raw.shape[..raw.shape.len() - 1], &[cols]].concat();
        let name = raw.name.replace("weight_packed", "weight");
        let parts =
            ["weight_scale", "weight_scale_2", "weight_global_scale", "input_scale", "input_global_scale"];
        let used = parts.map(key).into_iter().chain([codes.to_owned()]).collect();
        Ok(Found { method, key: key("weight"), name, shape, used, recipe })
    }
}

/// What packings of so many bits are called.
const MLX: [&str; 9] =
    ["", "", "MLX 2-bit", "MLX 3-bit", "MLX 4-bit", "MLX 5-bit", "MLX 6-bit", "", "MLX 8-bit"];
const GPTQ: [&str; 9] = ["", "", "GPTQ 2-bit", "GPTQ 3-bit", "GPTQ 4-bit", "", "", "", "GPTQ 8-bit"];
const COMPRESSED: [&str; 9] = [
    "",
    "",
    "compressed-tensors W2A16",
    "compressed-tensors W3A16",
    "compressed-tensors W4A16",
    "compressed-tensors W5A16",
    "compressed-tensors W6A16",
    "compressed-tensors W7A16",
    "compressed-tensors W8A16",
];
