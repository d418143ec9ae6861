//! The byte-level alphabet of GPT-2: every byte as one printable character, so that a token is always valid
//! text.
//!
//! Printable Latin-1 bytes stand for themselves, the other 68 for U+0100 onwards in ascending order
//! (Radford et al. 2019, released code).

/// Bytes that have no printable Latin-1 character of their own.
const SHIFTED: usize = 68;

const TO_CHAR: [char; 256] = table();
const FROM_SHIFTED: [u8; SHIFTED] = shifted();

const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

const fn table() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut next = 0x100;
    let mut byte = 0;
    while byte < 256 {
        let code = if is_printable(byte as u8) { byte as u32 } else { next };
        if code >= 0x100 {
            next += 1;
        }
        table[byte] = match char::from_u32(code) {
            Some(character) => character,
            None => panic!("codes up to U+0143 are characters"),
        };
        byte += 1;
    }
    table
}

const fn shifted() -> [u8; SHIFTED] {
    let mut bytes = [0; SHIFTED];
    let mut next = 0;
    let mut byte = 0;
    while byte < 256 {
        if !is_printable(byte as u8) {
            bytes[next] = byte as u8;
            next += 1;
        }
        byte += 1;
    }
    bytes
}

/// The character that stands for a byte.
pub const fn char_of(byte: u8) -> char {
    TO_CHAR[byte as usize]
}

/// The byte that a character stands for, or `None` outside the alphabet.
pub fn byte_of(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ 0..=0xff => is_printable(code as u8).then_some(code as u8),
        code => FROM_SHIFTED.get(code as usize - 0x100).copied(),
    }
}

/// Appends the bytes a token text stands for. A text with a character outside the alphabet stands for itself.
pub fn push_bytes(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(text.as_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_characters() {
        for (byte, character) in
            [(b'a', 'a'), (b' ', 'Ġ'), (b'\n', 'Ċ'), (0, 'Ā'), (0x7f, 'ġ'), (0xad, 'Ń'), (0xff, 'ÿ')]
        {
            assert_eq!(char_of(byte), character);
        }
    }

    #[test]
    fn every_byte_comes_back() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        for outside in [' ', '\u{ad}', '\u{144}', '語'] {
            assert_eq!(byte_of(outside), None);
        }
    }

    #[test]
    fn text_outside_the_alphabet_stands_for_itself() {
        let mut bytes = b"x".to_vec();
        push_bytes("Ġa語", &mut bytes);
        push_bytes("Ġa", &mut bytes);
        assert_eq!(bytes, "xĠa語 a".as_bytes());
    }
}
