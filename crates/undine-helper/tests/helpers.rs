//! Jobs that end well, and jobs that end their helper: this test program is its own helper.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::exit;
use std::sync::mpsc;
use std::time::Duration;

use undine_helper::{
    Budget, Cancel, Helpers, JobError, Program, Urgency, in_background, is_crowded, is_work_in_background,
    serve,
};

const HELPER: &str = "this_process_as_a_helper";
const MARK: &str = "__helper";

const BUDGET: Budget = Budget { cpu_seconds: 1, memory_mib: 64, wall: Duration::from_secs(60) };

/// Serves if the test program was started as a helper. `Helpers` start it with this test's name.
#[test]
fn this_process_as_a_helper() {
    if std::env::args().any(|argument| argument == MARK) {
        let mut jobs = 0;
        exit(if serve(move |job| work(job, &mut jobs)) == std::process::ExitCode::SUCCESS { 0 } else { 1 });
    }
}

fn work(job: &[u8], jobs: &mut u32) -> Vec<u8> {
    *jobs += 1;
    match std::str::from_utf8(job).unwrap() {
        "count" => jobs.to_string().into_bytes(),
        "pid" => std::process::id().to_string().into_bytes(),
        "home" => format!("{:?}", std::env::var_os("HOME")).into_bytes(),
        "compute" => loop {
            std::hint::black_box(1);
        },
        "wait" => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        "pause" => {
            std::thread::sleep(Duration::from_millis(150));
            Vec::new()
        }
        #[cfg(target_os = "linux")]
        "urgency" => {
            std::thread::sleep(Duration::from_millis(100));
            urgency().into_bytes()
        }
        "leave" => exit(3),
        "fail" => panic!("a test of panics"),
        "recurse" => recurse(0).to_string().into_bytes(),
        text => match text.strip_prefix("allocate ") {
            Some(mib) => vec![1_u8; mib.parse::<usize>().unwrap() << 20].len().to_string().into_bytes(),
            None => text.repeat(2).into_bytes(),
        },
    }
}

/// The scheduling policy and the `nice` value of the calling thread.
#[cfg(target_os = "linux")]
fn urgency() -> String {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    // The fields of proc(5), without the first two.
    format!("policy {} nice {}", fields[38], fields[16])
}

fn recurse(level: u64) -> u64 {
    if std::hint::black_box(level) == u64::MAX { 0 } else { recurse(level + 1) + std::hint::black_box(level) }
}

/// They are kept whatever else the machine does.
fn helpers(budget: Budget) -> Helpers {
    helpers_with(Urgency::Normal { slow_after: Duration::from_secs(60) }, budget)
}

fn helpers_with(urgency: Urgency, budget: Budget) -> Helpers {
    let arguments = ["--exact", HELPER, MARK, "--nocapture"].map(Into::into).to_vec();
    let program = Program { path: std::env::current_exe().unwrap(), arguments };
    Helpers::new(program, urgency, budget)
}

fn ask(helpers: &Helpers, job: &str) -> Result<String, JobError> {
    helpers.call(job.as_bytes(), &Cancel::default()).map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn a_helper_does_job_after_job() {
    let helpers = helpers(BUDGET);
    assert_eq!(ask(&helpers, "ab").unwrap(), "abab");
    assert_eq!(ask(&helpers, "").unwrap(), "");
    let long = "x".repeat(3 << 20);
    assert_eq!(ask(&helpers, &long).unwrap().len(), 6 << 20);
    assert_eq!(ask(&helpers, "count").unwrap(), "4", "all of them were one helper's");
}

#[test]
fn what_a_job_takes_too_much_of_is_said_and_ends_its_helper_alone() {
    let helpers = helpers(BUDGET);
    for (job, expected) in [
        ("compute", "it takes more than 1 s of computing"),
        ("allocate 65", "it takes more than 64 MiB of memory"),
        ("recurse", "it nests too deeply: more than 32 MiB of stack"),
        ("leave", "the helper process ended: exit status: 3"),
        ("fail", "the helper process ended: exit status: 1"),
    ] {
        let error = ask(&helpers, job).unwrap_err();
        assert_eq!(error.to_string(), expected, "{job}");
        assert!(error.is_of_job(), "{job}");
        assert_eq!(ask(&helpers, "count").unwrap(), "1", "a new one after {job}");
    }
    assert_eq!(ask(&helpers, "allocate 40").unwrap(), (40 << 20).to_string());
}

#[test]
fn memory_is_counted_anew_for_each_job() {
    let helpers = helpers(BUDGET);
    for _ in 0..10 {
        ask(&helpers, "allocate 40").unwrap();
    }
    assert_eq!(ask(&helpers, "count").unwrap(), "11");
}

#[test]
fn a_job_ends_when_nobody_wants_it() {
    let helpers = helpers(BUDGET);
    let cancel = Cancel::default();
    let (begun, has_begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let job = scope.spawn(|| {
            begun.send(()).unwrap();
            helpers.call(b"wait", &cancel)
        });
        has_begun.recv().unwrap();
        cancel.cancel();
        assert!(matches!(job.join().unwrap(), Err(JobError::Cancelled)));
    });
    assert_eq!(ask(&helpers, "count").unwrap(), "1");
}

