//! TLS between client and agent: 1.3 and nothing older, certificates on both sides, no resumption.
//!
//! Both sides trust one certificate authority that is named to them, and not those of the system. The client
//! checks that the agent's certificate is for the host that it wanted (as libpq's `sslmode=verify-full`), the agent
//! that the client's names one that may come in.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Where an agent listens unless it is told otherwise.
pub const PORT: u16 = 7432;

/// What both sides say that they speak inside: no other protocol's server or client is taken for ours.
const PROTOCOL_NAME: &[u8] = b"pg_reseed";

/// Longest file of certificates or keys that is read.
const FILE_MAX: u64 = 16 * 1024 * 1024;

/// How long connecting and the handshake may take.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// How long data may wait unacknowledged until the connection counts as lost (`TCP_USER_TIMEOUT`).
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(120);

/// The files that one side needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Certificates that the other side's must come from.
    pub authority: PathBuf,
    /// One's own certificate, with those between it and the authority behind it.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Certificates that are not valid any more.
    pub revoked: Option<PathBuf>,
}

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("could not read \"{path}\"")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("\"{path}\" holds no {what}")]
    Empty { path: PathBuf, what: &'static str },
    #[error("\"{path}\" is no PEM file of {what}: {reason}")]
    Pem {
        path: PathBuf,
        what: &'static str,
        reason: String,
    },
    #[error(
        "private key file \"{path}\" can be read by others: its permissions must be 0600 or less, or 0640 if root owns it"
    )]
    KeyForAll { path: PathBuf },
    #[error("certificate \"{certificate}\" and key \"{key}\" cannot be used: {reason}")]
    Identity {
        certificate: PathBuf,
        key: PathBuf,
        reason: String,
    },
    #[error("\"{path}\" cannot be used: {reason}")]
    Authority { path: PathBuf, reason: String },
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let error = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(error)?;
    let mut text = Vec::new();
    file.take(FILE_MAX + 1)
        .read_to_end(&mut text)
        .map_err(error)?;
    if text.len() as u64 > FILE_MAX {
        // A part of a list of revoked certificates would let the others in.
        let problem = format!("it is longer than {FILE_MAX} bytes");
        return Err(error(io::Error::other(problem)));
    }
    Ok(text)
}

fn all<T: PemObject>(path: &Path, what: &'static str) -> Result<Vec<T>, TlsError> {
    let text = read(path)?;
    let found = T::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| TlsError::Pem {
        path: path.to_owned(),
        what,
        reason: error.to_string(),
    })?;
    if found.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
            what,
        });
    }
    Ok(found)
}

/// Reads a private key; one that others may read is refused, by libpq's rule (`fe-secure-openssl.c:
/// initialize_SSL`).
fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let metadata = std::fs::metadata(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })?;
    let forbidden = if metadata.uid() == 0 { 0o137 } else { 0o177 };
    if metadata.mode() & forbidden != 0 {
        return Err(TlsError::KeyForAll {
            path: path.to_owned(),
        });
    }
    let mut keys = all::<PrivateKeyDer>(path, "private key")?;
    Ok(keys.swap_remove(0))
}

fn authority(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in all::<CertificateDer>(path, "certificates")? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Authority {
                path: path.to_owned(),
                reason: error.to_string(),
            })?;
    }
    Ok(Arc::new(roots))
}

