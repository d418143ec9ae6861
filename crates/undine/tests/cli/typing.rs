//! What people type: command lines of other programs, prompts as arguments, answers on a terminal and off it.

use crate::chat;
use crate::common::{json, models, run, run_piped, stderr, stdout, text, undine};
use crate::serve::Server;
use crate::terminal::{start, utf8};

#[test]
fn command_lines_of_other_programs_run_or_are_answered() {
    let model = models().chat();
    let model = text(&model);
    let out = models().place("typed.gguf");
    let prompt = models().place("prompt.txt");
    std::fs::write(&prompt, "Hello\n").expect("writes");
    let (out, prompt) = (text(&out), text(&prompt));
    for (words, code, told) in [
        (
            &[
                "run", "-m", model, "-p", "Hi", "-n", "4", "-ngl", "99", "-c", "0", "-fa", "on", "--temp",
                "0", "-st",
            ][..],
            0,
            "-ngl has no effect",
        ),
        (
            &["-m", model, "-p", "Hi", "-n", "4", "--jinja", "-ctk", "q8_0", "-ctv", "q8_0"],
            0,
            "is cut after 4 tokens",
        ),
        (&["run", model, "Hello", "-n", "4"], 0, "is cut"),
        (&["run", model, "Hello", "there", "-n", "4", "--keepalive", "5m"], 0, "--keepalive has no effect"),
        (
            &["run", model, "-f", prompt, "-n", "4", "-sys", "Be brief.", "-s", "7", "--top-k", "40"],
            0,
            "is cut",
        ),
        (
            &["run", "-m", model, "-no-cnv", "-p", "a\\nb", "-e", "-n", "4", "-t", "2", "--mlock"],
            0,
            "--mlock has no effect",
        ),
        (&["bench", "-m", model, "-p", "8", "-n", "2", "-r", "2", "-o", "md"], 0, ""),
        (&["bench", "-m", model, "-p", "8", "-n", "2", "-r", "2", "-o", "csv", "-ngl", "99"], 0, "no GPU"),
        (&["quantize", model, out, "Q8_0", "2", "--force"], 0, "wrote"),
        (&["run", model, "-p", "Hi", "--lora", "x"], 2, "merge them"),
        (&["run", model, "--format", "json", "Hi"], 2, "response_format"),
        (&["ps"], 2, "nothing runs in the background"),
        (&["create", "x", "-f", "Modelfile"], 2, "no Modelfiles"),
        (&["run", "llama3.2", "Hi"], 1, "LFM2 and LFM2.5"),
        (&["run", "qwen3:4b", "Hi"], 1, "no other family"),
        (&["run", "lfm2.5", "Hi"], 1, "lfm2.5:1.2b"),
        (&["run", "hello"], 2, "undine run -p hello"),
        (&["run", model, "Hi", "-p", "Ho"], 2, "given twice"),
        (&["version"], 0, ""),
    ] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(told), "{words:?}: {}", stderr(&output));
    }
}

#[test]
fn the_demo_answers_a_question_that_is_an_argument() {
    let output = run(&["run", "What is 17 + 25?"]);
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("The answer is 42.\n", ""));
    let output = run_piped(&["run", "What is"], b"17 + 25?\n");
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn results_of_bench_have_the_columns_of_llama_bench() {
    let model = models().synthetic();
    let words = ["bench", text(&model), "-p", "8", "-n", "2", "-r", "2", "--warmup", "0", "-o"];
    let printed = |format: &str| stdout(&run(&[&words[..], &[format]].concat()));
    let markdown = printed("md");
    assert!(
        markdown.starts_with("| model | size | params | backend | threads | test | t/s |\n| --- |"),
        "{markdown}"
    );
    assert!(
        markdown.contains("| pp8 |") && markdown.contains(" ± ") && markdown.contains("| tg2 |"),
        "{markdown}"
    );
    let table = printed("csv");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((rows.len(), rows[0][0], rows[0][11]), (3, "model_filename", "avg_ts"), "{table}");
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{table}");
    let lines = printed("jsonl");
    let tests: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&tests[0]["test"], &tests[1]["test"]), (&"pp8".into(), &"tg2".into()));
    assert_eq!(json(&run(&[&words[..], &["json"]].concat()))[1]["test"], "tg2");
}

