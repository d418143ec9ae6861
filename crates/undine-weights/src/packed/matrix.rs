//! A matrix in another program's packing, and how its rows become blocks or floats of this one.
//!
//! Codes are whole numbers of at most 8 bits. A weight is `scale * (code - zero)`, or `scale * code + bias`,
//! or `scale` times the small float that a code stands for. Where a block format has the very same
//! arithmetic, its blocks are made; else the weights, computed in f32, are rounded once.

use std::ops::Range;

use half::f16;
use undine_core::DType;
use undine_core::dtype::QK;
use undine_core::quant::{self, FP4_VALUES};

use super::grid::{AWQ_NIBBLE, Grid, Piece, ZeroPoints, e4m3, stream_bits};

/// Rows that are unpacked together: packings by columns have neighbouring rows in one cache line.
const ROWS: usize = 16;

/// Where the codes are.
#[derive(Clone)]
pub(crate) enum Codes {
    /// Row after row, a stream of so many bits each.
    Rows { piece: Piece, bits: usize },
    /// As GPTQ has them: `cols / (32 / bits) x rows` words, a stream down each column of words.
    Columns { piece: Piece, bits: usize },
    /// As AWQ has them: `cols x rows / 8` words of eight rows.
    Awq { piece: Piece },
    /// Signed bytes.
    Bytes { piece: Piece },
    /// Bytes of E4M3.
    E4M3 { piece: Piece },
    /// Row after row, four bits of E2M1 each.
    E2M1 { piece: Piece },
}

/// What a code of zero means.
#[derive(Clone)]
pub(crate) enum Zero {
    /// The same number is subtracted from each.
    Fixed(i16),
    /// A number for each group.
    Points(ZeroPoints),
    /// Something is added to the product.
    Bias(Grid),
}

/// A packed matrix that has passed all checks.
pub(crate) struct Recipe {
    pub rows: usize,
    pub cols: usize,
    pub codes: Codes,
    pub scales: Option<Grid>,
    /// Every scale is multiplied by it.
    pub factor: f32,
    pub zero: Zero,
    /// The group of each column, where groups are no runs.
    pub order: Option<Piece>,
}

/// A packed matrix and what it becomes.
pub(crate) struct Packed {
    recipe: Recipe,
    target: DType,
    row_bytes: usize,
}

impl std::ops::Deref for Packed {
    type Target = Recipe;

    fn deref(&self) -> &Recipe {
        &self.recipe
    }
}

impl Packed {
    /// `None` if rows are not whole blocks.
    pub(crate) fn new(recipe: Recipe, target: DType) -> Option<Self> {
        let row_bytes = target.row_bytes(recipe.cols)?;
        Some(Self { recipe, target, row_bytes })
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Makes some rows. `out` has room for just these.
    pub(crate) fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let (mut codes, mut values) = (vec![0; ROWS * self.cols], Vec::new());
        for (batch, out) in runs(rows, ROWS).zip(out.chunks_mut(ROWS * self.row_bytes())) {
            let codes = &mut codes[..batch.len() * self.cols];
            self.read_codes(batch.clone(), codes);
            let lines = codes.chunks_exact(self.cols).zip(out.chunks_exact_mut(self.row_bytes()));
            for (row, (codes, out)) in batch.zip(lines) {
                if self.target.is_float() {
                    values.resize(self.cols, 0.0);
                    self.values(row, codes, &mut values);
                    quant::encode(self.target, &values, out);
                } else {
                    self.blocks(row, codes, out);
                }
            }
        }
    }

    /// Says that what some rows are made of will not be read again soon; where it lies between that of
    /// others, all of it.
    pub(crate) fn release(&self, rows: Range<usize>) {
        let bits = match self.codes {
            Codes::Rows { bits, .. } => bits,
            Codes::E2M1 { .. } => 4,
            Codes::Bytes { .. } | Codes::E4M3 { .. } => 8,
            Codes::Columns { .. } | Codes::Awq { .. } if rows.end < self.rows => return,
            Codes::Columns { .. } | Codes::Awq { .. } => return self.codes.piece().release(),
        };
        let Piece { file, range } = self.codes.piece();
        let byte = |row: usize| range.start + row * self.cols * bits / 8;
        file.release(byte(rows.start)..byte(rows.end));
    }

    fn read_codes(&self, rows: Range<usize>, out: &mut [i16]) {
        let (cols, first) = (self.cols, rows.start);
        let bytes = self.codes.piece().bytes();
        let word = |index: usize| u32::from_le_bytes(bytes.as_chunks().0[index]);
        match self.codes {
            Codes::Rows { .. } | Codes::E2M1 { .. } => {
                let bits = if let Codes::Rows { bits, .. } = self.codes { bits } else { 4 };
                let at = first * cols * bits;
                for (i, code) in out.iter_mut().enumerate() {
                    *code = stream_bits(bytes, at + i * bits, bits).into();
                }
            }
            Codes::Columns { bits, .. } => {
                let mask = (1u64 << bits) - 1;
                for col in 0..cols {
                    let (line, shift) = (col * bits / 32, col * bits % 32);
                    let spans = shift + bits > 32;
                    for row in rows.clone() {
                        let low = u64::from(word(line * self.rows + row));
                        let high = if spans { u64::from(word((line + 1) * self.rows + row)) } else { 0 };
                        out[(row - first) * cols + col] = ((low | high << 32) >> shift & mask) as i16;
                    }
                }
            }
            Codes::Awq { .. } => {
                for col in 0..cols {
                    for row in rows.clone() {
                        let nibbles = word((col * self.rows + row) / 8) >> (4 * AWQ_NIBBLE[row % 8]);
                        out[(row - first) * cols + col] = (nibbles & 15) as i16;
                    }
                }
            }
            Codes::Bytes { .. } => {
                for (code, byte) in out.iter_mut().zip(&bytes[first * cols..]) {
                    *code = byte.cast_signed().into();
                }
            }
            Codes::E4M3 { .. } => {
                for (code, byte) in out.iter_mut().zip(&bytes[first * cols..]) {
                    *code = (*byte).into();
                }
            }
        }
    }

