//! Where prompts come from: random words of a known number of tokens, or a file.

use std::path::Path;
use std::time::Instant;

use fastrand::Rng;
use serde_json::Value as Json;
use undine_text::Tokenizer;
use undine_text::tokenizer::Bos;

use super::chat::{Chat, Conversation, Prompt};
use super::client::{Api, Client};
use super::sample::Sample;
use super::words::WORDS;
use crate::args_bench::{DataArgs, Dataset};
use crate::error::Error;
use crate::shown::say;
use crate::text_file;

/// Largest file of prompts.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// So many words of a tokenizer are enough variety; with less the built-in list is used.
const WORDS_MIN: usize = 64;
/// Words in a text that finds out how many tokens a word has.
const PROBE_WORDS: usize = 128;
/// Tokens of answers to random prompts, unless asked for.
const RANDOM_OUTPUT_LEN: u32 = 128;
/// Tokens of answers to the prompts of a file, unless asked for.
const CUSTOM_OUTPUT_LEN: u32 = 256;

/// Words, and what they are worth.
#[derive(Debug)]
pub struct Words {
    words: Vec<String>,
    /// On average.
    tokens_per_word: f64,
    /// Tokens that the server puts around a text.
    overhead: u32,
}

impl Words {
    /// Words that are one token each, at the beginning of a text and after a space; else those of the
    /// built-in list.
    pub fn of_tokenizer(tokenizer: &Tokenizer, api: Api) -> Self {
        let is_one = |text: &str| tokenizer.encode(text, Bos::Omit).len() == 1;
        let word = |id| {
            let word = std::str::from_utf8(tokenizer.token_bytes(id)).ok()?.strip_prefix(' ')?;
            let is_plain = word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_lowercase());
            (is_plain && is_one(word) && is_one(&format!(" {word}"))).then(|| word.to_owned())
        };
        let mut words: Vec<String> = (0..tokenizer.vocab_size() as u32).filter_map(word).collect();
        if words.len() < WORDS_MIN {
            words = built_in();
        }
        let probe = words[..words.len().min(PROBE_WORDS)].join(" ");
        let tokens_per_word =
            tokenizer.encode(&probe, Bos::Omit).len() as f64 / words.len().min(PROBE_WORDS) as f64;
        // A chat's template is not counted, as in vLLM's tool.
        let overhead = u32::from(api == Api::Completions && tokenizer.default_bos() == Bos::Add);
        Self { words, tokens_per_word, overhead }
    }

    /// The built-in list, measured by two requests. A server without usage makes a token of each word.
    pub async fn of_server(client: &Client) -> Result<Self, Error> {
        let words = built_in();
        let one = count_by_server(client, &words[0]).await?;
        let many = count_by_server(client, &words[..PROBE_WORDS].join(" ")).await?;
        let (Some(one), Some(many)) = (one, many) else {
            say!("note: the server does not count tokens, so a word of a prompt is taken for one");
            return Ok(Self { words, tokens_per_word: 1.0, overhead: 0 });
        };
        let tokens_per_word = f64::from(many.saturating_sub(one)) / (PROBE_WORDS - 1) as f64;
        let tokens_per_word = if tokens_per_word > 0.0 { tokens_per_word } else { 1.0 };
        let overhead = match client.api {
            Api::Completions => (f64::from(one) - tokens_per_word).max(0.0).round() as u32,
            Api::Chat => 0,
        };
        Ok(Self { words, tokens_per_word, overhead })
    }

    /// Random words of so many tokens, at least one word.
    fn text(&self, tokens: u32, random: &mut Rng) -> String {
        let count = (f64::from(tokens) / self.tokens_per_word).round().max(1.0) as usize;
        let mut text = String::new();
        for i in 0..count {
            if i > 0 {
                text.push(' ');
            }
            text.push_str(&self.words[random.usize(..self.words.len())]);
        }
        text
    }
}

fn built_in() -> Vec<String> {
    WORDS.split_whitespace().map(str::to_owned).collect()
}

/// Tokens of a prompt, as the server says in an answer of one token.
async fn count_by_server(client: &Client, text: &str) -> Result<Option<u32>, Error> {
    let mut conversation = Conversation::new(client.api, None);
    conversation.push_user(&Prompt { text: text.to_owned(), tokens: 0, output_len: 1 });
    let sample = client.send(&conversation, 1, Sample::default(), Instant::now()).await;
    match sample.error {
        Some(error) => Err(Error::refused(format!("{}: {error}", client.url()))),
        None => Ok((sample.prompt_tokens > 0).then_some(sample.prompt_tokens)),
    }
}

