//! How much memory this process may use.

/// The machine's memory in bytes, or less if the process runs under a lower limit (a container's); Linux
/// only.
pub fn total_bytes() -> Option<u64> {
    let machine = kibibytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    // Version 2 of control groups, as seen from inside a container.
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(machine, |limit: u64| limit.min(machine)))
}

/// When the system gives out huge pages by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HugePages {
    /// Wherever it can.
    Always,
    /// Where a program asks.
    Madvise,
    /// Not.
    Never,
}

/// What programs can still take without any being pushed out, in bytes, as the system estimates it; Linux
/// only.
pub fn available_bytes() -> Option<u64> {
    let available = kibibytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(total_bytes()?.min(available))
}

/// The most memory this process has held at once, in bytes; Linux only.
pub fn peak_bytes() -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// When the system gives out huge pages by itself.
pub fn huge_pages() -> Option<HugePages> {
    chosen(&std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?)
}

/// The word in brackets of `always [madvise] never`.
fn chosen(text: &str) -> Option<HugePages> {
    match text.split_once('[')?.1.split_once(']')?.0 {
        "always" => Some(HugePages::Always),
        "madvise" => Some(HugePages::Madvise),
        "never" => Some(HugePages::Never),
        _ => None,
    }
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

    #[test]
    fn the_word_in_brackets_is_chosen() {
        for (text, found) in [
            ("always [madvise] never", Some(HugePages::Madvise)),
            ("[always] madvise never", Some(HugePages::Always)),
            ("always madvise [never]", Some(HugePages::Never)),
            ("odd", None),
        ] {
            assert_eq!(chosen(text), found, "{text}");
        }
    }
}
