//! Numbers as people read them.

use std::fmt;

/// A size in bytes, in binary units: `1.21 GiB`.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        f.pad(&format!("{value:.2} {}", UNITS[unit]))
    }
}

/// A count with commas between thousands: `1,170,340,608`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 file`, `2 files`.
pub fn counted(count: usize, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{} {thing}{ending}", grouped(count as u64))
}

/// Parses a count that may end in a unit: `k m g` are powers of 1000, `K M G` powers of 1024, as vLLM reads
/// them. `25.6k` is 25,600 and `32K` is 32,768.
pub fn parse_count(text: &str) -> Result<u64, String> {
    const EXPECTED: &str =
        "expected a whole number, optionally with k, m, g (1000) or K, M, G (1024), such as 32K";
    let (number, factor) = match text.trim().char_indices().next_back() {
        Some((end, unit)) if unit.is_ascii_alphabetic() => {
            let factor: u64 = match unit {
                'k' => 1000,
                'm' => 1000 * 1000,
                'g' => 1000 * 1000 * 1000,
                'K' => 1 << 10,
                'M' => 1 << 20,
                'G' => 1 << 30,
                _ => return Err(EXPECTED.to_owned()),
            };
            (&text.trim()[..end], factor)
        }
        _ => (text.trim(), 1),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| "the number is too large".to_owned());
    }
    let value = number.parse::<f64>().map_err(|_| EXPECTED.to_owned())? * factor as f64;
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if !is_plain || factor == 1 || value > u32::MAX.into() {
        return Err(EXPECTED.to_owned());
    }
    Ok(value.round() as u64)
}

/// [`parse_count`] for a positive `u32`.
pub fn parse_count_u32(text: &str) -> Result<u32, String> {
    let count = parse_count(text)?;
    match u32::try_from(count) {
        Ok(0) => Err("expected at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("expected at most {}", u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_parse_as_vllm_reads_them() {
        for (text, expected) in [
            ("4096", 4096),
            ("32K", 32768),
            ("32k", 32000),
            ("25.6k", 25600),
            ("1M", 1 << 20),
            ("1.5K", 1536),
        ] {
            assert_eq!(parse_count(text), Ok(expected), "{text}");
        }
        for text in ["", "K", "-1", "1.5", "12q", "1e3k", "nan", "infk", "99999999999999999999", "1 000"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
        assert!(parse_count_u32("0").is_err());
        assert!(parse_count_u32("8g").is_err());
    }

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!(Bytes(12).to_string(), "12 B");
        assert_eq!(Bytes(1536).to_string(), "1.50 KiB");
        assert_eq!(Bytes(5 << 30).to_string(), "5.00 GiB");
        assert_eq!(grouped(1_170_340_608), "1,170,340,608");
        assert_eq!(grouped(12), "12");
        assert_eq!([0, 1, 2].map(|count| counted(count, "file")), ["0 files", "1 file", "2 files"]);
    }
}
