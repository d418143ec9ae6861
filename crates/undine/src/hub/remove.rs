//! `undine rm`: takes models out of the cache.

use undine_hub::HubName;

use super::cache;
use crate::args_hub::RmArgs;
use crate::confirm;
use crate::error::Error;
use crate::format::{Bytes, counted};
use crate::shown::say;

/// Runs the command.
pub fn run(args: &RmArgs) -> Result<(), Error> {
    let cache = cache()?;
    for name in &args.names {
        let name = HubName::parse(name)?;
        let removal = cache.removal(&name)?;
        let (files, bytes) = (counted(removal.links.len(), "file"), Bytes(removal.bytes));
        if !args.yes && !is_confirmed(&format!("remove {name}, {files}, {bytes}?"))? {
            say!("{name} is kept");
            continue;
        }
        cache.remove(&removal)?;
        say!("{name}: removed {files}, {bytes} are free again");
    }
    Ok(())
}

fn is_confirmed(question: &str) -> Result<bool, Error> {
    confirm::ask(question)?
        .ok_or_else(|| Error::usage(format!("{question} There is no terminal to ask on: expected --yes")))
}
