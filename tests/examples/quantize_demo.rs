//! Writes the demo model in the types that `tests/data/llama_cpp/reference.py` compares with llama.cpp:
//! `cargo run --example quantize_demo -p undine-tests -- FOLDER`.

use undine_tests::{PEER_TYPES, quantized_demo};

fn main() {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).expect("the folder to write to"));
    for name in PEER_TYPES {
        let path = folder.join(format!("demo-{name}.gguf"));
        quantized_demo(name, &path);
        println!("{}", path.display());
    }
}
