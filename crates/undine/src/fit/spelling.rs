//! Names of devices, cut into the words that are compared.

/// Words that say who made or sells something, and other filler.
const FILLER: [&str; 35] = [
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
    "tesla",
    "standard",
    "ml",
    "oam",
    "generation",
    "edition",
    "workstation",
    "graphics",
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
/// Words that say who made a device: another maker's is another device, whatever its number.
const MAKERS: [(&str, &[&str]); 7] = [
    ("nvidia", &["nvidia", "geforce", "rtx", "gtx", "tesla", "quadro", "jetson", "dgx"]),
    ("amd", &["amd", "radeon", "rx", "instinct", "ryzen"]),
    ("intel", &["intel", "arc"]),
    ("apple", &["apple", "iphone", "ipad", "mac", "macbook", "imac"]),
    ("qualcomm", &["qualcomm", "snapdragon"]),
    ("samsung", &["samsung", "galaxy"]),
    ("google", &["google", "pixel"]),
];
/// What a card in a laptop has in its name.
pub const LAPTOP: &str = "laptop";
/// Most devices of one kind that are sized together.
const COUNT_MAX: u32 = 4096;
/// Screens of laptops and tablets, which their names may or may not say.
const SCREENS: [&str; 7] = ["11", "13", "14", "15", "16", "24", "27"];
/// What has such a screen.
const WITH_SCREEN: [&str; 5] = ["macbook", "ipad", "pad", "imac", "zbook"];

/// How many of which device: `8xH100`, `2 x RTX 3090`, `RTX 4090 x2`, `T4:4`.
pub fn counted(name: &str) -> Option<(u32, &str)> {
    let name = name.trim();
    let is_times = |c: char| matches!(c, 'x' | 'X' | '*' | '\u{d7}');
    let before = || {
        let (count, rest) = name.split_at(name.find(|c: char| !c.is_ascii_digit())?);
        Some((count, rest.trim_start().strip_prefix(is_times)?))
    };
    let behind = || {
        let (rest, count) = name.split_at(name.trim_end_matches(|c: char| c.is_ascii_digit()).len());
        let rest = rest.trim_end();
        let one = rest.strip_suffix(':').or_else(|| {
            // `MI300X 8` is no eight of MI300.
            rest.strip_suffix(is_times).filter(|one| one.ends_with(' '))
        })?;
        Some((count, one))
    };
    let (count, one) = before().or_else(behind)?;
    let count = count.parse().ok().filter(|count| (1..=COUNT_MAX).contains(count))?;
    Some((count, one.trim()))
}

/// `16gb` to 16.
pub fn gigabytes_of(word: &str) -> Option<f64> {
    word.strip_suffix("gb")?.parse().ok()
}

/// The makers that a name tells.
pub fn makers(name: &str) -> Vec<&'static str> {
    let words = cut(name);
    let is_told = |series: &[&str]| words.iter().any(|word| series.contains(&word.as_str()));
    MAKERS.iter().filter(|(_, series)| is_told(series)).map(|(maker, _)| *maker).collect()
}

/// A name in lower case, cut where letters and digits meet.
fn cut(name: &str) -> Vec<String> {
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
    words
}

/// The words of a name that are compared; sizes of memory are one word.
pub fn words(name: &str) -> Vec<String> {
    let words = cut(name);
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
    joined.retain(|word| !(has_screen && SCREENS.contains(&word.as_str())));
    let kept = joined;
    let is_filler = |at: usize, word: &str| {
        let is_of_edition = word == "server" && kept.get(at + 1).is_some_and(|next| next == "edition");
        // `SXM4` says of which generation the socket is, as the chip does.
        let is_socket = at > 0 && kept[at - 1] == "sxm" && word.chars().all(|c| c.is_ascii_digit());
        FILLER.contains(&word) || is_of_edition || is_socket
    };
    let meant = |at: usize, word: &str| -> Vec<String> {
        let follows_number = at > 0 && kept[at - 1].len() == 4 && kept[at - 1].parse::<u32>().is_ok();
        let words: &[&str] = match word {
            "s" if follows_number => &["super"],
            "tis" if follows_number => &["ti", "super"],
            "m" | "mobile" if follows_number => &[LAPTOP],
            other => &[other],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    };
    let known = kept.iter().enumerate().filter(|(at, word)| !is_filler(*at, word));
    known.flat_map(|(at, word)| meant(at, word)).collect()
}
