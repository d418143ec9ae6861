//! Devices by the names that people type: `4090`, `m4-max`, `Mac mini M4 Pro`, `a100-80`, `Raspberry Pi 5`,
//! `gpus`.
//!
//! A name is cut into words where letters and digits meet, makers' names are left out, and what is left must
//! occur in one of a device's names in the same order. A size of memory, or a number that is the device's,
//! chooses among sizes. If some device has exactly that name, devices whose names only contain it are not
//! meant: `4060` is not an RTX 4060 Ti.

use super::devices::{Device, all};
use crate::error::Error;

/// Words that say who made or sells something, and other filler.
const FILLER: [&str; 28] = [
    "nvidia",
    "geforce",
    "rtx",
    "gtx",
    "amd",
    "radeon",
    "rx",
    "instinct",
    "intel",
    "arc",
    "apple",
    "qualcomm",
    "samsung",
    "google",
    "gpu",
    "laptop",
    "copilot",
    "pc",
    "developer",
    "kit",
    "inch",
    "chip",
    "ram",
    "unified",
    "memory",
    "2024",
    "2025",
    "2026",
];
/// Screens of laptops and tablets, which their names may or may not say.
const SCREENS: [&str; 7] = ["11", "13", "14", "15", "16", "24", "27"];
/// What has such a screen.
const WITH_SCREEN: [&str; 5] = ["macbook", "ipad", "pad", "imac", "zbook"];
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

/// A name as it is compared.
struct Query {
    words: Vec<String>,
    gigabytes: Option<f64>,
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
    for name in wanted.iter().flat_map(|list| divided(list)) {
        let matching = named(&name).ok_or_else(|| unknown(&name))?;
        let new: Vec<Device> = matching.into_iter().filter(|device| !found.contains(device)).collect();
        found.extend(new);
    }
    Ok(found)
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
    let plain: String = name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
    let class = plain.strip_suffix('s').unwrap_or(&plain);
    let of_class = |device: &&Device| plain == ALL || device.class == class || device.class == plain;
    let group: Vec<Device> = all().iter().filter(of_class).cloned().collect();
    if !group.is_empty() {
        return Some(group);
    }
    let query = Query::new(name);
    if query.words.is_empty() && query.gigabytes.is_none() {
        return None;
    }
    let matches: Vec<(Match, &Device)> =
        all().iter().filter_map(|device| query.fits(device).map(|fits| (fits, device))).collect();
    let best = matches.iter().map(|(fits, _)| *fits).max()?;
    Some(matches.into_iter().filter(|(fits, _)| *fits == best).map(|(_, device)| device.clone()).collect())
}

impl Query {
    fn new(name: &str) -> Self {
        let mut words = words(name);
        let gigabytes = words.iter().find_map(|word| gigabytes_of(word));
        words.retain(|word| gigabytes_of(word).is_none());
        Self { words, gigabytes }
    }

    fn fits(&self, device: &Device) -> Option<Match> {
        if self.gigabytes.is_some_and(|wanted| wanted != device.gigabytes) {
            return None;
        }
        let fits = device.names.iter().filter_map(|name| self.fits_name(name, device.gigabytes)).max()?;
        Some(if fits == Match::Contained && device.class == OFFERS { Match::InOffer } else { fits })
    }

    fn fits_name(&self, name: &str, gigabytes: f64) -> Option<Match> {
        let known = words(name);
        let kind = |words: &[&String]| {
            let is_exact = words.len() == known.len();
            is_in_order(words, &known).then_some(if is_exact { Match::Exact } else { Match::Contained })
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

/// `16gb` to 16.
fn gigabytes_of(word: &str) -> Option<f64> {
    word.strip_suffix("gb")?.parse().ok()
}

/// Whether `wanted` occurs in `known` in order, other words between them or not.
fn is_in_order(wanted: &[&String], known: &[String]) -> bool {
    let mut known = known.iter();
    wanted.iter().all(|word| known.any(|other| other == *word))
}

/// The words of a name, in lower case, cut where letters and digits meet; sizes of memory are one word.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = None;
    for c in name.to_lowercase().chars() {
        let kind = (c.is_alphabetic(), c.is_numeric());
        match (kind, before) {
            ((false, false), _) => before = None,
            (kind, Some(last)) if kind == last => words.last_mut().expect("one has begun").push(c),
            (kind, _) => {
                words.push(c.to_string());
                before = Some(kind);
            }
        }
    }
    let has_screen = words.iter().any(|word| WITH_SCREEN.contains(&word.as_str()));
    let mut joined: Vec<String> = Vec::new();
    for word in words {
        match joined.last_mut() {
            Some(last) if (word == "gb" || word == "gib") && last.parse::<u32>().is_ok() => {
                last.push_str("gb")
            }
            _ => joined.push(word),
        }
    }
    let is_screen = |at: usize, word: &str| {
        // The chip's number follows its letter: `M 4`.
        has_screen && SCREENS.contains(&word) && at > 0
    };
    let kept =
        joined.into_iter().enumerate().filter(|(at, word)| !is_screen(*at, word)).map(|(_, word)| word);
    kept.filter(|word| !FILLER.contains(&word.as_str())).collect()
}

fn unknown(name: &str) -> Error {
    let wanted = words(name).join(" ");
    let score = |device: &Device| {
        let of = |known: &String| strsim::jaro_winkler(&words(known).join(" "), &wanted);
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

    #[test]
    fn devices_are_found_as_people_write_them() {
        for (wanted, expected) in [
            ("4090", &["RTX 4090 24GB"][..]),
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
            (
                "m4-max",
                &["Apple M4 Max 36GB", "Apple M4 Max 48GB", "Apple M4 Max 64GB", "Apple M4 Max 128GB"],
            ),
            ("m4 max 128", &["Apple M4 Max 128GB"]),
            ("Mac mini M4 Pro", &["Apple M4 Pro 48GB", "Apple M4 Pro 24GB", "Apple M4 Pro 64GB"]),
            ("Mac Mini M4 (16 GB)", &["Apple M4 16GB"]),
            ("MacBook Air 13\" M3 (24 GB)", &["Apple M3 24GB"]),
            (
                "MacBook Pro 14-inch (M5 Pro)",
                &["Apple M5 Pro 24GB", "Apple M5 Pro 48GB", "Apple M5 Pro 64GB"],
            ),
            ("MacBook Pro 16\" M4 Max (48 GB)", &["Apple M4 Max 48GB"]),
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
            (
                "AMD Ryzen AI 9 HX 370 (Strix Point) Laptop",
                &["Ryzen AI 9 HX 370 32GB", "Ryzen AI 9 HX 370 64GB"],
            ),
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
        ] {
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
    fn near_misses_are_suggested() {
        for (wanted, part) in [
            ("RTX 4095", "RTX 4090 24GB"),
            ("rasberry pi 5", "Raspberry Pi 5"),
            ("MacBok Pro M4 Max", "Apple M4 Max"),
            ("iphone 16 pr0", "iPhone 16 Pro 8GB"),
            ("M4 Max 100GB", "Apple M4 Max"),
            ("voodoo", "RTX 4090"),
            ("nvidia", "`all`"),
        ] {
            let error = find(&[wanted.to_owned()]).expect_err(wanted).to_string();
            assert!(error.contains(part), "{wanted}: {error}");
        }
    }
}
