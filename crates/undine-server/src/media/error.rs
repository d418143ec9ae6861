//! Why an image that a request names cannot be had. Every case is the request's, or the other server's.

use std::time::Duration;

use undine_image::limits::IMAGE_BYTES_MAX;

use crate::media::fetch::REDIRECTS_MAX;

/// The words for it are the client's to read: they say nothing of what is behind an address that may not be
/// asked.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub(crate) enum MediaError {
    #[error("expected a data: URI, base64 of an image, or an http:// or https:// URL: {0}")]
    Url(String),
    #[error("expected a data: URI or an http:// or https:// URL, found the scheme {0:?}")]
    Scheme(String),
    #[error("expected data:image/TYPE;base64,DATA: {0}")]
    DataUri(String),
    #[error("URLs with a user name or password are not fetched; send the image itself as a data: URI")]
    Credentials,
    #[error("images are not fetched from this host; the server allows: {0}")]
    Domain(String),
    // One message for three reasons: it must not tell which names an inner network has.
    #[error("the host has no address on the public Internet; send the image itself as a data: URI")]
    Address,
    #[error("the URL was redirected more than {REDIRECTS_MAX} times")]
    Redirects,
    #[error("the image did not arrive within {0:?}; send it as a data: URI")]
    Timeout(Duration),
    #[error("the image could not be fetched: the connection failed or broke off")]
    Connection,
    #[error("the image could not be fetched: its server answered with the status {0}")]
    Status(u16),
    #[error("expected an image, but its server says it is {0:?}")]
    ContentType(String),
    #[error("the image is larger than {IMAGE_BYTES_MAX} bytes; send a smaller one")]
    Bytes,
    #[error("this server reads no files; send the image itself as a data: URI")]
    FilesOff,
    #[error("there is no such image in the folder that this server reads files from")]
    File,
    #[error("this server cannot fetch images: {0}")]
    Unavailable(String),
    #[error("preparing the image failed; the reason is on the server's standard error")]
    Internal,
    #[error("{0}")]
    Image(#[from] undine_image::Error),
}

impl MediaError {
    /// Every [`Self::reason`].
    pub(crate) const REASONS: [&str; 12] = [
        "url",
        "refused",
        "address",
        "redirect",
        "timeout",
        "connection",
        "status",
        "type",
        "size",
        "file",
        "image",
        "internal",
    ];

    /// The label of metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Url(_) | Self::Scheme(_) | Self::DataUri(_) => "url",
            Self::Credentials | Self::Domain(_) | Self::FilesOff => "refused",
            Self::Address => "address",
            Self::Redirects => "redirect",
            Self::Timeout(_) => "timeout",
            Self::Connection | Self::Unavailable(_) => "connection",
            Self::Status(_) => "status",
            Self::ContentType(_) => "type",
            Self::Bytes => "size",
            Self::File => "file",
            Self::Image(_) => "image",
            Self::Internal => "internal",
        }
    }
}