/// `count` chats of random words.
pub fn random_chats(args: &DataArgs, words: &Words, count: u32) -> Vec<Chat> {
    let mut random = Rng::with_seed(args.seed);
    let output_len = args.random_output_len.unwrap_or(RANDOM_OUTPUT_LEN);
    let ratio = args.random_range_ratio;
    let prefix_len = args.random_prefix_len;
    // What the server puts in front is part of what comes first.
    let prefix = (prefix_len > 0).then(|| words.text(prefix_len.saturating_sub(words.overhead), &mut random));
    let chat = |_| {
        let mut turns: Vec<Prompt> = (0..args.multi_turn_turns)
            .map(|turn| {
                let tokens = length(args.random_input_len, ratio, &mut random);
                let overhead = if turn == 0 && prefix.is_none() { words.overhead } else { 0 };
                let text = words.text(tokens.saturating_sub(overhead), &mut random);
                Prompt { text, tokens, output_len: length(output_len, ratio, &mut random) }
            })
            .collect();
        match &prefix {
            Some(prefix) if turns.len() > 1 => Chat { system: Some((prefix.clone(), prefix_len)), turns },
            Some(prefix) => {
                turns[0].text = format!("{prefix} {}", turns[0].text);
                turns[0].tokens = turns[0].tokens.saturating_add(prefix_len);
                Chat { system: None, turns }
            }
            None => Chat { system: None, turns },
        }
    };
    (0..count).map(chat).collect()
}

/// A random length around the one asked for, at least 1.
pub fn length(asked: u32, ratio: f64, random: &mut Rng) -> u32 {
    let asked = f64::from(asked);
    // Casts from float saturate.
    let (low, high) = ((asked * (1.0 - ratio)).floor() as u32, (asked * (1.0 + ratio)).ceil() as u32);
    random.u32(low.max(1)..=high.max(1))
}

