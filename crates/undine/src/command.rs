//! The slash commands of a chat, parsed.

/// What a line typed in a chat asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// Something to say to the model.
    Say(String),
    /// Nothing.
    Empty,
    /// A command.
    Command(Command),
    /// A line that looks like a command and is none; the message says why.
    Invalid(String),
}

/// A slash command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// List the commands.
    Help,
    /// Show the system prompt.
    ShowSystem,
    /// Replace the system prompt; an empty one removes it.
    System(String),
    /// Show the settings.
    ShowSettings,
    /// Change a setting.
    Set {
        /// Which.
        name: String,
        /// The new value.
        value: String,
    },
    /// Show what the model is.
    ShowModel,
    /// Show a picture with the next message.
    Image(String),
    /// Say what is in a file.
    Read(String),
    /// Answer the last message again.
    Again,
    /// Forget the conversation.
    Clear,
    /// Show numbers.
    Stats,
    /// Write the conversation to a file.
    Save(String),
    /// Read it from one.
    Load(String),
    /// Leave.
    Bye,
}

/// What `/help` prints.
pub const HELP: &str = "\
/system TEXT       set the system prompt (\"\" removes it; without TEXT, show it)
/set NAME VALUE    change a setting, such as /set temperature 0.2 (without NAME, list them)
/image FILE        show a picture with the next message; a file dragged here does the same
/read FILE         say what is in a text file
/again             answer the last message again
/show              what the model is; also /show system, settings
/stats             tokens, context and speeds
/clear             forget the conversation
/save FILE         write the conversation to a file
/load FILE         go on with a saved conversation
/bye               leave (also exit, quit and Ctrl-D)

Ctrl-C stops an answer. A line that ends in \\ goes on in the next one, Alt-Enter breaks a line, \
and \"\"\" begins and ends a text of several lines. Tab completes commands, settings and files. \
Lines that are pasted are one message, or, in a terminal that does not mark a paste, one after the other.";

/// Every command that Tab completes, and that a misspelt one may have meant.
const NAMES: [&str; 14] = [
    "/again", "/bye", "/clear", "/exit", "/help", "/image", "/load", "/quit", "/read", "/save", "/set",
    "/show", "/stats", "/system",
];
/// What `/show` takes.
const SHOWN: [&str; 3] = ["model", "settings", "system"];
/// How similar a misspelt command is to the one that was meant (Jaro and Winkler's measure, 1 being equal).
const SIMILARITY_MIN: f64 = 0.85;
/// Words after a name that make a line a sentence rather than a misspelt command.
const SENTENCE_WORDS: usize = 3;

/// Quotes around a text of several lines.
pub const FENCE: &str = "\"\"\"";

/// Parses what was typed.
pub fn parse(input: &str) -> Line {
    let text = input.trim();
    if text.is_empty() {
        return Line::Empty;
    }
    if let Some(fenced) = text.strip_prefix(FENCE) {
        return Line::Say(fenced.strip_suffix(FENCE).unwrap_or(fenced).trim_matches('\n').to_owned());
    }
    if matches!(text, "exit" | "quit") {
        return Line::Command(Command::Bye);
    }
    let Some(rest) = text.strip_prefix('/') else { return Line::Say(join_continued(text)) };
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = argument.trim();
    let file = |command: fn(String) -> Command, usage: &str| match argument {
        "" => Line::Invalid(format!("expected {usage}")),
        _ => Line::Command(command(argument.to_owned())),
    };
    let unquoted_file = |command: fn(String) -> Command, usage: &str| match argument {
        "" => Line::Invalid(format!("expected {usage}")),
        _ => Line::Command(command(unquoted(argument).to_owned())),
    };
    let command = match name {
        "help" | "?" => Command::Help,
        "system" if argument.is_empty() => Command::ShowSystem,
        "system" => Command::System(unquoted(&join_continued(argument)).to_owned()),
        "set" => return parse_set(argument),
        "show" => return parse_show(argument),
        "image" => return file(Command::Image, "/image FILE"),
        "read" => return file(Command::Read, "/read FILE"),
        "again" | "regen" | "retry" => Command::Again,
        "clear" | "new" | "reset" => Command::Clear,
        "stats" => Command::Stats,
        "save" => return unquoted_file(Command::Save, "/save FILE"),
        "load" => return unquoted_file(Command::Load, "/load FILE"),
        "bye" | "exit" | "quit" => Command::Bye,
        _ => return unknown(text, name, argument),
    };
    Line::Command(command)
}

