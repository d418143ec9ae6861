//! Which type each tensor has in a file of a given quantization: the mixes llama.cpp writes for LFM2 without an
//! importance matrix, so that sizes and speeds compare like with like.

use std::fmt;
use std::str::FromStr;

use undine_core::DType;

use super::plan::Role;

macro_rules! mixes {
    ($($variant:ident = $name:literal, $base:ident, $file_type:literal;)*) => {
        /// A quantization by the name people use for the whole file.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mix { $(#[doc = $name] $variant,)* }

        impl Mix {
            /// Every quantization that can be written.
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
    F16 = "F16", F16, 1;
    BF16 = "BF16", BF16, 32;
    Q8_0 = "Q8_0", Q8_0, 7;
    Q6_K = "Q6_K", Q6_K, 18;
    Q5_K_M = "Q5_K_M", Q5_K, 17;
    Q5_0 = "Q5_0", Q5_0, 8;
    Q5_1 = "Q5_1", Q5_1, 9;
    Q4_K_M = "Q4_K_M", Q4_K, 15;
    Q4_0 = "Q4_0", Q4_0, 2;
    Q4_1 = "Q4_1", Q4_1, 3;
    Q3_K_M = "Q3_K_M", Q3_K, 12;
    Q2_K = "Q2_K", Q2_K, 10;
    IQ4_NL = "IQ4_NL", IQ4_NL, 25;
    IQ4_XS = "IQ4_XS", IQ4_XS, 30;
}

/// A tensor's place among the tensors of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Which one it is, from 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Mix {
    /// The type of a tensor. `gqa` is query heads per key head.
    pub fn dtype(self, role: Role, place: Place, gqa: usize) -> DType {
        let base = self.base();
        if role == Role::Small {
            return DType::F32;
        }
        if base.is_float() {
            return base;
        }
        let Place { index, count } = place;
        match (role, self) {
            // The token embedding is also the head.
            (Role::Embedding, Self::Q8_0) => DType::Q8_0,
            (Role::Embedding, _) => DType::Q6_K,
            (Role::Value, Self::Q2_K) if gqa >= 4 => DType::Q4_K,
            (Role::Value, Self::Q2_K) => DType::Q3_K,
            (Role::Value, Self::Q3_K_M) if index < 2 => DType::Q5_K,
            (Role::Value, Self::Q3_K_M) => DType::Q4_K,
            (Role::Value, Self::IQ4_NL | Self::IQ4_XS) if gqa >= 4 => DType::Q5_K,
            (Role::Down, Self::Q2_K) => DType::Q3_K,
            (Role::Down, Self::Q3_K_M) if index < count / 16 => DType::Q5_K,
            (Role::Down, Self::Q3_K_M) => DType::Q4_K,
            (Role::Down, Self::IQ4_NL | Self::IQ4_XS) if index < count / 8 => DType::Q5_K,
            (Role::Value | Role::Down, Self::Q4_K_M | Self::Q5_K_M) if place.deserves_more_bits() => {
                DType::Q6_K
            }
            (Role::AttentionOut, Self::Q2_K) => DType::Q3_K,
            (Role::AttentionOut, Self::Q3_K_M) => DType::Q4_K,
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

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|mix| mix.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|mix| mix.name()).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_follow_llama_cpp() {
        // `use_more_bits` of 16 layers: the first and last two, and every third between.
        let more: Vec<usize> =
            (0..16).filter(|&index| Place { index, count: 16 }.deserves_more_bits()).collect();
        assert_eq!(more, [0, 1, 4, 7, 10, 13, 14, 15]);
        let at = |index| Place { index, count: 16 };
        for (mix, role, index, gqa, expected) in [
            (Mix::Q4_0, Role::Embedding, 0, 4, DType::Q6_K),
            (Mix::Q8_0, Role::Embedding, 0, 4, DType::Q8_0),
            (Mix::F16, Role::Embedding, 0, 4, DType::F16),
            (Mix::Q4_K_M, Role::Down, 0, 4, DType::Q6_K),
            (Mix::Q4_K_M, Role::Down, 2, 4, DType::Q4_K),
            (Mix::Q4_K_M, Role::Matrix, 0, 4, DType::Q4_K),
            (Mix::Q2_K, Role::Value, 3, 2, DType::Q3_K),
            (Mix::Q2_K, Role::Value, 3, 4, DType::Q4_K),
            (Mix::IQ4_XS, Role::Down, 1, 4, DType::Q5_K),
            (Mix::IQ4_XS, Role::Down, 2, 4, DType::IQ4_XS),
            (Mix::Q3_K_M, Role::AttentionOut, 2, 4, DType::Q4_K),
            (Mix::Q4_0, Role::Small, 0, 4, DType::F32),
        ] {
            assert_eq!(mix.dtype(role, at(index), gqa), expected, "{mix} {role:?} {index}");
        }
    }

    #[test]
    fn names_parse_in_any_case() {
        for &mix in Mix::ALL {
            assert_eq!(mix.name().to_lowercase().parse(), Ok(mix));
        }
        assert!("Q9_Z".parse::<Mix>().unwrap_err().contains("Q4_K_M"));
    }
}
