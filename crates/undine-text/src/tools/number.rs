//! Numbers as Python and JSON write them, turned into JSON without losing a digit.

/// Digits of a number in base 2, 8 or 16: those go through an integer.
const RADIX_DIGITS_MAX: usize = 32;

/// The JSON spelling of a number: `007` is 7, `1_000` is 1000, `.5` is 0.5, `0x1f` is 31. `None` if it is no
/// number.
pub fn canonical(text: &str) -> Option<String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    for (radix, prefixes) in [(16, ["0x", "0X"]), (8, ["0o", "0O"]), (2, ["0b", "0B"])] {
        let Some(digits) = prefixes.iter().find_map(|prefix| digits.strip_prefix(prefix)) else { continue };
        let digits = digits_of(digits, radix)?;
        if digits.len() > RADIX_DIGITS_MAX {
            return None;
        }
        return u128::from_str_radix(&digits, radix).ok().map(|number| format!("{sign}{number}"));
    }
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], Some(&digits[at + 1..])),
        None => (digits, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    if whole.is_empty() && fraction.is_none_or(str::is_empty) {
        return None;
    }
    let whole = if whole.is_empty() { "0".to_owned() } else { digits_of(whole, 10)? };
    let mut json = format!("{sign}{}", leading_zeros_removed(&whole));
    if let Some(fraction) = fraction {
        json.push('.');
        json.push_str(&if fraction.is_empty() { "0".to_owned() } else { digits_of(fraction, 10)? });
    }
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        json.push('e');
        json.push_str(&exponent[..exponent.len() - digits.len()]);
        json.push_str(&digits_of(digits, 10)?);
    }
    Some(json)
}

/// A number without fraction whose spelling has one or an exponent: `5.0` is `5`. `None` for other numbers.
pub fn as_integer(json: &str) -> Option<String> {
    if !json.contains(['.', 'e', 'E']) {
        return Some(json.to_owned());
    }
    let (whole, fraction) = json.split_once('.')?;
    (!fraction.is_empty() && fraction.bytes().all(|digit| digit == b'0')).then(|| whole.to_owned())
}

fn leading_zeros_removed(digits: &str) -> &str {
    let rest = digits.trim_start_matches('0');
    if rest.is_empty() { "0" } else { rest }
}

/// Python allows one underscore between digits.
fn digits_of(text: &str, radix: u32) -> Option<String> {
    let mut groups = text.split('_');
    let valid = groups.all(|group| !group.is_empty() && group.chars().all(|digit| digit.is_digit(radix)));
    valid.then(|| text.replace('_', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        let table = [
            ("5", Some("5")),
            ("007", Some("7")),
            ("-0", Some("-0")),
            ("+1", Some("1")),
            ("1_000", Some("1000")),
            ("1__0", None),
            (".5", Some("0.5")),
            ("5.", Some("5.0")),
            ("00.50", Some("0.50")),
            ("1e5", Some("1e5")),
            ("1E-07", Some("1e-07")),
            ("0x1F", Some("31")),
            ("0b101", Some("5")),
            ("12345678901234567890123", Some("12345678901234567890123")),
            ("", None),
            (".", None),
            ("-", None),
            ("1.2.3", None),
            ("abc", None),
            ("1e", None),
            ("2024-01-01", None),
            ("1a", None),
            ("0xg", None),
        ];
        for (text, json) in table {
            assert_eq!(canonical(text).as_deref(), json, "{text:?}");
            if let Some(json) = json {
                assert!(serde_json::from_str::<serde_json::Value>(json).is_ok(), "{json}");
            }
        }
        assert_eq!(as_integer("5.00").as_deref(), Some("5"));
        assert_eq!(as_integer("5.01"), None);
    }
}
