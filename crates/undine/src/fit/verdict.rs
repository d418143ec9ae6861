//! The answer in one line, and one word for each device.

use serde::Serialize;

use super::devices::{Device, HERE};
use super::speed::{Certainty, Speed};

/// Part of the memory for models that a load takes at most to run well: the rest is room for longer chats and
/// other programs.
pub const WELL_SHARE: f64 = 0.9;
/// Tokens per second at which an answer comes about as fast as it is read.
pub const WELL_TOKENS_PER_S: f64 = 10.0;
/// Bytes in a GiB and in a MiB.
const GIB: f64 = (1_u64 << 30) as f64;
const MIB: f64 = (1_u64 << 20) as f64;
/// Most devices that the line names.
const NAMED_MAX: usize = 1;

/// How a load runs on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// With room to spare, and fast enough to read along.
    Well,
    /// It fits.
    Tight,
    /// It does not fit.
    No,
}

impl Mark {
    /// Of a load of so many bytes that decodes at this speed, where that is known.
    pub fn new(needed: u64, device: &Device, decode: Option<Speed>) -> Self {
        let is_slow = decode.is_some_and(|speed| speed.tokens_per_s < WELL_TOKENS_PER_S);
        match has_room(needed, device) {
            _ if needed > device.usable_bytes => Self::No,
            true if !is_slow => Self::Well,
            _ => Self::Tight,
        }
    }

    /// The word in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Tight => "tight",
            Self::No => "no",
        }
    }
}

/// Whether so much leaves what a load that runs well leaves.
fn has_room(needed: u64, device: &Device) -> bool {
    needed as f64 <= WELL_SHARE * device.usable_bytes as f64
}

/// What the line is about.
pub struct Judged<'a> {
    /// A device.
    pub device: &'a Device,
    /// How the load runs there.
    pub mark: Mark,
    /// How fast it decodes.
    pub decode: Option<Speed>,
}

