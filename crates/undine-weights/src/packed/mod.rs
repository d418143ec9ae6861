//! Folders in which other programs keep quantized weights: MLX, GPTQ, AWQ, compressed-tensors and FP8.
//!
//! A packed matrix takes the place of the tensors it is made of before anything is bound, so nothing else
//! knows of packings. It is made when it is read ([`made::Made`]); opening looks only at scales and zero
//! points, which decide what can be kept without loss:
//!
//! | packing | arithmetic | becomes |
//! |---|---|---|
//! | GPTQ, AWQ, compressed-tensors integers | `scale * (q - zero)` | Q4_0, Q5_0 or Q8_0, the first that has all `q - zero` |
//! | MLX up to 4 and of 5 bits | `scale * q + bias` | Q4_1, Q5_1 |
//! | MXFP4, NVFP4 without a factor | `scale * e2m1` | MXFP4, NVFP4 |
//! | E4M3 with scales of at most four bits | `scale * e4m3` | BF16 |
//!
//! That needs scales which F16 holds, and groups that are whole blocks; everything else is rounded once to
//! F16 (or BF16, where values are too large), which one line of the repairs says.

mod find;
mod fp8;
mod grid;
mod made;
mod matrix;
mod refuse;
mod tensors;
#[cfg(test)]
mod tests;

pub(crate) use made::Made;
pub(crate) use refuse::{other_weights, refusal};

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::Value as Json;
use undine_core::DType;
use undine_core::dtype::QK;

use self::find::Found;
use self::grid::{Number, Survey};
use self::matrix::{Codes, Packed, Recipe, Zero};
use crate::Error;
use crate::map::Bytes;
use crate::names;
use crate::tensor::{Tensor, TensorTable, tensor_bytes};

/// Above this F16 has no values.
const F16_MAX: f32 = 65504.0;
/// The largest value of E4M3, and the bits of its mantissas.
const E4M3_MAX: f32 = 448.0;
const E4M3_BITS: u32 = 4;
/// Bits of a mantissa of BF16.
const BF16_BITS: u32 = 8;

/// Puts a matrix in the place of the tensors of each packed one, and adds the files they are in. Returns what
/// the packing is called.
///
/// # Errors
/// If the configuration names a packing that is not read, or tensors do not fit together.
pub(crate) fn unpack(
    config: &Json,
    table: &mut TensorTable,
    files: &mut Vec<Arc<Bytes>>,
    repairs: &mut Vec<String>,
) -> Result<Option<&'static str>, Error> {
    if let Some(reason) = refusal(config).or_else(|| refuse::by_tensors(table)) {
        return Err(Error::Unsupported(reason));
    }
    let found = find::all(config, table, files)?;
    let method = found.first().map(|found| found.method);
    let (mut gone, mut made_of) = (HashSet::new(), Vec::new());
    let mut rounded: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for found in found {
        let Found { method, key, name, shape, used, recipe } = found;
        let target = match names::is_read_as_floats(&key) {
            true => Target { dtype: DType::F32, is_rounded: false },
            false => target(&name, &recipe)?,
        };
        let expected = vec![recipe.rows, recipe.cols];
        let fail = |shape: &[usize]| Error::Shape { name: name.clone(), expected, found: shape.to_vec() };
        let (Some(len), Some(packed)) =
            (tensor_bytes(target.dtype, &shape), Packed::new(recipe, target.dtype))
        else {
            return Err(fail(&shape));
        };
        if target.is_rounded {
            *rounded.entry((method, target.dtype.name())).or_default() += 1;
        }
        let made = Made::new(packed);
        debug_assert_eq!(made.len(), len, "{name}");
        let file = files.len();
        files.push(Arc::new(Bytes::Made(made)));
        gone.extend(used);
        let tensor = Tensor { name, dtype: target.dtype, shape, file, bytes: 0..len };
        made_of.push((key, tensor));
    }
    table.remove(&gone);
    for (key, tensor) in made_of {
        let fail = |reason| Error::Safetensors { file: "the folder".to_owned(), reason };
        table.add_as(key, tensor).map_err(fail)?;
    }
    for ((method, dtype), count) in rounded {
        repairs.push(format!(
            "{count} matrices in {method} have no block format of the same arithmetic: they are computed with as {dtype}, rounded once."
        ));
    }
    Ok(method)
}

