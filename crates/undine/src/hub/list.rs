//! `undine list`: what is in the cache. `undine models`: what can be pulled by a short name, and what fits
//! here.

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
use crate::fit::BANDWIDTH_SHARE;
use crate::format::Bytes;
use crate::shown::{self, say};
use crate::{memory, output, wrap};

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
    let columns = output::columns().unwrap_or(usize::MAX);
    // A narrow terminal gets fewer columns: `undine show` has the rest.
    let (used, place) = (columns >= width + 40, columns >= width + 60);
    let date = |text: &str| if used { format!("  {text:<16}") } else { String::new() };
    let path = |text: &str| if place { format!("  {text}") } else { String::new() };
    let row = |name: &str, quant: &str, size: &str, last: &str, kind: &str, place: &str| {
        let row = format!("{name:<width$}  {quant:<8} {size:>10}{}{kind}{}", date(last), path(place));
        row.trim_end().to_owned()
    };
    writeln!(out, "{}", row("NAME", "QUANT", "SIZE", "LAST USED", &head, "PATH"))?;
    for listed in models {
        let Listed { cached, .. } = listed;
        let quant = cached.name.quant.as_deref().unwrap_or(NO_QUANT);
        let (size, last) = (Bytes(cached.bytes()).to_string(), local_time(cached.last_used));
        let kind = kind(listed.architecture().unwrap_or("unknown"));
        let place = shown::line(&cached.path.to_string_lossy());
        writeln!(out, "{}", row(&bare(listed), quant, &size, &last, &kind, &place))?;
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
    match args.all {
        true => all_models(&mut shown::paper(), memory_bytes, quants_of),
        false => first_models(&mut shown::paper(), memory_bytes, quants_of),
    }
}

/// Models to begin with: what for, the name, and what it is good at.
const FIRST: [(&str, &str, &str); 5] = [
    ("try first", "lfm2.5:350m", "small and quick; short answers, extraction"),
    ("everyday", "lfm2.5:1.2b", "chat, summaries, tool calls"),
    ("best here", "", "the most able that fits and keeps up with a reader"),
    ("thinking", "lfm2.5:1.2b-thinking", "sums and puzzles; thinks before it answers"),
    ("pictures", "lfm2.5-vl:1.6b", "answers questions about pictures"),
];
/// What may be best, the most able first.
const ABLE: [&str; 4] = ["lfm2.5:24b-a2b", "lfm2.5:8b-a1b", "lfm2.5:2.6b", "lfm2.5:1.2b"];
/// Tokens per second that people read.
const READING_SPEED: f64 = 8.0;
/// Columns below which what a model is good at has a line of its own.
const WIDE_COLUMNS: usize = 90;
/// Columns below which sizes are left out.
const SIZE_COLUMNS: usize = 50;

/// Five models, with what they do on this machine.
fn first_models<'a>(
    out: &mut impl Write,
    memory_bytes: Option<u64>,
    quants_of: impl Fn(&ShortName) -> Vec<&'a str>,
) -> Result<(), Error> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let read = undine_cpu::roofline::read_bytes_per_s(threads.min(undine_cpu::pool::THREADS_MAX))?;
    let speed = |known: &ShortName, quant: &str| {
        let bytes = known.bytes_per_token(quant).unwrap_or(u64::MAX);
        BANDWIDTH_SHARE * read / bytes as f64
    };
    let find = |name: &str| short_names().iter().find(|known| known.name == name);
    let is_good = |known: &&ShortName| {
        let (quant, fit) = choice(known, memory_bytes);
        fit == Fit::Well && speed(known, quant) >= READING_SPEED
    };
    let best =
        ABLE.iter().filter_map(|name| find(name)).find(is_good).map_or("lfm2.5:350m", |known| &known.name);
    let columns = output::columns().unwrap_or(usize::MAX);
    let of_size = |size: &str| if columns < SIZE_COLUMNS { String::new() } else { format!("  {size:>9}") };
    let end = if columns >= WIDE_COLUMNS { "  GOOD AT" } else { "" };
    writeln!(out, "{:<9}  {:<20}{}  {:>6}{end}", "FOR", "NAME", of_size("SIZE"), "TOK/S")?;
    for (purpose, name, use_of) in FIRST {
        let Some(known) = find(if name.is_empty() { best } else { name }) else { continue };
        let (quant, fit) = choice(known, memory_bytes);
        let size = of_size(&Bytes(known.bytes(quant).unwrap_or(0)).to_string());
        let speed = match fit {
            Fit::TooLarge => "-".to_owned(),
            _ => format!("{:.0}", speed(known, quant)),
        };
        let row = format!("{purpose:<9}  {:<20}{size}  {speed:>6}", known.name);
        let there = quants_of(known);
        let there =
            if there.is_empty() { String::new() } else { format!(" (in the cache: {})", there.join(", ")) };
        match columns >= WIDE_COLUMNS {
            true => writeln!(out, "{row}  {use_of}{there}")?,
            false => writeln!(
                out,
                "{row}\n{}",
                wrap::wrapped(&format!("           {use_of}{there}"), Some(columns))
            )?,
        }
    }
    let end = format!(
        "\nundine run NAME fetches one and chats with it. Speeds are about what this machine reads: {:.0} GB/s. `undine models --all` \
         lists all {}; `undine fit NAME` tells more of one.",
        read / 1e9,
        short_names().len()
    );
    writeln!(out, "{}", wrap::wrapped(&end, output::columns()))?;
    Ok(())
}

/// Every model; a narrow terminal gets fewer columns.
fn all_models<'a>(
    out: &mut impl Write,
    memory_bytes: Option<u64>,
    quants_of: impl Fn(&ShortName) -> Vec<&'a str>,
) -> Result<(), Error> {
    let width = short_names().iter().map(|known| known.name.len()).max().unwrap_or(0);
    let columns = output::columns().unwrap_or(usize::MAX);
    // The name, the choice and whether it fits are what the table is for.
    let (sizes, cached) = (columns >= width + 44, columns >= width + 60);
    let size_columns = |small: &str, large: &str| match sizes {
        true => format!("  {small:>10}  {large:>10}"),
        false => String::new(),
    };
    let head = size_columns("Q4_K_M", "Q8_0");
    let head_end = if cached { " IN THE CACHE" } else { "" };
    writeln!(out, "{:<width$}{head}  {:<7} {:<7}{head_end}", "NAME", "BEST", "FITS")?;
    for known in short_names() {
        let size = |quant| Bytes(known.bytes(quant).unwrap_or(0)).to_string();
        let (quant, fit) = choice(known, memory_bytes);
        let sizes = size_columns(&size("Q4_K_M"), &size("Q8_0"));
        let there = if cached { quants_of(known).join(", ") } else { String::new() };
        let row = format!("{:<width$}{sizes}  {quant:<7} {:<7} {there}", known.name, fit_word(fit));
        writeln!(out, "{}", row.trim_end())?;
    }
    let memory =
        memory_bytes.map_or_else(|| "an unknown amount".to_owned(), |bytes| Bytes(bytes).to_string());
    let end = format!(
        "\nSizes are about those of the files. BEST is what `undine pull NAME` takes with the {memory} of memory that is \
         free now; another is NAME-QUANT, such as {}-q4_0.",
        short_names()[0].name
    );
    writeln!(out, "{}", wrap::wrapped(&end, output::columns()))?;
    Ok(())
}

fn fit_word(fit: Fit) -> &'static str {
    match fit {
        Fit::Well => "yes",
        Fit::Barely => "barely",
        Fit::TooLarge => "no",
    }
}
