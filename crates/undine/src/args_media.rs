//! The flags of `undine serve` about images, under the names that vLLM gives them where it has them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value as Json;
use undine_server::{Domains, ImageOptions, MediaConfig, MediaFolder};

use crate::args_access::{List, parse_list};
use crate::args_serve::parse_object;
use crate::error::Error;

/// Where vLLM looks for the timeout when no flag has one, in seconds.
const VLLM_FETCH_TIMEOUT: &str = "VLLM_IMAGE_FETCH_TIMEOUT";
/// Longest timeout, in seconds.
const FETCH_TIMEOUT_SECONDS_MAX: f64 = 3600.0;
/// Largest cache, in GiB.
const CACHE_GIB_MAX: f64 = 1024.0;
/// What else vLLM counts; no model here takes any.
const OTHER_KINDS: [&str; 3] = ["video", "audio", "vision_chunk"];

/// Images in requests.
#[derive(Debug, Args)]
#[command(next_help_heading = "Images")]
pub struct MediaArgs {
    /// Most images of one request: a number, or '{"image": 4}', or image=4 [default: 64].
    #[arg(long, value_name = "LIMIT", value_parser = parse_limit)]
    pub limit_mm_per_prompt: Option<u32>,
    /// Hosts that images may be fetched from, also in private networks [default: every host with a public
    /// address].
    #[arg(long, env = "UNDINE_ALLOWED_MEDIA_DOMAINS", value_name = "LIST", value_parser = parse_list)]
    pub allowed_media_domains: Option<List>,
    /// A folder whose images requests may name by file:// URLs [default: none].
    #[arg(long, env = "UNDINE_ALLOWED_LOCAL_MEDIA_PATH", value_name = "DIR")]
    pub allowed_local_media_path: Option<PathBuf>,
    /// Seconds that an image may take to arrive [default: VLLM_IMAGE_FETCH_TIMEOUT, else 5].
    #[arg(long, visible_alias = "image-fetch-timeout", env = "UNDINE_MEDIA_FETCH_TIMEOUT", value_name = "SECONDS", value_parser = parse_timeout)]
    pub media_fetch_timeout: Option<Duration>,
    /// How images are cut unless a request says so, such as '{"max_image_tokens": 128, "do_image_splitting":
    /// false}'.
    #[arg(long, value_name = "JSON", value_parser = parse_options)]
    pub mm_processor_kwargs: Option<ImageOptions>,
    /// Memory for prepared images that the next turn may bring again; 0 keeps none [default: 0.25].
    #[arg(long, value_name = "GIB", value_parser = parse_gib)]
    pub mm_processor_cache_gb: Option<CacheBytes>,
}

/// Of `--mm-processor-cache-gb`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheBytes(usize);

impl MediaArgs {
    /// What the server does about images.
    pub fn config(&self) -> Result<MediaConfig, Error> {
        let default = MediaConfig::default();
        let names = self.allowed_media_domains.iter().flat_map(|list| &list.0).map(String::as_str);
        let domains = Domains::new(names)
            .map_err(|message| Error::usage(format!("--allowed-media-domains: {message}")))?;
        let folder = self.allowed_local_media_path.as_deref();
        let open = |path| MediaFolder::open(path).map_err(|source| Error::file(path, source));
        let fetch_timeout = match self.media_fetch_timeout {
            Some(timeout) => timeout,
            None => timeout_of_vllm()?.unwrap_or(default.fetch_timeout),
        };
        Ok(MediaConfig {
            images_max: self.limit_mm_per_prompt.unwrap_or(default.images_max),
            domains,
            folder: folder.map(open).transpose()?,
            fetch_timeout,
            cache_bytes_max: self.mm_processor_cache_gb.map_or(default.cache_bytes_max, |bytes| bytes.0),
        })
    }
}

fn timeout_of_vllm() -> Result<Option<Duration>, Error> {
    match std::env::var(VLLM_FETCH_TIMEOUT) {
        Ok(text) if !text.is_empty() => {
            let wrong = |message| Error::usage(format!("{VLLM_FETCH_TIMEOUT}: {message}"));
            parse_timeout(&text).map(Some).map_err(wrong)
        }
        _ => Ok(None),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= FETCH_TIMEOUT_SECONDS_MAX => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(format!("expected seconds above 0, at most {FETCH_TIMEOUT_SECONDS_MAX}, such as 5")),
    }
}

