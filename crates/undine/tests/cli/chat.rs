//! An interactive chat through a pseudo-terminal.

use std::process::Stdio;

use rexpect::session::{PtySession, spawn_command};

use crate::common::{models, text, undine};

/// Long enough for a loaded machine.
const TIMEOUT_MS: u64 = 60_000;
/// What the line editor sends when it begins to read (bracketed paste on) and when a line is complete (off).
const READING: &str = "\x1b[?2004h";
const READ: &str = "\x1b[?2004l";

pub fn start(words: &[&str]) -> PtySession {
    let mut command = undine();
    command.args(words).stdin(Stdio::inherit());
    command.env("TERM", "xterm").env("XDG_STATE_HOME", models().place("state"));
    let mut chat = spawn_command(command, Some(TIMEOUT_MS)).expect("a pseudo-terminal");
    chat.exp_string(READING).expect("a prompt");
    chat
}

/// Types a line, waits for what follows it and for the next prompt.
pub fn say(chat: &mut PtySession, line: &str, expected: &str) {
    chat.send_line(line).expect("types");
    chat.exp_string(READ).expect("the line is read");
    chat.exp_string(expected).unwrap_or_else(|error| panic!("{line}: {error}"));
    chat.exp_string(READING).expect("a prompt");
}

#[test]
fn a_chat_answers_obeys_commands_and_ends() {
    let saved = models().place("saved.json");
    let mut chat = start(&["run", text(&models().chat()), "--temperature", "0", "--max-tokens", "8"]);
    say(&mut chat, "/help", "/bye");
    say(&mut chat, "/system Be brief.", "");
    say(&mut chat, "/system", "Be brief.");
    say(&mut chat, "/set temperature hot", "expected a number");
    say(&mut chat, "/set", "top_k");
    say(&mut chat, "/dance", "there is no command /dance");
    say(&mut chat, "Hello", "");
    chat.send_line("\"\"\"two").expect("types");
    say(&mut chat, "lines\"\"\"", "");
    say(&mut chat, "/stats", "answers: 2, tokens generated: 16");
    say(&mut chat, &format!("/save {}", text(&saved)), "saved 4 messages");
    say(&mut chat, "/clear", "empty");
    say(&mut chat, &format!("/load {}", text(&saved)), "loaded 4 messages");
    say(&mut chat, "/load /no/such/file", "/no/such/file");
    chat.send_line("/bye").expect("types");
    chat.exp_eof().expect("ends");
    let conversation: serde_json::Value =
        serde_json::from_slice(&std::fs::read(saved).expect("saved")).expect("JSON");
    assert_eq!(conversation["system"], "Be brief.");
    assert_eq!(conversation["messages"][2]["content"], "two\nlines");
    let history = models().place("state").join("undine/history.txt");
    assert!(std::fs::read_to_string(history).expect("history").contains("/help"));
}

#[test]
fn chats_at_the_same_time_keep_the_lines_of_both() {
    let model = models().chat();
    let words = ["run", text(&model), "--temperature", "0", "--max-tokens", "2"];
    let (mut one, mut two) = (start(&words), start(&words));
    say(&mut one, "said by one", "");
    say(&mut two, "said by two", "");
    for chat in [&mut one, &mut two] {
        chat.send_line("/bye").expect("types");
        chat.exp_eof().expect("ends");
    }
    let history = models().place("state").join("undine/history.txt");
    let history = std::fs::read_to_string(history).expect("history");
    assert!(history.contains("said by one") && history.contains("said by two"), "{history}");
}

#[test]
fn control_c_stops_the_answer_and_keeps_the_chat() {
    let mut chat = start(&["run", text(&models().chat()), "--temperature", "0"]);
    chat.send_line("Hello").expect("types");
    chat.exp_string(READ).expect("the line is read");
    chat.exp_regex("[a-z]").expect("the answer begins");
    chat.send_control('c').expect("types");
    chat.exp_string("(stopped)").expect("the answer stops");
    chat.exp_string(READING).expect("the chat goes on");
    say(&mut chat, "/stats", "answers: 1,");
    chat.send_control('d').expect("types");
    chat.exp_eof().expect("ends");
}

#[test]
fn a_full_context_is_told() {
    let mut chat = start(&["run", text(&models().chat()), "--temperature", "0", "--ctx", "48"]);
    say(&mut chat, "Hello", "the context is full; /clear");
    say(&mut chat, "More", "/clear starts a new conversation");
    say(&mut chat, "/clear", "empty");
    chat.send_line("/bye").expect("types");
    chat.exp_eof().expect("ends");
}

#[test]
fn a_base_model_completes_lines() {
    let mut chat = start(&["run", text(&models().base()), "--temperature", "0", "--max-tokens", "4"]);
    say(&mut chat, "/system x", "without a chat template");
    say(&mut chat, "The quick brown fox", "");
    say(&mut chat, "/stats", "answers: 1, tokens generated: 4,");
    chat.send_line("/bye").expect("types");
    chat.exp_eof().expect("ends");
}
