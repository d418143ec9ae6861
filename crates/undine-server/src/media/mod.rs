//! Where images come from: the request itself, the network, a folder. And how many of them may be in memory
//! at once.
//!
//! Whoever can send a request can name a URL, so everything here works for strangers: what may be asked is
//! checked before it is asked, and every size, time and number has a limit.

mod address;
mod cache;
mod data_uri;
mod domains;
mod error;
mod fetch;
mod folder;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::Url;
use undine_core::{CacheRoot, ImageKey, ImageSettings, Origin, TenantId};
use undine_image::{ImagePipeline, PreparedImage};

use cache::PreparedImages;
pub use domains::Domains;
pub(crate) use error::MediaError;
use fetch::Fetcher;
pub use folder::MediaFolder;

use crate::places::{Amount, Part, Places};
use crate::wire::image_options::ImageOptions;

/// Default of [`MediaConfig::images_max`].
pub const IMAGES_MAX: u32 = 64;
/// Default of [`MediaConfig::fetch_timeout`]; vLLM's.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Default of [`MediaConfig::cache_bytes_max`].
pub const CACHE_BYTES_MAX: usize = 256 << 20;
/// Images from the network in memory at once, for all requests, until they are prepared.
const FETCHES_MAX: usize = 16;
/// Those of one tenant: servers that answer slowly hold up nobody else.
const FETCHES_OF_TENANT_MAX: usize = 8;
/// Images being decoded at once. One takes up to twelve bytes a pixel while it is decoded, 600 MB at the
/// most.
const DECODES_MAX: usize = 2;
/// Most bytes of tiles of all requests that wait or are answered. A tenant has at most as much as it leaves
/// to others.
const HELD_BYTES_MAX: usize = 2 << 30;
/// Longest excerpt of a wrong value that an error repeats, in characters.
const EXCERPT_CHARS: usize = 40;

/// What requests may ask for in the way of images.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MediaConfig {
    /// Most images of one request (`--limit-mm-per-prompt`).
    pub images_max: u32,
    /// Hosts that images may be fetched from, also in private networks; an empty list is every public host.
    pub domains: Domains,
    /// Where `file://` URLs may point; `None` is nowhere.
    pub folder: Option<MediaFolder>,
    /// How long one image may take to arrive.
    pub fetch_timeout: Duration,
    /// Most bytes of images that are kept for later requests, decoded and cut; 0 keeps none.
    pub cache_bytes_max: usize,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            images_max: IMAGES_MAX,
            domains: Domains::default(),
            folder: None,
            fetch_timeout: FETCH_TIMEOUT,
            cache_bytes_max: CACHE_BYTES_MAX,
        }
    }
}

/// Gets images and prepares them, for all requests of a server.
pub(crate) struct Media {
    pub(crate) config: MediaConfig,
    /// Made when it is first needed.
    fetcher: OnceLock<Result<Fetcher, MediaError>>,
    fetching: Places,
    decoding: Places,
    held: Amount,
    prepared: Mutex<PreparedImages>,
}

/// An encoded image, or where it is.
enum Source<'a> {
    /// What follows `data:`.
    Inline(&'a str),
    /// Base64 without anything before it, as many clients send it.
    Bare(&'a str),
    File(Url),
    Network(Url),
}

/// An image as the prompt takes it.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) key: ImageKey,
    pub(crate) image: Arc<PreparedImage>,
    pub(crate) found: Found,
}

/// Whether an image had to be decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    InCache,
    Decoded,
}

impl Media {
    pub(crate) fn new(config: MediaConfig) -> Self {
        Self {
            fetcher: OnceLock::new(),
            fetching: Places::new(FETCHES_MAX, FETCHES_OF_TENANT_MAX),
            // Whoever waits gets the next, so that a tenant that has both keeps another one waiting for one
            // image.
            decoding: Places::new(DECODES_MAX, DECODES_MAX),
            held: Amount::new(HELD_BYTES_MAX),
            prepared: Mutex::new(PreparedImages::new(config.cache_bytes_max)),
            config,
        }
    }

    /// Gets the image at `url` and prepares it.
    pub(crate) async fn prepare(
        self: Arc<Self>,
        origin: Origin,
        url: String,
        pipeline: ImagePipeline,
    ) -> Result<Prepared, MediaError> {
        let fetched = match Source::of(&url)? {
            Source::Network(url) => {
                let place = self.fetching.get(origin.tenant).await;
                Some((self.fetcher()?.fetch(url).await?, place))
            }
            Source::Inline(_) | Source::Bare(_) | Source::File(_) => None,
        };
        let place = self.decoding.get(origin.tenant).await;
        let work = move || {
            // The places go with the work, which goes on when the client does not.
            let (bytes, _places) = match fetched {
                Some((bytes, fetching)) => (bytes, (place, Some(fetching))),
                None => (self.read(Source::of(&url)?)?, (place, None)),
            };
            self.cut(&origin.cache_root, &bytes, &pipeline)
        };
        let failed = |_| Err(MediaError::Internal);
        tokio::task::spawn_blocking(work).await.unwrap_or_else(failed)
    }

