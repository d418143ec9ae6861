//! The first minutes on a terminal, narrow and wide, with colours and without, against screens that are kept
//! as text.
//!
//! `UNDINE_SCREENS=write` writes them anew; what has changed is then for people to look at.

use std::path::{Path, PathBuf};

use rexpect::session::PtySession;

use crate::common::{models, text};
use crate::terminal::{Screen, start, utf8};

/// What the line editor sends when it begins to read.
const READING: &str = "\x1b[?2004h";
/// The widths that are compared.
const COLUMNS: [usize; 2] = [40, 100];
/// With colours and without.
const COLOURS: [[(&str, &str); 2]; 2] =
    [[("TERM", "xterm"), ("NO_COLOR", "")], [("TERM", "xterm"), ("NO_COLOR", "1")]];

fn kept(name: &str, columns: usize) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/screens").join(format!("{name}-{columns}.txt"))
}

/// Compares the screens of both colours with the one that is kept.
fn compare(name: &str, columns: usize, outputs: [String; 2]) {
    let [colour, plain] = outputs.each_ref().map(|output| Screen::of_chat(columns, output).text() + "\n");
    assert_eq!(colour, plain, "{name}, {columns} columns: colours change colours only");
    let has_colour = |output: &str| {
        output.split("\x1b[").skip(1).any(|rest| {
            rest.trim_start_matches(|sign: char| sign.is_ascii_digit() || sign == ';').starts_with('m')
        })
    };
    assert!(!has_colour(&outputs[1]), "{name}, {columns} columns: {:?}", outputs[1]);
    let place = kept(name, columns);
    if std::env::var_os("UNDINE_SCREENS").is_some_and(|wish| wish == "write") {
        std::fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
        std::fs::write(&place, &plain).expect("writes");
    }
    let expected = std::fs::read_to_string(&place).unwrap_or_default();
    assert_eq!(plain, expected, "{name}, {columns} columns: see {}", place.display());
}

/// All that a chat writes while these lines are typed.
fn chat(columns: usize, settings: &[(&str, &str)], lines: &[&str]) -> String {
    let state = models().place("first-state");
    // Histories of other tests are none of this one's.
    drop(std::fs::remove_dir_all(&state));
    let settings = [settings, &[("XDG_STATE_HOME", text(&state))]].concat();
    let mut session = start(columns, &["run", "--temperature", "0", "--seed", "1"], &settings);
    let mut output = String::new();
    let mut wait = |session: &mut PtySession| {
        output.push_str(&session.exp_string(READING).expect("a prompt"));
        output.push_str(READING);
    };
    for line in lines {
        wait(&mut session);
        session.send_line(line).expect("types");
    }
    output.push_str(&session.exp_eof().expect("ends"));
    utf8(&output)
}

#[test]
fn the_first_chat() {
    for columns in COLUMNS {
        let lines = [
            "What is 17 + 25?",
            "What can you do?",
            "/help",
            "/sett temperature 1",
            "one \\",
            "more line",
            "exit",
        ];
        compare("chat", columns, COLOURS.map(|settings| chat(columns, &settings, &lines)));
    }
}

#[test]
fn help_and_mistakes() {
    let screens: [(&str, &[&str]); 6] = [
        ("help", &["--help"]),
        ("run-help", &["run", "--help"]),
        ("other-family", &["run", "llama3.2", "Hi"]),
        ("no-daemon", &["ps"]),
        ("misspelt-flag", &["run", "--temprature", "1"]),
        ("no-effect", &["run", "What is 2 + 2?", "-ngl", "99", "-n", "3", "--hide-thinking"]),
    ];
    for (name, words) in screens {
        for columns in COLUMNS {
            let output =
                |settings: &[(&str, &str)]| utf8(&start(columns, words, settings).exp_eof().expect("ends"));
            compare(name, columns, COLOURS.map(|settings| output(&settings)));
        }
    }
}

/// A text with what differs from run to run in one form: the port, and the time of day.
fn settled(output: &str) -> String {
    let is_time = |word: &str| {
        word.len() == 8
            && word.bytes().enumerate().all(|(at, byte)| match at % 3 {
                2 => byte == b':',
                _ => byte.is_ascii_digit(),
            })
    };
    let port = output.split("127.0.0.1:").nth(1).and_then(|rest| rest.split('/').next()).expect("a port");
    let output = output.replace(&format!(":{port}/"), ":8000/");
    let words = output.split_inclusive([' ', '\n', 'm', '\x1b']);
    let one = |word: &str| match word.get(..8).filter(|begin| is_time(begin)) {
        Some(_) => format!("12:00:00{}", &word[8..]),
        None => word.to_owned(),
    };
    words.map(one).collect()
}

#[test]
fn the_first_server() {
    for columns in COLUMNS {
        let output = |settings: &[(&str, &str)]| {
            let mut session =
                start(columns, &["serve", "--port", "0", "--threads", "2", "--max-num-seqs", "8"], settings);
            let hello = session.exp_string("Ctrl-C stops.").expect("it is ready") + "Ctrl-C stops.";
            session.send_control('c').expect("types");
            let rest = session.exp_eof().expect("ends");
            // The terminal itself writes what was typed.
            settled(&utf8(&(hello + &rest)).replace("^C", ""))
        };
        compare("serve", columns, COLOURS.map(|settings| output(&settings)));
    }
}

#[test]
fn no_table_is_wider_than_the_terminal() {
    let model = models().base();
    let screens: [&[&str]; 7] = [
        &["fit", "LFM2-1.2B", "--devices", "phones"],
        &["fit", "LFM2-1.2B", "--devices", "gpus, clouds", "--users", "4"],
        &["fit", "LFM2-1.2B", "--finetune", "lora", "--devices", "macs"],
        &["synth", "--list"],
        &["models"],
        &["inspect"],
        &["quantize", text(&model), "--type", "Q8_0", "--dry-run"],
    ];
    for words in screens {
        for columns in COLUMNS {
            let output = utf8(&start(columns, words, &COLOURS[1]).exp_eof().expect("ends"));
            assert!(output.lines().count() > 3, "{words:?}: {output}");
            // A name without blanks is left whole, so that it can be copied.
            let is_wide = |line: &&str| line.chars().count() > columns && line.trim().contains(' ');
            let wide: Vec<&str> = output.lines().filter(is_wide).collect();
            assert_eq!(wide, Vec::<&str>::new(), "{words:?}, {columns} columns");
        }
    }
}
