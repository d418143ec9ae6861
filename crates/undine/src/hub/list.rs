//! `undine list`: what is in the cache. `undine models`: what can be pulled by a short name, and what fits here.

use std::fs::{File, FileTimes};
use std::io::Write;
use std::time::SystemTime;

use serde_json::{Value as Json, json};
use undine_hub::quant::{self, Candidate, Fit};
use undine_hub::{Cached, HubName, ShortName, short_names};
use undine_weights::Architecture;

use super::cache;
use crate::args_hub::{ListArgs, ModelsArgs};
use crate::error::Error;
use crate::format::Bytes;
use crate::memory;
use crate::shown::{self, say};

/// Quantizations that the repositories of the table have, as far as is known.
const PUBLISHED: [&str; 5] = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"];
/// Room for the name of an architecture.
const ARCHITECTURE_CHARS: usize = 12;
/// Shown where no name says a quantization.
const NO_QUANT: &str = "-";

/// A model in the cache, and what it is if its files can be read.
struct Listed {
    cached: Cached,
    architecture: Option<Architecture>,
}

impl Listed {
    fn new(cached: Cached) -> Self {
        let file = if cached.path.is_dir() { cached.path.join("config.json") } else { cached.path.clone() };
        let accessed = std::fs::metadata(&file).and_then(|file| file.accessed());
        let architecture = Architecture::of(&cached.path).ok();
        // To look at a model is not to use it. Where the time cannot be set, it is a little wrong.
        if let (Ok(accessed), Ok(file)) = (accessed, File::open(&file)) {
            drop(file.set_times(FileTimes::new().set_accessed(accessed)));
        }
        Self { cached, architecture }
    }

    fn is_foreign(&self) -> bool {
        matches!(self.architecture, Some(Architecture::Foreign(_)))
    }

    fn architecture(&self) -> Option<&str> {
        self.architecture.as_ref().map(Architecture::name)
    }
}

/// Runs `undine list`.
pub fn run_list(args: &ListArgs) -> Result<(), Error> {
    let cache = cache()?;
    let all = cache.list()?.into_iter().map(Listed::new);
    let (foreign, mut models): (Vec<Listed>, Vec<Listed>) =
        all.partition(|listed| listed.is_foreign() && !args.all);
    models.sort_by_key(Listed::is_foreign);
    let mut out = shown::stdout();
    if args.json {
        let describe = |listed: &Listed| {
            let mut json = listed_json(&listed.cached);
            json["architecture"] = listed.architecture().into();
            json
        };
        let json: Json = models.iter().map(describe).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&json).expect("a JSON value is JSON"))?;
        return Ok(());
    }
    if models.is_empty() {
        say!("no models in {}; `undine models` lists some to pull", cache.root().display());
    } else {
        table(&mut out, &models, args)?;
    }
    if !foreign.is_empty() {
        let mut names: Vec<&str> = foreign.iter().filter_map(Listed::architecture).collect();
        names.sort_unstable();
        names.dedup();
        let (count, names) = (foreign.len(), names.join(", "));
        say!(
            "{count} of other architectures ({names}) not listed, which undine cannot run; --all lists them"
        );
    }
    Ok(())
}

fn table(out: &mut impl Write, models: &[Listed], args: &ListArgs) -> Result<(), Error> {
    let bare = |listed: &Listed| HubName { quant: None, ..listed.cached.name.clone() }.to_string();
    let width = models.iter().map(|listed| bare(listed).len()).max().unwrap_or(0);
    let kind = |name: &str| match args.all {
        true => format!("  {:<ARCHITECTURE_CHARS$}", shown::line(name)),
        false => String::new(),
    };
    let head = kind("ARCHITECTURE");
    writeln!(out, "{:<width$}  {:<8} {:>10}  {:<16}{head}  PATH", "NAME", "QUANT", "SIZE", "LAST USED")?;
    for listed in models {
        let Listed { cached, .. } = listed;
        let quant = cached.name.quant.as_deref().unwrap_or(NO_QUANT);
        let (name, size, used) = (bare(listed), Bytes(cached.bytes()), local_time(cached.last_used));
        let kind = kind(listed.architecture().unwrap_or("unknown"));
        writeln!(
            out,
            "{name:<width$}  {quant:<8} {size:>10}  {used:<16}{kind}  {}",
            shown::line(&cached.path.to_string_lossy())
        )?;
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
    let there = match cache() {
        Ok(cache) => cache.list()?,
        // The names are worth knowing without one.
        Err(Error::Hub(undine_hub::Error::NoCache)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let quants_of = |known: &ShortName| -> Vec<&str> {
        let of_repo = |cached: &&Cached| cached.name.repo.as_str() == known.repo;
        there.iter().filter(of_repo).filter_map(|cached| cached.name.quant.as_deref()).collect()
    };
    let mut out = shown::stdout();
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
