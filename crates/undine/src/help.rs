//! How help is laid out: commands in groups, examples before flags, and rare flags only where all are asked
//! for.

use std::ffi::OsString;
use std::io::Write;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::error::Error;
use crate::{output, wrap};

/// Asks for every flag.
const ALL: &str = "--help-all";
/// What asks for help.
const ASKING: [&str; 4] = ["-h", "--help", "help", ALL];

/// Columns that help takes at the most, as the parser has it too.
const COLUMNS_MAX: usize = 100;

/// Commands by what they are for.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Chat and serve", &["run", "serve", "batch"]),
    ("Get models", &["models", "pull", "list", "show", "rm"]),
    ("Convert and judge", &["quantize", "calibrate", "convert", "eval", "inspect"]),
    ("Measure", &["fit", "bench", "doctor", "synth"]),
];

/// Flags that most people want of commands that have many; the rest is in `--help-all`.
const COMMON: [(&str, &[&str]); 3] = [
    (
        "run",
        &[
            "prompt",
            "file",
            "interactive",
            "system",
            "max_tokens",
            "max_model_len",
            "image",
            "temperature",
            "seed",
            "json",
            "verbose",
            "threads",
            "show_thinking",
            "hide_thinking",
        ],
    ),
    (
        "serve",
        &[
            "host",
            "port",
            "max_model_len",
            "max_num_seqs",
            "kv_cache_memory_bytes",
            "served_model_name",
            "chat_template",
            "api_key",
            "api_key_file",
            "allowed_hosts",
            "allowed_origins",
            "reasoning_parser",
            "config",
            "threads",
            "level",
            "format",
            "mmproj",
            "strict_fields",
        ],
    ),
    (
        "batch",
        &[
            "input",
            "output",
            "error_file",
            "concurrency",
            "restart",
            "json",
            "max_model_len",
            "max_num_seqs",
            "threads",
        ],
    ),
];

/// The commands with their help laid out, if a line asks for help; `--help-all` becomes `--help`.
pub fn arranged(words: &mut [OsString]) -> Option<Command> {
    let mut asking = words
        .iter_mut()
        .skip(1)
        .take_while(|word| *word != "--")
        .filter(|word| ASKING.iter().any(|ask| *word == ask));
    let first = asking.next()?;
    let is_all = *first == ALL;
    if is_all {
        *first = "--help".into();
    }
    Some(arrange(Cli::command(), if is_all { Extent::All } else { Extent::Common }))
}

/// How much of it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extent {
    Common,
    All,
}

fn arrange(cli: Command, extent: Extent) -> Command {
    let names: Vec<String> = cli.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let groups = groups(&cli);
    let cli = cli.help_template(format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{groups}\nOptions:\n{{options}}{{after-help}}"
    ));
    let cli = cli.after_help(
        "\nundine COMMAND --help has examples and the flags that most people want, --help-all every flag. \
         Without a model the little demo inside the program answers: undine run \"What is 17 + 25?\"",
    );
    names
        .into_iter()
        .fold(cli, |cli, name| cli.mut_subcommand(name, |command| arrange_command(command, extent)))
}

/// The groups as text, each command with what it does.
fn groups(cli: &Command) -> String {
    let mut text = String::new();
    for (title, names) in GROUPS {
        text.push_str(&format!("{title}:\n"));
        for name in names {
            let about = cli.find_subcommand(name).and_then(Command::get_about).map(ToString::to_string);
            text.push_str(&format!("  {name:<11}  {}\n", about.unwrap_or_default()));
        }
        text.push('\n');
    }
    text.push_str("Also:\n  completions  Write what a shell needs to complete commands and flags with Tab\n");
    let columns = output::columns().map_or(COLUMNS_MAX, |columns| columns.min(COLUMNS_MAX));
    wrap::wrapped(&text, Some(columns))
}

fn arrange_command(command: Command, extent: Extent) -> Command {
    let common = COMMON.iter().find(|(name, _)| *name == command.get_name()).map(|(_, flags)| *flags);
    let command = match (extent, common) {
        (Extent::Common, Some(common)) => {
            let rest = "\n\nMore flags, on computing, memory, sampling and the like: --help-all.";
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let command = command.mut_args(|arg| {
                let is_shown =
                    arg.is_positional() || common.contains(&arg.get_id().as_str()) || arg.get_id() == "help";
                if is_shown { arg } else { arg.hide(true) }
            });
            command.after_help(examples + rest)
        }
        _ => command,
    };
    command.help_template("{about-with-newline}\n{usage-heading} {usage}\n{after-help}\n\n{all-args}")
}

/// Writes what a shell needs to complete this program's commands.
pub fn complete(shell: Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "undine", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_place_and_every_common_flag_exists() {
        let cli = Cli::command();
        for command in cli.get_subcommands().map(Command::get_name).filter(|name| *name != "completions") {
            assert_eq!(GROUPS.iter().filter(|(_, names)| names.contains(&command)).count(), 1, "{command}");
        }
        for (name, flags) in COMMON {
            let command = cli.find_subcommand(name).expect("a command");
            for flag in flags {
                assert!(command.get_arguments().any(|arg| arg.get_id() == flag), "{name}: {flag}");
            }
        }
    }

    #[test]
    fn examples_come_first_and_rare_flags_on_demand() {
        let help = |line: &str| {
            let mut words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let command = arranged(&mut words).expect("asks for help");
            command.try_get_matches_from(words).expect_err("help").to_string()
        };
        for (line, there, absent) in [
            ("undine --help", &["Chat and serve", "Measure", "run ", "completions"][..], &["Commands:"][..]),
            ("undine run --help", &["Examples:", "--prompt", "--help-all"], &["--huge-pages", "--min-p"]),
            ("undine run --help-all", &["Examples:", "--prompt", "--huge-pages", "--min-p"], &[]),
            ("undine serve -h", &["--port", "--help-all"], &["--root-path"]),
            ("undine serve --help-all", &["--root-path", "--max-logprobs"], &[]),
            ("undine help quantize", &["--imatrix"], &[]),
        ] {
            let text = help(line);
            assert!(there.iter().all(|part| text.contains(part)), "{line}: {text}");
            assert!(!absent.iter().any(|part| text.contains(part)), "{line}: {text}");
            if let Some(examples) = text.find("Examples:") {
                assert!(text.find("Options:").is_none_or(|options| examples < options), "{line}: {text}");
            }
        }
        assert!(arranged(&mut ["undine", "run", "--", "--help"].map(OsString::from)).is_none());
    }
}