    fn scale(&self, row: usize, col: usize) -> f32 {
        self.factor * self.scales.as_ref().map_or(1.0, |scales| scales.at(row, col))
    }

    /// The weights of a row.
    fn values(&self, row: usize, codes: &[i16], out: &mut [f32]) {
        let order = self.order.as_ref().map(|order| order.bytes().as_chunks::<4>().0);
        let size = self.scales.as_ref().map_or(self.cols, |scales| scales.each[1]);
        let mut last = None;
        let (mut scale, mut add) = (1.0, 0.0);
        for (col, (&code, out)) in codes.iter().zip(out).enumerate() {
            let group = order.map_or(col / size, |order| u32::from_le_bytes(order[col]) as usize);
            if last != Some(group) {
                last = Some(group);
                scale = self.scale(row, group * size);
                add = match &self.zero {
                    Zero::Fixed(zero) => -f32::from(*zero),
                    Zero::Points(points) => -f32::from(points.at(row, group * size / points.group)),
                    Zero::Bias(bias) => bias.at(row, col),
                };
            }
            *out = match (&self.zero, &self.codes) {
                (_, Codes::E4M3 { .. }) => scale * e4m3(code as u8),
                // Levels are stored doubled.
                (_, Codes::E2M1 { .. }) => scale * (0.5 * f32::from(FP4_VALUES[code as usize])),
                (Zero::Bias(_), _) => scale * f32::from(code) + add,
                _ => scale * (f32::from(code) + add),
            };
        }
    }

    /// The blocks of a row; groups are whole blocks.
    fn blocks(&self, row: usize, codes: &[i16], out: &mut [u8]) {
        let size = self.target.block_elems();
        let blocks = codes.chunks_exact(size).zip(out.chunks_exact_mut(self.target.block_bytes()));
        for (number, (codes, block)) in blocks.enumerate() {
            let col = number * size;
            let zero = match &self.zero {
                Zero::Fixed(zero) => *zero,
                Zero::Points(points) => points.at(row, col / points.group),
                Zero::Bias(_) => 0,
            };
            let half = |value: f32| f16::from_f32(value).to_le_bytes();
            if self.target != DType::MXFP4 && self.target != DType::NVFP4 {
                block[..2].copy_from_slice(&half(self.scale(row, col)));
            }
            let bias = || match &self.zero {
                Zero::Bias(bias) => bias.at(row, col),
                _ => 0.0,
            };
            match self.target {
                DType::Q4_0 => nibbles(codes, 8 - zero, &mut block[2..]),
                DType::Q5_0 => five_bits(codes, 16 - zero, &mut block[2..]),
                DType::Q4_1 => {
                    block[2..4].copy_from_slice(&half(bias()));
                    nibbles(codes, 0, &mut block[4..]);
                }
                DType::Q5_1 => {
                    block[2..4].copy_from_slice(&half(bias()));
                    five_bits(codes, 0, &mut block[4..]);
                }
                DType::Q8_0 => {
                    block[2..].iter_mut().zip(codes).for_each(|(byte, code)| *byte = (code - zero) as u8);
                }
                DType::MXFP4 => {
                    block[0] = self.scale_byte(row, col);
                    nibbles(codes, 0, &mut block[1..]);
                }
                DType::NVFP4 => {
                    for part in 0..4 {
                        block[part] = self.scale_byte(row, col + 16 * part);
                        let (low, high) = codes[16 * part..][..16].split_at(8);
                        for i in 0..8 {
                            block[4 + 8 * part + i] = (low[i] | high[i] << 4) as u8;
                        }
                    }
                }
                other => unreachable!("nothing is made into {other}"),
            }
        }
    }

    fn scale_byte(&self, row: usize, col: usize) -> u8 {
        self.scales.as_ref().expect("formats with scales of a byte have them").byte(row, col)
    }
}

impl Codes {
    fn piece(&self) -> &Piece {
        match self {
            Self::Rows { piece, .. }
            | Self::Columns { piece, .. }
            | Self::Awq { piece }
            | Self::Bytes { piece }
            | Self::E4M3 { piece }
            | Self::E2M1 { piece } => piece,
        }
    }
}

/// 32 codes, moved by `plus`, as 16 bytes: the first half in the low nibbles.
fn nibbles(codes: &[i16], plus: i16, out: &mut [u8]) {
    for i in 0..QK / 2 {
        let (low, high) = (codes[i] + plus, codes[i + QK / 2] + plus);
        out[i] = (low & 15 | (high & 15) << 4) as u8;
    }
}

/// The same of five bits: four bytes of fifth bits before.
fn five_bits(codes: &[i16], plus: i16, out: &mut [u8]) {
    let fifth = (0..QK).fold(0u32, |bits, i| bits | (((codes[i] + plus) as u32 >> 4) & 1) << i);
    out[..4].copy_from_slice(&fifth.to_le_bytes());
    nibbles(codes, plus, &mut out[4..]);
}

/// Runs of a range.
fn runs(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size).map(move |start| start..(start + size).min(end))
}
