//! `undine synth`, `inspect` and `bench`.

use std::path::Path;

use undine_core::DType;
use undine_core::quant::RandomBlocks;
use undine_weights::{Checkpoint, GgufWriter, TensorDeclaration};

use crate::common::{json, models, oracle, run, stderr, stdout, text};

#[test]
fn every_type_is_written_inspected_measured_and_run() {
    let types =
        "F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_0 Q5_1 Q4_K_M Q4_0 Q4_1 Q3_K_M Q2_K IQ4_NL IQ4_XS IQ3_S IQ2_XXS";
    for (shape, mix) in types.split(' ').map(|mix| ("tiny", mix)).chain([("tiny-moe", "Q4_K_M")]) {
        let path = models().place(&format!("{shape}-{mix}.gguf"));
        let output = run(&["synth", shape, "--type", mix, "-o", text(&path)]);
        assert!(output.status.success(), "{mix}: {}", stderr(&output));
        let info = json(&run(&["inspect", text(&path), "--json"]));
        assert_eq!(info["repairs"], serde_json::json!([]), "{mix}");
        let base = mix.trim_end_matches("_M");
        assert!(info["types"][base]["tensors"].as_u64() > Some(4), "{mix}: {}", info["types"]);
        let speed =
            json(&run(&["bench", text(&path), "-p", "16", "-n", "4", "-r", "1", "--warmup", "0", "--json"]));
        assert_eq!(speed.as_array().map(Vec::len), Some(2), "{mix}");
        let answer = json(&run(&["run", text(&path), "-p", "hello", "--max-tokens", "4", "--json"]));
        assert!(answer["usage"]["completion_tokens"].as_u64() > Some(0), "{mix}");
    }
}

/// A model whose matrices are random blocks of a type that nothing is encoded in.
fn write_random(from: &Path, dtype: DType, to: &Path) {
    let model = Checkpoint::open(from).expect("opens");
    let mut random = fastrand::Rng::with_seed(1);
    let (declarations, data): (Vec<_>, Vec<_>) = model
        .tensors()
        .map(|tensor| {
            let cols = *tensor.shape.last().expect("has columns");
            let is_norm = tensor.shape.len() == 1 && tensor.name.ends_with(".weight");
            let dtype = if tensor.dtype == DType::F32 { DType::F32 } else { dtype };
            let values: usize = tensor.shape.iter().product();
            let mut bytes = vec![0; values / cols * dtype.row_bytes(cols).expect("whole blocks")];
            random.fill(&mut bytes);
            RandomBlocks::new(dtype, 1.0 / (cols as f32).sqrt(), |bytes| random.fill(bytes)).mend(&mut bytes);
            if is_norm {
                bytes = std::iter::repeat_n(1f32.to_le_bytes(), values).flatten().collect();
            }
            (TensorDeclaration { name: tensor.name.to_owned(), dtype, shape: tensor.shape.to_vec() }, bytes)
        })
        .unzip();
    let mut writer = GgufWriter::create(to, model.metadata(), &declarations).expect("created");
    data.iter().for_each(|bytes| writer.append(bytes).expect("as much as was declared"));
    writer.commit().expect("written");
}

#[test]
fn files_in_types_that_nothing_is_written_in_are_inspected_sized_run_and_quantized() {
    let whole = models().place("read-only-source.gguf");
    assert!(run(&["synth", "tiny", "--type", "Q8_0", "-o", text(&whole)]).status.success());
    for &dtype in DType::ALL.iter().filter(|dtype| !dtype.is_written()) {
        let path = models().place(&format!("tiny-{dtype}.gguf"));
        write_random(&whole, dtype, &path);
        let info = json(&run(&["inspect", text(&path), "--json"]));
        assert!(info["types"][dtype.name()]["tensors"].as_u64() > Some(4), "{dtype}: {}", info["types"]);
        let answer = json(&run(&["run", text(&path), "-p", "hello", "--max-tokens", "4", "--json"]));
        assert!(answer["usage"]["completion_tokens"].as_u64() > Some(0), "{dtype}");
        let fit = run(&["fit", text(&path), "--json"]);
        assert!(fit.status.success(), "{dtype}: {}", stderr(&fit));
        let smaller = models().place(&format!("tiny-{dtype}-Q4_0.gguf"));
        let output = run(&["quantize", text(&path), text(&smaller), "--type", "Q4_0"]);
        assert!(output.status.success(), "{dtype}: {}", stderr(&output));
        let again = run(&["quantize", text(&whole), text(&smaller), "--type", dtype.name()]);
        assert_eq!(again.status.code(), Some(2), "{dtype}");
        assert!(stderr(&again).contains(&format!("files in {dtype} are read and run")), "{}", stderr(&again));
    }
}

