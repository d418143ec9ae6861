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
    /// Show a picture with the next message.
    Image(String),
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
/clear             forget the conversation
/stats             tokens, context and speeds
/save FILE         write the conversation to a file
/load FILE         go on with a saved conversation
/bye               leave (also Ctrl-D)

Ctrl-C stops an answer. A line that ends in \\ goes on in the next one, Alt-Enter breaks a line,
and \"\"\" begins and ends a text of several lines.";

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
    let Some(rest) = text.strip_prefix('/') else { return Line::Say(join_continued(text)) };
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = argument.trim();
    let needs = |usage: &str| Line::Invalid(format!("expected {usage}"));
    let command = match name {
        "help" | "?" => Command::Help,
        "system" if argument.is_empty() => Command::ShowSystem,
        "system" => Command::System(unquoted(&join_continued(argument)).to_owned()),
        "set" if argument.is_empty() => Command::ShowSettings,
        "set" => {
            let (name, value) = argument.split_once([' ', '\t', '=']).unwrap_or((argument, ""));
            let is_optional = matches!(name, "seed" | "stop" | "max_tokens" | "max-tokens");
            if value.trim().is_empty() && !is_optional {
                return needs("/set NAME VALUE, such as /set temperature 0.2");
            }
            Command::Set { name: name.to_owned(), value: unquoted(value.trim()).to_owned() }
        }
        "image" if argument.is_empty() => return needs("/image FILE"),
        "image" => Command::Image(argument.to_owned()),
        "clear" => Command::Clear,
        "stats" => Command::Stats,
        "save" if argument.is_empty() => return needs("/save FILE"),
        "save" => Command::Save(unquoted(argument).to_owned()),
        "load" if argument.is_empty() => return needs("/load FILE"),
        "load" => Command::Load(unquoted(argument).to_owned()),
        "bye" | "exit" | "quit" => Command::Bye,
        _ => {
            return Line::Invalid(format!("there is no command /{name}; /help lists them"));
        }
    };
    Line::Command(command)
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
        ] {
            assert_eq!(parse(input), expected, "{input:?}");
        }
        for input in ["/nonsense", "/set temperature", "/save", "/load", "/image"] {
            assert!(matches!(parse(input), Line::Invalid(_)), "{input:?}");
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