/// `count` single requests from a file of JSON lines, which begins anew when it ends.
pub fn file_chats(
    path: &Path,
    args: &DataArgs,
    tokenizer: Option<&Tokenizer>,
    count: u32,
) -> Result<Vec<Chat>, Error> {
    let text = text_file::read(path, FILE_BYTES_MAX)?;
    let prompt = |(number, line): (usize, &str)| {
        let wrong = |why: &str| {
            let place = path.display();
            Error::refused(format!("{place}, line {}: expected {{\"prompt\": \"...\"}}: {why}", number + 1))
        };
        let json: Json = serde_json::from_str(line).map_err(|error| wrong(&error.to_string()))?;
        let text = json["prompt"].as_str().ok_or_else(|| wrong("no text \"prompt\""))?.to_owned();
        let stated = json["output_tokens"].as_u64().and_then(|tokens| u32::try_from(tokens).ok());
        let output_len = args.random_output_len.or(stated).unwrap_or(CUSTOM_OUTPUT_LEN);
        let tokens = match tokenizer {
            Some(tokenizer) => tokenizer.encode(&text, tokenizer.default_bos()).len(),
            None => text.split_whitespace().count(),
        };
        Ok(Prompt { text, tokens: u32::try_from(tokens).unwrap_or(u32::MAX), output_len })
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let prompts: Vec<Prompt> = lines.map(prompt).collect::<Result<_, Error>>()?;
    if prompts.is_empty() {
        return Err(Error::refused(format!("{}: no prompts", path.display())));
    }
    let chat = |prompt: &Prompt| Chat { system: None, turns: vec![prompt.clone()] };
    Ok(prompts.iter().cycle().take(count as usize).map(chat).collect())
}

/// The file of prompts, if prompts come from one.
pub fn file(args: &DataArgs) -> Result<Option<&Path>, Error> {
    match (args.dataset_name, &args.dataset_path) {
        (Dataset::Random, None) => Ok(None),
        (Dataset::Random, Some(_)) => {
            Err(Error::usage("--dataset-path is for --dataset-name custom; random prompts have no file"))
        }
        (Dataset::Custom, None) => Err(Error::usage("--dataset-name custom needs --dataset-path FILE")),
        (Dataset::Custom, Some(_)) if args.multi_turn_turns > 1 => {
            Err(Error::usage("--multi-turn-turns needs --dataset-name random: a file has single prompts"))
        }
        (Dataset::Custom, Some(path)) => Ok(Some(path)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::open;

    fn tokenizer() -> std::sync::Arc<Tokenizer> {
        let checkpoint = open::open(None).expect("the demo opens");
        open::tokenizer(&checkpoint).expect("usable").expect("there is one")
    }

    fn data(random_input_len: u32, random_prefix_len: u32, multi_turn_turns: u32) -> DataArgs {
        DataArgs {
            dataset_name: Dataset::Random,
            dataset_path: None,
            num_prompts: 1,
            random_input_len,
            random_output_len: Some(10),
            random_range_ratio: 0.0,
            random_prefix_len,
            multi_turn_turns,
            seed: 3,
            ignore_eos: false,
            no_ignore_eos: false,
        }
    }

    #[test]
    fn random_prompts_have_the_tokens_asked_for() {
        let tokenizer = tokenizer();
        let words = Words::of_tokenizer(&tokenizer, Api::Completions);
        assert_eq!(words.tokens_per_word, 1.0, "{} words", words.words.len());
        for (input, prefix) in [(2, 0), (16, 0), (500, 0), (16, 100)] {
            let chats = random_chats(&data(input, prefix, 1), &words, 20);
            assert_eq!(chats.len(), 20);
            for chat in &chats {
                let [prompt] = &chat.turns[..] else { panic!("one turn: {chat:?}") };
                let tokens = tokenizer.encode(&prompt.text, tokenizer.default_bos()).len();
                assert_eq!((tokens as u32, prompt.tokens), (input + prefix, input + prefix));
            }
            assert_ne!(chats[0], chats[1]);
        }
        let other_seed = DataArgs { seed: 4, ..data(16, 0, 1) };
        assert_eq!(random_chats(&data(16, 0, 1), &words, 2), random_chats(&data(16, 0, 1), &words, 2));
        assert_ne!(random_chats(&data(16, 0, 1), &words, 2), random_chats(&other_seed, &words, 2));
    }

    #[test]
    fn chats_of_several_turns_share_a_system_prompt() {
        let words = Words { words: built_in(), tokens_per_word: 2.0, overhead: 0 };
        let chats = random_chats(&data(8, 20, 3), &words, 2);
        assert_eq!(chats[0].system, chats[1].system);
        let (system, tokens) = chats[0].system.clone().expect("a system prompt");
        assert_eq!((system.split(' ').count(), tokens), (10, 20));
        for chat in &chats {
            assert_eq!(chat.turns.len(), 3);
            assert!(chat.turns.iter().all(|turn| turn.tokens == 8 && turn.text.split(' ').count() == 4));
        }
        let alone = random_chats(&data(8, 20, 1), &words, 2);
        assert_eq!((&alone[0].system, alone[0].turns[0].tokens), (&None, 28));
        assert!(alone.iter().all(|chat| chat.turns[0].text.starts_with(&system)));
    }

    #[test]
    fn lengths_are_spread_around_the_one_asked_for() {
        let mut random = Rng::with_seed(1);
        for (asked, ratio, low, high) in [(100, 0.0, 100, 100), (100, 0.5, 50, 150), (1, 0.9, 1, 2)] {
            let found: Vec<u32> = (0..2000).map(|_| length(asked, ratio, &mut random)).collect();
            assert_eq!((found.iter().min(), found.iter().max()), (Some(&low), Some(&high)));
        }
    }

    #[test]
    fn files_have_a_prompt_per_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("prompts.jsonl");
        let read = |text: &str, args: &DataArgs| {
            std::fs::write(&path, text).expect("writes");
            file_chats(&path, args, None, 3).map_err(|error| error.chain())
        };
        let stated = DataArgs { random_output_len: None, ..data(1, 0, 1) };
        let text = "{\"prompt\": \"a b\"}\n\n{\"prompt\": \"c\", \"output_tokens\": 5}\n";
        let found: Vec<(String, u32, u32)> = read(text, &stated)
            .expect("reads")
            .into_iter()
            .flat_map(|chat| chat.turns)
            .map(|prompt| (prompt.text, prompt.tokens, prompt.output_len))
            .collect();
        let line = |text: &str, tokens, output_len| (text.to_owned(), tokens, output_len);
        assert_eq!(
            found,
            [line("a b", 2, CUSTOM_OUTPUT_LEN), line("c", 1, 5), line("a b", 2, CUSTOM_OUTPUT_LEN)]
        );
        let asked = read(text, &data(1, 0, 1)).expect("reads");
        assert!(asked.iter().all(|chat| chat.turns[0].output_len == 10));
        for (text, part) in
            [("", "no prompts"), ("{\"prompt\": 1}", "line 1"), ("{\"prompt\": \"a\"}\n{", "line 2")]
        {
            let error = read(text, &stated).expect_err("refuses");
            assert!(error.contains(part), "{error}");
        }
        let missing = file_chats(Path::new("/no/such.jsonl"), &stated, None, 1).expect_err("refuses");
        assert!(missing.chain().contains("/no/such.jsonl"));
    }
}
