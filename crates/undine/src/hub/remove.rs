//! `undine rm`: takes models out of the cache.

use std::io::{BufRead, IsTerminal, Write};

use undine_hub::HubName;

use super::cache;
use crate::args_hub::RmArgs;
use crate::error::Error;
use crate::format::Bytes;
use crate::shown::say;

/// Runs the command.
pub fn run(args: &RmArgs) -> Result<(), Error> {
    let cache = cache()?;
    for name in &args.names {
        let name = HubName::parse(name)?;
        let removal = cache.removal(&name)?;
        let (files, bytes) = (removal.links.len(), Bytes(removal.bytes));
        if !args.yes && !is_confirmed(&format!("remove {name}, {files} files, {bytes}?"))? {
            say!("{name} is kept");
            continue;
        }
        cache.remove(&removal)?;
        say!("{name}: removed {files} files, {bytes} are free again");
    }
    Ok(())
}

fn is_confirmed(question: &str) -> Result<bool, Error> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Error::usage(format!("{question} There is no terminal to ask on: expected --yes")));
    }
    let mut err = std::io::stderr();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
