//! Devices by the names that people type: `4090`, `m4-max`, `Mac mini M4 Pro`, `a100-80`, `Raspberry Pi 5`,
//! `gpus`.
//!
//! A name is cut into words where letters and digits meet, makers' names are left out, and what is left must
//! occur in one of a device's names in the same order. A size of memory, or a number that is the device's,
//! chooses among sizes. If some device has exactly that name, devices whose names only contain it are not
//! meant: `4060` is not an RTX 4060 Ti. Words at the end that make another device of it are never guessed.

use super::devices::{Device, Kind, all};
use super::spelling::{LAPTOP, counted, gigabytes_of, makers, words};
use crate::error::Error;

/// Class of what is not a device, but an offer to rent some.
const OFFERS: &str = "cloud";
/// All there are.
const ALL: &str = "all";
/// Least likeness of a name that is suggested.
const LIKENESS_MIN: f64 = 0.7;
/// Most names suggested.
const SUGGESTED_MAX: usize = 4;
/// Given as examples where nothing is alike.
const EXAMPLES: &str = "RTX 4090, M4 Max 64GB, Raspberry Pi 5, A100 80GB, iPhone 16 Pro";

/// Words for this machine, without blanks.
const HERE: [&str; 12] = [
    "here",
    "this",
    "thismachine",
    "thiscomputer",
    "thispc",
    "thislaptop",
    "mymachine",
    "mycomputer",
    "mypc",
    "mylaptop",
    "localhost",
    "cpu",
];
/// Words at the end of a name that make another device of it: an iPhone 15 is no iPhone 15 Pro.
const VARIANTS: [&str; 14] = [
    "pro", "max", "ultra", "plus", "ti", "super", "xt", "xtx", "gre", "elite", "extreme", "air", "mini", "fe",
];
/// A word that makes another device of it wherever it is: a Jetson Orin Nano is no Jetson Nano.
const GENERATION: &str = "orin";
/// Kinds of a card's memory.
const MEMORIES: [&str; 2] = ["hbm", "gddr"];

/// A name as it is compared.
struct Query {
    words: Vec<String>,
    gigabytes: Option<f64>,
    place: Place,
    /// Who made it, where that is said.
    makers: Vec<&'static str>,
}

/// Where a card is: those in laptops have the names of larger ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Laptop,
    Anywhere,
}

impl Place {
    /// What words say of it, and the others.
    fn of(mut words: Vec<String>) -> (Vec<String>, Self) {
        let count = words.len();
        words.retain(|word| word != LAPTOP);
        let place = if words.len() < count { Self::Laptop } else { Self::Anywhere };
        (words, place)
    }
}

/// How well a device fits a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    /// Part of the name of an offer to rent one.
    InOffer,
    Contained,
    Exact,
}

/// The devices that `wanted` names, each list of names divided by commas; those that are shown if none is
/// wanted.
///
/// # Errors
/// A name that no device has; the message says which are alike.
pub fn find(wanted: &[String]) -> Result<Vec<Device>, Error> {
    if wanted.is_empty() {
        return Ok(all().iter().filter(|device| device.shown).cloned().collect());
    }
    let mut found: Vec<Device> = Vec::new();
    let names: Vec<String> = wanted.iter().flat_map(|list| divided(list)).collect();
    if names.is_empty() {
        return Err(Error::usage(format!(
            "--devices: expected a name such as {EXAMPLES}, or `all`; found none"
        )));
    }
    for name in names.into_iter().filter(|name| !is_here(name)) {
        let matching = named(&name).ok_or_else(|| unknown(&name))?;
        let new: Vec<Device> = matching.into_iter().filter(|device| !found.contains(device)).collect();
        found.extend(new);
    }
    Ok(found)
}

/// Whether this machine is among what is wanted; where nothing is, it is.
pub fn wants_here(wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().flat_map(|list| divided(list)).any(|name| is_here(&name))
}

fn is_here(name: &str) -> bool {
    HERE.contains(&plain(name).as_str())
}

/// The parts between commas, but for those in parentheses.
fn divided(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_usize;
    for c in list.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else {
            parts.last_mut().expect("there is always one").push(c);
        }
    }
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// What a name means, or `None` if no device has it.
fn named(name: &str) -> Option<Vec<Device>> {
    let plain = plain(name);
    let class = plain.strip_suffix('s').unwrap_or(&plain);
    let of_class = |device: &&Device| plain == ALL || device.class == class || device.class == plain;
    let group: Vec<Device> = all().iter().filter(of_class).cloned().collect();
    if !group.is_empty() {
        return Some(group);
    }
    let whole = matching(&Query::new(name));
    if let Some((Match::Contained | Match::Exact, devices)) = whole {
        return Some(devices);
    }
    let several = || {
        let (count, one) = counted(name)?;
        let devices = best(one)?;
        Some(devices.into_iter().map(|device| device.times(count)).collect())
    };
    several().or_else(|| whole.map(|(_, devices)| devices)).or_else(|| best(name))
}

