//! Types of every tensor against what llama.cpp chooses.
//!
//! `data/llama_cpp_mixes.txt` was taken from `llama_model_quantize` with `dry_run` (llama-cpp-python 0.3.36)
//! on models of the published layer patterns. A line has a shape, a type, whether there was an importance
//! matrix, and the matrices that do not have the base type, with their layers. The shapes are narrower here:
//! no type depends on the width, as long as rows are whole blocks.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use undine_core::DType;
use undine_quantize::{Error, Mix, Options, plan};
use undine_weights::{Array, GgufWriter, Imatrix, ImatrixEntry, Source, TensorDeclaration, Value};

const WIDTH: usize = 256;
const EXPERTS: usize = 2;

/// Layers as letters, whether there is a head, and the first layer with experts.
fn shape(name: &str) -> (&'static str, bool, Option<usize>) {
    match name {
        "dense16" => ("ccaccaccacacacac", false, None),
        "dense30" => ("ccaccacccacccacccacccaccaccacc", true, None),
        "moe24" => ("ccacccacccacccacccaccacc", false, Some(2)),
        "moe40" => ("ccacccacccacccacccacccacccacccacccacccac", false, Some(2)),
        other => panic!("no shape is named {other}"),
    }
}

fn tensors(name: &str, cols: usize) -> Vec<TensorDeclaration> {
    let (layers, has_head, moe) = shape(name);
    let mut tensors = Vec::new();
    let mut add = |name: String, dtype: DType, shape: &[usize]| {
        tensors.push(TensorDeclaration { name, dtype, shape: shape.to_vec() });
    };
    let matrix = [WIDTH, cols];
    add("token_embd.weight".to_owned(), DType::F16, &matrix);
    add("token_embd_norm.weight".to_owned(), DType::BF16, &[WIDTH]);
    if has_head {
        add("output.weight".to_owned(), DType::F16, &matrix);
    }
    for (layer, kind) in layers.chars().enumerate() {
        let mut add = |part: &str, dtype: DType, shape: &[usize]| {
            add(format!("blk.{layer}.{part}.weight"), dtype, shape)
        };
        add("attn_norm", DType::F32, &[WIDTH]);
        let operator: &[&str] = match kind {
            'a' => &["attn_q", "attn_k", "attn_v", "attn_output"],
            _ => &["shortconv.in_proj", "shortconv.out_proj"],
        };
        operator.iter().for_each(|part| add(part, DType::F16, &matrix));
        if kind == 'c' {
            add("shortconv.conv", DType::F32, &[WIDTH, 3]);
        }
        match moe.is_some_and(|first| layer >= first) {
            true => {
                add("ffn_gate_inp", DType::F32, &[EXPERTS, WIDTH]);
                let stack = [&[EXPERTS], &matrix[..]].concat();
                ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"]
                    .iter()
                    .for_each(|part| add(part, DType::F16, &stack));
            }
            false => {
                ["ffn_gate", "ffn_up", "ffn_down"].iter().for_each(|part| add(part, DType::F16, &matrix))
            }
        }
    }
    tensors
}

/// A file with a true header and nothing but zeros, which take no room on the disk.
fn source(folder: &Path, name: &str, cols: usize) -> Source {
    let path = folder.join(format!("{name}-{cols}.gguf"));
    let architecture = if shape(name).2.is_some() { "lfm2moe" } else { "lfm2" };
    let metadata = [
        ("general.architecture", Value::String(architecture.to_owned())),
        ("x", Value::Array(Array::U8(vec![1]))),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    let tensors = tensors(name, cols);
    let bytes: u64 =
        tensors.iter().map(|tensor| 4 * tensor.shape.iter().product::<usize>() as u64 + 32).sum();
    let file = File::create(&path).expect("a file");
    drop(GgufWriter::new(&file, &metadata, &tensors).expect("a header"));
    let header = file.metadata().expect("a size").len();
    file.set_len(header + bytes).expect("grows");
    Source::open(&path).expect("opens").0
}

/// An entry of ones for each matrix.
fn imatrix(source: &Source) -> Imatrix {
    let entry = |tensor: &undine_weights::SourceTensor| {
        let (matrices, cols) = (tensor.matrices(), tensor.cols());
        (
            tensor.name.clone(),
            ImatrixEntry::new(vec![1.0; matrices], vec![1.0; matrices * cols]).expect("sane"),
        )
    };
    let matrices = source.tensors().iter().filter(|tensor| tensor.is_matrix());
    Imatrix { entries: matrices.map(entry).collect(), ..Imatrix::default() }
}

fn planned(source: &Source, options: &Options, imatrix: Option<&Imatrix>) -> BTreeMap<String, DType> {
    let plan = plan(source, options, imatrix).expect("a plan");
    let types = source.tensors().iter().zip(&plan.recodings);
    types.map(|(tensor, recoding)| (tensor.name.clone(), recoding.dtype)).collect()
}

#[test]
fn every_type_is_what_llama_cpp_chooses() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut lines = 0;
    for line in include_str!("data/llama_cpp_mixes.txt").lines() {
        let mut words = line.split(' ');
        let (name, mix, kind) = (words.next().expect("a shape"), words.next().expect("a type"), words.next());
        let mix: Mix = mix.parse().expect("a type");
        let source = source(folder.path(), name, WIDTH);
        let small = |tensor: &str| {
            tensor.contains("norm") || tensor.contains("conv.weight") || tensor.contains("gate_inp")
        };
        let tensors = tensors(name, WIDTH).into_iter().map(|tensor| tensor.name);
        let mut expected: BTreeMap<String, DType> = tensors
            .map(|tensor| (tensor.clone(), if small(&tensor) { DType::F32 } else { mix.base() }))
            .collect();
        for exception in words {
            let (place, dtype) = exception.split_once('=').expect("a place and a type");
            let dtype = DType::parse(dtype).expect("a type");
            let names: Vec<String> = match place.split_once('@') {
                None => vec![format!("{place}.weight")],
                Some((part, layers)) => {
                    layers.split(',').map(|layer| format!("blk.{layer}.{part}.weight")).collect()
                }
            };
            for name in names {
                assert!(expected.insert(name.clone(), dtype).is_some(), "{line}: no tensor {name}");
            }
        }
        lines += 1;
        if mix == Mix::IQ2_XXS && kind == Some("plain") {
            let refused = plan(&source, &Options::new(mix), None);
            assert!(matches!(refused, Err(Error::NeedsImatrix { .. })), "{line}");
            continue;
        }
        let imatrix = (kind == Some("imatrix")).then(|| imatrix(&source));
        assert_eq!(planned(&source, &Options::new(mix), imatrix.as_ref()), expected, "{line}");
    }
    assert_eq!(lines, 4 * 2 * Mix::ALL.len());
}

