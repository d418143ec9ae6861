//! The flags of `undine serve` that say who may ask: keys, names and web pages.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

/// Who may ask.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// A token clients must send, repeatable: one of them is enough. Without one in flags or file,
    /// VLLM_API_KEY counts.
    // One value per flag: `--api-key KEY MODEL` must not take the model for a second key. An empty one, as of
    // an unset variable, could not be sent. The rest is checked later (`parse_key`), because here an error
    // would repeat the key.
    #[arg(long, env = "UNDINE_API_KEY", hide_env_values = true, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    pub api_key: Vec<String>,
    /// A file of such tokens, one per line; lines that begin with # are comments.
    #[arg(long, env = "UNDINE_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Names by which the server may be asked, beside this machine's own and the address it listens on:
    /// api.example.com, *.example.com (the names below it), .example.com (both); "*" is all. As a JSON list
    /// or separated by commas.
    #[arg(long, env = "UNDINE_ALLOWED_HOSTS", value_name = "LIST", value_parser = parse_list)]
    pub allowed_hosts: Option<List>,
    /// Origins of web pages that may ask (CORS), as a JSON list or separated by commas; "*" is all [default:
    /// none].
    #[arg(long, value_name = "LIST", value_parser = parse_list)]
    pub allowed_origins: Option<List>,
    /// Methods they may use.
    #[arg(long, value_name = "LIST", default_value = "*", value_parser = parse_list)]
    pub allowed_methods: List,
    /// Headers they may send.
    #[arg(long, value_name = "LIST", default_value = "*", value_parser = parse_list)]
    pub allowed_headers: List,
    /// Let their browsers send cookies and certificates; needs lists without "*".
    #[arg(long, requires = "allowed_origins")]
    pub allow_credentials: bool,
}

/// A list of words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List(pub Vec<String>);

/// A key as a client can send it: what a header cannot carry would lock everyone out, and a blank one lets
/// nobody in, which is rarely what was meant. The message does not repeat it.
pub fn parse_key(text: &str) -> Result<String, String> {
    let key = text.trim();
    if key.is_empty() {
        return Err(
            "expected a key, found only white space; leave it out for a server without keys".to_owned()
        );
    }
    if !key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err("expected a key of visible ASCII characters, found others".to_owned());
    }
    Ok(key.to_owned())
}

/// A flag's list, as JSON or as words between commas.
pub fn parse_list(text: &str) -> Result<List, String> {
    if text.trim_start().starts_with('[') {
        let list = serde_json::from_str(text);
        return list.map(List).map_err(|error| format!("expected a JSON list of strings: {error}"));
    }
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    Ok(List(words.map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_a_header_can_carry() {
        assert_eq!(parse_key(" a b ").unwrap(), "a b");
        for key in [" ", "\t", "a\u{7}", "schlüssel"] {
            let error = parse_key(key).unwrap_err();
            assert!(error.contains("expected a key"), "{key:?}: {error}");
        }
    }

    #[test]
    fn lists_are_json_or_words() {
        for (text, words) in [("[\"a\", \"b\"]", vec!["a", "b"]), ("a, b", vec!["a", "b"]), ("*", vec!["*"])]
        {
            assert_eq!(parse_list(text).unwrap().0, words, "{text}");
        }
    }
}
