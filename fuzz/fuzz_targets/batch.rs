//! A file of batch requests: refused with the lines, or written again it has the same requests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|bytes: &[u8]| {
    let Ok(requests) = undine::fuzzing::batch(bytes) else { return };
    let line = |(id, url, body): &(String, &str, _)| {
        json!({"custom_id": id, "method": "POST", "url": url, "body": body}).to_string() + "\n"
    };
    let again: String = requests.iter().map(line).collect();
    assert_eq!(undine::fuzzing::batch(again.as_bytes()), Ok(requests));
});
