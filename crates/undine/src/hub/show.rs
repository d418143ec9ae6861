//! `undine show`: what `undine inspect` prints, and where it comes from.

use std::io::Write;
use std::path::Path;

use serde_json::{Value as Json, json};
use undine_hub::{Cached, ModelName};

use super::list::{listed_json, local_time};
use super::{cache, settings};
use crate::args_hub::ShowArgs;
use crate::error::Error;
use crate::format::Bytes;
use crate::shown;
use crate::{inspect, memory, open};

/// Longest model card that is read for the licence.
const CARD_BYTES_MAX: u64 = 1 << 20;
/// What the head of a card stands between.
const FENCE: &str = "---";

/// Runs the command.
pub fn run(args: &ShowArgs) -> Result<(), Error> {
    let cached = match ModelName::parse(&args.name)? {
        ModelName::Path(_) => None,
        ModelName::Hub(name) => {
            let not_cached = || undine_hub::Error::NotCached {
                name: name.to_string(),
                cache: settings(None).map(|settings| settings.cache).unwrap_or_default(),
            };
            Some(cache()?.find(&name, memory::available_bytes())?.ok_or_else(not_cached)?)
        }
    };
    let path = cached.as_ref().map_or(args.name.as_path(), |cached| &cached.path);
    let checkpoint = open::open(Some(path))?;
    let mut out = shown::paper();
    let license = cached.as_ref().and_then(|cached| license(&cached.snapshot));
    if args.json {
        let mut json = inspect::describe(&checkpoint, Some(path));
        if let Some(cached) = &cached {
            json["hub"] = listed_json(cached);
            json["hub"]["license"] = json!(license);
        }
        writeln!(shown::stdout(), "{}", serde_json::to_string_pretty(&json).expect("a JSON value is JSON"))?;
        return Ok(());
    }
    if let Some(cached) = &cached {
        print_source(&mut out, cached, license.as_deref())?;
    }
    inspect::print(&mut out, &checkpoint, Some(path))
}

fn print_source(out: &mut impl Write, cached: &Cached, license: Option<&str>) -> Result<(), Error> {
    let mut row = |name: &str, value: &str| writeln!(out, "{name:<18} {}", shown::line(value));
    row("repository", cached.name.repo.as_str())?;
    if let Some(short) = undine_hub::of_repo(&cached.name.repo) {
        row("short name", short)?;
    }
    row("revision", &format!("{}, commit {}", cached.name.revision(), cached.commit))?;
    row("licence", license.unwrap_or("not stated"))?;
    row("last used", &local_time(cached.last_used))?;
    row("path", &cached.path.display().to_string())?;
    for (path, bytes) in &cached.files {
        row("file", &format!("{path}, {}", Bytes(*bytes)))?;
    }
    writeln!(out)?;
    Ok(())
}

/// What the head of the model card says.
fn license(snapshot: &Path) -> Option<String> {
    let card = snapshot.join("README.md");
    if std::fs::metadata(&card).ok()?.len() > CARD_BYTES_MAX {
        return None;
    }
    license_of(&std::fs::read_to_string(card).ok()?)
}

fn license_of(card: &str) -> Option<String> {
    let mut lines = card.lines();
    lines.next().filter(|line| line.trim_end() == FENCE)?;
    let head: Vec<&str> = lines.take_while(|line| line.trim_end() != FENCE).collect();
    let head: Json = serde_saphyr::from_str(&head.join("\n")).ok()?;
    let found = ["license_name", "license"].iter().find_map(|key| head[*key].as_str())?;
    Some(found.chars().filter(|c| !c.is_control()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_is_read_from_the_card() {
        for (card, expected) in [
            ("---\nlicense: other\nlicense_name: lfm1.0\ntags: [a, b]\n---\n# A model\n", Some("lfm1.0")),
            ("---\nlicense: apache-2.0\n---\n", Some("apache-2.0")),
            ("---\ntags: []\n---\nlicense: no\n", None),
            ("# A model\nlicense: no\n", None),
            ("---\n- : {\n---\n", None),
            ("", None),
        ] {
            assert_eq!(license_of(card).as_deref(), expected, "{card:?}");
        }
    }
}
