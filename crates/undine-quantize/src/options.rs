//! What the user wants.

use std::str::FromStr;

use regex::Regex;
use undine_core::DType;

use crate::mix::Mix;

/// A type for every matrix whose name matches.
#[derive(Clone, Debug)]
pub struct TypeOverride {
    /// Sought in the tensor's name; may match any part of it.
    pub pattern: Regex,
    /// The type.
    pub dtype: DType,
}

impl FromStr for TypeOverride {
    type Err = String;

    /// Parses `PATTERN=TYPE`, such as `ffn_down=q6_k` or `blk\.[0-3]\.=Q8_0`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (pattern, name) = text.rsplit_once('=').ok_or("expected PATTERN=TYPE, such as ffn_down=Q6_K")?;
        let dtype = parse_dtype(name)?;
        let pattern = Regex::new(pattern).map_err(|error| format!("not a regular expression: {error}"))?;
        Ok(Self { pattern, dtype })
    }
}

/// Parses the name of a tensor type.
///
/// # Errors
/// A sentence with the names there are.
pub fn parse_dtype(name: &str) -> Result<DType, String> {
    let written = || DType::ALL.iter().filter(|dtype| dtype.is_written()).map(|dtype| dtype.name());
    let names = || written().collect::<Vec<_>>().join(", ");
    match DType::parse(name) {
        Some(dtype) if dtype.is_written() => Ok(dtype),
        Some(dtype) => Err(format!(
            "files with tensors of type {dtype} are read and run, but nothing is encoded in it; expected one of {}",
            names()
        )),
        None => Err(format!("no tensor type is named {name:?}; expected one of {}", names())),
    }
}

/// What a file is to become. Of several wishes for a tensor, the first of these counts: an override, the type
/// for its kind, the mix.
#[derive(Clone, Debug)]
pub struct Options {
    /// The mix of types.
    pub mix: Mix,
    /// Give every matrix the base type of the mix.
    pub pure: bool,
    /// Type of the head, or of the token embedding that serves as one.
    pub output_type: Option<DType>,
    /// Type of the token embedding.
    pub embedding_type: Option<DType>,
    /// By name; the first that matches counts.
    pub overrides: Vec<TypeOverride>,
}

impl Options {
    /// The mix as it is.
    pub fn new(mix: Mix) -> Self {
        Self { mix, pure: false, output_type: None, embedding_type: None, overrides: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_parse() {
        let parsed: TypeOverride = r"blk\.[0-3]\.ffn=q6_k".parse().expect("parses");
        assert_eq!((parsed.pattern.as_str(), parsed.dtype), (r"blk\.[0-3]\.ffn", DType::Q6_K));
        for (text, expected) in [
            ("ffn_down", "PATTERN=TYPE"),
            ("ffn_down=Q9", "no tensor type is named \"Q9\""),
            (
                "ffn_down=iq1_m",
                "type IQ1_M are read and run, but nothing is encoded in it; expected one of F32",
            ),
            ("[=Q8_0", "not a regular expression"),
        ] {
            let error = text.parse::<TypeOverride>().expect_err("refused");
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