    fn fetcher(&self) -> Result<&Fetcher, MediaError> {
        let make = || Fetcher::new(self.config.domains.clone(), self.config.fetch_timeout);
        self.fetcher.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// What can be read without asking anybody.
    fn read(&self, source: Source<'_>) -> Result<Vec<u8>, MediaError> {
        match (source, &self.config.folder) {
            (Source::Inline(uri), _) => data_uri::decode(uri),
            (Source::Bare(data), _) => data_uri::decode_base64(data),
            (Source::File(url), Some(folder)) => folder.read(&url),
            (Source::File(_), None) => Err(MediaError::FilesOff),
            (Source::Network(url), _) => Err(MediaError::Url(url.to_string())),
        }
    }

    fn cut(&self, root: &CacheRoot, bytes: &[u8], pipeline: &ImagePipeline) -> Result<Prepared, MediaError> {
        let key = pipeline.key(bytes);
        let kept = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).find(root, key);
        if let Some(image) = kept {
            return Ok(Prepared { key, image, found: Found::InCache });
        }
        let image = Arc::new(pipeline.prepare(bytes)?);
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).keep(root, key, &image);
        Ok(Prepared { key, image, found: Found::Decoded })
    }

    /// A place in memory for so many bytes of tiles, held until it is dropped; `None` if there is none now.
    pub(crate) fn hold(&self, tenant: TenantId, bytes: usize) -> Option<Part> {
        self.held.take(tenant, bytes)
    }
}

/// Bytes of an image's tiles.
pub(crate) fn tile_bytes(image: &PreparedImage) -> usize {
    image.tiles.iter().map(|tile| tile.pixels.len()).sum()
}

impl<'a> Source<'a> {
    fn of(text: &'a str) -> Result<Self, MediaError> {
        let text = text.trim_ascii();
        // Not as a URL: megabytes would be copied.
        if let Some((scheme, rest)) = text.split_once(':')
            && scheme.eq_ignore_ascii_case("data")
        {
            return Ok(Self::Inline(rest));
        }
        if data_uri::is_bare(text) {
            return Ok(Self::Bare(text));
        }
        let url = Url::parse(text).map_err(|error| MediaError::Url(error.to_string()))?;
        match url.scheme() {
            "http" | "https" => Ok(Self::Network(url)),
            "file" => Ok(Self::File(url)),
            other => Err(MediaError::Scheme(excerpt(other))),
        }
    }
}

/// The pipeline under the settings of a request.
pub(crate) fn pipeline(settings: &ImageSettings, options: ImageOptions) -> Result<ImagePipeline, String> {
    ImagePipeline::new(options.over(*settings))
}

/// Whether a media type may be that of an image: many servers do not know what they have.
fn is_image_type(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    media_type.starts_with("image/")
        || matches!(media_type.as_str(), "application/octet-stream" | "binary/octet-stream" | "")
}

fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        for (text, expected) in [
            ("data:image/png;base64,AA", "inline image/png;base64,AA"),
            (" DATA:,x", "inline ,x"),
            ("https://a.example/x.png", "network https://a.example/x.png"),
            ("HTTP://A.example", "network http://a.example/"),
            ("file:///a/b.png", "file file:///a/b.png"),
            ("ftp://a.example/x", "error url"),
            ("javascript:alert(1)", "error url"),
            ("/a/b.png", "error url"),
            ("iVBORw0KGgo", "bare iVBORw0KGgo"),
            (" /9j/4AAQSkZJ\nRg==", "bare /9j/4AAQSkZJ\nRg=="),
            ("/9j/photo.jpg", "error url"),
            ("Qk.png", "error url"),
            ("AAAA", "error url"),
            ("http://", "error url"),
            ("http://[::1", "error url"),
            ("", "error url"),
        ] {
            let found = match Source::of(text) {
                Ok(Source::Inline(rest)) => format!("inline {rest}"),
                Ok(Source::Network(url)) => format!("network {url}"),
                Ok(Source::Bare(data)) => format!("bare {data}"),
                Ok(Source::File(url)) => format!("file {url}"),
                Err(error) => format!("error {}", error.reason()),
            };
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn memory_for_tiles_is_bounded() {
        let media = Media::new(MediaConfig::default());
        let (one, other) = (TenantId(1), TenantId(2));
        let half = media.hold(one, 1 << 30).unwrap();
        assert!(media.hold(one, 1).is_none());
        let quarter = media.hold(other, 1 << 29).unwrap();
        drop(half);
        assert!(media.hold(one, 1).is_some());
        drop(quarter);
        assert!(media.hold(one, 1 << 40).is_none());
    }
}
