//! `undine quantize` and `undine convert`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use undine_core::{DType, quant};
use undine_weights::{
    Array, Checkpoint, GgufWriter, Imatrix, ImatrixEntry, Source, TensorDeclaration, Value,
};

use crate::common::{json, models, oracle, run, stderr, stdout, text, undine};

/// The most memory that a quantization may take, whatever the size of the file.
const PEAK_BYTES_MAX: u64 = 160 << 20;
/// Size of the file that is quantized in it.
const LARGE_BYTES: u64 = 512 << 20;

/// A place for a file; the folder in its name is the test's own, because a model takes a vision tower that
/// lies beside it.
fn place(name: &str) -> PathBuf {
    let path = models().place("quantize").join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    path
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/undine-demo.gguf")
}

/// Name, type and values of every tensor.
fn tensors(path: &Path) -> Vec<(String, DType, Vec<f32>)> {
    let (source, _) = Source::open(path).expect("opens");
    source
        .tensors()
        .iter()
        .map(|tensor| (tensor.name.clone(), tensor.dtype(), source.values(tensor)))
        .collect()
}

#[test]
fn a_file_of_every_type_opens_and_answers() {
    for mix in [
        "q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_0", "IQ4_XS", "IQ4_NL", "Q3_K_L", "Q2_K", "F16",
        "BF16", "F32",
    ] {
        let path = place(&format!("every-{mix}.gguf"));
        let output = run(&["quantize", text(&demo()), text(&path), "--type", mix]);
        assert!(output.status.success(), "{mix}: {}", stderr(&output));
        let inspected = json(&run(&["inspect", text(&path), "--json"]));
        assert!(!inspected.is_null());
        let answer = run(&["run", text(&path), "-p", "Hi", "--max-tokens", "4", "--temperature", "0"]);
        assert!(answer.status.success(), "{mix}: {}", stderr(&answer));
    }
}