/// The devices of a name that says nothing of how many.
fn best(name: &str) -> Option<Vec<Device>> {
    let query = Query::new(name);
    let found = matching(&query).or_else(|| matching(&query.without_kind_of_memory()));
    found.map(|(_, devices)| devices)
}

/// The devices that fit best.
fn matching(query: &Query) -> Option<(Match, Vec<Device>)> {
    if query.words.is_empty() && query.gigabytes.is_none() {
        return None;
    }
    let matches: Vec<(Match, &Device)> =
        all().iter().filter_map(|device| query.fits(device).map(|fits| (fits, device))).collect();
    let best = matches.iter().map(|(fits, _)| *fits).max()?;
    let devices = matches.into_iter().filter(|(fits, _)| *fits == best).map(|(_, device)| device.clone());
    Some((best, devices.collect()))
}

/// Letters and digits of a name.
fn plain(name: &str) -> String {
    name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect()
}

impl Query {
    fn new(name: &str) -> Self {
        let (makers, mut words) = (makers(name), words(name));
        let gigabytes = words.iter().find_map(|word| gigabytes_of(word));
        words.retain(|word| gigabytes_of(word).is_none());
        let (words, place) = Place::of(words);
        Self { words, gigabytes, place, makers }
    }

    /// `H100 80GB HBM3`: which kind of memory it is, few names say.
    fn without_kind_of_memory(&self) -> Self {
        let mut words: Vec<String> = Vec::new();
        let mut is_kind = false;
        for word in &self.words {
            let is_number = word.chars().all(|c| c.is_ascii_digit());
            let goes_on = is_kind && (is_number || word.len() == 1);
            is_kind = goes_on || MEMORIES.contains(&word.as_str());
            if !is_kind {
                words.push(word.clone());
            }
        }
        Self { words, makers: self.makers.clone(), ..*self }
    }

    fn fits(&self, device: &Device) -> Option<Match> {
        if self.gigabytes.is_some_and(|wanted| wanted != device.gigabytes) || self.is_of_another_maker(device)
        {
            return None;
        }
        let fits = device
            .names
            .iter()
            .filter_map(|name| self.fits_name(name, device.kind, device.gigabytes))
            .max()?;
        Some(if fits == Match::Contained && device.class == OFFERS { Match::InOffer } else { fits })
    }

    /// Of an offer no maker is known: who names one means a card, `NVIDIA A2`, and not `a2-highgpu-1g`.
    fn is_of_another_maker(&self, device: &Device) -> bool {
        let known: Vec<&str> = device.names.iter().flat_map(|name| makers(name)).collect();
        let is_told = !known.is_empty() || device.class == OFFERS;
        !self.makers.is_empty() && is_told && !known.iter().any(|maker| self.makers.contains(maker))
    }

    fn fits_name(&self, name: &str, kind: Kind, gigabytes: f64) -> Option<Match> {
        let (known, place) = Place::of(words(name));
        // A card's name in a laptop is another card.
        if kind == Kind::Gpu && place != self.place {
            return None;
        }
        let kind = |words: &[&String]| {
            let rest = behind(words, &known)?;
            if words.len() == known.len() {
                return Some(Match::Exact);
            }
            let is_generation = |word: &&String| **word == GENERATION;
            let is_other = rest.iter().any(|word| VARIANTS.contains(&word.as_str()))
                || known.iter().any(|word| word == GENERATION) && !words.iter().any(is_generation);
            (!is_other).then_some(Match::Contained)
        };
        let all: Vec<&String> = self.words.iter().collect();
        kind(&all).or_else(|| {
            // `a100-80`: a number may be the size of the memory.
            let number = gigabytes.to_string();
            let at = all.iter().rposition(|word| **word == number)?;
            let rest: Vec<&String> =
                all.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, w)| *w).collect();
            if rest.is_empty() { None } else { kind(&rest) }
        })
    }
}

/// What is left of `known` behind `wanted`, if that occurs in it in order, other words between them or not.
fn behind<'a>(wanted: &[&String], known: &'a [String]) -> Option<&'a [String]> {
    wanted.iter().try_fold(known, |rest, word| {
        let at = rest.iter().position(|other| other == *word)?;
        Some(&rest[at + 1..])
    })
}

