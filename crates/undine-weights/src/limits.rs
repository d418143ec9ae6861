//! Every bound on what a file from outside may ask for. A file beyond one of them is refused before memory is
//! spent on it.

/// Key-value pairs in a GGUF header.
pub const METADATA_MAX: u64 = 1 << 16;
/// Tensors in one file.
pub const TENSORS_MAX: u64 = 1 << 17;
/// Bytes of a metadata key or a tensor name.
pub const NAME_BYTES_MAX: u64 = 1 << 16;
/// Bytes of one metadata string: chat templates are the longest.
pub const STRING_BYTES_MAX: u64 = 16 << 20;
/// Entries of one metadata array: merges are the longest.
pub const ARRAY_MAX: u64 = 1 << 24;
/// Dimensions of a GGUF tensor.
pub const GGUF_DIMS_MAX: usize = 4;
/// Dimensions of a safetensors tensor.
pub const SAFETENSORS_DIMS_MAX: usize = 8;
/// Largest alignment of GGUF tensor data, in bytes.
pub const ALIGNMENT_MAX: u32 = 1 << 16;
/// Bytes of a safetensors header.
pub const SAFETENSORS_HEADER_BYTES_MAX: u64 = 64 << 20;
/// Files of a split checkpoint.
pub const FILES_MAX: usize = 1024;
/// Bytes of config.json and the other small files of a folder. Parsed JSON takes up to about 50 times as much
/// memory.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// Bytes of model.safetensors.index.json.
pub const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Bytes of tokenizer.json.
pub const TOKENIZER_BYTES_MAX: u64 = 64 << 20;
/// Layers of a model.
pub const LAYERS_MAX: usize = 256;
/// Experts of a layer.
pub const EXPERTS_MAX: usize = 512;
/// Entries of the embedding table.
pub const VOCAB_MAX: usize = 1 << 21;
/// Width of the residual stream and of feed-forward layers.
pub const WIDTH_MAX: usize = 1 << 20;
/// Attention heads.
pub const HEADS_MAX: usize = 1 << 12;
/// Values per attention head.
pub const HEAD_DIM_MAX: usize = 1 << 12;
/// Taps of the short convolution.
pub const CONV_TAPS_MAX: usize = 64;
/// Positions a configuration may allow.
pub const CONTEXT_MAX: usize = 1 << 26;
/// End-of-sequence ids a checkpoint may list.
pub const EOS_MAX: usize = 256;
/// Texts of special tokens that a template may know.
pub const SPECIAL_TEXTS_MAX: usize = 1 << 10;
/// Chat templates of one checkpoint.
pub const TEMPLATES_MAX: usize = 64;
/// Names of tensors that are listed when they are left out.
pub const LEFT_OUT_SHOWN_MAX: usize = 3;
/// Entries of a model file's folder that are looked at for a vision tower, and of a folder for what is in it.
pub const BESIDE_MAX: usize = 1 << 12;
/// Names of texts that an importance matrix may list.
pub const IMATRIX_DATASETS_MAX: usize = 1 << 10;
