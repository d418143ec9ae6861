//! `undine doctor`: what this machine has for a model, what holds it back, and what to do about it.
//!
//! Facts come from the system's own files (`doctor/system.rs`, which only reads); what they mean is decided
//! here.

pub mod system;

use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use undine_cpu::roofline::READ_BYTES;
use undine_cpu::{Isa, Roofline};

use crate::args_doctor::DoctorArgs;
use crate::error::Error;
use crate::format::Bytes;
use crate::memory::{self, HugePages};
use crate::shown;
use system::{CpuLimit, Governor};

/// Free space below which a download of a middling model does not fit.
const DISK_BYTES_WANTED: u64 = 10 << 30;
/// Memory below which only the smallest models fit.
const MEMORY_BYTES_WANTED: u64 = 2 << 30;
/// Read bandwidth below which something is wrong with a machine of today, in bytes per second and thread.
const BANDWIDTH_WANTED: f64 = 4e9;
/// Part of the processor's time that a hypervisor may take before it is worth a word.
const STEAL_WANTED: f64 = 0.02;
/// Degrees Celsius from which processors slow down.
const HOT_CELSIUS: f64 = 90.0;
/// How long the processor's time is watched.
const WATCH: Duration = Duration::from_millis(200);

/// One thing looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub value: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn new(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, value: value.into(), advice: None }
    }

    /// Adds advice if it is needed.
    fn advise(self, advice: Option<&str>) -> Self {
        Self { advice: advice.map(str::to_owned), ..self }
    }
}

/// All of it.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    healthy: bool,
    findings: Vec<Finding>,
}

/// Runs the command. Advice is an exit code of its own, without a message.
pub fn run(args: &DoctorArgs) -> Result<(), Error> {
    let mut findings = examine();
    if !args.no_measure {
        findings.extend(measure()?);
    }
    let healthy = findings.iter().all(|finding| finding.advice.is_none());
    let report = Report { version: env!("CARGO_PKG_VERSION"), healthy, findings };
    let mut out = shown::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report).expect("texts are JSON"))?;
    } else {
        writeln!(out, "{:<15} {}", "version", report.version)?;
        for Finding { name, value, advice } in &report.findings {
            writeln!(out, "{name:<15} {value}")?;
            if let Some(advice) = advice {
                writeln!(out, "{:<15} -> {advice}", "")?;
            }
        }
        let advice = report.findings.iter().filter(|finding| finding.advice.is_some()).count();
        match advice {
            0 => writeln!(out, "no advice")?,
            count => writeln!(out, "{count} with advice (->)")?,
        }
    }
    if report.healthy { Ok(()) } else { Err(Error::Advice) }
}

/// Everything but the measurement; what a system does not tell is left out.
fn examine() -> Vec<Finding> {
    let mut findings = vec![instruction_set(), cores(system::cpu_limit(), system::threads())];
    findings.extend(system::governor().map(|found| governor(&found)));
    findings.extend(system::hottest_celsius().map(temperature));
    findings.extend(system::steal(WATCH).map(steal));
    findings.extend(ram());
    findings.extend(memory::huge_pages().map(huge_pages));
    findings.extend(cache());
    findings
}

fn instruction_set() -> Finding {
    let (best, all) = (Isa::detect(), Isa::available());
    let names: Vec<_> = all.iter().map(|isa| isa.name()).collect();
    let why = if all.len() > 1 { "the best of" } else { "the only one of" };
    let processor = system::processor().map_or_else(String::new, |name| format!("{name}: "));
    let value = format!("{processor}{}, {why} {}", best.name(), names.join(", "));
    let is_slow = matches!(best, Isa::Portable(_));
    let advice = "this processor (or what the virtual machine shows of it) has no AVX2 and no NEON: everything is \
                  ten times slower; in a virtual machine choose the CPU model `host`";
    Finding::new("instructions", value).advise(is_slow.then_some(advice))
}

fn cores(limit: Option<CpuLimit>, machine: system::Threads) -> Finding {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let smt = match machine.smt {
        Some(true) => ", two threads a core",
        Some(false) => ", one thread a core",
        None => "",
    };
    let quota = limit.map_or_else(String::new, |limit| format!(", quota {:.2} CPUs", limit.cpus));
    let value = format!("{usable} threads to compute with, of {}{smt}{quota}", machine.online);
    // The system rounds a quota up to whole threads, and the last of them would hold up all at each barrier.
    let is_fraction = limit.is_some_and(|limit| limit.cpus < usable as f64);
    let fraction = limit.map(|limit| {
        format!(
            "the quota of {:.2} CPUs is less than {usable} threads, which wait for each other: raise it, or use \
             --threads {}",
            limit.cpus,
            (limit.cpus.floor() as usize).max(1)
        )
    });
    let has_smt = machine.smt == Some(true) && usable > 1;
    let smt_advice =
        "two threads share a core's units: try --threads with half as many, and compare with `undine bench`";
    let advice = if is_fraction { fraction } else { has_smt.then(|| smt_advice.to_owned()) };
    Finding::new("cores", value).advise(advice.as_deref())
}

