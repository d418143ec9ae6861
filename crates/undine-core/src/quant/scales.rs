//! The packed sub-block scales of the K-quants, and f16 scales in general.

use half::f16;

use super::planes;

/// Reads the little-endian f16 at byte `at`.
#[inline(always)]
pub(super) fn read_f16(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Writes `value` as a little-endian f16 at byte `at`.
#[inline(always)]
pub(super) fn write_f16(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// Splits the 12 bytes of Q4_K and Q5_K into eight 6-bit scales and eight 6-bit minimums.
///
/// Layout, `s` a scale and `m` a minimum, high bits first:
/// bytes 0..4 are `s[i+4] bits 4-5 | s[i]`, bytes 4..8 are `m[i+4] bits 4-5 | m[i]`,
/// bytes 8..12 are `m[i+4] bits 0-3 | s[i+4] bits 0-3`, with `i` in 0..4.
#[inline(always)]
pub fn unpack_scales_6bit(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0u8; 8], [0u8; 8]);
    for i in 0..4 {
        let (s, m, low) = (packed[i], packed[i + 4], packed[i + 8]);
        scales[i] = s & 63;
        mins[i] = m & 63;
        scales[i + 4] = (low & 15) | (s >> 6 << 4);
        mins[i + 4] = (low >> 4) | (m >> 6 << 4);
    }
    (scales, mins)
}

/// Inverse of [`unpack_scales_6bit`]; every scale and minimum is below 64.
#[inline(always)]
pub(super) fn pack_scales_6bit(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0u8; 12];
    for i in 0..4 {
        packed[i] = scales[i] | (scales[i + 4] >> 4 << 6);
        packed[i + 4] = mins[i] | (mins[i + 4] >> 4 << 6);
        packed[i + 8] = (scales[i + 4] & 15) | (mins[i + 4] << 4);
    }
    packed
}

/// The sixteen signed 6-bit scales of Q3_K, in -32..=31.
///
/// They are stored with 32 added: bytes 0..8 hold bits 0-3 (scale `i` low nibble of byte `i`, scale `i + 8`
/// high nibble), bytes 8..12 hold bits 4-5 (scale `4 p + i` in bits `2 p ..` of byte `8 + i`).
#[inline(always)]
pub fn unpack_scales_q3(packed: &[u8; 12]) -> [i8; 16] {
    let mut codes = [0u8; 16];
    planes::unpack::<4, 8>(&packed[..8], 0, &mut codes);
    planes::unpack::<2, 4>(&packed[8..], 4, &mut codes);
    codes.map(|code| code as i8 - 32)
}

/// Inverse of [`unpack_scales_q3`].
#[inline(always)]
pub(super) fn pack_scales_q3(scales: &[i8; 16]) -> [u8; 12] {
    let codes = scales.map(|scale| (scale + 32) as u8);
    let mut packed = [0u8; 12];
    planes::pack::<4, 8>(&codes, 0, &mut packed[..8]);
    planes::pack::<2, 4>(&codes, 4, &mut packed[8..]);
    packed
}

/// The eight signed 6-bit scales of IQ4_XS, in -32..=31.
///
/// Stored with 32 added: `high` (2 bytes) holds bits 4-5, scale `i` at bit `2 i` of the little-endian u16;
/// `low` (4 bytes) holds bits 0-3, scale `i` at bit `4 i` of the little-endian u32.
#[inline(always)]
pub(super) fn unpack_scales_iq4(high: &[u8], low: &[u8]) -> [i8; 8] {
    let mut codes = [0u8; 8];
    planes::unpack::<2, 1>(high, 4, &mut codes);
    planes::unpack::<4, 1>(low, 0, &mut codes);
    codes.map(|code| code as i8 - 32)
}

/// Inverse of [`unpack_scales_iq4`]: the high and the low bytes.
#[inline(always)]
pub(super) fn pack_scales_iq4(scales: &[i8; 8]) -> ([u8; 2], [u8; 4]) {
    let codes = scales.map(|scale| (scale + 32) as u8);
    let (mut high, mut low) = ([0u8; 2], [0u8; 4]);
    planes::pack::<2, 1>(&codes, 4, &mut high);
    planes::pack::<4, 1>(&codes, 0, &mut low);
    (high, low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_inverts_unpacking_for_any_bytes() {
        for seed in 0..1000usize {
            let packed: [u8; 12] = std::array::from_fn(|i| ((seed * 7919 + i * 104_729) >> (i % 5)) as u8);
            let (scales, mins) = unpack_scales_6bit(&packed);
            assert_eq!(pack_scales_6bit(&scales, &mins), packed);
            assert_eq!(pack_scales_q3(&unpack_scales_q3(&packed)), packed);
            let (high, low) = pack_scales_iq4(&unpack_scales_iq4(&packed[..2], &packed[2..6]));
            assert_eq!((&high[..], &low[..]), (&packed[..2], &packed[2..6]));
        }
    }
}