#[test]
fn thoughts_are_for_terminals_and_for_who_asks() {
    let question = ["run", "-p", "What is 17 + 25?", "--temperature", "0"];
    let say = |more: &[&str]| stdout(&run(&[&question[..], more].concat()));
    assert_eq!(say(&[]), "The answer is 42.\n");
    let shown = say(&["--show-thinking"]);
    assert!(
        shown.starts_with("<think>17 + 25.") && shown.ends_with("</think>The answer is 42.\n"),
        "{shown}"
    );
    let on_terminal = |settings: &[(&str, &str)], more: &[&str]| {
        utf8(&start(100, &[&question[..], more].concat(), settings).exp_eof().expect("ends"))
    };
    let plain = on_terminal(&[("TERM", "xterm"), ("NO_COLOR", "1")], &[]);
    let thought = shown.trim_start_matches("<think>").split("</think>").next().expect("a thought");
    assert_eq!(plain, format!("{thought}\r\nThe answer is 42.\r\n"));
    let dumb = on_terminal(&[("TERM", "dumb"), ("NO_COLOR", "")], &[]);
    assert_eq!(dumb, plain);
    let dim = on_terminal(&[("TERM", "xterm"), ("NO_COLOR", "")], &[]);
    assert_eq!(dim, format!("\x1b[2m{thought}\x1b[0m\r\nThe answer is 42.\r\n"));
    let hidden = on_terminal(&[("TERM", "xterm"), ("NO_COLOR", "")], &["--hide-thinking"]);
    assert_eq!(hidden, "The answer is 42.\r\n");
}

#[test]
fn who_switches_thinking_off_gets_an_answer_at_once() {
    let question = ["run", "-p", "What is 17 + 25?", "--temperature", "0", "--show-thinking"];
    let say = |more: &[&str]| stdout(&run(&[&question[..], more].concat()));
    assert!(say(&[]).contains("<think>"), "else nothing is tested");
    for off in [
        &["--think=false"][..],
        &["--think", "off"],
        &["--reasoning-budget", "0"],
        &["--chat-template-kwargs", "{\"enable_thinking\": false}"],
        &["--chat-template-kwargs", "{\"thinking\": false}"],
    ] {
        let answer = say(off);
        assert!(!answer.contains("<think>") && !answer.trim().is_empty(), "{off:?}: {answer}");
    }
}

#[test]
fn an_answer_that_is_cut_says_so() {
    let model = models().chat();
    let cut = |more: &[&str]| {
        stderr(&run(&[&["run", text(&model), "-p", "Hi", "--temperature", "0"], more].concat()))
    };
    assert!(cut(&["-n", "5"]).contains("cut after 5 tokens"), "{}", cut(&["-n", "5"]));
    assert!(cut(&["-c", "48"]).contains("the context of 48 tokens is full"), "{}", cut(&["-c", "48"]));
    assert_eq!(cut(&["-n", "5", "--json"]), "", "finish_reason says it");
}

#[test]
fn no_answer_steers_a_terminal() {
    let model = models().chat();
    // So hot that any token comes, and there are some for every byte.
    let words = [
        "run",
        text(&model),
        "-p",
        "Hi",
        "--temperature",
        "50",
        "--top-k",
        "0",
        "--top-p",
        "1",
        "--min-p",
        "0",
    ];
    let more = ["--max-tokens", "300", "--seed", "3", "--hide-thinking"];
    let screen = start(80, &[&words[..], &more].concat(), &[("TERM", "xterm"), ("NO_COLOR", "1")]);
    let mut screen = screen;
    let output = utf8(&screen.exp_eof().expect("ends"));
    let is_hidden = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!output.contains(is_hidden), "{output:?}");
    assert!(output.replace("\r\n", "").find('\r').is_none(), "{output:?}");
    let raw = undine().args([&words[..], &more].concat()).output().expect("starts");
    assert!(
        raw.stdout.iter().any(|byte| byte.is_ascii_control() && *byte != b'\n'),
        "there was something to hide"
    );
}

#[test]
fn arguments_steer_no_terminal_in_the_parsers_messages() {
    let hostile = "x\u{1b}]52;c;aGk=\u{7}\u{9b}2J\u{202e}\nerror: fake";
    for words in [
        &["run", &format!("--{hostile}")][..],
        &["run", "--top-p", hostile],
        &["serve", "--port", hostile],
        &["bench", "-o", hostile],
        &[hostile],
        &["run", "-m", "m", "-ctk", hostile],
        &["run", "-m", "m", "-t", hostile],
        &["quantize", "a", "b", hostile],
        &["serve", "m", "--kv-cache-dtype", hostile],
        &["run", hostile, "-p", "x"],
    ] {
        let output = run(words);
        assert!(!output.status.success(), "{words:?}");
        let told = stderr(&output);
        let is_hidden = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{2028}'..='\u{202e}');
        assert!(!told.contains(is_hidden), "{words:?}: {told:?}");
        assert!(!told.lines().any(|line| line.starts_with("error: fake")), "{words:?}: {told}");
    }
    let mut command = undine();
    let output = command.args(["run", "-p", "x"]).env("UNDINE_THREADS", hostile).output().expect("starts");
    assert!(!stderr(&output).contains('\u{1b}'), "{:?}", stderr(&output));
}

