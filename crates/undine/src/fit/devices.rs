//! The devices of `devices.yaml`, and this machine.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use undine_cpu::Roofline;

use crate::memory;
use crate::work::Work;

/// What this machine is called.
pub const HERE: &str = "this machine";
/// Class of this machine, which no list has.
const CLASS_HERE: &str = "here";
/// Bytes in a gigabyte as sold: of cards, and per second.
const GIGA: f64 = 1e9;
/// Bytes in a gigabyte of memory modules.
const GIB: f64 = (1_u64 << 30) as f64;
/// Operations in a TFLOPS or TOPS.
const TERA: f64 = 1e12;
/// Largest Mac, in gigabytes, of which macOS leaves the GPU the smaller part.
const APPLE_SMALL_GB: f64 = 32.0;

/// What computes, and whose memory it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A processor with memory of its own.
    Cpu,
    /// A processor and a GPU on one memory.
    Unified,
    /// The same under macOS.
    Apple,
    /// The same where each app has a limit.
    Phone,
    /// A card.
    Gpu,
}

/// A device. Speeds are what its maker or a measurement says could at most be reached.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Device {
    /// What people call it, with the size of its memory.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its group in the file, such as `gpu` or `cloud`.
    pub class: String,
    /// Bytes that a model can have.
    pub usable_bytes: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes read per second.
    pub bytes_per_s: Option<f64>,
    /// Operations per second, where known.
    pub peaks: Option<DevicePeaks>,
    /// US dollars when it was announced.
    pub price: Option<f64>,
    /// US dollars an hour.
    pub price_per_hour: Option<f64>,
    /// Listed unless others are named.
    #[serde(skip)]
    pub shown: bool,
    /// Gigabytes as sold.
    #[serde(skip)]
    pub gigabytes: f64,
    /// Every name it has, without its memory.
    #[serde(skip)]
    pub names: Vec<String>,
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

