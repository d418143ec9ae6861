//! `data:` URIs (RFC 2397), the form in which clients send images with the request.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use undine_image::limits::IMAGE_BYTES_MAX;

use crate::media::error::MediaError;
use crate::media::{excerpt, is_image_type};

/// Padding may be there or not: clients do both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of what follows `data:`.
pub(crate) fn decode(uri: &str) -> Result<Vec<u8>, MediaError> {
    let wrong = |message: &str| MediaError::DataUri(message.to_owned());
    let (head, data) = uri.split_once(',').ok_or_else(|| wrong("there is no comma before the data"))?;
    let mut parameters = head.split(';').map(str::trim);
    let media_type = parameters.next().unwrap_or_default();
    if !media_type.is_empty() && !is_image_type(media_type) {
        return Err(MediaError::DataUri(format!("found the type {:?}", excerpt(media_type))));
    }
    if !parameters.any(|parameter| parameter.eq_ignore_ascii_case("base64")) {
        return Err(wrong("only base64 is read"));
    }
    decode_base64(data)
}

/// Whether a text that is no URL is base64 of an image: it begins as the formats that are read do.
pub(crate) fn is_bare(text: &str) -> bool {
    /// PNG, JPEG, GIF, WebP, BMP.
    const BEGINNINGS: [&str; 5] = ["iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk"];
    let is_base64 = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=') || byte.is_ascii_whitespace()
    };
    BEGINNINGS.iter().any(|beginning| text.starts_with(beginning)) && text.bytes().all(is_base64)
}

/// The bytes of base64.
pub(crate) fn decode_base64(data: &str) -> Result<Vec<u8>, MediaError> {
    let wrong = |message: &str| MediaError::DataUri(message.to_owned());
    // Three bytes of four characters; white space makes it a little less.
    if data.len() / 4 * 3 > IMAGE_BYTES_MAX.saturating_mul(2) {
        return Err(MediaError::Bytes);
    }
    let is_broken = data.bytes().any(|byte| byte.is_ascii_whitespace());
    let joined: String;
    let data = if is_broken {
        joined = data.chars().filter(|character| !character.is_ascii_whitespace()).collect();
        &joined
    } else {
        data
    };
    if data.len() / 4 * 3 > IMAGE_BYTES_MAX {
        return Err(MediaError::Bytes);
    }
    let bytes = BASE64
        .decode(data)
        .map_err(|error| MediaError::DataUri(format!("the data is not base64: {error}")))?;
    if bytes.is_empty() { Err(wrong("there is no data")) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read_or_refused() {
        let good: [&str; 7] = [
            "image/png;base64,AQID",
            "image/jpeg;charset=utf-8;base64,AQID",
            ";base64,AQID",
            "IMAGE/WEBP;BASE64,AQID",
            "application/octet-stream;base64,AQID",
            "image/png;base64,AQ\nID\r\n ",
            "image/png; base64,AQID",
        ];
        for uri in good {
            assert_eq!(decode(uri), Ok(vec![1, 2, 3]), "{uri}");
        }
        assert_eq!(decode("image/png;base64,AQI="), Ok(vec![1, 2]));
        assert_eq!(decode("image/png;base64,AQI"), Ok(vec![1, 2]), "padding may be missing");
        let long = format!("image/png;base64,{}", "A".repeat(IMAGE_BYTES_MAX / 3 * 4 + 8));
        let cases = [
            ("", "no comma"),
            ("image/png;base64", "no comma"),
            ("image/png,AQID", "only base64"),
            ("text/html;base64,AQID", "found the type \"text/html\""),
            ("image/png;base64,A-_D", "not base64"),
            ("image/png;base64,", "no data"),
            (&long, "larger than"),
        ];
        for (uri, part) in cases {
            let message = decode(uri).unwrap_err().to_string();
            assert!(message.contains(part), "{}: {message}", excerpt(uri));
        }
    }
}
