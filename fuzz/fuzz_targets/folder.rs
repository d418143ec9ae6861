//! The files of a model folder beside the weights: config.json and what else describes a model. In the input
//! they stand in the order of `FILES`, between bytes that occur in no text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undine_text::Tokenizer;
use undine_weights::Checkpoint;

const FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
];
/// Models whose weights are used: config.json, a zero byte, and they.
const MODELS: [&[u8]; 2] =
    [include_bytes!("../seeds/safetensors/dense"), include_bytes!("../seeds/safetensors/moe")];

fuzz_target!(|bytes: &[u8]| {
    for model in MODELS {
        let weights = model.splitn(2, |byte| *byte == 0).nth(1).expect("a seed has both");
        let parts = FILES.into_iter().zip(undine_fuzz::parts(bytes)).filter(|(_, part)| !part.is_empty());
        let mut files: Vec<(&str, Vec<u8>)> = parts.map(|(name, part)| (name, part.to_vec())).collect();
        files.push(("model.safetensors", weights.to_vec()));
        let Ok(checkpoint) = Checkpoint::from_folder_bytes(files) else { continue };
        undine_fuzz::read_all(&checkpoint);
        let vocab = checkpoint.config().vocab;
        let special = checkpoint.special_tokens();
        assert!(special.bos.iter().chain(&special.eos).chain(&special.pad).all(|&id| (id as usize) < vocab));
        drop(Tokenizer::new(checkpoint.vocabulary(), special));
    }
});