/// A line that begins with `/` and is no command: a path or a sentence is said, what looks like a misspelt
/// command is told.
fn unknown(text: &str, name: &str, argument: &str) -> Line {
    let is_word = !name.is_empty() && name.chars().all(|sign| sign.is_ascii_alphabetic());
    let typed = format!("/{}", name.to_ascii_lowercase());
    let meant = nearest(&typed, &NAMES);
    let is_sentence =
        argument.split_whitespace().count() >= SENTENCE_WORDS || text.ends_with(['?', '!', '.']);
    if !is_word || (meant.is_none() && is_sentence) {
        return Line::Say(join_continued(text));
    }
    let guess = meant.map_or_else(String::new, |meant| format!(", did you mean {meant}?"));
    Line::Invalid(format!("there is no command /{name}{guess}; /help lists them"))
}

fn parse_set(argument: &str) -> Line {
    let set = |name: &str, value: &str| {
        Line::Command(Command::Set { name: name.to_owned(), value: value.to_owned() })
    };
    // As Ollama has it.
    let argument = argument.strip_prefix("parameter ").map_or(argument, str::trim);
    let (name, value) = argument.split_once([' ', '\t', '=']).unwrap_or((argument, ""));
    let value = value.trim();
    match (name, value) {
        ("", _) => Line::Command(Command::ShowSettings),
        ("system", "") => Line::Command(Command::ShowSystem),
        ("system", text) => Line::Command(Command::System(unquoted(&join_continued(text)).to_owned())),
        ("verbose" | "wordwrap" | "think", "") => set(name, "on"),
        ("quiet", _) => set("verbose", "off"),
        ("nowordwrap", _) => set("wordwrap", "off"),
        ("nothink", _) => set("think", "off"),
        ("history" | "nohistory", _) => {
            Line::Invalid("lines are always kept for later chats; XDG_STATE_HOME says where".to_owned())
        }
        ("format" | "noformat", _) => Line::Invalid(
            "a chat does not constrain answers; `undine serve` does, with response_format in a request"
                .to_owned(),
        ),
        ("seed" | "stop" | "max_tokens" | "max-tokens" | "num_predict", "") => set(name, ""),
        (_, "") => Line::Invalid("expected /set NAME VALUE, such as /set temperature 0.2".to_owned()),
        _ => set(name, unquoted(value)),
    }
}

fn parse_show(argument: &str) -> Line {
    match argument {
        "" | "info" | "model" => Line::Command(Command::ShowModel),
        "system" => Line::Command(Command::ShowSystem),
        "settings" | "parameters" => Line::Command(Command::ShowSettings),
        "template" | "license" | "modelfile" => Line::Invalid(
            "`undine inspect MODEL` has the template, `undine show MODEL` the licence of a model of the hub; there are no \
             Modelfiles"
                .to_owned(),
        ),
        other => Line::Invalid(format!("expected /show with one of {}, found {other:?}", SHOWN.join(", "))),
    }
}