fn governor(found: &Governor) -> Finding {
    let turbo = match found.turbo {
        Some(true) => ", turbo on",
        Some(false) => ", turbo off",
        None => "",
    };
    let advice = match (found.name.as_str(), found.turbo) {
        ("powersave" | "conservative", _) if !found.is_active_driver => {
            Some("the processor stays at a low clock: `cpupower frequency-set -g performance`")
        }
        (_, Some(false)) => {
            Some("turbo is switched off in the firmware or by the system: switch it on for higher clocks")
        }
        _ => None,
    };
    Finding::new("clock", format!("governor {}{turbo}", found.name)).advise(advice)
}

fn temperature(celsius: f64) -> Finding {
    let advice = "close to where processors slow down: clean or improve the cooling";
    Finding::new("temperature", format!("{celsius:.0} degrees Celsius at the hottest place"))
        .advise((celsius >= HOT_CELSIUS).then_some(advice))
}

fn steal(part: f64) -> Finding {
    let advice = "other virtual machines take processor time from this one: measurements will vary";
    Finding::new("hypervisor", format!("took {:.1}% of the processor's time just now", 100.0 * part))
        .advise((part > STEAL_WANTED).then_some(advice))
}

fn ram() -> Option<Finding> {
    let total = memory::total_bytes()?;
    let available = memory::available_bytes().unwrap_or(total);
    let value = format!("{}, {} available", Bytes(total), Bytes(available));
    let advice = "little is left: `undine fit` tells which models and contexts fit";
    Some(Finding::new("memory", value).advise((available < MEMORY_BYTES_WANTED).then_some(advice)))
}

fn huge_pages(found: HugePages) -> Finding {
    let value = match found {
        HugePages::Always => "transparent, always",
        HugePages::Madvise => "transparent, on request",
        HugePages::Never => "never",
    };
    let advice = "decoding is slower without: write `madvise` to /sys/kernel/mm/transparent_hugepage/enabled";
    Finding::new("huge pages", value).advise((found == HugePages::Never).then_some(advice))
}

fn cache() -> Option<Finding> {
    let folder = undine_hub::Settings::from_env(None).ok()?.cache;
    let shown = folder.display();
    let models = system::cached_models(&folder);
    let Some(free) = system::free_bytes(&folder) else {
        return Some(Finding::new("model cache", format!("{shown}: {models} models")));
    };
    let advice = "little space is left for models: remove some, or set HF_HOME to another disk";
    let value = format!("{shown}: {models} models, {} free", Bytes(free));
    Some(Finding::new("model cache", value).advise((free < DISK_BYTES_WANTED).then_some(advice)))
}

fn measure() -> Result<Option<Finding>, Error> {
    // Twice the memory that it takes: a measurement must not push others out.
    if memory::available_bytes().is_some_and(|available| available < 2 * READ_BYTES as u64) {
        return Ok(Some(Finding::new("bandwidth", "not measured: too little memory is available")));
    }
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(undine_cpu::pool::THREADS_MAX);
    let roofline = Roofline::measure(threads)?;
    let giga = |number: f64| number / 1e9;
    let value = format!(
        "{:.1} GB/s read by {threads} threads; {:.0} GOP/s for quantized weights, {:.0} for float ones",
        giga(roofline.read_bytes_per_s),
        giga(roofline.int8_ops_per_s()),
        giga(roofline.f32_ops_per_s())
    );
    let is_slow = roofline.read_bytes_per_s / (threads.min(2) as f64) < BANDWIDTH_WANTED;
    let advice =
        "far less than machines of today have: is another program busy, or is only one memory slot filled?";
    Ok(Some(Finding::new("bandwidth", value).advise(is_slow.then_some(advice))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::system::Threads;

    #[test]
    fn findings_bring_advice_where_it_is_due() {
        let usable = std::thread::available_parallelism().map_or(1, usize::from);
        let plain = Threads { online: usable, smt: Some(false) };
        let quota = |cpus: f64| Some(CpuLimit { cpus });
        let clock = |name: &str, turbo, is_active_driver| {
            governor(&Governor { name: name.to_owned(), turbo, is_active_driver })
        };
        for (finding, part) in [
            (cores(None, plain), None),
            (cores(quota(usable as f64), plain), None),
            (cores(quota(0.5), plain), Some("--threads 1")),
            (cores(None, Threads { smt: Some(true), ..plain }), (usable > 1).then_some("half as many")),
            (clock("performance", Some(true), false), None),
            (clock("powersave", None, false), Some("cpupower")),
            (clock("powersave", None, true), None),
            (clock("schedutil", Some(false), false), Some("turbo")),
            (temperature(60.0), None),
            (temperature(95.0), Some("cooling")),
            (steal(0.001), None),
            (steal(0.2), Some("virtual machines")),
            (huge_pages(HugePages::Madvise), None),
            (huge_pages(HugePages::Never), Some("madvise")),
        ] {
            let advice = finding.advice.as_deref();
            assert_eq!(advice.is_some(), part.is_some(), "{finding:?}");
            assert!(advice.unwrap_or_default().contains(part.unwrap_or_default()), "{finding:?}");
        }
    }

    #[test]
    fn every_machine_has_instructions_and_cores() {
        let findings = examine();
        assert!(findings.iter().any(|finding| finding.value.contains(Isa::detect().name())), "{findings:?}");
        assert!(findings.iter().any(|finding| finding.name == "cores"), "{findings:?}");
    }
}
