//! The patterns that pydantic writes for `Decimal`. They look ahead, which grammars cannot; here they are
//! said without, for the numbers that people write: no sign or point alone, no zeros beyond the places
//! there are.

/// Digits up to which each place of the point is an alternative of its own.
const DIGITS_MAX: usize = 64;
/// What each of these patterns begins with.
const START: &str = r"^(?!^[-+.]*$)[+-]?0*";

/// A pattern for some of the texts that one of pydantic's matches; `None` for every other pattern.
pub fn without_look_ahead(pattern: &str) -> Option<String> {
    let rest = pattern.strip_prefix(START)?;
    let limits = limits(rest);
    let body = match limits.as_slice() {
        [] if rest == r"\d*\.?\d*$" => r"[0-9]+\.?[0-9]*|\.[0-9]+".to_owned(),
        [places] if rest == format!(r"\d*\.?\d{{0,{places}}}0*$") => of_places("[0-9]+", *places),
        [digits, _] if rest == of_digits(*digits) && (1..=DIGITS_MAX).contains(digits) => {
            let whole =
                (1..=*digits).map(|whole| format!(r"[0-9]{{1,{whole}}}(\.[0-9]{{0,{}}})?", digits - whole));
            format!(r"{}|\.[0-9]{{1,{digits}}}", whole.collect::<Vec<_>>().join("|"))
        }
        [whole, length, _, places] if rest == of_both(*whole, *length, *places) && *length > 1 => {
            let digits = if *whole == 0 { "0".to_owned() } else { format!("[0-9]{{1,{whole}}}") };
            of_places(&digits, (*places).min(length - 1))
        }
        _ => return None,
    };
    Some(format!("^[+-]?({body})$"))
}

/// The numbers that repetitions end with.
fn limits(pattern: &str) -> Vec<usize> {
    let ends = pattern.split('{').skip(1).filter_map(|part| part.split_once('}'));
    ends.filter_map(|(range, _)| range.split_once(',')?.1.parse().ok()).collect()
}

/// Digits, and no more than so many after a point.
fn of_places(digits: &str, places: usize) -> String {
    match places {
        0 => digits.to_owned(),
        places => format!(r"{digits}(\.[0-9]{{0,{places}}})?|\.[0-9]{{1,{places}}}"),
    }
}

/// The rest of the pattern for `max_digits`.
fn of_digits(digits: usize) -> String {
    format!(r"(?:\d{{0,{digits}}}|(?=[\d.]{{1,{}}}0*$)\d*\.\d*0*$)", digits + 1)
}

/// That for `max_digits` and `decimal_places`.
fn of_both(whole: usize, length: usize, places: usize) -> String {
    format!(r"(?:\d{{0,{whole}}}|(?=[\d.]{{1,{length}}}0*$)\d{{0,{whole}}}\.\d{{0,{places}}}0*$)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patterns_of_pydantic_are_rewritten() {
        for (pattern, want) in [
            (r"\d*\.?\d*$", Some(r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)$")),
            (r"\d*\.?\d{0,2}0*$", Some(r"^[+-]?([0-9]+(\.[0-9]{0,2})?|\.[0-9]{1,2})$")),
            (r"\d*\.?\d{0,0}0*$", Some("^[+-]?([0-9]+)$")),
            (
                r"(?:\d{0,2}|(?=[\d.]{1,3}0*$)\d*\.\d*0*$)",
                Some(r"^[+-]?([0-9]{1,1}(\.[0-9]{0,1})?|[0-9]{1,2}(\.[0-9]{0,0})?|\.[0-9]{1,2})$"),
            ),
            (
                r"(?:\d{0,3}|(?=[\d.]{1,6}0*$)\d{0,3}\.\d{0,2}0*$)",
                Some(r"^[+-]?([0-9]{1,3}(\.[0-9]{0,2})?|\.[0-9]{1,2})$"),
            ),
            (
                r"(?:\d{0,0}|(?=[\d.]{1,3}0*$)\d{0,0}\.\d{0,3}0*$)",
                Some(r"^[+-]?(0(\.[0-9]{0,2})?|\.[0-9]{1,2})$"),
            ),
            (r"\d*x", None),
            (r"(?:\d{0,3}|(?=[\d.]{1,9}0*$)\d*\.\d*0*$)", None),
        ] {
            assert_eq!(without_look_ahead(&format!("{START}{pattern}")).as_deref(), want, "{pattern}");
        }
        assert_eq!(without_look_ahead("^[0-9]+$"), None);
    }
}
