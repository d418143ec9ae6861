//! What a body takes once it is parsed: many small values take up to a hundred times their text.

use undine_text::exact;

use crate::wire::error::{ApiError, ApiResult};

/// Memory of the values of one body, beside its strings. A list of a million token ids takes less than half
/// of it.
const VALUES_BYTES_MAX: usize = 96 << 20;
/// Memory of an object, of an entry in one, and of any other value, on a system of 64 bits.
const OBJECT_BYTES: usize = 512;
const ENTRY_BYTES: usize = 160;
const VALUE_BYTES: usize = 40;
/// Memory of a number that is kept as an object because of its digits, beside its value's.
const EXACT_BYTES: usize = OBJECT_BYTES + ENTRY_BYTES;
/// Longest text that cannot take more, whatever it is: `-0,` over and over.
const HARMLESS_BYTES: usize = VALUES_BYTES_MAX / ((EXACT_BYTES + VALUE_BYTES) / 3);

/// Refuses a body whose values would take too much, before they do.
pub(crate) fn check(body: &[u8]) -> ApiResult<()> {
    if body.len() <= HARMLESS_BYTES {
        return Ok(());
    }
    let bytes = values_bytes(body) + EXACT_BYTES * exact::count(body);
    if bytes <= VALUES_BYTES_MAX {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "the body has so many values that they would take {} MiB of memory; expected at most {}; send several requests",
        bytes >> 20,
        VALUES_BYTES_MAX >> 20
    )))
}

/// An estimate; of what is no JSON it means nothing, and the parser will say so.
fn values_bytes(body: &[u8]) -> usize {
    let mut bytes = 0;
    let mut left = body.iter();
    while let Some(byte) = left.next() {
        match byte {
            b'{' => bytes += OBJECT_BYTES,
            b':' => bytes += ENTRY_BYTES,
            b',' | b'[' => bytes += VALUE_BYTES,
            b'"' => skip_string(&mut left),
            _ => {}
        }
    }
    bytes
}

fn skip_string<'a>(left: &mut impl Iterator<Item = &'a u8>) {
    while let Some(byte) = left.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(left.next()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_weighed_and_texts_are_not() {
        let list = |value: &str, count: usize| format!("{{\"prompt\":[{}]}}", vec![value; count].join(","));
        let million = 1 << 20;
        for (body, fits) in [
            (list("12345", million), true),
            (list("1", 3 * million), false),
            (list("{}", million), false),
            (list("0", million), true),
            (list("-0", million / 4), false),
            (list("{\"role\":\"user\",\"content\":\"x\"}", 50_000), true),
            (format!("{{\"prompt\":\"{}\"}}", "{,:[\\\"".repeat(million)), true),
        ] {
            assert_eq!(check(body.as_bytes()).is_ok(), fits, "{}", &body[..40]);
        }
    }
}
