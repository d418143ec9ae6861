//! What the writer writes, the reader reads; what the reader would refuse, the writer refuses.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use undine_core::DType;
use undine_weights::{
    Array, Checkpoint, Error, FolderTypes, GgufWriter, Recoding, Source, SourceTensor, TensorDeclaration,
    Value, WeightName, write_folder,
};

use crate::tiny::{Gguf, VOCAB};

#[test]
fn every_value_kind() {
    let values = [
        Value::U8(200),
        Value::I8(-100),
        Value::U16(60_000),
        Value::I16(-30_000),
        Value::U32(4_000_000_000),
        Value::I32(-2_000_000_000),
        Value::F32(1.5e-30),
        Value::Bool(true),
        Value::Bool(false),
        Value::String("日本語 \0 text".to_owned()),
        Value::String(String::new()),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F64(-1.25e300),
        Value::Array(Array::U8(vec![0, 255])),
        Value::Array(Array::I8(vec![-128, 127])),
        Value::Array(Array::U16(vec![1, 65_535])),
        Value::Array(Array::I16(vec![-1, 32_767])),
        Value::Array(Array::U32(vec![u32::MAX, 7])),
        Value::Array(Array::I32(vec![i32::MIN, 7])),
        Value::Array(Array::F32(vec![0.5, -0.0])),
        Value::Array(Array::Bool(vec![true, false, true])),
        Value::Array(Array::String(vec!["a".to_owned(), String::new(), "ü".to_owned()])),
        Value::Array(Array::U64(vec![u64::MAX])),
        Value::Array(Array::I64(vec![i64::MIN, 0])),
        Value::Array(Array::F64(vec![f64::MIN_POSITIVE])),
        Value::Array(Array::String(Vec::new())),
    ];
    let mut file = Gguf::dense();
    for (i, value) in values.iter().enumerate() {
        file.set(&format!("test.{i}"), value.clone());
    }
    let checkpoint = file.open().unwrap();
    assert_eq!(checkpoint.metadata(), file.metadata);
}

#[test]
fn every_dtype() {
    for &dtype in DType::ALL {
        let mut file = Gguf::dense();
        let (declaration, data) = &mut file.tensors[0];
        let hidden = declaration.shape[1];
        // Extra rows of a tensor the model does not use carry the quantized types, whose rows are longer than
        // the model's.
        let cols = hidden.next_multiple_of(dtype.block_elems());
        let bytes: Vec<u8> = (0..VOCAB * dtype.row_bytes(cols).unwrap()).map(|i| (i % 251) as u8).collect();
        if dtype.is_float() {
            declaration.dtype = dtype;
            *data = bytes.clone();
        }
        let extra = TensorDeclaration { name: "extra".to_owned(), dtype, shape: vec![2, VOCAB / 2, cols] };
        file.tensors.insert(1, (extra, bytes.clone()));
        let checkpoint = file.open().unwrap();
        let info = checkpoint.tensors().find(|tensor| tensor.name == "extra").unwrap();
        assert_eq!(
            (info.dtype, info.shape, info.bytes),
            (dtype, &[2, VOCAB / 2, cols][..], bytes.len() as u64)
        );
        if dtype.is_float() {
            let embedding = checkpoint.weight(WeightName::TokenEmbedding).unwrap();
            assert_eq!((embedding.dtype, checkpoint.bytes(&embedding)), (dtype, &bytes[..]));
        }
    }
}

fn tensor(name: &str, dtype: DType, shape: &[usize]) -> TensorDeclaration {
    TensorDeclaration { name: name.to_owned(), dtype, shape: shape.to_vec() }
}

