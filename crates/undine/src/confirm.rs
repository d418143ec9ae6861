//! Questions before something is lost.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use crate::error::Error;
use crate::shown;

/// Whether whoever sits at the terminal says yes; `None` without a terminal to ask on.
pub fn ask(question: &str) -> Result<Option<bool>, Error> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    let mut err = io::stderr();
    write!(err, "{} [y/N] ", shown::line(question))?;
    err.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")))
}

/// Asks before a file is replaced; without a terminal it is.
pub fn replace(path: &Path) -> Result<(), Error> {
    if !path.exists() || ask(&format!("{} exists; replace it?", path.display()))? != Some(false) {
        return Ok(());
    }
    Err(Error::refused(format!("{} is kept", path.display())))
}