#[test]
fn weights_become_what_the_codec_makes_of_them() {
    let path = place("codec.gguf");
    let output = run(&["quantize", text(&oracle("dense")), text(&path), "--type", "Q4_0", "--pure"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let (before, after) = (tensors(&oracle("dense")), tensors(&path));
    assert_eq!(before.len(), after.len());
    for ((name, _, values), (other, dtype, found)) in before.iter().zip(&after) {
        assert_eq!(name, other);
        let mut blocks = vec![0; dtype.row_bytes(values.len()).expect("whole blocks")];
        quant::encode(*dtype, values, &mut blocks);
        let mut expected = vec![0.0; values.len()];
        quant::decode(*dtype, &blocks, &mut expected);
        assert!(&expected == found, "{name} as {dtype}");
    }
    let types: Vec<DType> = after.iter().map(|(_, dtype, _)| *dtype).collect();
    assert!(types.contains(&DType::Q4_0) && types.contains(&DType::F32));
}

#[test]
fn metadata_is_carried_over() {
    let path = place("metadata.gguf");
    assert!(run(&["quantize", text(&demo()), text(&path), "--type", "Q5_K_S"]).status.success());
    let (before, after) =
        (Checkpoint::open(&demo()).expect("opens"), Checkpoint::open(&path).expect("opens"));
    let changing = |key: &str| ["general.file_type", "general.quantization_version"].contains(&key);
    let kept = |checkpoint: &Checkpoint| -> Vec<(String, Value)> {
        checkpoint.metadata().iter().filter(|(key, _)| !changing(key)).cloned().collect()
    };
    assert_eq!(kept(&before), kept(&after));
    let value =
        |key: &str| after.metadata().iter().find(|(other, _)| other == key).map(|(_, value)| value.clone());
    assert_eq!(value("general.file_type"), Some(Value::U32(16)));
    assert_eq!(value("general.quantization_version"), Some(Value::U32(2)));
}

#[test]
fn a_dry_run_writes_nothing_and_tells_the_size() {
    let (path, demo) = (place("dry.gguf"), demo());
    let words = ["quantize", text(&demo), text(&path), "--type", "Q4_K_M"];
    let dry = run(&[&words[..], &["--dry-run"]].concat());
    assert!(dry.status.success() && !path.exists(), "{}", stderr(&dry));
    assert!(
        stdout(&dry).contains("token_embd.weight") && stdout(&dry).contains("bits per value"),
        "{}",
        stdout(&dry)
    );
    let promised = json(&run(&[&words[..], &["--dry-run", "--json"]].concat()));
    let written = json(&run(&[&words[..], &["--json"]].concat()));
    assert_eq!(promised["files"][0]["tensors"], written["files"][0]["tensors"]);
    let bytes = promised["files"][0]["bytes"].as_u64().expect("bytes");
    let size = fs::metadata(&path).expect("written").len();
    // Header and padding come on top.
    assert!((bytes..bytes + (4 << 20)).contains(&size), "{size} for {bytes}");
}

#[test]
fn an_importance_matrix_lowers_the_error_where_it_points() {
    let (source, _) = Source::open(&demo()).expect("opens");
    let tensor = source.tensors().iter().find(|tensor| tensor.name.contains("ffn_up")).expect("a matrix");
    let cols = tensor.cols();
    let importance: Vec<f32> = (0..cols).map(|i| if i % 8 == 0 { 100.0 } else { 1.0 }).collect();
    let entry = ImatrixEntry::new(vec![1.0], importance.clone()).expect("sane");
    let imatrix = Imatrix { entries: [(tensor.name.clone(), entry)].into(), ..Imatrix::default() };
    let file = place("imatrix.gguf");
    imatrix.write(&file).expect("writes");
    let exact = source.values(tensor);
    let error = |more: &[&str]| -> f64 {
        let path = place(&format!("imatrix-{}.gguf", more.len()));
        let output =
            run(&[&["quantize", text(&demo()), text(&path), "--type", "Q4_0", "--pure", "--force"], more]
                .concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let found = tensors(&path).into_iter().find(|(name, ..)| *name == tensor.name).expect("there").2;
        let weighted =
            |(i, (a, b)): (usize, (&f32, &f32))| f64::from(importance[i % cols]) * f64::from(a - b).powi(2);
        exact.iter().zip(&found).enumerate().map(weighted).sum()
    };
    let (plain, weighted) = (error(&[]), error(&["--imatrix", text(&file)]));
    assert!(weighted < 0.95 * plain, "{weighted} with importances, {plain} without");
}

#[test]
fn a_vision_folder_becomes_two_files() {
    let path = place("vision/vl.gguf");
    let output =
        run(&["quantize", text(&oracle("vl")), text(&path), "--type", "Q8_0", "--mmproj-type", "F16"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let both = Checkpoint::open(&path).expect("opens with its tower beside");
    let folder = Checkpoint::open(&oracle("vl")).expect("opens");
    assert_eq!(
        both.vision_config().map(|config| config.layers),
        folder.vision_config().map(|config| config.layers)
    );
    let tower = place("vision/mmproj-vl.gguf");
    assert!(tensors(&tower).iter().any(|(_, dtype, _)| *dtype == DType::F16));
    // A tower alone is quantized too; rows that are not whole blocks are said.
    let again = place("vision/mmproj-again.gguf");
    let output = run(&["quantize", text(&tower), text(&again), "--type", "Q4_K_M"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("in place of Q4_K"), "{}", stderr(&output));
}

#[test]
fn wrong_wishes_say_why() {
    let (out, exists, same) = (place("wrong.gguf"), place("exists.gguf"), place("same.gguf"));
    fs::write(&exists, "something").expect("writes");
    fs::copy(demo(), &same).expect("copies");
    let folder = place("folder.gguf");
    fs::create_dir_all(&folder).expect("a folder");
    let no_matrix = place("no-imatrix.gguf");
    fs::write(&no_matrix, "this is none").expect("writes");
    let demo = demo();
    for (words, code, part) in [
        (vec!["quantize", "/no/such.gguf", text(&out)], 1, "/no/such.gguf"),
        (vec!["quantize", text(&demo)], 2, "OUT"),
        (vec!["quantize", text(&demo), text(&out), "--type", "Q9_K"], 2, "Q4_K_M"),
        (vec!["quantize", text(&demo), text(&exists)], 1, "--force"),
        (vec!["quantize", text(&same), text(&same), "--force"], 1, "IN and OUT are the same"),
        (vec!["quantize", text(&demo), text(&folder), "--force"], 1, "is a folder"),
        (vec!["quantize", text(&demo), text(&out), "--tensor-type", "ffn_down"], 2, "PATTERN=TYPE"),
        (
            vec!["quantize", text(&demo), text(&out), "--tensor-type", "fnn=Q8_0"],
            1,
            "no matrix of this model",
        ),
        (vec!["quantize", text(&demo), text(&out), "--imatrix", text(&no_matrix)], 1, "no importance matrix"),
        (vec!["quantize", text(&no_matrix), text(&out)], 1, "importance matrix by its name"),
        (vec!["convert", text(&demo), "/proc/no/such/place/model.gguf", "--dequantize"], 1, "/proc/no"),
        (vec!["convert", text(&demo), text(&exists), "--type", "q4_0"], 2, "q4_0"),
    ] {
        let output = run(&words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{words:?}: {}", stderr(&output));
    }
    assert!(!out.exists());
    let output = run(&["quantize", text(&demo), text(&exists), "--force", "--type", "Q8_0"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let output = run(&["quantize", text(&exists), text(&out), "--type", "Q4_0"]);
    assert!(stderr(&output).contains("quantized already (Q8_0)"), "{}", stderr(&output));
}

/// A GGUF file of one matrix of F32; `values` are its beginning, the rest are zeros that take no room on the
/// disk.
fn one_matrix(path: &Path, rows: usize, values: &[f32]) {
    let metadata = [
        ("general.architecture", Value::String("lfm2".to_owned())),
        ("unknown", Value::Array(Array::String(vec!["kept".to_owned()]))),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    let shape = vec![rows, 256];
    let tensor = TensorDeclaration { name: "blk.0.ffn_up.weight".to_owned(), dtype: DType::F32, shape };
    let mut file = fs::File::create(path).expect("a file");
    let mut writer = GgufWriter::new(&mut file, &metadata, &[tensor]).expect("a header");
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    writer.append(&bytes).expect("fits");
    drop(writer);
    let header = file.metadata().expect("a size").len() - bytes.len() as u64;
    file.set_len(header + 1024 * rows as u64).expect("grows");
}

#[test]
fn values_that_cannot_be_held_name_their_tensor() {
    let (path, out) = (place("damaged.gguf"), place("damaged-out.gguf"));
    for (value, mix, expected) in [
        (f32::NAN, "Q4_K_M", Some("blk.0.ffn_up.weight contains NaN")),
        (f32::INFINITY, "F32", Some("the weights are damaged")),
        (1e5, "F16", Some("choose BF16 or F32")),
        (1e5, "BF16", None),
    ] {
        one_matrix(&path, 4, &[0.0, 1.0, value]);
        let output = run(&["quantize", text(&path), text(&out), "--type", mix, "--force"]);
        assert_eq!(output.status.success(), expected.is_none(), "{value} as {mix}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected.unwrap_or("wrote")), "{}", stderr(&output));
        assert_eq!(out.exists(), expected.is_none(), "{value} as {mix}");
    }
}

/// Partial files beside `path`.
fn leftovers(path: &Path) -> usize {
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let entries = fs::read_dir(path.parent().expect("a folder")).expect("reads").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!(".{name}."))).count()
}

#[test]
fn memory_stays_small_and_a_killed_run_leaves_no_file() {
    let (path, out) = (place("large.gguf"), place("large-out.gguf"));
    one_matrix(&path, (LARGE_BYTES / 1024) as usize, &[]);
    let words = ["quantize", text(&path), text(&out), "--type", "Q8_0", "--json"];
    let mut child = undine().args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let deadline = Instant::now() + Duration::from_secs(20);
    while leftovers(&out) == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("is killed");
    child.wait().expect("ends");
    assert!(!out.exists(), "a killed run leaves no file under the name");
    assert_eq!(leftovers(&out), 1, "it was killed while it wrote");
    let report = json(&run(&words));
    assert_eq!(leftovers(&out), 0, "the next run removes what the killed one left");
    if cfg!(target_os = "linux") {
        let peak = report["peak_memory_bytes"].as_u64().expect("the peak");
        assert!(peak < PEAK_BYTES_MAX, "{peak} bytes at most, for a file of {LARGE_BYTES}");
    }
    let (source, _) = Source::open(&out).expect("opens");
    assert_eq!(source.metadata().first().map(|(key, _)| key.as_str()), Some("general.architecture"));
    fs::remove_file(&path).expect("removes");
    fs::remove_file(&out).expect("removes");
}

#[test]
fn folder_to_gguf_and_back_is_exact() {
    for case in ["dense", "moe"] {
        let (file, folder) = (place(&format!("{case}.gguf")), place(&format!("{case}-folder")));
        let there = run(&["convert", text(&oracle(case)), text(&file)]);
        assert!(there.status.success(), "{}", stderr(&there));
        let back = run(&["convert", text(&file), text(&folder), "--force"]);
        assert!(back.status.success(), "{}", stderr(&back));
        let (before, after) =
            (Checkpoint::open(&oracle(case)).expect("opens"), Checkpoint::open(&folder).expect("opens"));
        assert_eq!(before.config(), after.config());
        assert_eq!(before.special_tokens(), after.special_tokens());
        assert_eq!(before.sampling_defaults(), after.sampling_defaults());
        assert_eq!(after.repairs(), &[] as &[String]);
        let (before, after) = (tensors(&oracle(case)), tensors(&folder));
        assert!(before == after, "{case}: names, types and values are the same");
        // The tokenizer says the same, too.
        let answer = |path: &Path| {
            let words = ["run", text(path), "--raw", "-p", "The quick brown fox"];
            run(&[&words[..], &["--max-tokens", "12", "--temperature", "0"]].concat())
        };
        let expected = stdout(&answer(&oracle(case)));
        for path in [&file, &folder] {
            let found = answer(path);
            assert_eq!(stdout(&found), expected, "{case} {}: {}", path.display(), stderr(&found));
        }
        let refused = run(&["convert", text(&file), text(&folder)]);
        assert!(stderr(&refused).contains("is not empty"), "{}", stderr(&refused));
    }
}

#[test]
fn quantized_files_are_converted_on_request_only() {
    let (file, folder) = (place("to-float.gguf"), place("to-float"));
    assert!(run(&["quantize", text(&oracle("dense")), text(&file), "--type", "Q8_0"]).status.success());
    let refused = run(&["convert", text(&file), text(&folder)]);
    assert!(stderr(&refused).contains("--dequantize"), "{}", stderr(&refused));
    let taken = run(&["convert", text(&file), text(&folder), "--dequantize", "--type", "f32"]);
    assert!(taken.status.success(), "{}", stderr(&taken));
    let values =
        |path: &Path| -> Vec<Vec<f32>> { tensors(path).into_iter().map(|(.., values)| values).collect() };
    assert!(values(&file) == values(&folder), "F32 holds what Q8_0 stands for");
    // A vision tower beside the model is asked, unless it is to be left out.
    let (model, tower) = (place("beside/model.gguf"), place("beside/mmproj-model.gguf"));
    assert!(run(&["convert", text(&oracle("vl")), text(&model)]).status.success());
    let smaller = place("beside/smaller/mmproj-model.gguf");
    assert!(run(&["quantize", text(&tower), text(&smaller), "--type", "Q8_0"]).status.success());
    fs::rename(&smaller, &tower).expect("moves");
    for (more, code, expected) in [
        (&[][..], 1, "is Q8_0, which would be written as floats"),
        (&["--no-mmproj"], 0, "wrote"),
        (&["--no-mmproj", "--mmproj", text(&tower)], 2, "cannot be used with"),
        (&["--mmproj", text(&model), "--force"], 1, "expected \"clip\""),
        (&["--dequantize", "--mmproj", text(&tower), "--force"], 0, "wrote"),
    ] {
        let output = run(&[&["convert", text(&model), text(&place("beside/folder"))], more].concat());
        assert_eq!(output.status.code(), Some(code), "{more:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{more:?}: {}", stderr(&output));
        if code == 0 {
            let folder = Checkpoint::open(&place("beside/folder")).expect("opens");
            assert_eq!(folder.vision_config().is_some(), !more.contains(&"--no-mmproj"));
        }
    }
    let output = run(&["convert", text(&model), text(&place("beside/x.gguf")), "--mmproj", text(&tower)]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn a_vision_model_comes_back_as_one_folder() {
    let (file, folder) = (place("vl/model.gguf"), place("vl-folder"));
    assert!(run(&["convert", text(&oracle("vl")), text(&file)]).status.success());
    let back = run(&["convert", text(&file), text(&folder)]);
    assert!(back.status.success(), "{}", stderr(&back));
    let (before, after) =
        (Checkpoint::open(&oracle("vl")).expect("opens"), Checkpoint::open(&folder).expect("opens"));
    assert_eq!(before.config(), after.config());
    assert_eq!(before.vision_config(), after.vision_config());
    assert_eq!(before.image_settings(), after.image_settings());
    assert_eq!(after.repairs(), &[] as &[String]);
    // As they are spelled in the folder. The oracle has a pooling head besides, which nothing uses.
    let spelled = |checkpoint: &Checkpoint| -> Vec<(String, DType, Vec<usize>)> {
        let own = checkpoint.tensors().filter(|tensor| !tensor.name.contains("vision_tower.head."));
        let mut all: Vec<_> = own.map(|t| (t.name.to_owned(), t.dtype, t.shape.to_vec())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    assert_eq!(spelled(&before), spelled(&after));
    assert!(tensors(&oracle("vl")) == tensors(&folder), "the language model's values are the same");
    let tower = |path: &Path| -> Vec<Vec<f32>> {
        let (_, tower) = Source::open(path).expect("opens");
        let tower = tower.expect("a vision model");
        tower.tensors().iter().map(|tensor| tower.values(tensor)).collect()
    };
    assert!(tower(&oracle("vl")) == tower(&folder), "the tower's values are the same");
    for picture in ["48x40.png", "640x480.png"] {
        let picture = oracle("vl").join(picture);
        let answer = |model: &Path| {
            let words = ["run", text(model), "--image", text(&picture), "-p", "Describe it.", "--json"];
            let found = json(&run(&[&words[..], &["--max-tokens", "12", "--temperature", "0"]].concat()));
            (found["text"].clone(), found["usage"]["prompt_tokens"].clone())
        };
        assert_eq!(answer(&folder), answer(&oracle("vl")), "{}", picture.display());
    }
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("config.json")).expect("written")).expect("JSON");
    assert_eq!((&config["model_type"], &config["image_token_id"]), (&"lfm2_vl".into(), &16.into()));
}

/// The oracle's dense model with a first layer so wide that its three matrices take 192 MiB, in bytes with a
/// scale for each row.
fn write_packed(folder: &Path) {
    const WIDTH: usize = 1 << 18;
    fs::create_dir_all(folder).expect("made");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(oracle("dense").join(file), folder.join(file)).expect("copied");
    }
    let config = fs::read(oracle("dense").join("config.json")).expect("there");
    let mut config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    config["quantization_config"] = serde_json::json!({"quant_method": "compressed-tensors"});
    fs::write(folder.join("config.json"), config.to_string()).expect("written");
    let own = fs::read(oracle("dense").join("model.safetensors")).expect("there");
    let start = 8 + u64::from_le_bytes(own[..8].try_into().expect("eight bytes")) as usize;
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&own[8..start]).expect("JSON");
    let (mut entries, mut data) = (serde_json::Map::new(), Vec::new());
    let mut add = |name: &str, dtype: &str, shape: &[usize], bytes: &[u8]| {
        let place = [data.len(), data.len() + bytes.len()];
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": place});
        entries.insert(name.to_owned(), entry);
        data.extend_from_slice(bytes);
    };
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let numbers =
            |key: &str| -> Vec<usize> { serde_json::from_value(entry[key].clone()).expect("numbers") };
        let (at, shape) = (numbers("data_offsets"), numbers("shape"));
        let Some(module) = name.strip_suffix(".weight").filter(|name| name.contains("layers.0.feed_forward"))
        else {
            add(name, "BF16", &shape, &own[start + at[0]..start + at[1]]);
            continue;
        };
        let shape = if module.ends_with("w2") { [shape[0], WIDTH] } else { [WIDTH, shape[1]] };
        let codes: Vec<u8> = (0..shape[0] * shape[1]).map(|i| (i * 7 % 251) as u8).collect();
        add(name, "I8", &shape, &codes);
        // 2^-14 as BF16.
        add(&format!("{module}.weight_scale"), "BF16", &[shape[0], 1], &[0x80, 0x38].repeat(shape[0]));
    }
    let header = serde_json::Value::Object(entries).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(folder.join("model.safetensors"), file).expect("written");
}

#[test]
fn a_folder_of_another_program_is_converted_with_its_blocks_in_little_memory() {
    let (folder, file) = (place("packed/folder"), place("packed/out.gguf"));
    write_packed(&folder);
    let info = json(&run(&["inspect", text(&folder), "--json"]));
    assert_eq!(info["format"], "safetensors, compressed-tensors INT8");
    let output = run(&["convert", text(&folder), text(&file), "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let peak = json(&output)["peak_memory_bytes"].as_u64();
    assert!(peak < Some(PEAK_BYTES_MAX), "{peak:?} bytes");
    let (source, _) = Source::open(&file).expect("opens");
    let up = source.tensors().iter().find(|tensor| tensor.name == "blk.0.ffn_up.weight").expect("there");
    assert_eq!(up.dtype(), DType::Q8_0);
    let values = source.values(up);
    let code = |i: usize| f32::from(((i * 7 % 251) as u8).cast_signed());
    assert!((0..values.len()).all(|i| values[i] == code(i) / 16384.0), "values are what they were");
    let answer = run(&["run", text(&folder), "-p", "Hi", "--max-tokens", "2", "--raw"]);
    assert!(answer.status.success(), "{}", stderr(&answer));
    fs::remove_dir_all(&folder).expect("removed");
    fs::remove_file(&file).expect("removed");
}
