//! Multiples of a fraction between two bounds, one by one: the library's form of such a range has more digits
//! than its form of the multiples, and it finds few or none that are both.

use serde_json::{Map, Value as Json};

/// Most multiples that are listed.
const LISTED_MAX: i128 = 256;
/// Most places after the point, and most zeros before it.
const PLACES_MAX: i32 = 15;

/// Says `multipleOf` between bounds as `enum`.
pub fn list(out: &mut Map<String, Json>) {
    const SAID: [&str; 6] =
        ["type", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    let is_number = out.get("type").is_some_and(|kind| kind == "number" || kind == "integer");
    if !is_number || !out.keys().all(|keyword| SAID.contains(&keyword.as_str())) {
        return;
    }
    if let Some(values) = multiples(out).filter(|values| !values.is_empty()) {
        out.retain(|keyword, _| keyword == "type");
        out.insert("enum".to_owned(), values.into());
    }
}

/// The multiples, if there are few.
fn multiples(schema: &Map<String, Json>) -> Option<Vec<Json>> {
    let step = decimal(schema.get("multipleOf")?)?;
    if step.0 <= 0 || step.1 <= 0 {
        return None;
    }
    let mut bounds = Vec::new();
    for keyword in ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"] {
        bounds.push(match schema.get(keyword) {
            Some(bound) => Some(decimal(bound)?),
            None => None,
        });
    }
    let places = bounds.iter().flatten().map(|bound| bound.1).chain([step.1]).max()?;
    let scaled = |(digits, own): (i128, i32)| digits.checked_mul(10_i128.pow((places - own).unsigned_abs()));
    let step = scaled(step)?;
    let bound = |at: usize| bounds[at].and_then(scaled);
    let first = bound(0).map(|least| -(-least).div_euclid(step));
    let first = first.max(bound(1).map(|below| below.div_euclid(step) + 1))?;
    let lasts =
        [bound(2).map(|most| most.div_euclid(step)), bound(3).map(|above| -(-above).div_euclid(step) - 1)];
    let last = lasts.into_iter().flatten().min()?;
    if last - first >= LISTED_MAX {
        return None;
    }
    let one = 10_i128.pow(places.unsigned_abs());
    let whole_only = schema.get("type").is_some_and(|kind| kind == "integer");
    (first..=last)
        .map(|count| count * step)
        .filter(|value| !whole_only || value % one == 0)
        .map(|value| written(value, one))
        .collect()
}

/// A number as the text that is nearest to how it would be written.
fn written(value: i128, one: i128) -> Option<Json> {
    if value % one == 0 {
        return i64::try_from(value / one).ok().map(Json::from);
    }
    let places = one.ilog10();
    format!("{value}e-{places}").parse::<f64>().ok().map(Json::from)
}

/// Digits and how many of them are after the point.
fn decimal(number: &Json) -> Option<(i128, i32)> {
    let text = number.as_number()?.to_string();
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text.as_str(), 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let places = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    if !(-PLACES_MAX..=PLACES_MAX).contains(&places) || digits.unsigned_abs() >= 1 << 63 {
        return None;
    }
    match places {
        0.. => Some((digits, places)),
        _ => Some((digits.checked_mul(10_i128.pow(places.unsigned_abs()))?, 0)),
    }
}