/// What a matrix becomes.
struct Target {
    dtype: DType,
    /// Whether that may change values.
    is_rounded: bool,
}

fn target(name: &str, recipe: &Recipe) -> Result<Target, Error> {
    let damaged =
        || Error::Unsupported(format!("tensor {name}: a scale is not finite, so the weights are damaged"));
    let scales = match &recipe.scales {
        Some(scales) => scales.survey().ok_or_else(damaged)?,
        None => Survey { exact_f16: true, max: 1.0, bits: 1 },
    };
    let bias = match &recipe.zero {
        Zero::Bias(bias) => Some(bias.survey().ok_or_else(damaged)?),
        _ => None,
    };
    let range = code_range(recipe);
    if let Some(dtype) = blocks(recipe, scales, bias, range) {
        return Ok(Target { dtype, is_rounded: false });
    }
    let is_e4m3 = matches!(recipe.codes, Codes::E4M3 { .. });
    if is_e4m3 && recipe.factor == 1.0 && scales.bits + E4M3_BITS <= BF16_BITS {
        return Ok(Target { dtype: DType::BF16, is_rounded: false });
    }
    let largest = if is_e4m3 { E4M3_MAX } else { range[0].abs().max(range[1]) as f32 };
    let largest = recipe.factor.abs() * scales.max * largest + bias.map_or(0.0, |bias| bias.max);
    Ok(Target { dtype: if largest <= F16_MAX { DType::F16 } else { DType::BF16 }, is_rounded: true })
}

/// The block format that has the arithmetic of a packing, with numbers it holds exactly.
fn blocks(recipe: &Recipe, scales: Survey, bias: Option<Survey>, range: [i32; 2]) -> Option<DType> {
    let group = recipe.scales.as_ref().map_or(recipe.cols, |scales| scales.each[1]);
    let number = recipe.scales.as_ref().map(|scales| scales.number);
    if recipe.order.is_some() || recipe.factor != 1.0 {
        return None;
    }
    if matches!(recipe.codes, Codes::E2M1 { .. }) {
        return match (number, group) {
            (Some(Number::E8M0), 32) => Some(DType::MXFP4),
            (Some(Number::E4M3), 16) if recipe.cols.is_multiple_of(64) => Some(DType::NVFP4),
            _ => None,
        };
    }
    let whole = group.is_multiple_of(QK) && recipe.cols.is_multiple_of(QK);
    if !whole || !scales.exact_f16 || matches!(recipe.codes, Codes::E4M3 { .. }) {
        return None;
    }
    match bias {
        Some(bias) if bias.exact_f16 => match range[1] {
            ..=15 => Some(DType::Q4_1),
            16..=31 => Some(DType::Q5_1),
            _ => None,
        },
        Some(_) => None,
        None => [(8, DType::Q4_0), (16, DType::Q5_0), (128, DType::Q8_0)]
            .into_iter()
            .find(|(half, _)| -half <= range[0] && range[1] < *half)
            .map(|(_, dtype)| dtype),
    }
}

/// The least and greatest that a code less its zero can be.
fn code_range(recipe: &Recipe) -> [i32; 2] {
    let codes = match recipe.codes {
        Codes::Rows { bits, .. } | Codes::Columns { bits, .. } => [0, (1 << bits) - 1],
        Codes::Awq { .. } => [0, 15],
        Codes::Bytes { .. } => [-128, 127],
        Codes::E4M3 { .. } => [0, 0],
        // Levels go up to 6.
        Codes::E2M1 { .. } => [-6, 6],
    };
    let zeros = match &recipe.zero {
        Zero::Fixed(zero) => [*zero; 2],
        Zero::Points(points) => points.range(),
        Zero::Bias(_) => [0; 2],
    };
    [codes[0] - i32::from(zeros[1]), codes[1] - i32::from(zeros[0])]
}
