//! `undine doctor` on the command line.

use clap::Args;

/// `undine doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Leave out the measurement, which takes a second or two and 1 GiB of memory.
    #[arg(long)]
    pub no_measure: bool,
}

const EXAMPLES: &str = "Examples:
  undine doctor
  undine doctor --json | jq -r '.findings[].advice // empty'

The exit code is 0 if there is no advice, and 1 if there is.";
