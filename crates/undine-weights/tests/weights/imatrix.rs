//! Importance matrices: both forms, what they mean for a tensor, and files that must be refused.

use std::collections::BTreeMap;

use proptest::prelude::*;
use undine_core::DType;
use undine_core::quant::CORRELATED_COLUMNS;
use undine_weights::{GgufWriter, Imatrix, ImatrixEntry, TensorDeclaration, Value};

const DENSE: &str = "blk.0.ffn_down.weight";
const EXPERTS: &str = "blk.1.ffn_down_exps.weight";

fn entry(counts: &[f32], sums: &[f32]) -> ImatrixEntry {
    ImatrixEntry::new(counts.to_vec(), sums.to_vec()).unwrap()
}

fn imatrix() -> Imatrix {
    Imatrix {
        datasets: vec!["a.txt".to_owned(), "b.txt".to_owned()],
        chunks: 12,
        chunk_tokens: 512,
        entries: BTreeMap::from([
            (DENSE.to_owned(), entry(&[4.0], &[4.0, 8.0, 0.0])),
            (EXPERTS.to_owned(), entry(&[2.0, 0.0, 1.0], &[2.0, 4.0, 0.0, 0.0, 3.0, 8.0])),
        ]),
    }
}

fn written(imatrix: &Imatrix) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("imatrix.gguf");
    imatrix.write(&path).unwrap();
    assert_eq!(Imatrix::open(&path).unwrap(), *imatrix);
    std::fs::read(path).unwrap()
}

#[test]
fn what_is_written_is_read() {
    assert_eq!(Imatrix::read(&written(&imatrix())).unwrap(), imatrix());
}

#[test]
fn how_columns_go_together_is_kept() {
    // Two columns that are equal but for their sign, and one that has nothing to do with them.
    let mut products = vec![0.0; 3 * CORRELATED_COLUMNS];
    products[0] = 4.0;
    products[CORRELATED_COLUMNS..][..2].copy_from_slice(&[-8.0, 16.0]);
    products[2 * CORRELATED_COLUMNS..][..3].copy_from_slice(&[0.0, 0.0, 1.0]);
    let mut imatrix = imatrix();
    assert_eq!(imatrix.entries[DENSE].coefficients(), None);
    let known = entry(&[4.0], &[4.0, 16.0, 1.0]).with_products(&products);
    let coefficients = known.coefficients().expect("just given");
    imatrix.entries.insert(DENSE.to_owned(), known);
    let bytes = written(&imatrix);
    let read = Imatrix::read(&bytes).unwrap();
    assert_eq!(read, imatrix);
    assert_eq!(read.entries[DENSE].coefficients(), Some(coefficients));
    // As it lies in the file: both halves, F16.
    let header = [1.0f32, -1.0, 0.0].map(|x| half_bits(x).to_le_bytes()).concat();
    assert!(bytes.windows(6).any(|window| window == header));
    let unseen = entry(&[0.0], &[0.0; 3]).with_products(&products);
    assert_eq!(unseen.coefficients(), None, "nothing went in");
}

/// The bits of 1, -1 and 0 as F16.
fn half_bits(x: f32) -> u16 {
    if x == 0.0 { 0 } else { 0x3c00 | if x < 0.0 { 0x8000 } else { 0 } }
}

