//! The certificate that HTTPS is served with, and its key: read from PEM files at the start, and again when the server is
//! told to (SIGHUP), since certificates last for weeks and servers for longer.
//!
//! What stays true:
//!
//! - A pair is used only if it can be: read whole, the key fitting the certificate. A reload that finds another one changes
//!   nothing, so that a renewal that went wrong costs a line in the log and not the service.
//! - Each handshake sees one pair, and every one that begins after a reload sees the new one. So there is no resumption,
//!   which would go on without looking at a certificate. It would save one signature on each connection, of which
//!   backends and browsers make few.
//! - The key can be read by its owner and, unlike the server's own key (`key_file`), by a group: the tools that renew
//!   certificates give them to one (Debian's is `ssl-cert`). A key that is open to everyone, or that others than its owner
//!   can write, is refused.
//!
//! Nothing is installed for the whole process: whoever embeds this chooses their own cryptography. Deliberately absent:
//! certificates by host, of clients, and of an authority that is asked for them (ACME); a proxy does these.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};

use crate::config::TlsConfig;

/// Longest file, in bytes: a chain has some kilobytes, and a file with more than this is not one.
const FILE_LEN_MAX: u64 = 1024 * 1024;
/// The part of a mode that must be empty: writing for the group, and everything for all others.
const OTHERS: u32 = 0o027;

/// Why there is nothing to serve HTTPS with. Each says which file is meant.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The key is open to others.
    #[error(
        "the TLS key {path} is open to others than its owner and group (mode {mode:04o}); chmod it to 600, or to 640 for a \
         group that may read it, and if somebody may have read it, have another certificate made"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is a directory, a pipe, or the like.
    #[error("{0} is not a regular file, so there is no TLS certificate or key in it")]
    NotAFile(PathBuf),
    /// It is no certificate and no key.
    #[error("{0} is longer than {FILE_LEN_MAX} bytes, which no TLS certificate or key is")]
    TooLong(PathBuf),
    /// The file system refused to read it.
    #[error("cannot read {path} for TLS: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        source: io::Error,
    },
    /// What is in it ends too early or is no base64. What the reader of it says is left out, as it repeats what it read.
    #[error("{0} is damaged: what it holds for TLS is not PEM to its end")]
    Damaged(PathBuf),
    /// There is something else in it, or nothing.
    #[error("{0} has no certificate in it (PEM, BEGIN CERTIFICATE)")]
    NoCertificate(PathBuf),
    /// There is something else in it, or nothing, or it wants a password.
    #[error("{0} has no private key in it that can be read without a password (PEM, BEGIN PRIVATE KEY)")]
    NoKey(PathBuf),
    /// It is in the right form, and nothing that TLS can use.
    #[error("cannot use the first certificate in {path}: {source}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// It is in the right form, and nothing that TLS can use.
    #[error("cannot use the TLS key in {path}: {source}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// They are not of each other.
    #[error(
        "the key in {key} does not belong to the first certificate in {certificate}; that must be the server's own, and \
         those of the authorities follow it"
    )]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
}

/// A certificate and its key, as they were when the files were last read and good.
#[derive(Debug)]
pub struct Certificate {
    files: TlsConfig,
    provider: Arc<CryptoProvider>,
    /// Guards which pair is the current one. Each handshake reads it, a reload writes it once it has a whole pair.
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// One of them cannot be used, or they do not belong together.
    pub fn load(files: &TlsConfig) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let current = RwLock::new(Arc::new(read(files, &provider)?));
        let files = files.clone();
        Ok(Self {
            files,
            provider,
            current,
        })
    }

    /// Reads both files again: handshakes that begin from now on get what is in them. Connections that are there go on.
    ///
    /// # Errors
    /// As for [`Self::load`]; nothing has changed then.
    pub fn reload(&self) -> Result<(), TlsError> {
        let read = Arc::new(read(&self.files, &self.provider)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// What a server serves with: TLS 1.2 and 1.3, always with the certificate that is current.
    pub fn server_config(self: &Arc<Self>) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .expect("ring has the ciphers of both versions");
        let certificate: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let mut config = builder.with_no_client_auth().with_cert_resolver(certificate);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    /// The file of the certificate.
    pub fn path(&self) -> &Path {
        &self.files.certificate
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

fn read(files: &TlsConfig, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let TlsConfig { certificate, key } = files;
    let bytes = read_file(certificate, |_| Ok(()))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Damaged(certificate.clone()))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(certificate.clone()));
    }
    let private_key = PrivateKeyDer::from_pem_slice(&read_file(key, refuse_exposed(key))?);
    let private_key = private_key.map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey(key.clone()),
        _ => TlsError::Damaged(key.clone()),
    })?;
    CertifiedKey::from_der(chain, private_key, provider).map_err(|source| match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::Mismatch {
            certificate: certificate.clone(),
            key: key.clone(),
        },
        rustls::Error::InvalidCertificate(_) => TlsError::Certificate {
            path: certificate.clone(),
            source,
        },
        _ => TlsError::Key {
            path: key.clone(),
            source,
        },
    })
}

fn refuse_exposed(path: &Path) -> impl Fn(u32) -> Result<(), TlsError> {
    move |mode| match mode & OTHERS {
        0 => Ok(()),
        _ => Err(TlsError::Exposed {
            path: path.to_owned(),
            mode,
        }),
    }
}

/// What is in a file, if its mode is good. A link is followed, and what it leads to is looked at.
fn read_file(path: &Path, is_good: impl Fn(u32) -> Result<(), TlsError>) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    // Before it is opened: opening a pipe would wait for somebody who writes to it.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(TlsError::NotAFile(path.to_owned()));
    }
    let file = File::open(path).map_err(failed)?;
    is_good(file.metadata().map_err(failed)?.permissions().mode() & 0o7777)?;
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(TlsError::TooLong(path.to_owned()));
    }
    Ok(bytes)
}
