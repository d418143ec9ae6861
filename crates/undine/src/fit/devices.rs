//! The devices of `devices.yaml`, and this machine.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use undine_cpu::Roofline;

use crate::error::Error;
use crate::memory;
use crate::work::Work;

/// What this machine is called.
pub const HERE: &str = "this machine";
/// Bytes in a gigabyte as sold.
const GIGA: f64 = 1e9;
/// Operations in a TFLOPS or TOPS.
const TERA: f64 = 1e12;

/// What computes, and whose memory it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A processor with memory of its own.
    Cpu,
    /// A processor and a GPU on one memory.
    Unified,
    /// A card.
    Gpu,
}

/// A device. Speeds are what its vendor or a measurement says could at most be reached.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Device {
    /// What people call it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes that a model can have.
    pub usable_bytes: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes read per second.
    pub bytes_per_s: Option<f64>,
    /// Operations per second, where known.
    pub peaks: Option<DevicePeaks>,
    /// Listed unless others are named.
    #[serde(skip)]
    pub shown: bool,
    /// Where the numbers come from.
    pub source: String,
}

/// Operations per second by the type of the weights.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct DevicePeaks {
    /// Products for quantized weights.
    pub int8: f64,
    /// Products for BF16 weights.
    pub bf16: f64,
    /// Products for F16 and F32 weights.
    pub float: f64,
}

impl DevicePeaks {
    /// Seconds that the operations of `work` take at least.
    pub fn seconds(self, work: Work) -> f64 {
        work.int8_ops / self.int8 + work.bf16_ops / self.bf16 + work.f32_ops / self.float
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    usable: Usable,
    devices: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Usable {
    cpu: f64,
    unified: f64,
    gpu: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    kind: Kind,
    memory: f64,
    bandwidth: f64,
    f16: Option<f64>,
    int8: Option<f64>,
    #[serde(default)]
    shown: bool,
    source: String,
}

impl Row {
    fn device(self, usable: &Usable) -> Device {
        let part = match self.kind {
            Kind::Cpu => usable.cpu,
            Kind::Unified => usable.unified,
            Kind::Gpu => usable.gpu,
        };
        let f16 = self.f16.map(|f16| f16 * TERA);
        let peaks = f16.map(|float| {
            let int8 = self.int8.map_or(float, |int8| int8 * TERA);
            DevicePeaks { int8, bf16: float, float }
        });
        Device {
            name: self.name,
            kind: self.kind,
            usable_bytes: (self.memory * GIGA * part) as u64,
            memory_bytes: (self.memory * GIGA) as u64,
            bytes_per_s: Some(self.bandwidth * GIGA),
            peaks,
            shown: self.shown,
            source: self.source,
        }
    }
}

static DEVICES: LazyLock<Vec<Device>> = LazyLock::new(|| {
    let file: File =
        serde_saphyr::from_str(include_str!("devices.yaml")).expect("devices.yaml is checked by a test");
    file.devices.into_iter().map(|row| row.device(&file.usable)).collect()
});

/// The devices of the file whose names contain one of `wanted`, in any case; those that are shown if none is wanted,
/// and every one for `all`.
pub fn find(wanted: &[String]) -> Result<Vec<Device>, Error> {
    if wanted.is_empty() {
        return Ok(DEVICES.iter().filter(|device| device.shown).cloned().collect());
    }
    let mut found: Vec<Device> = Vec::new();
    for name in wanted {
        let lower = name.to_lowercase();
        let mut matching = DEVICES
            .iter()
            .filter(|device| lower == "all" || device.name.to_lowercase().contains(&lower))
            .peekable();
        if matching.peek().is_none() {
            let names: Vec<_> = DEVICES.iter().map(|device| device.name.as_str()).collect();
            return Err(Error::usage(format!(
                "--device {name}: expected `all` or a part of one of these names: {}",
                names.join(", ")
            )));
        }
        let new: Vec<Device> = matching.filter(|device| !found.contains(device)).cloned().collect();
        found.extend(new);
    }
    Ok(found)
}

/// This machine, as far as the system tells how much memory it has; its speeds are known when measured.
pub fn here(roofline: Option<&Roofline>) -> Option<Device> {
    let memory_bytes = memory::total_bytes()?;
    let usable_bytes = memory::available_bytes().unwrap_or(memory_bytes);
    Some(Device {
        name: HERE.to_owned(),
        kind: Kind::Cpu,
        usable_bytes,
        memory_bytes,
        bytes_per_s: roofline.map(|roofline| roofline.read_bytes_per_s),
        peaks: roofline.map(|roofline| DevicePeaks {
            int8: roofline.int8_ops_per_s(),
            bf16: roofline.bf16_ops_per_s(),
            float: roofline.f32_ops_per_s(),
        }),
        shown: true,
        source: if roofline.is_some() { "measured" } else { "the operating system" }.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_plausible() {
        let mut names: Vec<&str> = DEVICES.iter().map(|device| device.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DEVICES.len(), "names are unique");
        for device in DEVICES.iter() {
            let name = &device.name;
            let gigabytes = device.memory_bytes / GIGA as u64;
            assert!(name.contains(&format!("{gigabytes}GB")), "{name}: its name says its memory");
            let bandwidth = device.bytes_per_s.expect("a column of the file");
            assert!((10e9..1e13).contains(&bandwidth), "{name}");
            assert!(!device.source.is_empty() && device.usable_bytes <= device.memory_bytes, "{name}");
            if let Some(peaks) = device.peaks {
                assert!(peaks.float >= 1e13 && peaks.int8 >= peaks.float, "{name}");
            }
        }
    }

    #[test]
    fn devices_are_found_by_a_part_of_their_names() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
            find(&wanted).map(|found| found.into_iter().map(|device| device.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["rtx 4090"]).expect("there"), ["RTX 4090 24GB"]);
        assert_eq!(names(&["H200", "h100", "H200"]).expect("there"), ["H200 141GB", "H100 80GB SXM"]);
        assert_eq!(names(&["all"]).expect("there").len(), DEVICES.len());
        assert!((10..=20).contains(&names(&[]).expect("there").len()), "fits on a screen");
        let error = names(&["voodoo"]).expect_err("no such card").to_string();
        assert!(error.contains("RTX 4090 24GB"), "{error}");
    }
}
