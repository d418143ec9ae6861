//! Decoding against an independent implementation: random blocks and the values the `gguf` Python package
//! (0.19.0, `gguf.quants.dequantize`) gives for them.
//!
//! `data/quant_golden.bin`, little endian, one record per format until the end of the file: u32 GGUF type
//! number; u32 number of blocks n; n blocks; n x block_elems values as f32. Blocks are random bytes with
//! finite scales; the second block of every quantized format has subnormal scales. `data/quant_golden.py`
//! appends records.

use undine_core::{DType, quant};

fn take<'a>(data: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (head, tail) = data.split_at(len);
    *data = tail;
    head
}

fn take_u32(data: &mut &[u8]) -> u32 {
    u32::from_le_bytes(take(data, 4).try_into().expect("4 bytes"))
}

#[test]
fn decode_is_bit_identical_to_the_golden_values() {
    let mut data: &[u8] = include_bytes!("../data/quant_golden.bin");
    let mut seen = Vec::new();
    while !data.is_empty() {
        let dtype = DType::from_ggml(take_u32(&mut data)).unwrap();
        let n = take_u32(&mut data) as usize;
        let blocks = take(&mut data, n * dtype.block_bytes());
        let expected = take(&mut data, n * dtype.block_elems() * 4);
        let mut values = vec![f32::NAN; n * dtype.block_elems()];
        quant::decode(dtype, blocks, &mut values);
        for (i, (value, expected)) in values.iter().zip(expected.as_chunks().0).enumerate() {
            let expected = f32::from_le_bytes(*expected);
            assert_eq!(value.to_bits(), expected.to_bits(), "{dtype} value {i}: {value} is not {expected}");
        }
        seen.push(dtype);
    }
    for dtype in DType::ALL {
        assert!(*dtype == DType::F32 || seen.contains(dtype), "{dtype} has no golden record");
    }
}
