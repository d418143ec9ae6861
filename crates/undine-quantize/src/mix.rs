//! Which type each tensor has in a file of a given quantization: the mixes that llama.cpp writes for LFM2, so
//! that sizes, speeds and answers compare like with like. `tests/mixes.rs` holds this table against what
//! llama.cpp itself chooses.

use std::fmt;
use std::str::FromStr;

use undine_core::DType;

macro_rules! mixes {
    ($($variant:ident = $name:literal, $base:ident, $file_type:literal;)*) => {
        /// A quantization by the name people use for the whole file.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Mix { $(#[doc = $name] $variant,)* }

        impl Mix {
            /// Every quantization that can be written, best first.
            pub const ALL: &'static [Mix] = &[$(Mix::$variant,)*];

            /// The name, such as `Q4_K_M`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The type of most matrices.
            pub fn base(self) -> DType {
                match self { $(Self::$variant => DType::$base,)* }
            }

            /// `general.file_type`, the number GGUF has for it.
            pub fn file_type(self) -> u32 {
                match self { $(Self::$variant => $file_type,)* }
            }
        }
    };
}

mixes! {
    F32 = "F32", F32, 0;
    BF16 = "BF16", BF16, 32;
    F16 = "F16", F16, 1;
    Q8_0 = "Q8_0", Q8_0, 7;
    Q6_K = "Q6_K", Q6_K, 18;
    Q5_1 = "Q5_1", Q5_1, 9;
    Q5_K_M = "Q5_K_M", Q5_K, 17;
    Q5_K_S = "Q5_K_S", Q5_K, 16;
    Q5_0 = "Q5_0", Q5_0, 8;
    Q4_1 = "Q4_1", Q4_1, 3;
    Q4_K_M = "Q4_K_M", Q4_K, 15;
    Q4_K_S = "Q4_K_S", Q4_K, 14;
    IQ4_NL = "IQ4_NL", IQ4_NL, 25;
    Q4_0 = "Q4_0", Q4_0, 2;
    IQ4_XS = "IQ4_XS", IQ4_XS, 30;
    Q3_K_L = "Q3_K_L", Q3_K, 13;
    Q3_K_M = "Q3_K_M", Q3_K, 12;
    Q3_K_S = "Q3_K_S", Q3_K, 11;
    Q2_K = "Q2_K", Q2_K, 10;
    IQ3_M = "IQ3_M", IQ3_S, 27;
    IQ3_S = "IQ3_S", IQ3_S, 26;
    Q2_K_S = "Q2_K_S", Q2_K, 21;
    IQ2_XXS = "IQ2_XXS", IQ2_XXS, 19;
}

/// What a matrix is, as far as its type depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The head, and the token embedding that serves as one.
    Head,
    /// A token embedding beside a head.
    Embedding,
    /// Value projection.
    Value,
    /// Output projection of attention.
    AttentionOut,
    /// Down projection of a feed-forward or of experts.
    Down,
    /// Every other matrix.
    Matrix,
}

/// A tensor's place among the tensors of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Which one it is, from 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

/// What else a type depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Circumstances {
    /// There is an importance matrix, which lets some matrices do with less.
    pub imatrix: bool,
    /// There are experts, beside which attention is small.
    pub experts: bool,
}

impl Mix {
    /// The type of a matrix. Down projections are placed among the layers, value projections among those with
    /// attention.
    pub fn dtype(self, role: Role, place: Place, circumstances: Circumstances) -> DType {
        let base = self.base();
        if base.is_float() {
            return base;
        }
        let Place { index, count } = place;
        let early = index < count / 8;
        match (role, self) {
            (Role::Head, Self::Q8_0) => DType::Q8_0,
            (Role::Head, Self::IQ2_XXS) => DType::Q5_K,
            (Role::Embedding, Self::IQ2_XXS) => DType::Q2_K,
            (Role::Value, Self::IQ2_XXS) if circumstances.experts => DType::Q4_K,
            (Role::Value, Self::IQ2_XXS) => DType::Q2_K,
            (Role::Value | Role::AttentionOut, Self::IQ3_M) => DType::Q4_K,
            (Role::Head, _) => DType::Q6_K,
            (Role::Value | Role::Down, Self::Q3_K_L) => DType::Q5_K,
            (Role::Value | Role::Down, Self::Q4_K_M | Self::Q5_K_M) if place.deserves_more_bits() => {
                DType::Q6_K
            }
            (Role::Value | Role::AttentionOut | Role::Down, Self::Q2_K) => DType::Q3_K,
            (Role::Value, Self::Q3_K_M) if index < 2 => DType::Q5_K,
            (Role::Value, Self::Q4_K_S) if index < 4 => DType::Q5_K,
            (Role::Down, Self::Q3_K_M) if index < count / 16 => DType::Q5_K,
            (Role::Value | Role::AttentionOut | Role::Down, Self::Q3_K_M) => DType::Q4_K,
            (Role::AttentionOut, Self::Q3_K_L) => DType::Q5_K,
            (Role::Down, Self::Q4_K_S) if early => DType::Q5_K,
            (Role::Down, Self::Q2_K_S | Self::IQ3_M) if early => DType::Q4_K,
            (Role::Down, Self::IQ2_XXS) if early => DType::Q2_K,
            (Role::Down, _) if early => match (self, circumstances.imatrix) {
                (Self::IQ4_NL | Self::IQ4_XS, false) => DType::Q5_K,
                (Self::Q4_0, true) => DType::Q4_1,
                (Self::Q5_0, true) => DType::Q5_1,
                _ => base,
            },
            _ => base,
        }
    }
}

