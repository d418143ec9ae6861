//! The flags about images that `undine run` and `undine serve` share.

use std::path::PathBuf;

use clap::Args;

use crate::args::parse_bytes;

/// How images are seen.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Images")]
pub struct VisionArgs {
    /// The GGUF file with the model's vision tower [default: the file beside the model with mmproj in its
    /// name that is named most like it, unless it is another model's; a checkpoint folder has its own].
    #[arg(long, env = "UNDINE_MMPROJ", value_name = "FILE")]
    pub mmproj: Option<PathBuf>,
    /// Most memory for images that are kept as the model sees them, so that the next question about one need
    /// not encode it.
    #[arg(long, env = "UNDINE_IMAGE_CACHE_MEMORY_BYTES", value_name = "BYTES", default_value = "256M", value_parser = parse_bytes)]
    pub image_cache_memory_bytes: u64,
}
