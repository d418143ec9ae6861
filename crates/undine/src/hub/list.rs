//! `undine list`: what is in the cache. `undine models`: what can be pulled by a short name, and what fits here.

use std::io::Write;
use std::time::SystemTime;

use serde_json::{Value as Json, json};
use undine_hub::quant::{self, Candidate, Fit};
use undine_hub::{Cached, HubName, ShortName, short_names};

use super::cache;
use crate::args_hub::{ListArgs, ModelsArgs};
use crate::error::Error;
use crate::format::Bytes;
use crate::memory;

/// Quantizations that the repositories of the table have, as far as is known.
const PUBLISHED: [&str; 5] = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"];
/// Shown where no name says a quantization.
const NO_QUANT: &str = "-";

/// Runs `undine list`.
pub fn run_list(args: &ListArgs) -> Result<(), Error> {
    let cache = cache()?;
    let models = cache.list()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let json: Json = models.iter().map(listed_json).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&json).expect("a JSON value is JSON"))?;
        return Ok(());
    }
    if models.is_empty() {
        eprintln!("no models in {}; `undine models` lists some to pull", cache.root().display());
        return Ok(());
    }
    let bare = |cached: &Cached| HubName { quant: None, ..cached.name.clone() }.to_string();
    let width = models.iter().map(|cached| bare(cached).len()).max().unwrap_or(0);
    writeln!(out, "{:<width$}  {:<8} {:>10}  {:<16}  PATH", "NAME", "QUANT", "SIZE", "LAST USED")?;
    for cached in &models {
        let quant = cached.name.quant.as_deref().unwrap_or(NO_QUANT);
        let (name, size, used) = (bare(cached), Bytes(cached.bytes()), local_time(cached.last_used));
        writeln!(out, "{name:<width$}  {quant:<8} {size:>10}  {used:<16}  {}", cached.path.display())?;
    }
    Ok(())
}

pub(super) fn listed_json(cached: &Cached) -> Json {
    let files = cached.files.iter().map(|(path, bytes)| json!({"path": path, "bytes": bytes}));
    json!({
        "name": cached.name.to_string(),
        "repo": cached.name.repo.as_str(),
        "short_name": undine_hub::of_repo(&cached.name.repo),
        "revision": cached.name.revision(),
        "commit": cached.commit,
        "quant": cached.name.quant,
        "bytes": cached.bytes(),
        "last_used": cached.last_used.and_then(|time| jiff::Timestamp::try_from(time).ok()).map(|time| time.to_string()),
        "path": cached.path,
        "files": files.collect::<Vec<_>>(),
    })
}

/// To the minute, in this machine's time zone.
pub(super) fn local_time(time: Option<SystemTime>) -> String {
    let time = time.and_then(|time| jiff::Timestamp::try_from(time).ok());
    let zone = jiff::tz::TimeZone::system();
    time.map_or_else(
        || "unknown".to_owned(),
        |time| time.to_zoned(zone).strftime("%Y-%m-%d %H:%M").to_string(),
    )
}

/// The quantization that would be chosen here, and how it fits.
fn choice(known: &ShortName, memory_bytes: Option<u64>) -> (&'static str, Fit) {
    let candidates =
        PUBLISHED.map(|quant| Candidate { quant: Some(quant), bytes: known.bytes(quant).unwrap_or(0) });
    let at = quant::choose(&candidates, memory_bytes).expect("there are candidates");
    (PUBLISHED[at], quant::fit(candidates[at].bytes, memory_bytes))
}

/// Runs `undine models`.
pub fn run_models(args: &ModelsArgs) -> Result<(), Error> {
    let memory_bytes = memory::available_bytes();
    let there = cache()?.list()?;
    let quants_of = |known: &ShortName| -> Vec<&str> {
        let of_repo = |cached: &&Cached| cached.name.repo.as_str() == known.repo;
        there.iter().filter(of_repo).filter_map(|cached| cached.name.quant.as_deref()).collect()
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        let describe = |known: &ShortName| {
            let (quant, fit) = choice(known, memory_bytes);
            let sizes: serde_json::Map<String, Json> =
                PUBLISHED.iter().map(|quant| ((*quant).to_owned(), known.bytes(quant).into())).collect();
            json!({
                "name": known.name, "repo": known.repo, "parameters": known.parameters, "about_bytes": sizes,
                "choice": quant, "fit": fit_word(fit), "cached": quants_of(known),
            })
        };
        let json: Json = short_names().iter().map(describe).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&json).expect("a JSON value is JSON"))?;
        return Ok(());
    }
    let width = short_names().iter().map(|known| known.name.len()).max().unwrap_or(0);
    writeln!(
        out,
        "{:<width$}  {:>10}  {:>10}  {:<7} {:<8} IN THE CACHE",
        "NAME", "Q4_K_M", "Q8_0", "BEST", "FITS"
    )?;
    for known in short_names() {
        let size = |quant| Bytes(known.bytes(quant).unwrap_or(0));
        let (quant, fit) = choice(known, memory_bytes);
        let (small, large, there) = (size("Q4_K_M"), size("Q8_0"), quants_of(known).join(", "));
        let row = format!(
            "{:<width$}  {small:>10}  {large:>10}  {quant:<7} {:<8} {there}",
            known.name,
            fit_word(fit)
        );
        writeln!(out, "{}", row.trim_end())?;
    }
    let memory =
        memory_bytes.map_or_else(|| "an unknown amount".to_owned(), |bytes| Bytes(bytes).to_string());
    writeln!(
        out,
        "\nSizes are about those of the files. BEST is what `undine pull NAME` takes with the {memory} of memory that is \
         free now; another is NAME-QUANT, such as {}-q4_0.",
        short_names()[0].name
    )?;
    Ok(())
}

fn fit_word(fit: Fit) -> &'static str {
    match fit {
        Fit::Well => "yes",
        Fit::Barely => "barely",
        Fit::TooLarge => "no",
    }
}