#[test]
fn refuses_bad_declarations() {
    let key = |key: &str| (key.to_owned(), Value::U8(0));
    type Case = (Vec<(String, Value)>, Vec<TensorDeclaration>, &'static str);
    let cases: [Case; 7] = [
        (vec![key("a"), key("a")], vec![], "metadata key a appears twice"),
        (vec![key("general.alignment")], vec![], "general.alignment is fixed at 32"),
        (vec![], vec![tensor("t", DType::F32, &[1]); 2], "tensor t appears twice"),
        (vec![], vec![tensor("t", DType::F32, &[])], "expected 1 to 4 dimensions"),
        (vec![], vec![tensor("t", DType::F32, &[1; 5])], "expected 1 to 4 dimensions"),
        (vec![], vec![tensor("t", DType::F32, &[2, 0])], "expected 1 to 4 dimensions above 0"),
        (vec![], vec![tensor("t", DType::Q4_K, &[4, 128])], "the innermost a multiple of 256"),
    ];
    for (metadata, tensors, expected) in cases {
        let error = GgufWriter::new(Vec::new(), &metadata, &tensors).err().unwrap().to_string();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
}

#[test]
fn refuses_too_much_and_too_little_data() {
    let tensors = [tensor("t", DType::F32, &[2])];
    let mut writer = GgufWriter::new(Vec::new(), &[], &tensors).unwrap();
    assert!(writer.append(&[0; 9]).unwrap_err().to_string().contains("more data for t than its 8 bytes"));
    writer.append(&[0; 3]).unwrap();
    assert!(writer.finish().unwrap_err().to_string().contains("t has 3 of its 8 bytes"));
    let mut writer = GgufWriter::new(Vec::new(), &[], &tensors).unwrap();
    writer.append(&[0; 8]).unwrap();
    assert!(writer.append(&[0]).unwrap_err().to_string().contains("after the last declared tensor"));
}

#[test]
fn a_file_appears_only_when_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let entries = || std::fs::read_dir(folder.path()).unwrap().count();
    let tensors = [tensor("t", DType::F32, &[2])];

    let mut writer = GgufWriter::create(&path, &[], &tensors).unwrap();
    writer.append(&[0; 4]).unwrap();
    assert!(!path.exists());
    assert!(writer.commit().is_err());
    assert_eq!(entries(), 0, "an incomplete file leaves nothing behind");

    let mut writer = GgufWriter::create(&path, &[], &tensors).unwrap();
    writer.append(&[0; 8]).unwrap();
    writer.commit().unwrap();
    assert!(path.exists());
    assert_eq!(entries(), 1, "the temporary file is gone");
}

fn dense() -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/oracle/dense");
    Checkpoint::open(&folder).unwrap()
}

#[test]
#[should_panic(expected = "out of range for slice")]
fn a_thread_that_panics_ends_the_writing() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::language(&dense()).unwrap();
    // An importance of no column: a mistake of the caller, which must not leave the writer waiting.
    let recoding = |tensor: &SourceTensor| match tensor.is_matrix() {
        true => Recoding { importance: Some(Vec::new()), ..Recoding::plain(DType::Q4_0) },
        false => Recoding::plain(tensor.kept_dtype()),
    };
    let recodings: Vec<_> = source.tensors().iter().map(recoding).collect();
    drop(source.write(&recodings, 0, &folder.path().join("a.gguf"), |_| ControlFlow::Continue(())));
}

#[test]
fn an_interrupted_folder_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let types = FolderTypes { language: DType::F32, tower: None };
    let (new, empty, used) =
        (folder.path().join("new"), folder.path().join("empty"), folder.path().join("used"));
    std::fs::create_dir(&empty).unwrap();
    std::fs::create_dir(&used).unwrap();
    std::fs::write(used.join("notes.txt"), "mine").unwrap();
    for (out, stays) in [(&new, 0..1), (&empty, 0..1), (&used, 1..10)] {
        let error = write_folder(&dense(), types, out, |_| ControlFlow::Break(())).unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error}");
        // A folder in use keeps its own files, and the small ones that have replaced others.
        let found = std::fs::read_dir(out).map_or(0, Iterator::count);
        assert!(stays.contains(&found), "{out:?}: {found}");
        assert!(!out.join("model.safetensors").exists());
    }
    assert!(!new.exists() && empty.exists());
}

#[test]
fn places_for_no_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (place, why) in [
        (folder.path().to_owned(), "found a folder"),
        (folder.path().join("none/a.gguf"), "a folder that exists"),
        (PathBuf::from("/dev/null"), "found a device"),
    ] {
        let error = GgufWriter::create(&place, &[], &[]).err().unwrap().to_string();
        assert!(error.contains(why) && error.contains(place.to_str().unwrap()), "{error}");
    }
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file(), "it is as it was");
}
