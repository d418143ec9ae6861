//! Weights in E4M3: with one scale, one for each row, or one for each block of rows and columns.

use super::find::{Finder, Found};
use super::grid::Grid;
use super::matrix::{Codes, Recipe, Zero};
use super::tensors::Raw;
use crate::Error;

/// Rows and columns of a block where the configuration names none.
const BLOCK_DEFAULT: [usize; 2] = [128, 128];
/// What writers add to the name of a matrix for its scale: both multiply.
const SCALES: [&str; 3] = ["_scale_inv", "_scale", "_weight_scale"];

/// The matrix that is in tensor `key`, unless it is a vector or a scale of something else.
pub(super) fn find(finder: &Finder<'_>, raw: Raw, key: &str) -> Result<Option<Found>, Error> {
    let Some([rows, cols]) = raw.rows_cols().filter(|_| !key.ends_with("_scale")) else { return Ok(None) };
    let module = key.strip_suffix(".weight").unwrap_or(key);
    let spellings = SCALES.map(|ending| format!("{key}{ending}"));
    let found = spellings
        .iter()
        .chain([&format!("{module}.scale")])
        .find_map(|key| Some((key.clone(), finder.tensors.get(key)?)));
    let mut used =
        vec![key.to_owned(), format!("{module}.input_scale"), format!("{module}.activation_scale")];
    let scales = match found {
        None => None,
        Some((key, scales)) => {
            used.push(key);
            let experts = if raw.shape.len() == 3 { raw.shape[0] } else { 1 };
            Some(grid(finder, scales, [experts, rows / experts, cols])?)
        }
    };
    let codes = Codes::E4M3 { piece: raw.piece };
    let zero = Zero::Fixed(0);
    let recipe = Recipe { rows, cols, codes, scales, factor: 1.0, zero, order: None };
    Ok(Some(Found { method: "FP8", key: key.to_owned(), name: raw.name, shape: raw.shape, used, recipe }))
}

/// The scales of `experts` matrices of `rows x cols`.
fn grid(finder: &Finder<'_>, raw: Raw, [experts, rows, cols]: [usize; 3]) -> Result<Grid, Error> {
    let count = raw.shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim)).unwrap_or(0);
    let whole = |each: [usize; 2], raw: Raw| -> Result<Grid, Error> {
        let number = raw.number()?;
        Ok(Grid { piece: raw.piece, number, each, stride: [1, 0] })
    };
    if count == 1 {
        return whole([experts * rows, cols], raw);
    }
    if count == experts {
        return whole([rows, cols], raw);
    }
    if count == experts * rows {
        return whole([1, cols], raw);
    }
    let [high, wide] = finder.settings.block().unwrap_or(BLOCK_DEFAULT);
    let (down, across) = (rows.div_ceil(high), cols.div_ceil(wide));
    if count != experts * down * across || (experts > 1 && !rows.is_multiple_of(high)) {
        let expected = vec![experts * down, across];
        return Err(Error::Shape { name: raw.name, expected, found: raw.shape });
    }
    let number = raw.number()?;
    Ok(Grid { piece: raw.piece, number, each: [high, wide], stride: [across, 1] })
}
