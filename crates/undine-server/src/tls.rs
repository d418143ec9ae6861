//! TLS by rustls: the server's certificate, and if wanted the clients'.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{WebPkiClientVerifier, danger::ClientCertVerifier};
use tokio_rustls::rustls::{self, RootCertStore};
use tokio_rustls::server::TlsStream;

use crate::listener::Stream;

/// Certificates and the key, in PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The server's certificate, followed by those that lead to its root.
    pub certificate: PathBuf,
    /// The key to it: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
    /// Who signs the certificates of clients, and whether a client needs one.
    pub clients: Option<(PathBuf, ClientCertificates)>,
}

/// What is asked of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientCertificates {
    /// A certificate that is shown must be valid.
    Optional,
    /// Without a valid certificate there is no connection.
    Required,
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, or is not what it should be.
    #[error("{}: expected {expected} in PEM form: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// What was found.
        message: String,
    },
    /// Certificate and key do not belong together, or are of a kind that is not spoken.
    #[error("the certificate cannot be used: {0}")]
    Certificate(String),
}

/// Encrypts connections.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// Reads and checks the files.
    pub fn open(files: &TlsFiles) -> Result<Self, TlsError> {
        let unusable = |error: rustls::Error| TlsError::Certificate(error.to_string());
        let certificates = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| file_error(&files.key, "a private key", error))?;
        let provider = Arc::new(ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &files.clients {
            None => builder.with_no_client_auth(),
            Some((roots, wanted)) => builder.with_client_cert_verifier(verifier(roots, *wanted, provider)?),
        };
        let mut config = builder.with_single_cert(certificates, key).map_err(unusable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(crate) async fn accept(
        &self,
        stream: Box<dyn Stream>,
    ) -> std::io::Result<TlsStream<Box<dyn Stream>>> {
        self.0.accept(stream).await
    }
}

fn verifier(
    roots: &Path,
    wanted: ClientCertificates,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut store = RootCertStore::empty();
    for root in certificates(roots)? {
        store.add(root).map_err(|error| TlsError::Certificate(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
    let builder = match wanted {
        ClientCertificates::Optional => builder.allow_unauthenticated(),
        ClientCertificates::Required => builder,
    };
    builder.build().map_err(|error| TlsError::Certificate(error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const EXPECTED: &str = "at least one certificate";
    let fail = |error| file_error(path, EXPECTED, error);
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(fail)?.collect();
    let list = read.map_err(fail)?;
    if list.is_empty() {
        let message = "found none".to_owned();
        return Err(TlsError::File { path: path.to_owned(), expected: EXPECTED, message });
    }
    Ok(list)
}

fn file_error(path: &Path, expected: &'static str, error: rustls::pki_types::pem::Error) -> TlsError {
    TlsError::File { path: path.to_owned(), expected, message: error.to_string() }
}