#[test]
fn wishes_come_before_the_mix() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = source(folder.path(), "dense30", WIDTH);
    let mut options = Options::new(Mix::Q4_K_M);
    options.output_type = Some(DType::Q8_0);
    options.embedding_type = Some(DType::Q5_K);
    options.overrides =
        ["blk\\.0\\.ffn_down=Q2_K", "ffn_down=Q3_K"].map(|text| text.parse().expect("parses")).to_vec();
    let types = planned(&source, &options, None);
    for (name, expected) in [
        ("output", DType::Q8_0),
        ("token_embd", DType::Q5_K),
        ("blk.0.ffn_down", DType::Q2_K),
        ("blk.1.ffn_down", DType::Q3_K),
        ("blk.2.attn_v", DType::Q6_K),
        ("blk.0.attn_norm", DType::F32),
    ] {
        assert_eq!(types[&format!("{name}.weight")], expected, "{name}");
    }
    options.overrides.clear();
    (options.pure, options.output_type) = (true, None);
    let types = planned(&source, &options, None);
    assert_eq!((types["output.weight"], types["token_embd.weight"]), (DType::Q4_K, DType::Q5_K));
    assert_eq!(types["blk.2.attn_v.weight"], DType::Q4_K);
}

#[test]
fn rows_that_are_not_whole_blocks_are_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = source(folder.path(), "dense16", 288);
    let made = plan(&source, &Options::new(Mix::Q4_K_S), None).expect("a plan");
    let note = made.notes.iter().find(|note| note.contains("Q5_0 in place of Q4_K"));
    assert!(note.is_some_and(|note| note.contains("no multiple of 256")), "{:?}", made.notes);
    let mut options = Options::new(Mix::Q4_0);
    options.overrides.push("attn_v=Q6_K".parse().expect("parses"));
    let error = plan(&source, &options, None).expect_err("refused").to_string();
    assert!(error.contains("blk.2.attn_v.weight has rows of 288 values"), "{error}");
}

#[test]
fn wishes_that_cannot_be_met_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = source(folder.path(), "moe24", WIDTH);
    let mut options = Options::new(Mix::Q4_0);
    options.overrides.push("fnn_down=Q6_K".parse().expect("parses"));
    assert!(matches!(plan(&source, &options, None), Err(Error::NoMatch { .. })));
    let options = Options::new(Mix::Q4_0);
    let entry = |matrices: usize, cols: usize| {
        ImatrixEntry::new(vec![1.0; matrices], vec![1.0; matrices * cols]).expect("sane")
    };
    let with = |name: &str, entry| Imatrix {
        entries: BTreeMap::from([(name.to_owned(), entry)]),
        ..Imatrix::default()
    };
    let error =
        plan(&source, &options, Some(&with("blk.0.attn_q.bias", entry(1, 4)))).expect_err("another model");
    assert!(error.to_string().contains("none of this model's, such as token_embd.weight"), "{error}");
    let error = plan(&source, &options, Some(&with("blk.0.ffn_down.weight", entry(1, 4))))
        .expect_err("another width");
    assert!(error.to_string().contains("expected 1 matrices of 256 columns, found 1 of 4"), "{error}");
    let part = with("blk.2.ffn_down_exps.weight", entry(EXPERTS, WIDTH));
    let made = plan(&source, &options, Some(&part)).expect("a plan");
    assert!(made.notes[0].contains("not in the importance matrix"), "{:?}", made.notes);
    let weighted =
        source.tensors().iter().zip(&made.recodings).filter(|(_, recoding)| recoding.importance.is_some());
    assert_eq!(
        weighted.map(|(tensor, _)| tensor.name.as_str()).collect::<Vec<_>>(),
        ["blk.2.ffn_down_exps.weight"]
    );
}
