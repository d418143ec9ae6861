//! Tensor element types: the float types and the block-quantized formats of GGUF.
//!
//! Source of names, block sizes and type numbers: the GGUF specification and ggml's public headers.

use std::fmt;

/// Elements in a super-block of the K-quants and of most codebook formats.
pub const QK_K: usize = 256;
/// Elements in a block of the simple quantized formats.
pub const QK: usize = 32;

macro_rules! dtypes {
    ($($variant:ident = $ggml:literal, $name:literal, $elems:expr, $bytes:expr;)*) => {
        /// The element type of a tensor. Quantized types store `block_elems` values in `block_bytes` bytes.
        #[allow(non_camel_case_types, missing_docs)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        pub enum DType { $($variant,)* }

        impl DType {
            /// Every type Undine can compute with.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// The type number in a GGUF tensor table, or `None` for a type Undine cannot compute with.
            pub fn from_ggml(number: u32) -> Option<Self> {
                match number { $($ggml => Some(Self::$variant),)* _ => None }
            }

            /// The type number in a GGUF tensor table.
            pub fn ggml(self) -> u32 {
                match self { $(Self::$variant => $ggml,)* }
            }

            /// The name people use, such as `Q4_K`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Values per block.
            pub const fn block_elems(self) -> usize {
                match self { $(Self::$variant => $elems,)* }
            }

            /// Bytes per block.
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$variant => $bytes,)* }
            }
        }
    };
}

dtypes! {
    F32 = 0, "F32", 1, 4;
    F16 = 1, "F16", 1, 2;
    BF16 = 30, "BF16", 1, 2;
    Q4_0 = 2, "Q4_0", QK, 18;
    Q4_1 = 3, "Q4_1", QK, 20;
    Q5_0 = 6, "Q5_0", QK, 22;
    Q5_1 = 7, "Q5_1", QK, 24;
    Q8_0 = 8, "Q8_0", QK, 34;
    Q2_K = 10, "Q2_K", QK_K, 84;
    Q3_K = 11, "Q3_K", QK_K, 110;
    Q4_K = 12, "Q4_K", QK_K, 144;
    Q5_K = 13, "Q5_K", QK_K, 176;
    Q6_K = 14, "Q6_K", QK_K, 210;
    IQ2_XXS = 16, "IQ2_XXS", QK_K, 66;
    IQ2_XS = 17, "IQ2_XS", QK_K, 74;
    IQ2_S = 22, "IQ2_S", QK_K, 82;
    IQ3_XXS = 18, "IQ3_XXS", QK_K, 98;
    IQ3_S = 21, "IQ3_S", QK_K, 110;
    IQ4_NL = 20, "IQ4_NL", QK, 18;
    IQ4_XS = 23, "IQ4_XS", QK_K, 136;
    IQ1_S = 19, "IQ1_S", QK_K, 50;
    IQ1_M = 29, "IQ1_M", QK_K, 56;
    TQ1_0 = 34, "TQ1_0", QK_K, 54;
    TQ2_0 = 35, "TQ2_0", QK_K, 66;
    MXFP4 = 39, "MXFP4", QK, 17;
    NVFP4 = 40, "NVFP4", 2 * QK, 36;
}

impl DType {
    /// Whether this is F32, F16 or BF16.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Whether values can be encoded in it; the others are read and computed with.
    pub const fn is_written(self) -> bool {
        !matches!(
            self,
            Self::IQ2_XS
                | Self::IQ2_S
                | Self::IQ3_XXS
                | Self::IQ1_S
                | Self::IQ1_M
                | Self::TQ1_0
                | Self::TQ2_0
                | Self::MXFP4
                | Self::NVFP4
        )
    }

    /// Bytes of one row of `cols` values, or `None` if `cols` is not a whole number of blocks or the size
    /// overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        cols.is_multiple_of(self.block_elems())
            .then(|| (cols / self.block_elems()).checked_mul(self.block_bytes()))
            .flatten()
    }

    /// Parses a name as people write it: `q4_k`, `BF16`, `f16`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_numbers_and_names_round_trip() {
        for &dtype in DType::ALL {
            assert_eq!(DType::from_ggml(dtype.ggml()), Some(dtype));
            assert_eq!(DType::parse(&dtype.name().to_lowercase()), Some(dtype));
        }
        assert_eq!(DType::from_ggml(9), None, "Q8_1 is not for weights");
    }

    #[test]
    fn row_bytes_wants_whole_blocks() {
        assert_eq!(DType::Q4_K.row_bytes(2048), Some(8 * 144));
        assert_eq!(DType::Q4_K.row_bytes(2080), None);
        assert_eq!(DType::F32.row_bytes(usize::MAX), None);
    }
}