fn parse_gib(text: &str) -> Result<CacheBytes, String> {
    match text.parse::<f64>() {
        Ok(gib) if (0.0..=CACHE_GIB_MAX).contains(&gib) => {
            Ok(CacheBytes((gib * f64::from(1 << 30)) as usize))
        }
        _ => Err(format!("expected a number of GiB from 0 to {CACHE_GIB_MAX}, such as 0.5")),
    }
}

fn parse_options(text: &str) -> Result<ImageOptions, String> {
    ImageOptions::parse(parse_object(text)?.0)
}

/// `4`, or `image=4,video=0`, or `{"image": 4}`, or `{"image": {"count": 4}}`.
fn parse_limit(text: &str) -> Result<u32, String> {
    let text = text.trim();
    if let Ok(count) = text.parse() {
        return Ok(count);
    }
    let pairs: Vec<(String, Json)> = if text.starts_with('{') {
        parse_object(text)?.0.into_iter().collect()
    } else {
        let pair = |word: &str| {
            let (kind, count) = word.split_once('=').unwrap_or((word, ""));
            let count = count.trim().parse::<u32>().map_or(Json::Null, Json::from);
            (kind.trim().to_owned(), count)
        };
        text.split(',').map(pair).collect()
    };
    let mut images = None;
    for (kind, value) in pairs {
        let count = value.get("count").unwrap_or(&value).as_u64().and_then(|count| u32::try_from(count).ok());
        match (kind.as_str(), count) {
            ("image", Some(count)) => images = Some(count),
            (kind, Some(_)) if OTHER_KINDS.contains(&kind) => {}
            (kind, Some(_)) => return Err(format!("expected image, found {kind:?}")),
            (kind, None) => return Err(format!("{kind}: expected a number, such as '{{\"image\": 4}}'")),
        }
    }
    images.ok_or_else(|| "expected a limit of images, such as '{\"image\": 4}'".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn config(words: &[&str]) -> Result<MediaConfig, String> {
        let line = ["undine", "serve", "m"].iter().chain(words);
        match Cli::try_parse_from(line).map_err(|error| error.to_string())?.command {
            Command::Serve(args) => args.load.media.config().map_err(|error| error.chain()),
            _ => panic!("serve"),
        }
    }

    #[test]
    fn limits_have_many_spellings() {
        for (text, expected) in [
            ("4", Ok(4)),
            ("0", Ok(0)),
            ("image=4", Ok(4)),
            ("image=4,video=0", Ok(4)),
            ("{\"image\": 4}", Ok(4)),
            ("{\"image\": {\"count\": 4, \"width\": 512}, \"audio\": 1}", Ok(4)),
            ("{\"video\": 1}", Err("a limit of images")),
            ("{\"smell\": 1}", Err("found \"smell\"")),
            ("{\"image\": -1}", Err("expected a number")),
            ("{\"image\": \"4\"}", Err("expected a number")),
            ("image", Err("expected a number")),
            ("{", Err("expected a JSON object")),
            ("", Err("expected a number")),
        ] {
            match (parse_limit(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(found), Err(part)) => assert!(found.contains(part), "{text}: {found}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn flags_make_a_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let all = config(&[
            "--limit-mm-per-prompt={\"image\": 3}",
            "--allowed-media-domains=A.example,127.0.0.1",
            "--allowed-local-media-path",
            path,
            "--image-fetch-timeout=2.5",
            "--mm-processor-cache-gb=0.5",
            "--mm-processor-kwargs={\"max_image_tokens\": 128}",
        ])
        .unwrap();
        assert_eq!(
            all,
            MediaConfig {
                images_max: 3,
                domains: Domains::new(["a.example", "127.0.0.1"]).unwrap(),
                folder: Some(MediaFolder::open(folder.path()).unwrap()),
                fetch_timeout: Duration::from_millis(2500),
                cache_bytes_max: 1 << 29,
            }
        );
        assert_eq!(config(&[]).unwrap(), MediaConfig::default());
        for (words, part) in [
            (["--allowed-media-domains", "http://a.example"], "name of a host"),
            (["--allowed-local-media-path", "/no/such/folder"], "/no/such/folder"),
            (["--media-fetch-timeout", "0"], "seconds above 0"),
            (["--mm-processor-cache-gb", "2000"], "GiB"),
            (["--mm-processor-kwargs", "{\"num_crops\": 4}"], "num_crops"),
        ] {
            let message = config(&words).unwrap_err();
            assert!(message.contains(part), "{words:?}: {message}");
        }
    }
}
