//! Secrets leave the command line, which every user of a machine can read in the list of processes.
//!
//! A process cannot portably change its own arguments. So it starts its own program again in its place, with
//! the same process id, the values of such flags replaced by `***`, and the values themselves in a pipe that
//! only this process has. They can be seen for the moment before that; a file or the environment never shows
//! them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::error::Error;
use crate::shown::say;

/// Flags whose value is a secret.
const SECRET_FLAGS: [&str; 2] = ["--api-key", "--hf-token"];
/// What is seen in place of a secret.
const MASK: &str = "***";
/// The first word of a command line whose secrets are in a pipe; the second is the pipe's number. Not an
/// environment variable: programs that this one starts would inherit it.
const MARK: &str = "--secrets-in-pipe";
/// What every pipe holds without a reader.
const PIPE_BYTES: usize = 4096;
/// Between secrets in the pipe; no argument can contain it.
const SEPARATOR: u8 = 0;

/// The command line with its secrets. If they are still visible the program starts again, and this returns
/// only if that is not possible.
pub fn reveal(words: Vec<OsString>) -> Result<Vec<OsString>, Error> {
    if words.get(1).is_some_and(|word| word == MARK) {
        return put_back(words);
    }
    let (masked, secrets) = take_out(&words);
    if secrets.is_empty() {
        return Ok(words);
    }
    let reason = start_again(&masked, &secrets.join(&SEPARATOR));
    say!(
        "note: other users of this machine can see the secrets on this command line ({reason}); --api-key-file and the \
         environment (UNDINE_API_KEY, HF_TOKEN) keep them"
    );
    Ok(words)
}

/// The words with masks, and what was there.
fn take_out(words: &[OsString]) -> (Vec<OsString>, Vec<Vec<u8>>) {
    let mut masked = Vec::with_capacity(words.len());
    let mut secrets = Vec::new();
    let mut is_secret = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if std::mem::take(&mut is_secret) {
            secrets.push(word.as_bytes().to_vec());
            masked.push(MASK.into());
            continue;
        }
        let (flag, value) = split(word);
        match (SECRET_FLAGS.contains(&flag.as_str()), value) {
            (true, Some(value)) => {
                secrets.push(value);
                masked.push(format!("{flag}={MASK}").into());
            }
            (found, _) => {
                is_secret = found;
                masked.push(word.clone());
            }
        }
        if word == "--" {
            masked.extend(words.by_ref().cloned());
        }
    }
    (masked, secrets)
}

/// A flag as it is known by, and the value after its equals sign. Whatever has none of our flags' names comes
/// back as nothing.
fn split(word: &OsStr) -> (String, Option<Vec<u8>>) {
    let bytes = word.as_bytes();
    let end = bytes.iter().position(|&byte| byte == b'=');
    let name = String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]);
    let name =
        name.strip_prefix("--").map_or_else(String::new, |name| format!("--{}", name.replace('_', "-")));
    (name, end.map(|end| bytes[end + 1..].to_vec()))
}

/// Replaces this process; returns why it could not.
fn start_again(masked: &[OsString], secrets: &[u8]) -> String {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;

    if secrets.len() > PIPE_BYTES {
        return format!("they are longer than {PIPE_BYTES} bytes");
    }
    let attempt = || -> std::io::Result<std::convert::Infallible> {
        let program = std::env::current_exe()?;
        let (reader, mut writer) = std::io::pipe()?;
        writer.write_all(secrets)?;
        drop(writer);
        // Without this it would be closed on the way.
        rustix::io::fcntl_setfd(&reader, rustix::io::FdFlags::empty())?;
        let number = reader.as_raw_fd().to_string();
        let place = pipe_path(&number);
        if !place.exists() {
            return Err(std::io::Error::new(std::io::ErrorKind::NotFound, format!("no {}", place.display())));
        }
        let (name, rest) = masked.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut command = std::process::Command::new(program);
        Err(command.arg0(name).args([MARK, &number]).args(rest).exec())
    };
    match attempt() {
        Err(error) => error.to_string(),
        Ok(never) => match never {},
    }
}

fn pipe_path(number: &str) -> PathBuf {
    PathBuf::from("/dev/fd").join(number)
}

/// The words without masks.
fn put_back(mut words: Vec<OsString>) -> Result<Vec<OsString>, Error> {
    let wrong = |reason: &str| Error::usage(format!("{MARK}: {reason}; it is not for users"));
    let number = words.get(2).and_then(|word| word.to_str()).filter(|text| text.parse::<u16>().is_ok());
    let place = pipe_path(number.ok_or_else(|| wrong("expected the number of a pipe"))?);
    let secrets = std::fs::read(&place).map_err(|source| Error::file(&place, source))?;
    words.drain(1..3);
    let mut secrets = secrets.split(|&byte| byte == SEPARATOR);
    let mut is_secret = false;
    for word in &mut words {
        let (flag, value) = split(word);
        let is_flag = SECRET_FLAGS.contains(&flag.as_str());
        let missing = || wrong("expected a secret for every mask");
        if std::mem::take(&mut is_secret) {
            *word = OsString::from_vec(secrets.next().ok_or_else(missing)?.to_vec());
        } else if is_flag && value.is_some() {
            let secret = secrets.next().ok_or_else(missing)?;
            *word = OsString::from_vec([flag.as_bytes(), b"=", secret].concat());
        } else {
            is_secret = is_flag;
        }
        if word == "--" {
            break;
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_wherever_they_stand() {
        for (line, masked, secrets) in [
            ("undine serve m", "undine serve m", ""),
            ("undine serve --api-key a m", "undine serve --api-key *** m", "a"),
            ("undine serve --api-key=a --api_key b", "undine serve --api-key=*** --api_key ***", "a b"),
            ("undine serve --api-key=", "undine serve --api-key=***", ""),
            ("undine serve --api-key", "undine serve --api-key", ""),
            ("undine serve --api-key --port", "undine serve --api-key ***", "--port"),
            ("undine serve --api-key-file a", "undine serve --api-key-file a", ""),
            ("undine batch --hf_token=hf -i x", "undine batch --hf-token=*** -i x", "hf"),
            ("undine serve -- --api-key a", "undine serve -- --api-key a", ""),
        ] {
            let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
            let (found, taken) = take_out(&words);
            assert_eq!(found.join(" ".as_ref()), masked, "{line}");
            assert_eq!(taken.join(&b' '), secrets.as_bytes(), "{line}");
        }
    }
}
