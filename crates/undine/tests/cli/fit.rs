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
        "--device",
        "4090",
        "--device",
        "Desktop DDR5",
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
    for part in [
        "(1,557,528,576 active)",
        "6 attention layers x 2 x 8 heads x 64 x 2 B",
        "RTX 4090 24GB",
        "1M out",
        "--max-num-seqs 16",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let default = stdout(&run(&["fit", "LFM2-1.2B"]));
    assert!(default.lines().count() <= 40, "a screen: {default}");
    let markdown = stdout(&run(&["fit", "LFM2-1.2B", "--markdown"]));
    assert!(markdown.contains("| weights |") && markdown.contains("|---|---:|"), "{markdown}");
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
    assert!(std::fs::read_to_string(svg).expect("written").contains("8 users"));
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

/// Sized beforehand, then served with every context full: shapes of true size, and the processes they become. What a
/// vision tower works in is there after the first picture; of what is kept of pictures one is small beside the most.
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
    // No arithmetic is published for the card, and its bandwidth is; a desktop has neither too little memory nor a peak.
    let screen = stdout(&run(&["fit", "LFM2-350M", "--device", "RX 9070", "--price", "1/h"]));
    let row = screen.lines().find(|line| line.starts_with("RX 9070")).expect("a row");
    assert_eq!(row.matches("unknown").count(), 2, "prefill and its cost: {row}");
    assert!(screen.contains("unknown: no figure"), "{screen}");
    let known = stdout(&run(&["fit", "LFM2-350M", "--device", "H100"]));
    assert!(!known.contains("unknown"), "{known}");
    let large = stdout(&run(&["fit", "LFM2-24B-A2B", "--type", "BF16", "--device", "RX 9070"]));
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
        (&["fit", "Cargo.toml"], 1, "magic"),
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