impl Place {
    /// The first and last eighth, and every third layer between.
    fn deserves_more_bits(self) -> bool {
        let Self { index, count } = self;
        index < count / 8 || index >= 7 * count / 8 || (index - count / 8) % 3 == 2
    }
}

/// The type that takes the place of `dtype` where rows of `cols` values are not whole blocks of it: the
/// nearest with blocks of 32 values, or F16.
pub fn fitting(dtype: DType, cols: usize) -> DType {
    let smaller = match dtype {
        DType::Q2_K | DType::Q3_K => DType::Q4_0,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        DType::IQ4_XS | DType::IQ3_S | DType::IQ2_XXS => DType::IQ4_NL,
        other => other,
    };
    let fits = |dtype: &DType| dtype.row_bytes(cols).is_some();
    [dtype, smaller].into_iter().find(fits).unwrap_or(DType::F16)
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Names of mixes whose types are read and not written.
const READ_ONLY: [&str; 12] = [
    "IQ1_S",
    "IQ1_M",
    "IQ2_XS",
    "IQ2_S",
    "IQ2_M",
    "IQ3_XXS",
    "IQ3_XS",
    "TQ1_0",
    "TQ2_0",
    "MXFP4",
    "MXFP4_MOE",
    "NVFP4",
];

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The names without a size are what people say for the middle one.
        let text = match text.to_ascii_uppercase().as_str() {
            "Q3_K" => "Q3_K_M".to_owned(),
            "Q4_K" => "Q4_K_M".to_owned(),
            "Q5_K" => "Q5_K_M".to_owned(),
            other => other.to_owned(),
        };
        Self::ALL.iter().copied().find(|mix| mix.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|mix| mix.name()).collect();
            let expected = format!("expected one of {}", names.join(", "));
            if READ_ONLY.contains(&text.as_str()) {
                return format!("files in {text} are read and run, but not written here; {expected}");
            }
            expected
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_in_any_case() {
        for &mix in Mix::ALL {
            assert_eq!(mix.name().to_lowercase().parse(), Ok(mix));
        }
        assert_eq!("q4_k".parse(), Ok(Mix::Q4_K_M));
        assert!("Q9_Z".parse::<Mix>().unwrap_err().contains("Q4_K_M"));
        for name in ["iq2_xs", "IQ3_XXS", "tq1_0", "MXFP4"] {
            let error = name.parse::<Mix>().expect_err("not written");
            assert!(
                error.contains(&format!("{} are read and run, but not written", name.to_uppercase())),
                "{error}"
            );
        }
    }

    #[test]
    fn more_bits_go_to_the_ends_and_every_third_layer() {
        let more: Vec<usize> =
            (0..16).filter(|&index| Place { index, count: 16 }.deserves_more_bits()).collect();
        assert_eq!(more, [0, 1, 4, 7, 10, 13, 14, 15]);
    }

    #[test]
    fn rows_that_are_not_whole_blocks_take_another_type() {
        for (dtype, cols, expected) in [
            (DType::Q4_K, 512, DType::Q4_K),
            (DType::Q4_K, 1056, DType::Q5_0),
            (DType::Q6_K, 1056, DType::Q8_0),
            (DType::Q2_K, 32, DType::Q4_0),
            (DType::IQ4_XS, 288, DType::IQ4_NL),
            (DType::Q8_0, 1000, DType::F16),
            (DType::Q5_K, 1000, DType::F16),
            (DType::BF16, 1, DType::BF16),
        ] {
            assert_eq!(fitting(dtype, cols), expected, "{dtype} of {cols}");
        }
    }
}
