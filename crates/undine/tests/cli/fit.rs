//! `undine fit` and `undine doctor`.

#[cfg(target_os = "linux")]
use base64::Engine;
use serde_json::json;

use crate::common::{json, models, oracle, run, stderr, stdout, text};
#[cfg(target_os = "linux")]
use crate::serve::Server;

#[test]
fn a_shape_is_sized_for_devices() {
    let words = [
        "fit",
        "LFM2-8B-A1B",
        "--type",
        "Q8_0",
        "--users",
        "16",
        "--context",
        "32K",
        "--devices",
        "4090, Desktop DDR5-5600 64GB",
        "--price",
        "0.72/h",
    ];
    let fit = json(&run(&[&words[..], &["--json"]].concat()));
    assert_eq!(fit["parameters"], 8_339_930_560_u64);
    assert_eq!(fit["memory"]["terms"][1]["bytes"], 16 * 32_768 * 12_288_u64, "keys and values");
    let devices = fit["devices"].as_array().expect("a list");
    assert_eq!(devices.len(), 2);
    let (card, desktop) = (&devices[0], &devices[1]);
    assert_eq!(card["fits"], true);
    assert_eq!(card["best_type"], "Q8_0");
    assert_eq!(card["speeds"]["decode_one"]["certainty"], "bound");
    assert_eq!(desktop["speeds"]["decode_one"]["certainty"], "estimate");
    assert!(card["cost_per_million_tokens"]["output"].as_f64() > Some(0.0), "{card}");
    let screen = stdout(&run(&words));
    for part in
        ["Needs 14.4 GiB: of 2 devices", "(1,557,528,576 active)", "K/V 6.00 GiB", "RTX 4090 24GB", "1M out"]
    {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let formulas = stdout(&run(&[&words[..], &["-v"]].concat()));
    for part in ["6 attention layers x 2 x 8 heads x 64 x 2 B", "--max-num-seqs 16"] {
        assert!(formulas.contains(part) && !screen.contains(part), "{part}: {formulas}");
    }
    let markdown = stdout(&run(&["fit", "LFM2-1.2B", "--markdown"]));
    assert!(markdown.contains("| weights |") && markdown.contains("|---|---:|"), "{markdown}");
}

#[test]
fn the_answer_comes_first_and_this_machine_is_measured() {
    let output = run(&["fit", "LFM2-350M"]);
    let screen = stdout(&output);
    assert!(screen.lines().count() <= 40, "a screen: {screen}");
    let first = screen.lines().next().expect("a line");
    assert!(
        ["Yes: needs ", "Yes, but tight: needs ", "Yes, but slow: needs ", "No: needs "]
            .iter()
            .any(|start| first.starts_with(start)),
        "{first}"
    );
    assert!(first.contains(" GiB here") || first.contains(" MiB here"), "{first}");
    let longest = screen.split(|c: char| !c.is_ascii_digit() && c != ',').filter(|word| word.len() > 11);
    assert_eq!(longest.collect::<Vec<_>>(), Vec::<&str>::new(), "numbers that nobody can read");
    let fit = json(&run(&["fit", "LFM2-350M", "--json"]));
    let here = &fit["devices"][0];
    assert_eq!((&here["name"], &here["source"]), (&json!("this machine"), &json!("measured")));
    assert!(here["bytes_per_s"].as_f64() > Some(1e8), "{here}");
    assert!(fit["verdict"].as_str().is_some_and(|text| text.contains(": needs ")), "{fit}");
    if here["fits"] == true {
        assert_eq!(here["speeds"]["decode_one"]["certainty"], "estimate");
        assert!(first.contains("; about "), "{first}");
    }
    let one = stdout(&run(&["fit", "LFM2-350M", "--devices", "raspberry pi 5 8gb"]));
    let first = one.lines().next().expect("a line");
    assert!(first.starts_with("Yes: needs") && first.contains("on Raspberry Pi 5 8GB; about"), "{first}");
}

#[test]
fn devices_are_listed_marked_and_sorted() {
    let all = json(&run(&["fit", "LFM2-24B-A2B", "--type", "Q8_0", "--devices", "--json"]));
    let all = all["devices"].as_array().expect("a list");
    assert!(all.len() >= 150, "{}", all.len());
    let mark = |name: &str| {
        let device = all.iter().find(|device| device["name"] == name);
        device.unwrap_or_else(|| panic!("no {name}"))["runs"].clone()
    };
    assert_eq!(
        ["RTX 4090 24GB", "RTX 5090 32GB", "Orange Pi 5 Plus 32GB", "H100 SXM 80GB"].map(mark),
        ["no", "well", "tight", "well"].map(|mark| json!(mark))
    );
    for (key, first, last) in [
        ("speed", "RTX 4090 24GB", "Raspberry Pi 5 8GB"),
        ("memory", "Apple M4 Max 128GB", "iPhone 16 Pro 8GB"),
        ("name", "Apple M4 Max 128GB", "RTX 4090 24GB"),
        ("price", "iPhone 16 Pro 8GB", "Raspberry Pi 5 8GB"),
    ] {
        let names = "4090,iphone 16 pro,m4 max 128gb,raspberry pi 5 8gb";
        let screen = stdout(&run(&["fit", "LFM2-350M", "--devices", names, "--sort", key]));
        let rows: Vec<&str> =
            screen.lines().skip_while(|line| !line.starts_with("device")).skip(1).take(4).collect();
        assert!(rows[0].starts_with(first), "{key}: {rows:?}");
        assert!(key == "price" || rows[3].starts_with(last), "{key}: {rows:?}");
        assert_eq!(rows[0].contains("$999"), key == "price", "{rows:?}");
        assert!(screen.contains("runs: well with at most 90%"), "{screen}");
    }
}

#[test]
fn fine_tuning_is_sized() {
    let words = ["fit", "LFM2-8B-A1B", "--finetune", "lora", "--tokens", "32K", "--devices", "4090, h200"];
    let bytes = |more: &[&str], name: &str| {
        let fit = json(&run(&[&words[..], more, &["--json"]].concat()));
        let terms = fit["training"]["terms"].as_array().expect("a list").clone();
        terms.iter().find(|term| term["name"] == name).expect("a part")["bytes"].as_u64().expect("a number")
    };
    assert_eq!(bytes(&[], "weights"), 2 * 8_339_930_560);
    // 24 layers of 2048 values in f32.
    assert_eq!(bytes(&[], "activations"), 32_768 * 24 * 2048 * 4);
    assert_eq!(bytes(&["--rank", "32"], "adapter"), 2 * bytes(&[], "adapter"));
    assert!(bytes(&["--train-experts"], "adapter") > 15 * bytes(&[], "adapter"));
    let screen = stdout(&run(&[&words[..], &["-v"]].concat()));
    for part in
        ["Needs ", "18 x conv.in_proj", "rank 16", "each layer's input", "no", "well", "does not train"]
    {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    for (more, part) in [
        (&["--targets", "gate_proj"][..], "conv.in_proj"),
        (&["--sort", "price"], "memory or name"),
        (&["--measure"], "--finetune"),
    ] {
        let output = run(&[&words[..], more].concat());
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(stderr(&output).contains(part), "{more:?}: {}", stderr(&output));
    }
    assert_eq!(run(&["fit", "LFM2-1.2B", "--rank", "8"]).status.code(), Some(2), "a rank of what?");
}

#[test]
fn files_folders_and_configurations_are_sized_alike() {
    let memory = |model: &str, more: &[&str]| {
        json(&run(&[&["fit", model, "--context", "256", "--json"], more].concat()))["memory"].clone()
    };
    let file = memory(text(&models().synthetic()), &[]);
    assert_eq!(file, memory("tiny", &["--type", "Q4_K_M"]), "a file, and the shape it was made of");
    let folder = oracle("dense");
    let config = folder.join("config.json");
    assert_eq!(
        memory(text(&config), &["--type", "F32"])["terms"],
        memory(text(&folder), &["--type", "F32"])["terms"]
    );
    let svg = models().place("fit.svg");
    assert!(run(&["fit", "LFM2-1.2B", "--users", "8", "--svg", text(&svg)]).status.success());
    let svg = std::fs::read_to_string(svg).expect("written");
    assert!(svg.contains("8 users") && svg.contains("this machine: "), "{svg}");
}

#[test]
fn measuring_says_how_far_the_estimate_was_off() {
    let fit = json(&run(&[
        "fit",
        text(&models().synthetic()),
        "--context",
        "64",
        "--users",
        "2",
        "--measure",
        "--json",
    ]));
    let tests = fit["measured"]["tests"].as_array().expect("a list");
    let names: Vec<_> = tests.iter().map(|test| test["test"].clone()).collect();
    assert_eq!(names, [json!("pp64"), json!("tg16"), json!("tg16 x2")]);
    assert!(tests.iter().all(|test| test["measured_tokens_per_s"].as_f64() > Some(0.0)), "{tests:?}");
    let here = &fit["devices"][0];
    assert_eq!(here["name"], "this machine");
    let prefill = here["speeds"]["prefill"]["tokens_per_s"].as_f64().expect("a number");
    let measured = tests[0]["measured_tokens_per_s"].as_f64().expect("a number");
    assert!((prefill / measured - 1.0).abs() < 1e-6, "the estimate is replaced: {prefill}, {measured}");
    assert_eq!(here["bytes_per_s"], fit["measured"]["read_bytes_per_s"]);
    assert_eq!(here["speeds"]["prefill"]["certainty"], "measured");
}

/// Bytes that a process has in memory.
#[cfg(target_os = "linux")]
fn resident(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    1024.0 * line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number")
}

/// Sized beforehand, then served with every context full: shapes of true size, and the processes they become.
/// What a vision tower works in is there after the first picture; of what is kept of pictures one is small
/// beside the most.
#[cfg(target_os = "linux")]
#[test]
fn a_server_takes_the_memory_that_fit_says() {
    for (shape, mix, picture) in
        [("LFM2.5-230M", "Q8_0", None), ("LFM2-VL-450M", "Q4_0", Some("640x480.png"))]
    {
        let model = models().place(&format!("resident-{mix}/model.gguf"));
        std::fs::create_dir_all(model.parent().expect("a folder")).expect("made");
        let written = run(&["synth", shape, "--type", mix, "-o", text(&model)]);
        assert!(written.status.success(), "{}", stderr(&written));
        let load = ["--users", "2", "--context", "512"];
        let fit = json(&run(&[&["fit", shape, "--type", mix, "--json"], &load[..]].concat()));
        let term = |name: &str| {
            let terms = fit["memory"]["terms"].as_array().expect("a list");
            let found = terms.iter().find(|term| term["name"] == name);
            found.map_or(0.0, |term| term["bytes"].as_f64().expect("a number"))
        };
        assert_eq!(term("vision") > 0.0, picture.is_some());
        let said = fit["memory"]["total_bytes"].as_f64().expect("a number") - term("images");
        let words: Vec<&str> = fit["command"].as_str().expect("a command").split(' ').skip(3).collect();
        let server = Server::start(&[&[text(&model)], &words[..]].concat());
        for user in 0..2 {
            let prompt: Vec<u32> = (0..500).map(|i| 1000 + 7 * i + 31 * user).collect();
            let body = json!({"prompt": prompt, "max_tokens": 8, "ignore_eos": true}).to_string();
            let answer = server.ask("POST", "/v1/completions", &body);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        if let Some(picture) = picture {
            let bytes = std::fs::read(oracle("vl").join(picture)).expect("there");
            let url =
                format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes));
            let content = json!([{"type": "image_url", "image_url": {"url": url}}]);
            let body =
                json!({"messages": [{"role": "user", "content": content}], "max_tokens": 2}).to_string();
            let answer = server.ask("POST", "/v1/chat/completions", &body);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        let resident = resident(server.child.id());
        let ratio = said / resident;
        assert!((0.95..1.05).contains(&ratio), "{shape}: {said} bytes said, {resident} taken: {ratio:.3}");
        drop(std::fs::remove_dir_all(model.parent().expect("a folder")));
    }
}

#[test]
fn what_is_not_known_is_said() {
    // No arithmetic is published for the phone, and its bandwidth is.
    let phone = "Galaxy S25 Ultra 12GB";
    let screen = stdout(&run(&["fit", "LFM2-350M", "--device", phone, "--price", "1/h"]));
    let row = screen.lines().find(|line| line.starts_with("Galaxy")).expect("a row");
    assert_eq!(row.matches("unknown").count(), 2, "prefill and its cost: {row}");
    assert!(screen.contains("unknown: no figure"), "{screen}");
    let known = stdout(&run(&["fit", "LFM2-350M", "--device", "H100"]));
    assert!(!known.contains("unknown"), "{known}");
    let large = stdout(&run(&["fit", "LFM2-24B-A2B", "--type", "BF16", "--device", phone]));
    assert!(!large.contains("unknown"), "what does not fit has no speed: {large}");
}

#[test]
fn a_vision_tower_and_its_images_are_sized() {
    let terms = |model: &str| {
        let fit = json(&run(&["fit", model, "--threads", "2", "--json"]));
        let names: Vec<String> = fit["memory"]["terms"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|term| term["name"].as_str().expect("a name").to_owned())
            .collect();
        (names, fit["memory"].clone(), fit["note"].clone())
    };
    let (names, memory, note) = terms("LFM2-VL-450M");
    assert_eq!(names, ["weights", "K/V", "conv state", "activations", "vision", "images", "program"]);
    assert_eq!(memory["terms"][5]["bytes"], 512 << 20, "both caches");
    assert!(!note.as_str().unwrap_or_default().contains("not counted"), "{note}");
    let formula = memory["terms"][4]["formula"].as_str().expect("a text");
    assert!(formula.starts_with("1,024 patches x (5 x 768 + 3072) x 4 B + 256 tokens x"), "{formula}");
    // A folder with its own tower.
    let (names, ..) = terms(text(&oracle("vl")));
    assert!(names.contains(&"vision".to_owned()), "{names:?}");
    let (names, ..) = terms("LFM2-1.2B");
    assert!(!names.contains(&"vision".to_owned()), "{names:?}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (words, code, part) in [
        (&["fit", "LFM2-7B"][..], 2, "synth --list"),
        (&["fit", "LFM2-1.2B", "--context", "1M"], 1, "more than the model's context of 128000"),
        (&["fit", "LFM2-1.2B", "--device", "voodoo"], 2, "RTX 4090"),
        (&["fit", "LFM2-1.2B", "--price", "free"], 2, "0.72/h"),
        (&["fit", "LFM2-1.2B", "--users", "0"], 2, "65536"),
        (&["fit", "Cargo.toml"], 1, "this is a text file"),
        (&["fit", "LiquidAI/LFM2-1.2B-GGUF:nonsense"], 2, "expected one of"),
        (&["fit", "lfm2:1.2b:Q8_0", "--type", "Q4_0"], 2, "the name says Q8_0, and --type says Q4_0"),
        (&["fit", "LFM2-1.2B", "--devices", ""], 2, "found none"),
        (&["fit", "LFM2-1.2B", "--devices", ","], 2, "found none"),
    ] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{words:?}: {}", stderr(&output));
    }
}

#[test]
fn the_doctor_says_what_there_is() {
    let output = run(&["doctor", "--no-measure", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    let has_advice = findings.iter().any(|finding| finding["advice"].is_string());
    assert_eq!(report["healthy"], !has_advice);
    assert_eq!(output.status.code(), Some(i32::from(has_advice)));
    let names: Vec<_> = findings.iter().filter_map(|finding| finding["name"].as_str()).collect();
    assert!(names.contains(&"instructions") && names.contains(&"cores"), "{names:?}");
    let screen = stdout(&run(&["doctor"]));
    assert!(screen.contains("bandwidth") && screen.contains("GB/s"), "{screen}");
}
