//! One helper from its caller's side.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, setpriority_pgrp};

use crate::frame::{self, HEADER_BYTES, Header};
use crate::{Budget, Cancel, JobError, NICE_CONNECTIONS, Program, Standing, Urgency, load};

/// How often somebody who waits looks up.
const TICK: Duration = Duration::from_millis(25);
/// The `nice` value of work that took too long.
const NICE_SLOW: i32 = 19;
/// Environment that decides how a program is loaded and what time it is; the rest, with its secrets, stays
/// here.
const ENVIRONMENT: [&str; 5] = ["TZ", "TZDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LLVM_PROFILE_FILE"];
/// Longest excerpt of what a helper said before it ended.
const LAST_WORDS_BYTES_MAX: u64 = 4096;

#[derive(Debug)]
pub struct Process {
    child: Child,
    stream: UnixStream,
    urgency: Urgency,
    /// How far it has been set back.
    standing: Standing,
    was_slow: bool,
    works_for_strangers: bool,
}

impl Process {
    pub fn start(program: &Program, urgency: Urgency) -> Result<Self, JobError> {
        let (stream, theirs) = UnixStream::pair()?;
        let kept = ENVIRONMENT.iter().filter_map(|&name| Some((name, std::env::var_os(name)?)));
        let child = Command::new(&program.path)
            .args(&program.arguments)
            .env_clear()
            .envs(kept)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C is meant for the caller.
            .process_group(0)
            .spawn()?;
        load::watch();
        load::remember(child.id());
        let process = Self {
            child,
            stream,
            urgency,
            standing: Standing::Normal,
            was_slow: false,
            works_for_strangers: false,
        };
        process.stream.set_read_timeout(Some(TICK))?;
        process.stream.set_write_timeout(Some(TICK))?;
        Ok(process)
    }

    /// From here on it works for strangers.
    pub fn begin(&mut self) {
        self.works_for_strangers = true;
    }

    /// Whether its next job would stand where it has to: what has been set back cannot be brought forward.
    pub fn is_fit(&self) -> bool {
        !self.was_slow && self.standing <= self.standing_of_next()
    }

    fn standing_of_next(&self) -> Standing {
        let in_background = self.works_for_strangers && self.urgency == Urgency::Background;
        if in_background { Standing::of_background() } else { Standing::Normal }
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Has a job done. After an error the process is of no use.
    pub fn call(&mut self, job: &[u8], budget: &Budget, cancel: &Cancel) -> Result<Vec<u8>, JobError> {
        let bytes = u32::try_from(job.len()).ok().filter(|&bytes| bytes as usize <= frame::FRAME_BYTES_MAX);
        let too_long = || JobError::Died(format!("a job of {} bytes is too long for it", job.len()));
        let bytes = bytes.ok_or_else(too_long)?;
        let standing = self.standing_of_next();
        self.standing = self.standing.max(standing);
        let _counted = (standing != Standing::Normal).then(crate::Background::begin);
        let Budget { cpu_seconds, memory_mib, .. } = *budget;
        let header = Header { bytes, cpu_seconds, memory_mib, standing };
        let mut wait = Wait { begin: Instant::now(), budget, cancel };
        self.send(&header.encode(), &mut wait)?;
        self.send(job, &mut wait)?;
        let mut header = [0; HEADER_BYTES];
        self.receive(&mut header, &mut wait)?;
        let mut result = vec![0; Header::decode(header)?.bytes as usize];
        self.receive(&mut result, &mut wait)?;
        Ok(result)
    }

    fn send(&mut self, mut bytes: &[u8], wait: &mut Wait<'_>) -> Result<(), JobError> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if is_pause(&error) => self.tick(wait)?,
                Err(_) => return Err(self.autopsy(wait)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, mut room: &mut [u8], wait: &mut Wait<'_>) -> Result<(), JobError> {
        while !room.is_empty() {
            match self.stream.read(room) {
                Ok(0) => return Err(self.autopsy(wait)),
                Ok(got) => room = &mut room[got..],
                Err(error) if is_pause(&error) => self.tick(wait)?,
                Err(_) => return Err(self.autopsy(wait)),
            }
        }
        Ok(())
    }

    fn tick(&mut self, wait: &Wait<'_>) -> Result<(), JobError> {
        if wait.cancel.is_cancelled() {
            return Err(JobError::Cancelled);
        }
        let waited = wait.begin.elapsed();
        if waited > wait.budget.wall {
            return Err(JobError::wall(wait.budget));
        }
        if let Urgency::Normal { slow_after } = self.urgency
            && waited > slow_after
            && !self.was_slow
        {
            self.was_slow = true;
            self.set_back(if load::is_crowded() { NICE_CONNECTIONS } else { NICE_SLOW });
        }
        Ok(())
    }

    /// All of its threads: Linux takes the number of a process for that of its first thread, and a group for
    /// all of them. A system that does not allow it does without.
    fn set_back(&self, nice: i32) {
        let _ = setpriority_pgrp(Pid::from_raw(self.child.id().cast_signed()), nice);
    }

    /// Why it has gone away.
    fn autopsy(&mut self, wait: &Wait<'_>) -> JobError {
        // It has closed its end of the socket: what is left of it does no work.
        drop(self.child.kill());
        let status = match self.child.wait() {
            Ok(status) => status,
            Err(error) => return error.into(),
        };
        let mut words = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            drop(stderr.take(LAST_WORDS_BYTES_MAX).read_to_string(&mut words));
        }
        verdict(status, &words, wait.budget)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        load::forget(self.child.id());
    }
}

/// How long a job has been waited for, and how long it will be.
struct Wait<'a> {
    begin: Instant,
    budget: &'a Budget,
    cancel: &'a Cancel,
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// What the end of a helper says of its job. The words are those of Rust's runtime.
fn verdict(status: ExitStatus, words: &str, budget: &Budget) -> JobError {
    let is = |signal: Signal| status.signal() == Some(signal.as_raw());
    if is(Signal::XCPU) {
        return JobError::Cpu(budget.cpu_seconds);
    }
    if words.contains("memory allocation of") {
        return JobError::Memory(budget.memory_mib);
    }
    if words.contains("overflowed its stack") || is(Signal::SEGV) {
        return JobError::Stack;
    }
    let words = words.trim();
    JobError::Died(if words.is_empty() { status.to_string() } else { format!("{status}: {words}") })
}