impl Device {
    /// So many of it, as if the work were shared evenly.
    pub fn times(&self, count: u32) -> Self {
        if count == 1 {
            return self.clone();
        }
        let times = f64::from(count);
        Self {
            name: format!("{count}x {}", self.name),
            usable_bytes: self.usable_bytes * u64::from(count),
            memory_bytes: self.memory_bytes * u64::from(count),
            bytes_per_s: self.bytes_per_s.map(|bytes| bytes * times),
            peaks: self.peaks.map(|peaks| DevicePeaks {
                int8: peaks.int8 * times,
                bf16: peaks.bf16 * times,
                float: peaks.float * times,
            }),
            price: self.price.map(|price| price * times),
            price_per_hour: self.price_per_hour.map(|price| price * times),
            gigabytes: self.gigabytes * times,
            ..self.clone()
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    usable: Usable,
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Usable {
    cpu: f64,
    unified: f64,
    apple: f64,
    apple_large: f64,
    phone: f64,
    gpu: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    class: String,
    devices: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Sizes {
    One(f64),
    Several(Vec<f64>),
}

/// A line of the file: of a device itself, or (`of`) of so many of another.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    kind: Option<Kind>,
    memory: Option<Sizes>,
    bandwidth: Option<f64>,
    f16: Option<f64>,
    int8: Option<f64>,
    #[serde(default)]
    machines: Vec<String>,
    #[serde(default)]
    also: Vec<String>,
    of: Option<String>,
    count: Option<u32>,
    price: Option<f64>,
    per_hour: Option<f64>,
    #[serde(default)]
    shown: bool,
    source: String,
}

impl Row {
    /// The devices of this line; those of lines before it are `known`.
    fn devices(&self, class: &str, usable: &Usable, known: &[Device]) -> Vec<Device> {
        if let Some(of) = &self.of {
            let one = known.iter().find(|device| device.name == *of).expect("a line names one before it");
            return vec![self.several(class, one)];
        }
        let sizes = match &self.memory {
            Some(Sizes::One(size)) => vec![*size],
            Some(Sizes::Several(sizes)) => sizes.clone(),
            None => Vec::new(),
        };
        let device = |(at, gigabytes)| self.device(class, usable, gigabytes, at == 0);
        sizes.into_iter().enumerate().map(device).collect()
    }

    /// One of the sizes; the first is the one that is listed.
    fn device(&self, class: &str, usable: &Usable, gigabytes: f64, first: bool) -> Device {
        let kind = self.kind.expect("a device of its own has a kind");
        let part = match kind {
            Kind::Cpu => usable.cpu,
            Kind::Unified => usable.unified,
            Kind::Apple if gigabytes > APPLE_SMALL_GB => usable.apple_large,
            Kind::Apple => usable.apple,
            Kind::Phone => usable.phone,
            Kind::Gpu => usable.gpu,
        };
        let memory = gigabytes * if kind == Kind::Gpu { GIGA } else { GIB };
        let peaks = self.f16.map(|f16| {
            let float = f16 * TERA;
            DevicePeaks { int8: self.int8.map_or(float, |int8| int8 * TERA), bf16: float, float }
        });
        let machine = |machine: &String| [machine.clone(), format!("{machine} {}", self.name)];
        let names = [self.name.clone()].into_iter().chain(self.also.iter().cloned());
        Device {
            name: format!("{} {gigabytes}GB", self.name),
            kind,
            class: class.to_owned(),
            usable_bytes: (memory * part) as u64,
            memory_bytes: memory as u64,
            bytes_per_s: self.bandwidth.map(|bandwidth| bandwidth * GIGA),
            peaks,
            price: self.price.filter(|_| first),
            price_per_hour: self.per_hour,
            shown: self.shown && first,
            gigabytes,
            names: names.chain(self.machines.iter().flat_map(machine)).collect(),
            source: self.source.clone(),
        }
    }

    fn several(&self, class: &str, one: &Device) -> Device {
        let all = one.times(self.count.unwrap_or(1));
        Device {
            name: format!("{} ({})", self.name, all.name),
            class: class.to_owned(),
            price: self.price,
            price_per_hour: self.per_hour,
            shown: self.shown,
            names: [self.name.clone()].into_iter().chain(self.also.iter().cloned()).collect(),
            source: format!("{}; {}", self.source, one.source),
            ..all
        }
    }
}

static DEVICES: LazyLock<Vec<Device>> = LazyLock::new(|| {
    let file: File =
        serde_saphyr::from_str(include_str!("devices.yaml")).expect("devices.yaml is checked by a test");
    let mut devices = Vec::new();
    for group in &file.groups {
        for row in &group.devices {
            let more = row.devices(&group.class, &file.usable, &devices);
            devices.extend(more);
        }
    }
    devices
});

/// Every device of the file, in its order.
pub fn all() -> &'static [Device] {
    &DEVICES
}

/// This machine, as far as the system tells how much memory it has; its speeds are known when measured.
pub fn here(roofline: Option<&Roofline>) -> Option<Device> {
    let memory_bytes = memory::total_bytes()?;
    let usable_bytes = memory::available_bytes().unwrap_or(memory_bytes);
    Some(Device {
        name: HERE.to_owned(),
        kind: Kind::Cpu,
        class: CLASS_HERE.to_owned(),
        usable_bytes,
        memory_bytes,
        bytes_per_s: roofline.map(|roofline| roofline.read_bytes_per_s),
        peaks: roofline.map(|roofline| DevicePeaks {
            int8: roofline.int8_ops_per_s(),
            bf16: roofline.bf16_ops_per_s(),
            float: roofline.f32_ops_per_s(),
        }),
        price: None,
        price_per_hour: None,
        shown: true,
        gigabytes: memory_bytes as f64 / GIB,
        names: Vec::new(),
        source: if roofline.is_some() { "measured" } else { "the operating system" }.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_plausible() {
        let mut names: Vec<&str> = all().iter().map(|device| device.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len(), "names are unique");
        for device in all() {
            let name = &device.name;
            assert!(name.contains("GB"), "{name}: its name says its memory");
            let bandwidth = device.bytes_per_s.expect("published for every device");
            assert!((10e9..1e14).contains(&bandwidth), "{name}");
            assert!(device.usable_bytes <= device.memory_bytes && device.usable_bytes > 1 << 30, "{name}");
            assert!(device.source.len() > 5, "{name}");
            if let Some(peaks) = device.peaks {
                // A GPU multiplies some tens to some hundreds of times for each byte it reads, a processor a
                // few times.
                let ratio = peaks.float / bandwidth;
                assert!((2.0..1000.0).contains(&ratio), "{name}: {ratio}");
                assert!((1.0..=4.2).contains(&(peaks.int8 / peaks.float)), "{name}");
            }
            assert!(device.price.is_none_or(|price| (50.0..10_000.0).contains(&price)), "{name}");
            assert!(device.price_per_hour.is_none_or(|price| (0.1..100.0).contains(&price)), "{name}");
        }
    }

    #[test]
    fn only_arithmetic_that_nobody_publishes_is_unknown() {
        let unknown: Vec<&str> =
            all().iter().filter(|device| device.peaks.is_none()).map(|device| device.name.as_str()).collect();
        // Qualcomm says nothing of its GPUs' rates since 2024.
        let is_known = |name: &&&str| !name.starts_with("Galaxy") && !name.starts_with("Snapdragon");
        assert_eq!(unknown.iter().filter(is_known).collect::<Vec<_>>(), Vec::<&&str>::new());
    }

    #[test]
    fn what_the_system_keeps_depends_on_the_system() {
        let usable = |name: &str| {
            let device = all().iter().find(|device| device.name == name).expect("in the file");
            device.usable_bytes as f64 / GIB
        };
        for (name, gib) in [
            // macOS: two thirds, three quarters of larger ones.
            ("Apple M4 16GB", 10.67),
            ("Apple M4 Max 128GB", 96.0),
            ("iPhone 16 Pro 8GB", 4.0),
            ("Raspberry Pi 5 8GB", 6.8),
            ("DGX Spark 128GB", 96.0),
            ("RTX 4090 24GB", 22.35),
            ("DGX H100 (8x H100 SXM 80GB)", 596.05),
        ] {
            assert!((usable(name) - gib).abs() < 0.01, "{name}: {}", usable(name));
        }
    }
}
