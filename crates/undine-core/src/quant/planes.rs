//! Bit planes: the one storage idea behind every block format here.
//!
//! A field of `BITS` bits per value is stored in groups of `WIDTH` bytes. Such a group holds `8 / BITS`
//! planes of `WIDTH` values, one after the other: plane `p` occupies bits `BITS*p ..` of every byte of the
//! group, so value `p * WIDTH + i` of the group lives in byte `i`. `WIDTH` 1 is ordinary little-endian bit
//! packing.

/// Adds a field to `codes`: every code gains its stored `BITS` bits, moved up by `shift`.
///
/// `codes` holds `8 / BITS` values per byte of `bytes`; the bits written must be zero beforehand.
#[inline(always)]
pub(super) fn unpack<const BITS: usize, const WIDTH: usize>(bytes: &[u8], shift: usize, codes: &mut [u8]) {
    let mask = (1u8 << BITS) - 1;
    debug_assert_eq!(codes.len(), bytes.len() * (8 / BITS));
    for (bytes, codes) in bytes.chunks_exact(WIDTH).zip(codes.chunks_exact_mut(WIDTH * (8 / BITS))) {
        for (plane, codes) in codes.chunks_exact_mut(WIDTH).enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code |= ((byte >> (BITS * plane)) & mask) << shift;
            }
        }
    }
}

/// Stores bits `shift .. shift + BITS` of every code, overwriting `bytes`; the inverse of [`unpack`].
#[inline(always)]
pub(super) fn pack<const BITS: usize, const WIDTH: usize>(codes: &[u8], shift: usize, bytes: &mut [u8]) {
    let mask = (1u8 << BITS) - 1;
    debug_assert_eq!(codes.len(), bytes.len() * (8 / BITS));
    bytes.fill(0);
    for (bytes, codes) in bytes.chunks_exact_mut(WIDTH).zip(codes.chunks_exact(WIDTH * (8 / BITS))) {
        for (plane, codes) in codes.chunks_exact(WIDTH).enumerate() {
            for (byte, code) in bytes.iter_mut().zip(codes) {
                *byte |= ((code >> shift) & mask) << (BITS * plane);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plane_order_is_low_bits_first() {
        let mut codes = [0u8; 4];
        unpack::<4, 2>(&[0x21, 0x43], 0, &mut codes);
        assert_eq!(codes, [1, 3, 2, 4]);
        let mut codes = [0u8; 8];
        unpack::<1, 1>(&[0b1000_0101], 4, &mut codes);
        assert_eq!(codes, [16, 0, 16, 0, 0, 0, 0, 16]);
    }

    #[test]
    fn pack_inverts_unpack() {
        let bytes: [u8; 64] = std::array::from_fn(|i| (i * 37 + 11) as u8);
        let mut codes = [0u8; 256];
        unpack::<2, 32>(&bytes, 3, &mut codes);
        let mut again = [0xffu8; 64];
        pack::<2, 32>(&codes, 3, &mut again);
        assert_eq!(again, bytes);
    }
}
