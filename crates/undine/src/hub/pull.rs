//! `undine pull`: fetches a model and prints where it is.

use std::io::{IsTerminal, Write};
use std::path::Path;

use serde_json::json;
use undine_hub::{Beginning, HubName, ModelName, Next, PullRequest};

use super::{examine, fetch, progress, settings, with_flags};
use crate::args_hub::PullArgs;
use crate::error::Error;
use crate::format::Bytes;
use crate::memory;
use crate::shown::{self, say};

/// What `undine run` takes for what has been pulled: the name as it was given, with what flags add to it.
fn run_name(name: &str, args: &PullArgs) -> String {
    let revision =
        args.revision.as_ref().filter(|_| !name.contains('@')).map(|revision| format!("@{revision}"));
    let quant =
        args.quant.as_ref().filter(|quant| !name.ends_with(quant.as_str())).map(|quant| format!(":{quant}"));
    format!("{name}{}{}", revision.unwrap_or_default(), quant.unwrap_or_default())
}

/// Runs the command.
pub fn run(args: &PullArgs) -> Result<(), Error> {
    let name = match ModelName::parse(Path::new(&args.name))? {
        ModelName::Hub(name) => name,
        // A folder may be called like a repository that is wanted.
        ModelName::Path(path) => HubName::parse(&args.name).map_err(|_| {
            Error::usage(format!(
                "{} is a file or folder of this machine; there is nothing to pull",
                path.display()
            ))
        })?,
    };
    let name = with_flags(name, args.revision.as_deref(), args.quant.as_deref())?;
    let request = PullRequest {
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        ..PullRequest::new(name, memory::available_bytes())
    };
    let settings = settings(args.download_dir.as_deref())?;
    let judge = |files: &[Beginning]| match args.force {
        true => Ok(Next::Fetch),
        false => examine::judge(&request.name.repo, files),
    };
    let pulled = match args.json {
        true => fetch(settings, &request, judge, progress::as_json())?,
        false => fetch(settings, &request, judge, progress::on_stderr(&request.name))?,
    };
    let cached = &pulled.cached;
    if args.json {
        let json = json!({
            "event": "pulled", "name": cached.name.to_string(), "commit": cached.commit, "path": cached.path,
            "bytes": cached.bytes(), "fetched_bytes": pulled.fetched_bytes, "license": pulled.license,
        });
        writeln!(shown::stdout(), "{json}")?;
        return Ok(());
    }
    let fetched = match pulled.fetched_bytes {
        0 => "everything was there".to_owned(),
        bytes => format!("{} fetched", Bytes(bytes)),
    };
    let license = pulled.license.map_or_else(String::new, |license| format!(", licence {license}"));
    say!("{}: {fetched}{license}", cached.name);
    say!("to run it: undine run {}", run_name(&args.name, args));
    // A program gets the path as it is.
    match std::io::stdout().is_terminal() {
        true => writeln!(shown::stdout(), "{}", cached.path.display())?,
        false => writeln!(std::io::stdout(), "{}", cached.path.display())?,
    }
    Ok(())
}
