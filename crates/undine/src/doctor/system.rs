//! What the operating system says about the machine. Linux says most; what is not said is `None`.

use std::path::Path;
use std::time::Duration;

/// How much of the processors a group of processes may use.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CpuLimit {
    /// Processors, in parts of one.
    pub cpus: f64,
}

/// Threads of the processors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Threads {
    /// Those of the machine.
    pub online: usize,
    /// Whether cores have more than one.
    pub smt: Option<bool>,
}

/// What sets the clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Governor {
    /// Its name.
    pub name: String,
    /// Whether the clock may go beyond its nominal value.
    pub turbo: Option<bool>,
    /// The processor chooses the clock by itself, and `powersave` only leans that way.
    pub is_active_driver: bool,
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The name of the processor.
pub fn processor() -> Option<String> {
    let text = read("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The limit of the control group this process is in, as far as it can be seen from inside of a container.
pub fn cpu_limit() -> Option<CpuLimit> {
    let v2 = read("/sys/fs/cgroup/cpu.max").and_then(|text| quota(&text));
    let v1 = || {
        let [quota_us, period_us] =
            ["cfs_quota_us", "cfs_period_us"].map(|name| read(&format!("/sys/fs/cgroup/cpu/cpu.{name}")));
        quota(&format!("{} {}", quota_us?, period_us?))
    };
    v2.or_else(v1)
}

/// A quota and its period in microseconds; `max` or -1 is no quota.
fn quota(text: &str) -> Option<CpuLimit> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| CpuLimit { cpus: quota / period })
}

/// Threads of the machine.
pub fn threads() -> Threads {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let online = read("/sys/devices/system/cpu/online").and_then(|text| ranges(&text)).unwrap_or(usable);
    let smt = read("/sys/devices/system/cpu/smt/active").and_then(|text| switch(&text));
    Threads { online, smt }
}

/// How many numbers a text such as `0-3,8` stands for.
fn ranges(text: &str) -> Option<usize> {
    text.split(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(sum + last.checked_sub(first)? + 1)
    })
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// What sets the clock of the first processor.
pub fn governor() -> Option<Governor> {
    let name = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")?;
    let driver = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver").unwrap_or_default();
    let boost = read("/sys/devices/system/cpu/cpufreq/boost").and_then(|text| switch(&text));
    let no_turbo = read("/sys/devices/system/cpu/intel_pstate/no_turbo").and_then(|text| switch(&text));
    let is_active_driver = driver == "intel_pstate" || driver.ends_with("-epp");
    Some(Governor { name, turbo: boost.or(no_turbo.map(|off| !off)), is_active_driver })
}

/// The highest temperature of any thermal zone, in degrees Celsius.
pub fn hottest_celsius() -> Option<f64> {
    let zones = std::fs::read_dir("/sys/class/thermal").ok()?.flatten();
    let thousandths =
        zones.filter(|zone| zone.file_name().to_string_lossy().starts_with("thermal_zone")).filter_map(
            |zone| std::fs::read_to_string(zone.path().join("temp")).ok()?.trim().parse::<f64>().ok(),
        );
    thousandths
        .map(|thousandths| thousandths / 1000.0)
        .filter(|celsius| *celsius > 0.0)
        .max_by(f64::total_cmp)
}

/// The part of the processors' time that a hypervisor took during `watch`.
pub fn steal(watch: Duration) -> Option<f64> {
    let before = times(&read("/proc/stat")?)?;
    std::thread::sleep(watch);
    let after = times(&read("/proc/stat")?)?;
    let total = after.total.checked_sub(before.total).filter(|total| *total > 0)?;
    Some(after.stolen.saturating_sub(before.stolen) as f64 / total as f64)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Times {
    total: u64,
    stolen: u64,
}

/// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; guests are part of
/// the first two.
fn times(text: &str) -> Option<Times> {
    const PARTS: usize = 8;
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let parts: Vec<u64> = line.split_whitespace().take(PARTS).map_while(|part| part.parse().ok()).collect();
    (parts.len() == PARTS).then(|| Times { total: parts.iter().sum(), stolen: parts[PARTS - 1] })
}

/// Models in the folder that the Hugging Face tools share.
pub fn cached_models(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("models--")).count()
}

/// Free bytes of the disk that a folder is on, or would be on.
#[cfg(unix)]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let existing = folder.ancestors().find(|path| path.exists())?;
    let status = rustix::fs::statvfs(existing).ok()?;
    status.f_bavail.checked_mul(status.f_frsize)
}

/// Free bytes of the disk that a folder is on: this system is not asked.
#[cfg(not(unix))]
pub fn free_bytes(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_system_are_read() {
        for (text, cpus) in [
            ("max 100000", None),
            ("-1 100000", None),
            ("250000 100000", Some(2.5)),
            ("50000 100000", Some(0.5)),
            ("", None),
            ("1 0", None),
        ] {
            assert_eq!(quota(text).map(|limit| limit.cpus), cpus, "{text}");
        }
        for (text, count) in
            [("0", Some(1)), ("0-3", Some(4)), ("0-1,4-5,8", Some(5)), ("3-1", None), ("x", None)]
        {
            assert_eq!(ranges(text), count, "{text}");
        }
        let stat = "cpu  10 1 5 100 2 0 1 7 3 0\ncpu0 1 1 1\n";
        assert_eq!(times(stat), Some(Times { total: 126, stolen: 7 }));
        assert_eq!(times("cpu  10 1\n"), None);
    }

    #[test]
    fn the_disk_of_a_folder_that_is_not_there_yet_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let free = free_bytes(&folder.path().join("a/b"));
        assert_eq!(free.is_some(), cfg!(unix));
        assert_eq!(cached_models(&folder.path().join("a")), 0);
        std::fs::create_dir(folder.path().join("models--x--y")).expect("a folder");
        assert_eq!(cached_models(folder.path()), 1);
    }
}
