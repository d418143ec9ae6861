//! What comes from outside and is read by this crate alone, for the fuzz targets in `fuzz/`. Not an
//! interface.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::batch::input::{Request, Requests, Survey};
use crate::conversation::Conversation;
use crate::eval::Saved;
use crate::serve_config;

/// The requests of a batch file: name, path and body of each. The error tells the mistakes.
pub fn batch(bytes: &[u8]) -> Result<Vec<(String, &'static str, Json)>, String> {
    let surveyed = Survey::read(bytes, &["model".to_owned()]).map_err(|error| error.to_string())?;
    let count = surveyed?.requests;
    let mut requests = Requests::of(bytes);
    let mut all = Vec::new();
    while let Some(Request { custom_id, url, body }) = requests.next().map_err(|error| error.chain())? {
        all.push((custom_id, url, Json::Object(body)));
    }
    assert_eq!(all.len() as u64, count, "both readings find the same requests");
    Ok(all)
}

/// The entries of a configuration file for `serve`, and the words that they put on the command line.
pub fn config(yaml: &str) -> Result<(Map<String, Json>, Vec<OsString>), String> {
    let map = serve_config::parse(yaml)?;
    let words = serve_config::words("serve", map.clone(), &HashSet::new())?;
    Ok((map, words))
}

/// A saved conversation, written again.
pub fn conversation(text: &str) -> Result<String, String> {
    Conversation::parse(text).map(|conversation| conversation.to_text()).map_err(|error| error.to_string())
}

/// Saved predictions: how many rows a file has, all of which can be read.
pub fn saved_logits(path: &Path) -> Result<u64, String> {
    Saved::open(path).and_then(Saved::count_rows).map_err(|error| error.chain())
}
