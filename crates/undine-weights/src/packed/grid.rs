//! The numbers beside packed weights: scales, biases and zero points, each for some rows and columns of a
//! matrix.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use crate::map::Bytes;

/// Bytes of a file that a tensor takes.
#[derive(Clone)]
pub(crate) struct Piece {
    pub file: Arc<Bytes>,
    pub range: Range<usize>,
}

impl Piece {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }

    /// Says that it will not be read again soon.
    pub(crate) fn release(&self) {
        self.file.release(self.range.clone());
    }
}

/// How a number is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Number {
    F32,
    F16,
    BF16,
    /// Four bits of exponent, three of mantissa, no infinities.
    E4M3,
    /// A power of two.
    E8M0,
}

impl Number {
    /// That of a safetensors type.
    pub(crate) fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::BF16,
            "F8_E4M3" => Self::E4M3,
            "F8_E8M0" => Self::E8M0,
            _ => return None,
        })
    }

    /// The number at place `index`.
    #[inline]
    fn at(self, bytes: &[u8], index: usize) -> f32 {
        match self {
            Self::F32 => f32::from_le_bytes(bytes.as_chunks().0[index]),
            Self::F16 => f16::from_le_bytes(bytes.as_chunks().0[index]).to_f32(),
            Self::BF16 => bf16::from_le_bytes(bytes.as_chunks().0[index]).to_f32(),
            Self::E4M3 => e4m3(bytes[index]),
            Self::E8M0 => e8m0(bytes[index]),
        }
    }
}

/// What a byte of E4M3 stands for.
pub(crate) fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(byte >> 3) & 15, u32::from(byte & 7));
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa as f32 * f32::from_bits((127 - 9) << 23),
        _ => f32::from_bits(((exponent + 127 - 7) << 23) | (mantissa << 20)),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// What a byte of E8M0 stands for.
fn e8m0(byte: u8) -> f32 {
    match byte {
        255 => f32::NAN,
        0 => f32::from_bits(0x0040_0000),
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

/// A number for every so many rows and columns.
#[derive(Clone)]
pub(crate) struct Grid {
    pub piece: Piece,
    pub number: Number,
    /// Rows and columns of the matrix that share a number.
    pub each: [usize; 2],
    /// How far apart the numbers of neighbouring rows and columns of this grid are stored.
    pub stride: [usize; 2],
}

/// What all numbers of a grid have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Survey {
    /// F16 holds each exactly.
    pub exact_f16: bool,
    /// The largest magnitude.
    pub max: f32,
    /// The most bits from the first to the last one of a mantissa.
    pub bits: u32,
}

impl Grid {
    /// The number for a place of the matrix.
    #[inline]
    pub(crate) fn at(&self, row: usize, col: usize) -> f32 {
        self.number.at(self.piece.bytes(), self.index(row, col))
    }

    /// The byte that stands for it, if it is stored in one.
    #[inline]
    pub(crate) fn byte(&self, row: usize, col: usize) -> u8 {
        self.piece.bytes()[self.index(row, col)]
    }

    #[inline]
    fn index(&self, row: usize, col: usize) -> usize {
        row / self.each[0] * self.stride[0] + col / self.each[1] * self.stride[1]
    }

    /// Looks at all numbers; `None` if one is not finite.
    pub(crate) fn survey(&self) -> Option<Survey> {
        let bytes = self.piece.bytes();
        let size = match self.number {
            Number::F32 => 4,
            Number::F16 | Number::BF16 => 2,
            Number::E4M3 | Number::E8M0 => 1,
        };
        let mut survey = Survey { exact_f16: true, max: 0.0, bits: 0 };
        for index in 0..bytes.len() / size {
            let value = self.number.at(bytes, index);
            if !value.is_finite() {
                return None;
            }
            survey.exact_f16 &= f16::from_f32(value).to_f32() == value;
            survey.max = survey.max.max(value.abs());
            survey.bits = survey.bits.max(24 - (value.to_bits() | 1 << 23).trailing_zeros().min(23));
        }
        Some(survey)
    }
}

/// `bits` bits (at most 8) from bit `at` of a stream, the lowest first.
#[inline]
pub(crate) fn stream_bits(bytes: &[u8], at: usize, bits: usize) -> u8 {
    let low = u16::from(bytes[at / 8]);
    let high = if at % 8 + bits > 8 { u16::from(bytes[at / 8 + 1]) } else { 0 };
    ((low | high << 8) >> (at % 8)) as u8 & (((1u16 << bits) - 1) as u8)
}

/// Where in a word AWQ puts the code of each of eight neighbours.
pub(crate) const AWQ_NIBBLE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Whole numbers that are subtracted from codes, one for every group of columns in a row.
#[derive(Clone)]
pub(crate) struct ZeroPoints {
    pub piece: Piece,
    pub layout: ZeroLayout,
    /// Columns that share one.
    pub group: usize,
    /// Rows of the matrix, and groups of a row.
    pub rows: usize,
    pub groups: usize,
}

/// How zero points are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ZeroLayout {
    /// `groups x rows` as GPTQ has it, in a stream of so many bits each, stored less `plus`.
    Gptq { bits: usize, plus: i16 },
    /// `groups x rows` as AWQ has it.
    Awq,
    /// `rows x groups` as compressed-tensors has it: a stream of so many bits each down each column of words.
    Compressed { bits: usize },
    /// `rows x groups` signed bytes, stored less `plus`.
    Bytes { plus: i16 },
}

impl ZeroPoints {
    /// That of group `group` in a row.
    #[inline]
    pub(crate) fn at(&self, row: usize, group: usize) -> i16 {
        let bytes = self.piece.bytes();
        match self.layout {
            ZeroLayout::Gptq { bits, plus } => {
                let at = (group * self.rows + row) * bits;
                i16::from(stream_bits(bytes, at, bits)) + plus
            }
            ZeroLayout::Awq => {
                let word = group * self.rows / 8 + row / 8;
                i16::from(stream_bits(bytes, 32 * word + 4 * AWQ_NIBBLE[row % 8], 4))
            }
            ZeroLayout::Compressed { bits } => {
                let word = |line: usize| {
                    bytes
                        .as_chunks()
                        .0
                        .get(line * self.groups + group)
                        .map_or(0, |word| u32::from_le_bytes(*word))
                };
                let (line, shift) = (row * bits / 32, row * bits % 32);
                let stream = u64::from(word(line)) | u64::from(word(line + 1)) << 32;
                (stream >> shift) as i16 & ((1 << bits) - 1)
            }
            ZeroLayout::Bytes { plus } => i16::from(bytes[row * self.groups + group].cast_signed()) + plus,
        }
    }

    /// The least and the greatest.
    pub(crate) fn range(&self) -> [i16; 2] {
        let mut range = [i16::MAX, i16::MIN];
        for row in 0..self.rows {
            for group in 0..self.groups {
                let zero = self.at(row, group);
                range = [range[0].min(zero), range[1].max(zero)];
            }
        }
        range
    }
}
