//! A hub on this machine that serves folders, for trying downloads without the network:
//!
//! ```text
//! cargo run -p undine-tests --example local_hub -- acme/tiny-GGUF=FOLDER
//! HF_ENDPOINT=http://127.0.0.1:PORT HF_HOME=/tmp/home undine pull acme/tiny-GGUF
//! ```

use std::path::Path;

use undine_tests::local_hub::{HubRepo, LocalHub};

fn main() {
    let hub = LocalHub::start();
    for word in std::env::args().skip(1) {
        let (name, folder) = word.split_once('=').expect("OWNER/NAME=FOLDER");
        let files: Vec<(String, Vec<u8>)> = std::fs::read_dir(Path::new(folder))
            .expect("a folder")
            .map(|entry| entry.expect("reads").path())
            .filter(|path| path.is_file())
            .map(|path| {
                let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
                (name, std::fs::read(&path).expect("reads"))
            })
            .collect();
        let files: Vec<(&str, Vec<u8>)> =
            files.iter().map(|(name, content)| (name.as_str(), content.clone())).collect();
        hub.set_repo(name, HubRepo::new(&files));
    }
    println!("{}", hub.url());
    loop {
        std::thread::park();
    }
}
