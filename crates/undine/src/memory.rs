//! How much memory this process may use.

/// The machine's memory in bytes, or less if the process runs under a lower limit (a container's); Linux only.
pub fn total_bytes() -> Option<u64> {
    let machine = kibibytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    // Version 2 of control groups, as seen from inside a container.
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(machine, |limit: u64| limit.min(machine)))
}

/// What programs can still take without any being pushed out, in bytes, as the system estimates it; Linux only.
pub fn available_bytes() -> Option<u64> {
    let available = kibibytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(total_bytes()?.min(available))
}

/// The most memory this process has held at once, in bytes; Linux only.
pub fn peak_bytes() -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// A line such as `MemTotal:  24571908 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let text = "MemTotal:       24571908 kB\nMemFree:  1 kB\n";
        assert_eq!(kibibytes(text, "MemTotal:"), Some(24_571_908 * 1024));
        assert_eq!(kibibytes(text, "MemFree:"), Some(1024));
        assert_eq!(kibibytes(text, "Swap:"), None);
    }
}
