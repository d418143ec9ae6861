//! The program; all of it is in `lib.rs`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Gives back what is free while the process runs: after a burst of large requests the system's own kept most
/// of it, on glibc 0.5 to 1.8 GB (`cargo xtask soak` measures it). Without transparent huge pages, which
/// would make buffers take memory that nobody has touched; weights ask for theirs themselves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    undine::main()
}