fn revoked(files: &Files) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    match &files.revoked {
        None => Ok(Vec::new()),
        Some(path) => all(path, "revoked certificates"),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn identity_error(files: &Files) -> impl Fn(rustls::Error) -> TlsError {
    |error| TlsError::Identity {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        reason: error.to_string(),
    }
}

/// What an agent lets clients in by.
pub struct Admission {
    pub acceptor: TlsAcceptor,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Admission {
    /// Judges a client that was let in earlier, perhaps by earlier files, again.
    ///
    /// # Errors
    /// Why it would not be let in now.
    pub fn check(&self, client: &Certificates) -> Result<(), String> {
        let Some((own, between)) = client.0.split_first() else {
            return Err("it has shown none".to_owned());
        };
        let verified = self
            .verifier
            .verify_client_cert(own, between, UnixTime::now());
        verified.map(drop).map_err(|error| error.to_string())
    }
}

/// Reads what an agent needs.
///
/// # Errors
/// [`TlsError`].
pub fn for_agent(files: &Files) -> Result<Admission, TlsError> {
    let unfit = |reason: String| TlsError::Authority {
        path: files.authority.clone(),
        reason,
    };
    let verifier =
        WebPkiClientVerifier::builder_with_provider(authority(&files.authority)?, provider())
            .with_crls(revoked(files)?)
            // Certificates between the authority's and the client's have no list as a rule.
            .only_check_end_entity_revocation()
            .build()
            .map_err(|error| unfit(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unfit(error.to_string()))?
        .with_client_cert_verifier(Arc::clone(&verifier))
        .with_single_cert(all(&files.certificate, "certificates")?, key(&files.key)?)
        .map_err(identity_error(files))?;
    config.alpn_protocols = vec![PROTOCOL_NAME.to_vec()];
    // A session that could be resumed would outlive the certificate that it began with.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Admission {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        verifier,
    })
}

/// Reads what a client needs.
///
/// # Errors
/// [`TlsError`].
pub fn for_client(files: &Files) -> Result<TlsConnector, TlsError> {
    let unfit = |reason: String| TlsError::Authority {
        path: files.authority.clone(),
        reason,
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unfit(error.to_string()))?
        .with_root_certificates(authority(&files.authority)?)
        .with_client_auth_cert(all(&files.certificate, "certificates")?, key(&files.key)?)
        .map_err(identity_error(files))?;
    config.alpn_protocols = vec![PROTOCOL_NAME.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Whether client and agent have agreed on our protocol, which TLS does not insist on where one side names none.
fn is_ours(protocol: Option<&[u8]>) -> bool {
    protocol == Some(PROTOCOL_NAME)
}

/// Lets a client in whose certificate holds, if it wants our protocol.
///
/// # Errors
/// The system's error, or TLS's.
pub async fn accept(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> io::Result<server::TlsStream<TcpStream>> {
    tune(&stream)?;
    let accepted = acceptor.accept(stream).await?;
    if is_ours(accepted.get_ref().1.alpn_protocol()) {
        return Ok(accepted);
    }
    Err(io::Error::other("it wants another protocol"))
}

/// A peer's certificate, and those between it and its authority.
pub struct Certificates(Vec<CertificateDer<'static>>);

impl Certificates {
    /// Those of a client.
    #[must_use]
    pub fn of(stream: &server::TlsStream<TcpStream>) -> Self {
        let (_, connection) = stream.get_ref();
        let shown = connection.peer_certificates().unwrap_or_default();
        Self(shown.iter().map(|der| der.clone().into_owned()).collect())
    }

    /// The peer's names: the DNS subject alternative names of its certificate. The common name is none, as
    /// everywhere today (RFC 6125).
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let own = self.0.first();
        let Some(certificate) = own.and_then(|der| webpki::EndEntityCert::try_from(der).ok())
        else {
            return Vec::new();
        };
        certificate.valid_dns_names().map(str::to_owned).collect()
    }
}

/// Whether one of the names is one of those that may come in. Names are compared whole, without regard to case: a
/// wildcard in a certificate stands for nobody.
#[must_use]
pub fn is_allowed(names: &[String], allowed: &[String]) -> bool {
    let is_named = |allowed: &String| names.iter().any(|name| name.eq_ignore_ascii_case(allowed));
    allowed.iter().any(is_named)
}

/// Connects to an agent and proves who both are.
///
/// # Errors
/// The system's error, or TLS's.
pub async fn connect(
    host: &str,
    port: u16,
    connector: &TlsConnector,
) -> io::Result<client::TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::other(format!("\"{host}\" is no host name")))?;
    let connecting = async {
        let stream = TcpStream::connect((host, port)).await?;
        tune(&stream)?;
        connector.connect(name, stream).await
    };
    match tokio::time::timeout(HANDSHAKE_WITHIN, connecting).await {
        Ok(Ok(stream)) if !is_ours(stream.get_ref().1.alpn_protocol()) => Err(io::Error::other(
            "a server of another protocol listens there",
        )),
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", HANDSHAKE_WITHIN.as_secs()),
        )),
    }
}

/// Sends without delay, and notices when the other side is gone.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let milliseconds = u32::try_from(UNACKNOWLEDGED_FOR.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_a_whole_name_lets_in() {
        let allowed = names(&["standby1.example.com", "Standby2"]);
        assert!(is_allowed(&names(&["x", "STANDBY1.example.com"]), &allowed));
        assert!(is_allowed(&names(&["standby2"]), &allowed));
        for other in [
            &[][..],
            &["standby1"],
            &["example.com"],
            &["*.example.com"],
            &["standby1.example.com.evil.org"],
            &[""],
        ] {
            assert!(!is_allowed(&names(other), &allowed), "{other:?}");
        }
        assert!(!is_allowed(&names(&["standby2"]), &[]));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no key").unwrap();
        for (mode, words) in [
            (0o600, "holds no"),
            (0o644, "by others"),
            (0o610, "by others"),
        ] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let error = key(file.path()).unwrap_err().to_string();
            assert!(error.contains(words), "{mode:o}: {error}");
        }
    }
}
