//! The MODEL of `undine fit` where it is a name: which checkpoint it stands for, and in which quantization.

use std::path::Path;

use undine_quantize::Mix;

use crate::error::Error;
use crate::hub;
use crate::synth::shapes::{self, Shape};

/// What repositories of GGUF files add to a checkpoint's name.
const GGUF: &str = "-gguf";
/// What Ollama's names have in the place of a quantization when they mean none.
const LATEST: &str = "latest";

/// A name in its parts.
pub struct Named {
    /// The shape that it stands for.
    pub shape: Shape,
    /// The checkpoint, as it was written.
    pub checkpoint: String,
    /// What the name says of the quantization.
    quant: Option<String>,
}

impl Named {
    /// Reads a name; `None` if no shape has it. Nothing is fetched to be sized.
    pub fn read(name: &str) -> Option<Self> {
        if let Some(hub) = hub::name(Path::new(name)) {
            // A GGUF file's name always says its quantization, in words that have to be understood.
            let of_file = || {
                let stem = hub.file.as_ref()?.strip_suffix(".gguf")?;
                Some(undine_hub::split_part(stem).map_or(stem, |(stem, ..)| stem).to_owned())
            };
            let quant = hub.quant.clone().or_else(of_file);
            return Self::of(hub.repo.name(), quant);
        }
        let of_name = || Self::of(name, None);
        // `LFM2-1.2B:Q8_0`, and `lfm2:1.2b:Q8_0`, of which the hub's names know only types of files.
        let marked = || {
            let (name, quant) = name.rsplit_once(':')?;
            let named = Self::read(name)?;
            Some(Self { quant: (quant != LATEST).then(|| quant.to_owned()).or(named.quant), ..named })
        };
        // `LFM2-1.2B-Q8_0`, as files are called.
        let ending = || {
            let (name, quant) = name.rsplit_once('-')?;
            quant.parse::<Mix>().ok()?;
            Self::of(name, Some(quant.to_owned()))
        };
        of_name().or_else(marked).or_else(ending)
    }

    fn of(name: &str, quant: Option<String>) -> Option<Self> {
        let bare = name
            .len()
            .checked_sub(GGUF.len())
            .filter(|&at| name.is_char_boundary(at) && name[at..].eq_ignore_ascii_case(GGUF));
        let checkpoint = name[..bare.unwrap_or(name.len())].to_owned();
        Some(Self { shape: shapes::find(&checkpoint)?, checkpoint, quant })
    }

    /// The quantization that the name and `--type` say.
    ///
    /// # Errors
    /// If they contradict each other, or the name says one that is not known.
    pub fn mix(&self, asked: Option<Mix>) -> Result<Option<Mix>, Error> {
        let Some(quant) = &self.quant else { return Ok(asked) };
        // Of `LFM2-1.2B-Q8_0`, the end of a file's name, the last words.
        let ends = std::iter::successors(Some(quant.as_str()), |rest| Some(rest.split_once(['-', '.'])?.1));
        let found = ends.filter_map(|end| end.parse::<Mix>().ok()).next();
        match (found, asked) {
            (Some(named), Some(asked)) if named != asked => Err(Error::usage(format!(
                "the name says {}, and --type says {}: leave out one of them",
                named.name(),
                asked.name()
            ))),
            (Some(named), _) => Ok(Some(named)),
            (None, _) => {
                let why = quant.parse::<Mix>().expect_err("none of its ends is one");
                Err(Error::usage(format!("MODEL: {quant} in the name is no type that can be sized: {why}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_its_quantization() {
        for (name, checkpoint, expected) in [
            ("LFM2-1.2B", "LFM2-1.2B", None),
            ("LiquidAI/LFM2-1.2B", "LFM2-1.2B", None),
            ("LiquidAI/LFM2-1.2B-GGUF", "LFM2-1.2B", None),
            ("LFM2-1.2B-gguf", "LFM2-1.2B", None),
            ("LFM2-1.2B:latest", "LFM2-1.2B", None),
            ("lfm2:1.2b", "LFM2-1.2B", None),
            ("hf.co/LiquidAI/LFM2-8B-A1B-GGUF:BF16", "LFM2-8B-A1B", Some("BF16")),
            ("LiquidAI/LFM2-1.2B-GGUF:Q8_0", "LFM2-1.2B", Some("Q8_0")),
            ("LiquidAI/LFM2-1.2B-GGUF@main:q8_0", "LFM2-1.2B", Some("Q8_0")),
            ("LiquidAI/LFM2-1.2B-GGUF/LFM2-1.2B-Q6_K.gguf", "LFM2-1.2B", Some("Q6_K")),
            ("LiquidAI/LFM2-8B-A1B-GGUF/LFM2-8B-A1B-F16-00001-of-00002.gguf", "LFM2-8B-A1B", Some("F16")),
            ("https://hf.co/LiquidAI/LFM2-1.2B-GGUF/blob/main/LFM2-1.2B-F16.gguf", "LFM2-1.2B", Some("F16")),
            ("lfm2:1.2b:Q8_0", "LFM2-1.2B", Some("Q8_0")),
            ("lfm2:1.2b-q8_0", "LFM2-1.2B", Some("Q8_0")),
            ("LFM2-1.2B:Q8_0", "LFM2-1.2B", Some("Q8_0")),
            ("1.2b:f16", "1.2b", Some("F16")),
            ("LFM2-1.2B-Q8_0", "LFM2-1.2B", Some("Q8_0")),
            ("LFM2-1.2B-GGUF:q4_k", "LFM2-1.2B", Some("Q4_K_M")),
        ] {
            let named = Named::read(name).unwrap_or_else(|| panic!("{name} is known"));
            let mix = named.mix(None).unwrap_or_else(|error| panic!("{name}: {error}")).map(Mix::name);
            assert_eq!((named.checkpoint.as_str(), mix), (checkpoint, expected), "{name}");
            if let Some(mix) = mix.map(|mix| mix.parse::<Mix>().expect("a type")) {
                assert_eq!(named.mix(Some(mix)).expect("agrees"), Some(mix), "{name}");
                let error = named.mix(Some(Mix::Q2_K)).expect_err(name).to_string();
                assert!(error.contains("--type says Q2_K"), "{name}: {error}");
            }
        }
    }

    #[test]
    fn a_name_that_says_an_unknown_one_is_refused() {
        for name in [
            "LiquidAI/LFM2-1.2B-GGUF:nonsense",
            "lfm2:1.2b:nonsense",
            "LFM2-1.2B:nonsense",
            "unsloth/LFM2-1.2B-GGUF:UD-Q4_K_XL",
            "unsloth/LFM2-1.2B-GGUF/LFM2-1.2B-UD-Q4_K_XL.gguf",
            "LFM2-1.2B:IQ1_S",
        ] {
            for asked in [None, Some(Mix::Q8_0)] {
                let named = Named::read(name).unwrap_or_else(|| panic!("{name} is known"));
                let error = named.mix(asked).expect_err(name).to_string();
                assert!(error.contains("expected one of") && error.contains("Q4_K_M"), "{name}: {error}");
            }
        }
        for name in ["nonsense", "nonsense:Q8_0", "a/b:Q8_0", ":", "-", "LFM2-7B-Q8_0"] {
            assert!(Named::read(name).is_none(), "{name}");
        }
    }
}