#[test]
fn mean_squares_of_a_tensor() {
    let imatrix = imatrix();
    assert_eq!(imatrix.entries[DENSE].mean_squares(1, 3).unwrap(), [1.0, 2.0, 0.0]);
    // The second expert saw no token and takes the mean of the others.
    assert_eq!(imatrix.entries[EXPERTS].mean_squares(3, 2).unwrap(), [1.0, 2.0, 2.0, 5.0, 3.0, 8.0]);
    assert_eq!(entry(&[0.0], &[0.0, 0.0]).mean_squares(1, 2).unwrap(), [1.0, 1.0], "nothing was seen");
    // The older form: one count for all experts.
    assert_eq!(entry(&[2.0], &[2.0, 4.0, 6.0, 8.0]).mean_squares(2, 2).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    for (name, matrices, cols) in [(DENSE, 1, 4), (DENSE, 3, 3), (EXPERTS, 2, 3), (EXPERTS, usize::MAX, 2)] {
        let error = imatrix.entries[name].mean_squares(matrices, cols).unwrap_err().to_string();
        assert!(error.contains("importance matrix: expected"), "{error}");
    }
}

/// The older form of `(name, calls, values)`.
fn dat(entries: &[(&str, i32, &[f32])]) -> Vec<u8> {
    let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, calls, values) in entries {
        bytes.extend((name.len() as i32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(calls.to_le_bytes());
        bytes.extend((values.len() as i32).to_le_bytes());
        bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes
}

#[test]
fn the_older_form() {
    let mut bytes = dat(&[(DENSE, 10, &[10.0, 20.0]), (EXPERTS, 0, &[1.0, 2.0, 3.0, 4.0])]);
    let old = Imatrix::read(&bytes).unwrap();
    assert_eq!((old.chunks, old.datasets.len()), (0, 0));
    assert_eq!(old.entries[DENSE].mean_squares(1, 2).unwrap(), [1.0, 2.0]);
    assert_eq!(old.entries[EXPERTS].mean_squares(2, 2).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    bytes.extend(7i32.to_le_bytes());
    bytes.extend(5i32.to_le_bytes());
    bytes.extend(b"a.txt");
    let newer = Imatrix::read(&bytes).unwrap();
    assert_eq!((newer.chunks, newer.datasets, newer.entries), (7, vec!["a.txt".to_owned()], old.entries));
}

/// Name, type, shape, data.
type Row = (&'static str, DType, Vec<usize>, Vec<u8>);

fn gguf(kind: &str, tensors: &[Row]) -> Vec<u8> {
    let declare = |(name, dtype, shape, _): &Row| TensorDeclaration {
        name: (*name).to_owned(),
        dtype: *dtype,
        shape: shape.clone(),
    };
    let declarations: Vec<_> = tensors.iter().map(declare).collect();
    let metadata = [("general.type".to_owned(), Value::String(kind.to_owned()))];
    let mut writer = GgufWriter::new(Vec::new(), &metadata, &declarations).unwrap();
    tensors.iter().for_each(|(.., data)| writer.append(data).unwrap());
    writer.finish().unwrap()
}

#[test]
fn hostile_files_are_refused() {
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let sums = |value: f32| -> Row { ("t.in_sum2", DType::F32, vec![1, 1], bytes(&[value])) };
    let counts = |values: &[f32]| -> Row { ("t.counts", DType::F32, vec![values.len(), 1], bytes(values)) };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "number of entries: expected 4 bytes"),
        ("no entries", dat(&[]), "at least one entry"),
        ("negative entries", (-1i32).to_le_bytes().to_vec(), "found -1"),
        ("too many entries", i32::MAX.to_le_bytes().to_vec(), "expected a number from 0 to"),
        ("text", b"this is not one".to_vec(), "no importance matrix"),
        ("cut short", dat(&[(DENSE, 1, &[1.0, 2.0])])[..40].to_vec(), "found"),
        ("no values", dat(&[(DENSE, 1, &[])]), "found 0 sums"),
        ("twice", dat(&[(DENSE, 1, &[1.0]), (DENSE, 1, &[1.0])]), "appears twice"),
        ("not a number", dat(&[(DENSE, 1, &[f32::NAN])]), "blk.0.ffn_down.weight: expected finite"),
        (
            "a name that is no text",
            dat(&[("ab", 1, &[1.0])]).iter().map(|&b| if b == b'a' { 0xff } else { b }).collect(),
            "UTF-8",
        ),
        ("a model", gguf("model", &[sums(1.0), counts(&[1.0])]), "general.type \"imatrix\", found \"model\""),
        ("no counts", gguf("imatrix", &[sums(1.0)]), "t.counts is missing"),
        ("nan", gguf("imatrix", &[sums(f32::NAN), counts(&[1.0])]), "found NaN"),
        ("a negative count", gguf("imatrix", &[sums(1.0), counts(&[-1.0])]), "found -1"),
        (
            "a wrong type",
            gguf("imatrix", &[("t.in_sum2", DType::F16, vec![2], vec![0; 4]), counts(&[1.0])]),
            "has type F16",
        ),
        (
            "coefficients of another type",
            gguf(
                "imatrix",
                &[sums(1.0), counts(&[1.0]), ("t.in_corr", DType::F32, vec![1, 256], vec![0; 1024])],
            ),
            "has type F32",
        ),
        (
            "too few coefficients",
            gguf(
                "imatrix",
                &[sums(1.0), counts(&[1.0]), ("t.in_corr", DType::F16, vec![1, 255], vec![0; 510])],
            ),
            "expected 256 values",
        ),
        (
            "coefficients that are no numbers",
            gguf(
                "imatrix",
                &[sums(1.0), counts(&[1.0]), ("t.in_corr", DType::F16, vec![1, 256], vec![0xff; 512])],
            ),
            "expected finite",
        ),
        ("more counts than sums", gguf("imatrix", &[sums(1.0), counts(&[1.0, 1.0])]), "1 sums of 2 matrices"),
    ];
    for (case, bytes, expected) in cases {
        let error = Imatrix::read(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{case}: {error:?} should contain {expected:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed or cut off: an answer or an error, no panic.
    #[test]
    fn damage_never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8), end in any::<prop::sample::Index>()) {
        for mut bytes in [written(&imatrix()), dat(&[(DENSE, 10, &[10.0, 20.0]), (EXPERTS, 0, &[1.0])])] {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            bytes.truncate(end.index(bytes.len()) + 1);
            if let Ok(read) = Imatrix::read(&bytes) {
                prop_assert!(read.entries.len() <= bytes.len());
            }
        }
    }
}