#[test]
fn waiting_has_an_end() {
    let helpers = helpers(Budget { wall: Duration::from_millis(100), ..BUDGET });
    let error = ask(&helpers, "wait").unwrap_err();
    assert!(matches!(error, JobError::Wall(_)) && !error.is_of_job(), "{error}");
}

#[test]
fn a_helper_that_was_slow_or_is_gone_is_replaced() {
    let slow_after = Duration::from_millis(50);
    let urgent = helpers_with(Urgency::Normal { slow_after }, BUDGET);
    ask(&urgent, "pause").unwrap();
    assert_eq!(ask(&urgent, "count").unwrap(), "1", "the slow one was set back and is not used again");
    let helpers = helpers(BUDGET);
    ask(&helpers, "pause").unwrap();
    assert_eq!(ask(&helpers, "count").unwrap(), "2");
    let pid = ask(&helpers, "pid").unwrap().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    // It may take a moment to go; until then it fails jobs of others, which are told so.
    let count = (0..100).find_map(|_| ask(&helpers, "count").ok()).unwrap();
    assert_eq!(count, "1");
}

#[test]
fn a_setup_precedes_the_first_job_of_each_helper() {
    let helpers = helpers(BUDGET).with_setup(b"setup".to_vec(), BUDGET);
    helpers.warm().unwrap();
    assert_eq!(ask(&helpers, "count").unwrap(), "2");
    assert_eq!(ask(&helpers, "count").unwrap(), "3");
    ask(&helpers, "leave").unwrap_err();
    assert_eq!(ask(&helpers, "count").unwrap(), "2");
}

#[test]
fn a_helper_does_not_get_the_environment() {
    assert!(std::env::var_os("HOME").is_some(), "the test needs a variable");
    assert_eq!(ask(&helpers(BUDGET), "home").unwrap(), "None");
}

#[test]
fn a_program_that_cannot_be_started_is_an_error() {
    let program = Program { path: "/nonexistent/program".into(), arguments: Vec::new() };
    let error = ask(&Helpers::new(program, Urgency::Background, BUDGET), "x").unwrap_err();
    assert!(matches!(error, JobError::Io(_)) && !error.is_of_job(), "{error}");
}

#[test]
fn work_in_the_background_has_its_stack() {
    let deep = |levels: u64| {
        move || (0..levels).fold(Vec::new(), |inner: Vec<u64>, level| vec![level + inner.len() as u64])
    };
    assert_eq!(in_background("test", 8 << 20, deep(10)).unwrap().unwrap(), [10]);
    assert!(
        in_background("test", 1 << 20, || if true {
            panic!("a test of panics")
        })
        .unwrap()
        .is_err()
    );
}

/// The thread that does the jobs, not only the first one of its process.
#[cfg(target_os = "linux")]
#[test]
fn what_is_less_urgent_comes_last() {
    let normal = |slow_after| ask(&helpers_with(Urgency::Normal { slow_after }, BUDGET), "urgency").unwrap();
    assert_eq!(normal(Duration::from_secs(60)), urgency());
    // Whether other programs keep the machine busy is not ours to say, but must not change in between.
    let (helper, here, slow) = unchanged(|| {
        let helper = ask(&helpers_with(Urgency::Background, BUDGET), "urgency").unwrap();
        let here = in_background("test", 1 << 20, || (urgency(), is_work_in_background())).unwrap().unwrap();
        (helper, here, normal(Duration::from_millis(10)))
    });
    let (last, slowest) = if is_crowded() { (CROWDED, CROWDED) } else { (SCHED_IDLE, SLOWEST) };
    assert_eq!((helper.as_str(), here, slow.as_str()), (last, (last.to_owned(), true), slowest));
}

/// Beside programs that leave nothing, work that came after everything else would not get on.
#[cfg(target_os = "linux")]
#[test]
fn work_in_the_background_gets_on_beside_other_programs() {
    let helpers = helpers_with(Urgency::Background, BUDGET);
    // One that has been set back behind everything else, if the machine was not crowded before.
    ask(&helpers, "urgency").unwrap();
    let busy = std::thread::available_parallelism().unwrap().get() * 2;
    let _others: Vec<_> = (0..busy).map(|_| Other::start()).collect();
    wait_until_crowded();
    assert_eq!(ask(&helpers, "urgency").unwrap(), CROWDED);
    assert_eq!(in_background("test", 1 << 20, urgency).unwrap().unwrap(), CROWDED);
}

#[cfg(target_os = "linux")]
const SCHED_IDLE: &str = "policy 5 nice 0";
#[cfg(target_os = "linux")]
const CROWDED: &str = "policy 0 nice 5";
#[cfg(target_os = "linux")]
const SLOWEST: &str = "policy 0 nice 19";

#[cfg(target_os = "linux")]
fn unchanged<T>(look: impl Fn() -> T) -> T {
    loop {
        let before = is_crowded();
        let seen = look();
        if is_crowded() == before {
            return seen;
        }
    }
}

#[cfg(target_os = "linux")]
fn wait_until_crowded() {
    let begin = std::time::Instant::now();
    while !is_crowded() {
        assert!(begin.elapsed() < Duration::from_secs(30), "nobody has noticed the other programs");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Another program that computes, and ends when this is dropped.
#[cfg(target_os = "linux")]
struct Other(std::process::Child);

#[cfg(target_os = "linux")]
impl Other {
    fn start() -> Self {
        Self(std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }
}

#[cfg(target_os = "linux")]
impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