#[test]
fn lines_pasted_without_marks_are_messages_one_after_the_other() {
    let mut session =
        chat::start(&["run", text(&models().chat()), "--temperature", "0", "--max-tokens", "4"]);
    session.send("first\rsecond\rthird\r/stats\r").expect("types");
    session.flush().expect("sends");
    session.exp_string("answers: 3,").expect("all three are answered");
    session.send_line("/bye").expect("types");
    session.exp_eof().expect("ends");
}

#[test]
fn a_marked_paste_is_one_message() {
    let mut session =
        chat::start(&["run", text(&models().chat()), "--temperature", "0", "--max-tokens", "4"]);
    session.send("\x1b[200~first\nsecond\x1b[201~\r").expect("types");
    session.flush().expect("sends");
    session.exp_string("\x1b[?2004h").expect("a prompt");
    chat::say(&mut session, "/stats", "answers: 1,");
    session.send_line("quit").expect("types");
    session.exp_eof().expect("ends");
}

#[test]
fn a_paste_steers_no_terminal() {
    for settings in [[("TERM", "xterm"), ("NO_COLOR", "1")], [("TERM", "xterm"), ("NO_COLOR", "")]] {
        let mut session = start(80, &["run", "--temperature", "0"], &settings);
        let before = session.exp_string("\x1b[?2004h").expect("a prompt");
        session.send("\x1b[200~hi\x1b]52;c;aGk=\x07there\x1b[201~\r").expect("types");
        session.flush().expect("sends");
        let answered = session.exp_string("\x1b[?2004h").expect("a prompt");
        session.send("exit\r").expect("types");
        session.flush().expect("sends");
        let output = utf8(&(before + &answered + &session.exp_eof().expect("ends")));
        assert!(!output.contains("\x1b]") && !output.contains('\x07'), "{output:?}");
        assert!(output.contains("␇there"), "{output:?}");
    }
}

#[test]
fn paths_and_questions_that_begin_with_a_slash_are_said() {
    let mut session =
        chat::start(&["run", text(&models().chat()), "--temperature", "0", "--max-tokens", "4"]);
    chat::say(&mut session, "/no/such/folder", "cut after 4 tokens");
    chat::say(&mut session, "/why is the sky blue?", "cut after 4 tokens");
    chat::say(&mut session, "/hlep", "did you mean /help?");
    let picture = models().place("dropped.png");
    std::fs::write(&picture, "no picture").expect("writes");
    chat::say(&mut session, &format!("'{}' what is it?", text(&picture)), "takes no pictures");
    chat::say(&mut session, "/stats", "answers: 2,");
    chat::say(&mut session, "/again", "cut after 4 tokens");
    chat::say(&mut session, "/set temprature 1", "did you mean temperature?");
    chat::say(&mut session, "/set temperature 1", "(temperature is 1)");
    chat::say(&mut session, "/system Be brief.", "(the system prompt is set)");
    let saved = models().place("asked.json");
    chat::say(&mut session, &format!("/save {}", text(&saved)), "saved 4 messages");
    chat::say(&mut session, &format!("/save {}", text(&saved)), "the same line again replaces it");
    chat::say(&mut session, &format!("/save {}", text(&saved)), "saved 4 messages");
    chat::say(&mut session, &format!("/load {}", text(&saved)), ">>> /why is the sky blue?");
    session.send_line("exit").expect("types");
    session.exp_eof().expect("ends");
}

#[test]
fn a_server_tells_variables_of_other_programs_a_stray_path_and_a_free_port() {
    let model = models().base();
    let server =
        Server::start_in(&[text(&model)], &[("OLLAMA_HOST", "0.0.0.0"), ("LLAMA_ARG_CTX_SIZE", "1")]);
    server.ask("GET", "/v2/nothing", "");
    let port = server.address.rsplit(':').next().expect("a port").to_owned();
    let taken = run(&["serve", text(&model), "--port", &port]);
    assert!(stderr(&taken).contains("is free"), "{}", stderr(&taken));
    let (code, log) = server.terminate();
    assert_eq!(code, Some(0));
    for part in ["WARN OLLAMA_HOST is set, and not obeyed", "WARN LLAMA_ARG_CTX_SIZE", "GET /v2/nothing 404"]
    {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("keys and values"), "{log}");
}

#[test]
fn completions_are_written_for_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&run(&["completions", shell]));
        assert!(script.contains("undine") && script.contains("quantize"), "{shell}");
    }
}