/// The line: about this machine if it is among the devices, about the only device, or about how many take the
/// load. `smaller` says what to do where it does not fit.
pub fn line(needed: u64, judged: &[Judged<'_>], smaller: Option<&str>) -> String {
    let here = judged.iter().find(|judged| judged.device.name == HERE);
    let only = judged.first().filter(|_| judged.len() == NAMED_MAX);
    let Some(Judged { device, mark, decode }) = here.or(only) else {
        let count = |mark| judged.iter().filter(|judged| judged.mark == mark).count();
        let (well, tight, no) = (count(Mark::Well), count(Mark::Tight), count(Mark::No));
        let needs = amounts(needed, needed).0;
        return format!(
            "Needs {needs}: of {} devices it runs well on {well}, is tight on {tight}, and does not fit {no}",
            judged.len()
        );
    };
    let place = if device.name == HERE { "here".to_owned() } else { format!("on {}", device.name) };
    let answer = match mark {
        Mark::Well => "Yes",
        Mark::Tight if has_room(needed, device) => "Yes, but slow",
        Mark::Tight => "Yes, but tight",
        Mark::No => "No",
    };
    let (needs, of) = amounts(needed, device.usable_bytes);
    let about = decode.map_or_else(String::new, |speed| format!("; {}", words(speed)));
    let advice =
        smaller.filter(|_| *mark == Mark::No).map_or_else(String::new, |advice| format!("; {advice}"));
    format!("{answer}: needs {needs} of {of} {place}{about}{advice}")
}

/// A speed in words.
fn words(Speed { tokens_per_s, certainty }: Speed) -> String {
    let number = rounded(tokens_per_s);
    match certainty {
        Certainty::Bound => format!("at most {number} tok/s"),
        Certainty::Estimate => format!("about {number} tok/s"),
        Certainty::Measured => format!("{number} tok/s as measured"),
    }
}

/// A count or a speed as precise as it can be believed: two digits and no more than six places.
pub fn rounded(number: f64) -> String {
    match number {
        ..10.0 => format!("{number:.1}"),
        ..1e4 => crate::format::grouped(number.round() as u64),
        ..1e6 => format!("{:.0}k", number / 1e3),
        ..1e9 => format!("{:.1}M", number / 1e6),
        _ => format!("{:.1}G", number / 1e9),
    }
}

/// Two sizes in one unit, with three digits each: `1.80` and `21.4 GiB`.
fn amounts(needed: u64, of: u64) -> (String, String) {
    let (unit, name) = if of as f64 >= GIB { (GIB, "GiB") } else { (MIB, "MiB") };
    let digits = |bytes: u64| {
        let number = bytes as f64 / unit;
        match number {
            ..9.995 => format!("{number:.2}"),
            ..99.95 => format!("{number:.1}"),
            _ => crate::format::grouped(number.round() as u64),
        }
    };
    let shown = if needed == of { format!("{} {name}", digits(needed)) } else { digits(needed) };
    (shown, format!("{} {name}", digits(of)))
}

#[cfg(test)]
mod tests {
    use super::super::devices;
    use super::*;

    fn device(name: &str, gib: f64) -> Device {
        let known = devices::all().iter().find(|device| device.name == "RTX 4090 24GB").expect("in the file");
        Device { name: name.to_owned(), usable_bytes: (gib * GIB) as u64, ..known.clone() }
    }

    fn speed(tokens_per_s: f64, certainty: Certainty) -> Option<Speed> {
        Some(Speed { tokens_per_s, certainty })
    }

    #[test]
    fn the_answer_comes_first() {
        let gib = |number: f64| (number * GIB) as u64;
        for (needed, name, usable, decode, expected) in [
            (
                1.8,
                HERE,
                21.4,
                speed(29.2, Certainty::Estimate),
                "Yes: needs 1.80 of 21.4 GiB here; about 29 tok/s",
            ),
            (
                1.8,
                HERE,
                21.4,
                speed(3.6, Certainty::Estimate),
                "Yes, but slow: needs 1.80 of 21.4 GiB here; about 3.6 tok/s",
            ),
            (
                20.0,
                HERE,
                21.4,
                speed(4.71, Certainty::Measured),
                "Yes, but tight: needs 20.0 of 21.4 GiB here; 4.7 tok/s as measured",
            ),
            (30.0, HERE, 21.4, None, "No: needs 30.0 of 21.4 GiB here; take Q4_0"),
            (
                1.8,
                "RTX 4090 24GB",
                22.4,
                speed(812.0, Certainty::Bound),
                "Yes: needs 1.80 of 22.4 GiB on RTX 4090 24GB; at most 812 tok/s",
            ),
        ] {
            let device = device(name, usable);
            let mark = Mark::new(gib(needed), &device, decode);
            let judged = [Judged { device: &device, mark, decode }];
            assert_eq!(line(gib(needed), &judged, Some("take Q4_0")), expected);
        }
        let (small, large) = (device("a", 1.0), device("b", 4.0));
        let of = |device| Judged { device, mark: Mark::new(gib(2.0), device, None), decode: None };
        let two = line(gib(2.0), &[of(&small), of(&large)], None);
        assert_eq!(two, "Needs 2.00 GiB: of 2 devices it runs well on 1, is tight on 0, and does not fit 1");
    }

    #[test]
    fn marks_have_thresholds() {
        let device = device("x", 10.0);
        let gib = |number: f64| (number * GIB) as u64;
        for (needed, decode, expected) in [
            (8.9, None, Mark::Well),
            (9.1, None, Mark::Tight),
            (10.1, None, Mark::No),
            (1.0, speed(9.9, Certainty::Bound), Mark::Tight),
            (1.0, speed(10.0, Certainty::Estimate), Mark::Well),
            (10.1, speed(100.0, Certainty::Estimate), Mark::No),
        ] {
            assert_eq!(Mark::new(gib(needed), &device, decode), expected, "{needed} {decode:?}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (number, expected) in [
            (4.71, "4.7"),
            (29.4, "29"),
            (9_999.4, "9,999"),
            (123_456.0, "123k"),
            (123_456_789.0, "123.5M"),
            (4.2e9, "4.2G"),
        ] {
            assert_eq!(rounded(number), expected);
        }
    }
}