/// The one of `names` that a misspelt one means, if there is any.
pub fn nearest<'a>(typed: &str, names: &[&'a str]) -> Option<&'a str> {
    let scored = names.iter().map(|name| (strsim::jaro_winkler(name, typed), *name));
    scored
        .filter(|(score, _)| *score >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// What Tab makes of a line up to the cursor, and where it begins; `None` for the names of files.
pub fn completions(typed: &str) -> Option<(usize, Vec<&'static str>)> {
    let beginning = |start: usize, names: &[&'static str]| {
        let names = names.iter().filter(|name| name.starts_with(&typed[start..])).copied();
        Some((start, names.collect::<Vec<_>>()))
    };
    match typed.rsplit_once(' ') {
        None if typed.starts_with('/') && !typed[1..].contains('/') => {
            beginning(0, &NAMES).filter(|(_, names)| !names.is_empty())
        }
        Some(("/set", _)) => beginning("/set ".len(), &crate::sampling::SETTINGS),
        Some(("/show", _)) => beginning("/show ".len(), &SHOWN),
        _ => None,
    }
}

/// Whether more lines belong to what has been typed so far.
pub fn is_unfinished(input: &str) -> bool {
    let text = input.trim_start();
    if let Some(rest) = text.strip_prefix(FENCE) {
        return !rest.contains(FENCE);
    }
    ends_in_backslash(input)
}

/// An odd number of backslashes at the end: an even one is that many written out.
fn ends_in_backslash(line: &str) -> bool {
    line.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 1
}

/// Removes the backslashes that continue lines.
fn join_continued(text: &str) -> String {
    let mut lines = text.split('\n').peekable();
    let mut joined = String::with_capacity(text.len());
    while let Some(line) = lines.next() {
        if lines.peek().is_none() {
            joined.push_str(line);
        } else {
            joined.push_str(if ends_in_backslash(line) { &line[..line.len() - 1] } else { line });
            joined.push('\n');
        }
    }
    joined
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_parse() {
        let set = |name: &str, value: &str| {
            Line::Command(Command::Set { name: name.to_owned(), value: value.to_owned() })
        };
        for (input, expected) in [
            ("", Line::Empty),
            ("  \n", Line::Empty),
            ("hello", Line::Say("hello".to_owned())),
            ("a \\\nb", Line::Say("a \nb".to_owned())),
            ("\"\"\"\none\ntwo\n\"\"\"", Line::Say("one\ntwo".to_owned())),
            ("\"\"\"/help\"\"\"", Line::Say("/help".to_owned())),
            ("/help", Line::Command(Command::Help)),
            ("/system", Line::Command(Command::ShowSystem)),
            ("/system Be brief.", Line::Command(Command::System("Be brief.".to_owned()))),
            ("/system \"\"", Line::Command(Command::System(String::new()))),
            ("/set", Line::Command(Command::ShowSettings)),
            ("/set temperature 0.2", set("temperature", "0.2")),
            ("/set temperature=0.2", set("temperature", "0.2")),
            ("/set stop \"a b\"", set("stop", "a b")),
            ("/set seed", set("seed", "")),
            ("/save my chat.json", Line::Command(Command::Save("my chat.json".to_owned()))),
            ("/image a b.png", Line::Command(Command::Image("a b.png".to_owned()))),
            ("/clear", Line::Command(Command::Clear)),
            ("/stats", Line::Command(Command::Stats)),
            ("/bye", Line::Command(Command::Bye)),
            ("exit", Line::Command(Command::Bye)),
            ("quit", Line::Command(Command::Bye)),
            ("/set parameter temperature 0.2", set("temperature", "0.2")),
            ("/set verbose", set("verbose", "on")),
            ("/set nothink", set("think", "off")),
            ("/set system Be brief.", Line::Command(Command::System("Be brief.".to_owned()))),
            ("/show info", Line::Command(Command::ShowModel)),
            ("/show parameters", Line::Command(Command::ShowSettings)),
            ("/regen", Line::Command(Command::Again)),
            ("/read my notes.txt", Line::Command(Command::Read("my notes.txt".to_owned()))),
            ("/etc/hosts", Line::Say("/etc/hosts".to_owned())),
            ("/etc/hosts has what?", Line::Say("/etc/hosts has what?".to_owned())),
            ("/home/me/notes.txt", Line::Say("/home/me/notes.txt".to_owned())),
            ("/r/LocalLLaMA is what", Line::Say("/r/LocalLLaMA is what".to_owned())),
            ("/ what does a slash mean", Line::Say("/ what does a slash mean".to_owned())),
            ("// a comment", Line::Say("// a comment".to_owned())),
            ("/* another */", Line::Say("/* another */".to_owned())),
            ("/why is the sky blue?", Line::Say("/why is the sky blue?".to_owned())),
            ("/tmp/a.png", Line::Say("/tmp/a.png".to_owned())),
        ] {
            assert_eq!(parse(input), expected, "{input:?}");
        }
        for (input, part) in [
            ("/nonsense", "no command /nonsense; /help"),
            ("/hlep", "did you mean /help?"),
            ("/sett temperature 0.2", "did you mean /set?"),
            ("/sytem You are a pirate.", "did you mean /system?"),
            ("/set temperature", "/set NAME VALUE"),
            ("/set format json", "response_format"),
            ("/show modelfile", "no Modelfiles"),
            ("/show nothing", "settings"),
            ("/save", "/save FILE"),
            ("/load", "/load FILE"),
            ("/image", "/image FILE"),
            ("/read", "/read FILE"),
        ] {
            match parse(input) {
                Line::Invalid(message) => assert!(message.contains(part), "{input:?}: {message}"),
                other => panic!("{input:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn tab_completes_commands_and_settings() {
        for (typed, expected) in [
            ("/he", Some((0, vec!["/help"]))),
            ("/s", Some((0, vec!["/save", "/set", "/show", "/stats", "/system"]))),
            ("/set te", Some((5, vec!["temperature"]))),
            ("/show s", Some((6, vec!["settings", "system"]))),
            ("/load my", None),
            ("what is /tm", None),
            ("/tmp", None),
            ("/home/me", None),
        ] {
            assert_eq!(completions(typed), expected, "{typed:?}");
        }
    }

    #[test]
    fn unfinished_lines_are_known() {
        for (input, expected) in [
            ("a", false),
            ("a\\", true),
            ("a\\\\", false),
            ("a\\\nb", false),
            ("\"\"\"", true),
            ("\"\"\"a\nb", true),
            ("\"\"\"a\nb\"\"\"", false),
            ("say \"\"\"", false),
        ] {
            assert_eq!(is_unfinished(input), expected, "{input:?}");
        }
    }
}
