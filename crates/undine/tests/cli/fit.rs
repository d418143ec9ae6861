//! `undine fit` and `undine doctor`.

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

/// Sized beforehand, then served with every context full: a shape of true size, and the process it becomes.
#[cfg(target_os = "linux")]
#[test]
fn a_server_takes_the_memory_that_fit_says() {
    let model = models().place("resident.gguf");
    let written = run(&["synth", "LFM2.5-230M", "--type", "Q8_0", "-o", text(&model)]);
    assert!(written.status.success(), "{}", stderr(&written));
    let load = ["--users", "2", "--context", "512"];
    let fit = json(&run(&[&["fit", "LFM2.5-230M", "--type", "Q8_0", "--json"], &load[..]].concat()));
    let said = fit["memory"]["total_bytes"].as_f64().expect("a number");
    let words: Vec<&str> = fit["command"].as_str().expect("a command").split(' ').skip(3).collect();
    let server = Server::start(&[&[text(&model)], &words[..]].concat());
    for user in 0..2 {
        let prompt: Vec<u32> = (0..500).map(|i| 1000 + 7 * i + 31 * user).collect();
        let body = json!({"prompt": prompt, "max_tokens": 8, "ignore_eos": true}).to_string();
        let answer = server.ask("POST", "/v1/completions", &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let resident: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    let ratio = said / (resident * 1024.0);
    assert!((0.95..1.05).contains(&ratio), "{said} bytes said, {resident} KiB taken: {ratio:.3}");
    drop(std::fs::remove_file(model));
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