#[test]
fn a_vision_model_is_written_with_its_tower_beside_it() {
    let path = models().place("vl/tiny-vl.gguf");
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let output = run(&["synth", "tiny-vl", "--type", "Q4_K_M", "-o", text(&path)]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("mmproj-tiny-vl.gguf"), "{}", stderr(&output));
    let checkpoint = Checkpoint::open(&path).expect("opens");
    let config = checkpoint.vision_config().expect("has a tower");
    assert_eq!((config.width, config.layers, config.hidden), (64, 2, 256));
}

#[test]
fn the_same_seed_writes_the_same_file() {
    let write = |name: &str, seed: &str| {
        let path = models().place(name);
        let output = run(&["synth", "tiny", "--type", "Q4_0", "--seed", seed, "-o", text(&path)]);
        assert!(output.status.success(), "{}", stderr(&output));
        std::fs::read(path).expect("written")
    };
    let first = write("seed-a.gguf", "1");
    assert_eq!(first, write("seed-b.gguf", "1"));
    assert_ne!(first, write("seed-c.gguf", "2"));
}

#[test]
fn synth_lists_shapes_and_refuses_others() {
    let list = stdout(&run(&["synth", "--list"]));
    for part in ["LFM2-350M", "LFM2.5-8B-A1B", "LFM2-24B-A2B", "guess", "Q4_K_M"] {
        assert!(list.contains(part), "{part}: {list}");
    }
    assert!(!list.contains("tiny"), "{list}");
    let output = run(&["synth", "LFM2-7B", "-o", "/tmp/never.gguf"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--list"), "{}", stderr(&output));
    let output = run(&["synth", "tiny", "-o", "/no/such/folder/x.gguf"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/no/such/folder"), "{}", stderr(&output));
}

#[test]
fn inspect_tells_shape_memory_tokenizer_and_template() {
    let info = json(&run(&["inspect", text(&models().chat()), "--json", "--tensors"]));
    assert_eq!(info["layers"]["pattern"], "ccacac");
    assert_eq!(info["context_length"], 128_000);
    // Two attention layers, keys and values, two heads of 64.
    assert_eq!(info["memory"]["kv_bytes_per_token"]["float16"], 2 * 2 * 2 * 64 * 2);
    // A scale of 4 bytes for each of the heads' keys and values.
    assert_eq!(info["memory"]["kv_bytes_per_token"]["q8_0"], 2 * 2 * 2 * (64 + 4));
    // Four convolution layers, two taps of state, 256 channels of 4 bytes.
    assert_eq!(info["memory"]["conv_state_bytes_per_sequence"], 4 * 2 * 256 * 4);
    assert_eq!(info["tokenizer"]["eos"][0]["text"], "<|im_end|>");
    assert_eq!(info["chat_template"]["supports_tools"], false);
    let sizes = info["tensors"].as_array().expect("a list").iter().map(|tensor| tensor["bytes"].as_u64());
    let by_type = info["types"].as_object().expect("a map").values().map(|total| total["bytes"].as_u64());
    assert_eq!(sizes.flatten().sum::<u64>(), by_type.flatten().sum::<u64>());
    let table = stdout(&run(&["inspect", text(&oracle("moe")), "--tensors"]));
    for part in ["ccacac", "16 of width", "safetensors", "LFM2's own", "128,000 tokens", "metadata"] {
        assert!(table.contains(part), "{part}: {table}");
    }
}

#[test]
fn inspect_shows_a_template_that_does_not_parse() {
    let folder = models().place("bad-template");
    std::fs::create_dir_all(&folder).expect("a folder");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(oracle("dense").join(file), folder.join(file)).expect("copies");
    }
    std::fs::write(folder.join("chat_template.jinja"), "{% if %}").expect("writes");
    let table = stdout(&run(&["inspect", text(&folder)]));
    assert!(table.contains("cannot be used: the chat template does not parse"), "{table}");
    let output = run(&["run", text(&folder), "-p", "x"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn bench_reports_each_test_with_median_and_spread() {
    let model = models().synthetic();
    let words = ["bench", text(&model), "-p", "8,16", "-n", "0,4", "-r", "3", "--warmup", "0"];
    let reports = json(&run(&[&words[..], &["--json"]].concat()));
    let names: Vec<&str> =
        reports.as_array().expect("a list").iter().filter_map(|report| report["test"].as_str()).collect();
    assert_eq!(names, ["pp8", "pp16", "tg4"]);
    for report in reports.as_array().expect("a list") {
        let number = |name: &str| report[name].as_f64().expect("a number");
        assert!(0.0 < number("min_ts") && number("min_ts") <= number("median_ts"));
        assert!(number("median_ts") <= number("max_ts"));
        assert_eq!(report["samples_ts"].as_array().map(Vec::len), Some(3));
        assert_eq!(report["threads"], 2);
    }
    let table = stdout(&run(&words));
    assert!(table.contains("pp16") && table.contains("min .. max"), "{table}");
    let nothing = run(&["bench", text(&models().synthetic()), "-p", "0", "-n", "0"]);
    assert_eq!(nothing.status.code(), Some(2));
    let long = run(&["bench", text(&models().synthetic()), "-p", "5000", "-n", "0"]);
    assert_eq!(long.status.code(), Some(1));
    assert!(stderr(&long).contains("4096"), "{}", stderr(&long));
}

#[test]
fn bench_measures_at_depth_and_several_sequences_together() {
    let model = models().synthetic();
    // 600 tokens: more than are computed a second time.
    let words =
        ["bench", text(&model), "-p", "8,600", "-n", "4", "-d", "0,70", "-B", "1,3", "-r", "2", "--json"];
    let reports = json(&run(&[&words[..], &["--warmup", "0", "--ubatch", "16"]].concat()));
    let reports = reports.as_array().expect("a list");
    let names: Vec<&str> = reports.iter().filter_map(|report| report["test"].as_str()).collect();
    let prefill = ["pp8", "pp600", "pp8 @ d70", "pp600 @ d70"];
    let all = [&prefill[..], &["tg4", "tg4 @ d70", "tg4 x3", "tg4 x3 @ d70"]].concat();
    assert_eq!(names, all);
    assert_eq!(reports[7]["depth"], 70);
    assert_eq!(reports[7]["batch"], 3);
    assert!(reports.iter().all(|report| report["ubatch"] == 16));
    let deep = run(&["bench", text(&model), "-p", "0", "-n", "1", "-d", "4096"]);
    assert_eq!(deep.status.code(), Some(1));
    assert!(stderr(&deep).contains("tg1 @ d4096: 4097 tokens"), "{}", stderr(&deep));
}

#[test]
fn bench_runs_on_the_instruction_set_it_is_told() {
    let model = models().synthetic();
    let words = ["bench", text(&model), "-p", "8", "-n", "0", "-r", "1", "--warmup", "0", "--json", "--isa"];
    assert_eq!(json(&run(&[&words[..], &["portable"]].concat()))[0]["isa"], "portable");
    let unknown = run(&[&words[..], &["mmx"]].concat());
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("portable"), "{}", stderr(&unknown));
}

#[test]
fn bench_compares_with_the_limits_of_the_machine() {
    let model = models().synthetic();
    let words = ["bench", text(&model), "-p", "8", "-n", "2", "-r", "1", "--warmup", "0", "--roofline"];
    let reports = json(&run(&[&words[..], &["--json"]].concat()));
    for report in reports.as_array().expect("a list") {
        let number = |name: &str| report[name].as_f64().expect("a number");
        let percent = 100.0 * number("median_ts") / number("limit_ts");
        assert!((number("percent_of_limit") - percent).abs() < 1e-6, "{report}");
        // All weights, of which the embedding table is the head too, and no more than some keys and values.
        let bytes = number("bytes_per_token") * if report["test"] == "pp8" { 8.0 } else { 1.0 };
        assert!((0.9..1.1).contains(&(bytes / number("model_bytes"))), "{report}");
        assert!(report["roofline"]["read"].as_f64() > Some(1e8), "{report}");
    }
    let table = stdout(&run(&words));
    assert!(table.contains("GB/s") && table.contains("of it"), "{table}");
}

#[test]
fn without_a_model_there_is_the_demo() {
    assert_eq!(json(&run(&["inspect", "--json"]))["name"], "Undine demo");
    let answer = json(&run(&["run", "--json", "-p", "What is 17 + 25?"]));
    assert!(answer["text"].as_str().unwrap().contains("42"), "{answer}");
    assert!(answer["reasoning"].as_str().unwrap().contains("17 + 25"), "{answer}");
}

#[test]
fn help_has_examples() {
    for command in ["run", "serve", "synth", "inspect", "bench", "eval", "calibrate"] {
        let output = run(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("Examples:"), "{command}");
    }
    assert!(stdout(&run(&["--version"])).starts_with("undine "));
}
