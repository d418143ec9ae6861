//! Whether other programs leave this one any processor time: work in the background gets what others leave,
//! and would get nothing beside a long build.

#[cfg(target_os = "linux")]
pub use linux::{forget, is_crowded, remember, watch};

/// Elsewhere nothing is put behind everything else, so that nothing has to be looked for.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    pub fn is_crowded() -> bool {
        false
    }
    pub fn watch() {}
    pub fn remember(_: u32) {}
    pub fn forget(_: u32) {}
}
#[cfg(not(target_os = "linux"))]
pub use elsewhere::{forget, is_crowded, remember, watch};

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeSet;
    use std::fs::read_to_string;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, Once, PoisonError};
    use std::time::Duration;

    /// How long one look is. The kernel counts in hundredths of a second.
    const WINDOW: Duration = Duration::from_millis(500);
    /// The part of the processors' time that others must take for the machine to be crowded: half is what
    /// they get beside an engine that wants all of it. Our own clients on the same machine take less.
    const FOREIGN_TO_ENTER: f64 = 0.4;
    /// The part below which it is no longer: others get less as soon as our work is brought forward.
    const FOREIGN_TO_STAY: f64 = 0.2;
    /// If more than this part is left, work in the background gets on.
    const UNUSED_MAX: f64 = 0.25;

    static CROWDED: AtomicBool = AtomicBool::new(false);
    /// Helpers that have not been waited for, by their process numbers.
    static HELPERS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

    /// Whether other programs keep this process's processors busy: what comes after everything else would
    /// hardly get on.
    pub fn is_crowded() -> bool {
        CROWDED.load(Ordering::Relaxed)
    }

    /// Counts a helper's time as this program's.
    pub fn remember(helper: u32) {
        HELPERS.lock().unwrap_or_else(PoisonError::into_inner).insert(helper);
    }

    /// A helper that has been waited for: the system counts its time as this process's now.
    pub fn forget(helper: u32) {
        HELPERS.lock().unwrap_or_else(PoisonError::into_inner).remove(&helper);
    }

    /// Looks at the machine from now on, twice a second. Where it cannot be looked at it is not crowded.
    pub fn watch() {
        static WATCH: Once = Once::new();
        WATCH.call_once(|| {
            let thread = std::thread::Builder::new().name("undine-load".to_owned()).stack_size(256 << 10);
            drop(thread.spawn(look));
        });
    }

    fn look() {
        let mut before = Ticks::now();
        while let Some(last) = before {
            std::thread::sleep(WINDOW);
            before = Ticks::now();
            if let Some(now) = before {
                CROWDED.store(now.since(&last).is_crowded(is_crowded()), Ordering::Relaxed);
            }
        }
    }

    /// Hundredths of seconds of the processors that this process may use.
    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Ticks {
        busy: u64,
        unused: u64,
        /// What this process and its helpers took of the busy ones.
        ours: u64,
    }

    impl Ticks {
        fn now() -> Option<Self> {
            let (busy, unused) = processors(&read_to_string("/proc/stat").ok()?)?;
            // Those who have been waited for are counted with this process.
            let mut ours = process_ticks("self", 4)?;
            for helper in HELPERS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                ours += process_ticks(&helper.to_string(), 2).unwrap_or(0);
            }
            Some(Self { busy, unused, ours })
        }

        fn since(self, before: &Self) -> Self {
            Self {
                busy: self.busy.saturating_sub(before.busy),
                unused: self.unused.saturating_sub(before.unused),
                ours: self.ours.saturating_sub(before.ours),
            }
        }

        #[expect(clippy::cast_precision_loss, reason = "of half a second")]
        fn is_crowded(self, was_crowded: bool) -> bool {
            let all = (self.busy + self.unused) as f64;
            let foreign = self.busy.saturating_sub(self.ours) as f64;
            let least = if was_crowded { FOREIGN_TO_STAY } else { FOREIGN_TO_ENTER };
            foreign > least * all && self.unused as f64 <= UNUSED_MAX * all
        }
    }

    /// The busy and the unused ticks in the text of `/proc/stat`. Time that a hypervisor took is neither.
    fn processors(stat: &str) -> Option<(u64, u64)> {
        let ours = rustix::thread::sched_getaffinity(None).ok()?;
        let (mut busy, mut unused) = (0, 0);
        for line in stat.lines() {
            let Some((number, times)) = line.strip_prefix("cpu").and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            // The first line is of all of them.
            let Ok(number) = number.parse() else { continue };
            if ours.is_set(number) {
                let times: Vec<u64> =
                    times.split_ascii_whitespace().map_while(|time| time.parse().ok()).collect();
                let [user, nice, system, idle, waiting, irq, softirq, ..] = times[..] else { return None };
                busy += user + nice + system + irq + softirq;
                unused += idle + waiting;
            }
        }
        (busy + unused > 0).then_some((busy, unused))
    }

    /// The first so many of a process's times: its own in user and in system mode, and those of its children.
    fn process_ticks(process: &str, times: usize) -> Option<u64> {
        let stat = read_to_string(format!("/proc/{process}/stat")).ok()?;
        // A name may hold anything but ends with the last parenthesis; fields 14 and on of proc(5) are meant.
        let fields = stat.rsplit(')').next()?.split_ascii_whitespace();
        fields.skip(11).take(times).map(|time| time.parse::<u64>().ok()).sum()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_others_who_leave_little_make_a_crowd() {
            let is_crowded = |busy, ours, was| Ticks { busy, unused: 100 - busy, ours }.is_crowded(was);
            for (what, busy, ours, expected) in [
                ("a machine at rest", 2, 1, false),
                ("our engine on all processors", 98, 97, false),
                ("our engine, and clients that take a third", 99, 66, false),
                ("a build on all processors", 100, 0, true),
                ("a build beside our engine", 100, 50, true),
                ("a program that leaves half of them", 50, 0, false),
                ("a program that leaves a quarter", 76, 1, true),
            ] {
                assert_eq!(is_crowded(busy, ours, false), expected, "{what}");
            }
            assert!(is_crowded(100, 70, true), "what gets on because of the crowd does not end it");
            assert!(!is_crowded(100, 85, true));
            assert!(!is_crowded(60, 5, true));
        }

        #[test]
        fn our_own_work_is_seen_as_ours() {
            let before = Ticks::now().unwrap();
            let begin = std::time::Instant::now();
            while begin.elapsed() < Duration::from_millis(200) {
                std::hint::black_box(1);
            }
            let spent = Ticks::now().unwrap().since(&before);
            assert!(spent.ours > 0 && spent.busy + spent.unused > 0, "{spent:?}");
        }
    }
}
