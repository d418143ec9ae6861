//! A saved conversation: refused, or written and read again it is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undine::fuzzing::conversation;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(written) = conversation(text) else { return };
    assert_eq!(conversation(&written).as_ref(), Ok(&written));
});
