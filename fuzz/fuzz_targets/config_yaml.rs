//! A configuration file for `serve`: refused, or its entries, written as JSON, which is nearly always YAML
//! too, are the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let Ok(yaml) = std::str::from_utf8(bytes) else { return };
    let Ok((map, words)) = undine::fuzzing::config(yaml) else { return };
    let json = Value::Object(map.clone()).to_string();
    // Characters that JSON leaves as they are and YAML does not take.
    if json.contains(char::is_control) {
        return;
    }
    assert_eq!(undine::fuzzing::config(&json), Ok((map, words)), "{json}");
});
