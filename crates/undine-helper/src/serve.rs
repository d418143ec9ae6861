//! A helper from its own side.

use std::process::ExitCode;

/// Does jobs until the caller goes away: `work` makes a result of each. To be called first thing in a process
/// that does nothing else.
#[cfg(unix)]
pub fn serve(work: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static) -> ExitCode {
    // What a job says on its way down is the caller's to tell; panics are caught by who works.
    std::panic::set_hook(Box::new(|_| {}));
    let thread = std::thread::Builder::new().name("helper".to_owned()).stack_size(crate::STACK_BYTES);
    let served = thread.spawn(move || unix::serve(work)).map(std::thread::JoinHandle::join);
    match served {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(error))) | Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Ok(Err(_)) => ExitCode::FAILURE,
    }
}

/// Fails: this system has no helper processes.
#[cfg(not(unix))]
pub fn serve(_: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static) -> ExitCode {
    ExitCode::FAILURE
}

#[cfg(unix)]
mod unix {
    use std::io::{self, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::time::{ClockId, clock_gettime};

    use crate::Standing;
    use crate::frame::{self, Header};

    pub fn serve(mut work: impl FnMut(&[u8]) -> Vec<u8>) -> io::Result<()> {
        // No memory of a job is left on a disk.
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        setrlimit(Resource::Core, none)?;
        setrlimit(Resource::Fsize, none)?;
        let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        while let Some((header, job)) = frame::read(&mut stream)? {
            limit(&header)?;
            header.standing.take();
            let result = work(&job);
            drop(job);
            let bytes = u32::try_from(result.len()).map_err(|_| io::Error::other("a result is too long"))?;
            stream.write_all(
                &Header { bytes, cpu_seconds: 0, memory_mib: 0, standing: Standing::Normal }.encode(),
            )?;
            stream.write_all(&result)?;
        }
        Ok(())
    }

    /// Sets the limits of a job: the system ends the process at the first, and memory beyond the second is
    /// not given.
    fn limit(header: &Header) -> io::Result<()> {
        let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec.cast_unsigned();
        lower(Resource::Cpu, used + 1 + u64::from(header.cpu_seconds))?;
        if let Some(bytes) = data_bytes() {
            lower(Resource::Data, bytes + (u64::from(header.memory_mib) << 20))?;
        }
        Ok(())
    }

    /// Sets a limit, if there is not a stricter one that cannot be raised.
    fn lower(resource: Resource, limit: u64) -> io::Result<()> {
        let maximum = getrlimit(resource).maximum;
        let current = Some(maximum.map_or(limit, |maximum| maximum.min(limit)));
        Ok(setrlimit(resource, Rlimit { current, maximum })?)
    }

    /// What the process has of what `RLIMIT_DATA` limits: private memory that it may write to.
    fn data_bytes() -> Option<u64> {
        let text = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = text.split_ascii_whitespace().nth(5)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }
}