fn unknown(name: &str) -> Error {
    let wanted = words(name).join(" ");
    let query = Query::new(name);
    let meant: Vec<&String> = query.words.iter().collect();
    let score = |device: &Device| {
        let of = |known: &String| {
            let known = words(known);
            // The same with more words is what was meant, more often than not.
            let is_longer = !meant.is_empty() && behind(&meant, &known).is_some();
            strsim::jaro_winkler(&known.join(" "), &wanted) + if is_longer { 1.0 } else { 0.0 }
        };
        device.names.iter().map(of).fold(0.0, f64::max)
    };
    let mut scored: Vec<(f64, &str)> =
        all().iter().map(|device| (score(device), device.name.as_str())).collect();
    scored.retain(|(score, _)| *score >= LIKENESS_MIN);
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let names: Vec<&str> = scored.into_iter().take(SUGGESTED_MAX).map(|(_, name)| name).collect();
    let guess = match names.is_empty() {
        true => ".".to_owned(),
        false => format!("; did you mean {}?", names.join(", ")),
    };
    let mut classes: Vec<&str> = all().iter().map(|device| device.class.as_str()).collect();
    classes.dedup();
    Error::usage(format!(
        "--devices {}: no such device{guess} Expected a name such as {EXAMPLES}, a class ({}), or `all`, which lists every one",
        name.trim(),
        classes.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &str) -> Vec<String> {
        let found = find(&[wanted.to_owned()]).unwrap_or_else(|error| panic!("{error}"));
        found.into_iter().map(|device| device.name).collect()
    }

    type Names = &'static [(&'static str, &'static [&'static str])];
    /// As people write them.
    const BY_PEOPLE: Names = &[
        ("4090", &["RTX 4090 24GB"]),
        ("rtx 4090", &["RTX 4090 24GB"]),
        ("rtx4090", &["RTX 4090 24GB"]),
        ("NVIDIA GeForce RTX 4090", &["RTX 4090 24GB"]),
        ("4060", &["RTX 4060 8GB"]),
        ("4060 ti", &["RTX 4060 Ti 16GB", "RTX 4060 Ti 8GB"]),
        ("RTX 4060 Ti 16GB", &["RTX 4060 Ti 16GB"]),
        ("5060ti-8", &["RTX 5060 Ti 8GB"]),
        ("RTX 3080 10GB", &["RTX 3080 10GB"]),
        ("4070 Ti SUPER", &["RTX 4070 Ti SUPER 16GB"]),
        ("7900 xtx", &["RX 7900 XTX 24GB"]),
        ("RX 9070", &["RX 9070 16GB"]),
        ("arc b580", &["Arc B580 12GB"]),
        ("m4-max", &["Apple M4 Max 36GB", "Apple M4 Max 48GB", "Apple M4 Max 64GB", "Apple M4 Max 128GB"]),
        ("m4 max 128", &["Apple M4 Max 128GB"]),
        ("Mac mini M4 Pro", &["Apple M4 Pro 48GB", "Apple M4 Pro 24GB", "Apple M4 Pro 64GB"]),
        ("Mac Mini M4 (16 GB)", &["Apple M4 16GB"]),
        ("MacBook Air 13\" M3 (24 GB)", &["Apple M3 24GB"]),
        ("MacBook Pro 14-inch (M5 Pro)", &["Apple M5 Pro 24GB", "Apple M5 Pro 48GB", "Apple M5 Pro 64GB"]),
        ("MacBook Pro 16\" M4 Max (48 GB)", &["Apple M4 Max 48GB"]),
        ("14-inch MacBook Pro M4 Max 48GB", &["Apple M4 Max 48GB"]),
        ("HP Z2 Mini G1a 128GB", &["Ryzen AI Max+ 395 128GB"]),
        ("NVIDIA A10G", &["A10G 24GB"]),
        ("Mac Studio (M3 Ultra, 512GB)", &["Apple M3 Ultra 512GB"]),
        ("Mac Pro M2 Ultra (192 GB)", &["Apple M2 Ultra 192GB"]),
        ("iPad Pro M5 13\" (16 GB)", &["iPad Pro M5 16GB"]),
        ("Raspberry Pi 5", &["Raspberry Pi 5 8GB", "Raspberry Pi 5 4GB", "Raspberry Pi 5 16GB"]),
        ("pi 5 8gb", &["Raspberry Pi 5 8GB"]),
        ("a100-80", &["A100 PCIe 80GB", "A100 SXM 80GB"]),
        ("A100 40GB", &["A100 PCIe 40GB", "A100 SXM 40GB"]),
        ("A10", &["A10 24GB"]),
        ("h100 sxm", &["H100 SXM 80GB"]),
        ("mi300x", &["Instinct MI300X 192GB"]),
        ("iPhone 16 Pro", &["iPhone 16 Pro 8GB"]),
        ("galaxy s25 ultra", &["Galaxy S25 Ultra 12GB", "Galaxy S25 Ultra 16GB"]),
        ("Framework Desktop (Ryzen AI Max+ 395, 128 GB)", &["Ryzen AI Max+ 395 128GB"]),
        ("HP ZBook Ultra G1a 14 (Ryzen AI Max+ PRO 395, 128 GB)", &["Ryzen AI Max+ 395 128GB"]),
        ("Asus ROG Flow Z13 (2025, Ryzen AI Max+ 395, 128 GB)", &["Ryzen AI Max+ 395 128GB"]),
        ("AMD Ryzen AI 9 HX 370 (Strix Point) Laptop", &["Ryzen AI 9 HX 370 32GB", "Ryzen AI 9 HX 370 64GB"]),
        ("Intel Core Ultra 9 288V (Lunar Lake) Laptop", &["Core Ultra 9 288V 32GB"]),
        ("NVIDIA DGX Spark", &["DGX Spark 128GB"]),
        ("ASUS Ascent GX10", &["DGX Spark 128GB"]),
        ("NVIDIA Jetson AGX Orin 64GB", &["Jetson AGX Orin 64GB"]),
        ("NVIDIA Jetson AGX Thor Developer Kit", &["Jetson AGX Thor 128GB"]),
        (
            "Snapdragon X2 Elite Extreme Copilot+ PC",
            &["Snapdragon X2 Elite Extreme 48GB", "Snapdragon X2 Elite Extreme 128GB"],
        ),
        ("NVIDIA DGX A100 640GB", &["DGX A100 (8x A100 SXM 80GB)"]),
        ("g5.xlarge", &["AWS g5.xlarge (A10G 24GB)"]),
        ("Desktop DDR5-5600 64GB", &["Desktop DDR5-5600 64GB"]),
        ("Server 8x DDR4-3200", &["Server 8x DDR4-3200 256GB"]),
    ];
    /// As nvidia-smi, clouds, schedulers and shops print them.
    const BY_PROGRAMS: Names = &[
        ("NVIDIA A100-SXM4-80GB", &["A100 SXM 80GB"]),
        ("NVIDIA A100-SXM4-40GB", &["A100 SXM 40GB"]),
        ("NVIDIA A100 80GB PCIe", &["A100 PCIe 80GB"]),
        ("NVIDIA A100-PCIE-40GB", &["A100 PCIe 40GB"]),
        ("NVIDIA H100 80GB HBM3", &["H100 SXM 80GB"]),
        ("H100 SXM5", &["H100 SXM 80GB"]),
        ("NVIDIA H200", &["H200 141GB"]),
        ("H200 SXM", &["H200 141GB"]),
        ("H200 141GB HBM3e", &["H200 141GB"]),
        ("H200 NVL", &["H200 NVL 141GB"]),
        ("Tesla T4", &["T4 16GB"]),
        ("Tesla V100-SXM2-16GB", &["V100 SXM 16GB"]),
        ("Tesla V100-PCIE-32GB", &["V100 PCIe 32GB"]),
        ("Tesla P40", &["P40 24GB"]),
        ("NVIDIA GeForce GTX 1080 Ti", &["GTX 1080 Ti 11GB"]),
        ("RTX 4090 24GB GDDR6X", &["RTX 4090 24GB"]),
        ("NVIDIA RTX 6000 Ada Generation", &["RTX 6000 Ada 48GB"]),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", &["RTX PRO 6000 Blackwell 96GB"]),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", &["RTX PRO 6000 Blackwell 96GB"]),
        ("AMD Instinct MI300X OAM", &["Instinct MI300X 192GB"]),
        ("Standard_NC24ads_A100_v4", &["Azure NC24ads_A100_v4 (A100 PCIe 80GB)"]),
        ("ml.g5.xlarge", &["AWS g5.xlarge (A10G 24GB)"]),
        ("RTX 4080S", &["RTX 4080 SUPER 16GB"]),
        ("4070TiS", &["RTX 4070 Ti SUPER 16GB"]),
        ("8xH100 SXM", &["8x H100 SXM 80GB"]),
        ("8x A100 SXM 80GB", &["8x A100 SXM 80GB"]),
        ("2 x RTX 3090", &["2x RTX 3090 24GB"]),
        ("2\u{d7}4090", &["2x RTX 4090 24GB"]),
        ("RTX 4090 x2", &["2x RTX 4090 24GB"]),
        ("T4:4", &["4x T4 16GB"]),
        ("1x L4", &["L4 24GB"]),
        ("RTX 4090 laptop", &["RTX 4090 Laptop 16GB"]),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", &["RTX 4060 Laptop 8GB"]),
        ("laptop rtx 4070", &["RTX 4070 Laptop 8GB"]),
        ("4080m", &["RTX 4080 Laptop 12GB"]),
        ("5090 mobile", &["RTX 5090 Laptop 24GB"]),
        ("RTX 4050", &["RTX 4050 Laptop 6GB"]),
        ("iphone 15", &["iPhone 15 6GB"]),
        ("Steam Deck", &["Steam Deck 16GB"]),
        ("Intel N100", &["Intel N100 8GB", "Intel N100 16GB"]),
        ("Ryzen 7 7840HS 64GB", &["Ryzen 7 7840HS 64GB"]),
        ("arc b60", &["Arc Pro B60 24GB"]),
    ];

    #[test]
    fn devices_are_found_as_people_and_programs_write_them() {
        for &(wanted, expected) in BY_PEOPLE.iter().chain(BY_PROGRAMS) {
            assert_eq!(names(wanted), expected, "{wanted}");
        }
    }

    #[test]
    fn several_names_classes_and_all() {
        assert_eq!(names("H200, h100 sxm, H200"), ["H200 141GB", "H100 SXM 80GB"]);
        assert_eq!(names("all").len(), all().len());
        assert!(names("phones").iter().all(|name| !name.contains("RTX")) && names("phones").len() > 8);
        for class in ["gpus", "GPU", "Macs", "mini-pcs", "boards", "clouds", "data center"] {
            assert!(names(class).len() > 1, "{class}");
        }
        assert!((10..=24).contains(&find(&[]).expect("there").len()), "fits on a screen");
    }

    #[test]
    fn this_machine_is_named_in_words() {
        for (wanted, is_here, others) in [
            ("here", true, 0),
            ("this machine, T4", true, 1),
            ("CPU", true, 0),
            ("localhost", true, 0),
            ("T4", false, 1),
        ] {
            assert_eq!(wants_here(&[wanted.to_owned()]), is_here, "{wanted}");
            assert_eq!(names(wanted).len(), others, "{wanted}");
        }
        assert!(wants_here(&[]));
    }

    #[test]
    fn several_of_one_have_the_sum() {
        let one = find(&["H100 SXM".to_owned()]).expect("known").remove(0);
        let eight = find(&["8x H100 SXM".to_owned()]).expect("known").remove(0);
        assert_eq!(eight.usable_bytes, 8 * one.usable_bytes);
        assert_eq!(eight.bytes_per_s, one.bytes_per_s.map(|bytes| 8.0 * bytes));
    }

    #[test]
    fn near_misses_are_suggested() {
        for (wanted, part) in [
            ("RTX 4095", "RTX 4090 24GB"),
            ("rasberry pi 5", "Raspberry Pi 5"),
            ("MacBok Pro M4 Max", "Apple M4 Max"),
            ("iphone 16 pr0", "iPhone 16 Pro 8GB"),
            ("M4 Max 100GB", "Apple M4 Max"),
            ("voodoo", "RTX 4090"),
            ("nvidia", "`all`"),
            ("RTX 3060 8GB", "RTX 3060 12GB"),
            ("Galaxy S24", "Galaxy S24 Ultra"),
            ("GTX 1080", "GTX 1080 Ti"),
            ("RX 7900", "RX 7900 XT"),
            ("RTX 3080 laptop", "RTX 5080 Laptop"),
            ("RX 7900M", "no such device"),
            ("Snapdragon X2 Elite", "Snapdragon X2 Elite Extreme"),
            ("NVIDIA A16", "no such device"),
            ("Tesla P4", "P40 24GB"),
            ("NVIDIA A2", "no such device"),
            ("Tesla M4", "no such device"),
            ("RX 580", "no such device"),
            ("GTX 580", "no such device"),
            ("GTX 770", "no such device"),
            ("GTX 780M", "no such device"),
            ("Quadro RTX 6000", "no such device"),
            ("Jetson Nano", "Jetson Orin Nano"),
            ("Snapdragon X", "Snapdragon X Elite"),
            ("0x H100", "no such device"),
            ("9999999999x H100", "no such device"),
            ("8x voodoo", "no such device"),
            ("", "found none"),
            (" , ,", "found none"),
        ] {
            let error = find(&[wanted.to_owned()]).expect_err(wanted).to_string();
            assert!(error.contains(part), "{wanted}: {error}");
        }
    }
}
