//! Verification of a server's certificate.
//!
//! TLS asks in the middle of a handshake and can't wait for a user. So a [`ServerVerifier`] decides at
//! once from what is stored. A server that it can't verify fails the handshake and leaves a
//! [`Refusal`]. The caller may then ask the user, and connect again, pinned to the key that was
//! presented. In every case the server must prove possession of the key.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use quire_certs::{CertsError, Fingerprint, Role, StateDir, load, load_certificates};
use quire_transport::tls;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore,
    SignatureScheme,
    client::{
        VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use thiserror::Error;

use crate::known_servers::{KnownServer, KnownServers, KnownServersError, ServerId};

/// Verifies the certificate of one server, for one connection or several.
#[derive(Debug)]
pub struct ServerVerifier {
    server: ServerId,
    basis: TrustBasis,
    provider: Arc<CryptoProvider>,
    refusal: Mutex<Option<Box<Refusal>>>,
}

impl ServerVerifier {
    /// Trusts `server` by its entry among the known servers in `dir`. Without an entry, it trusts
    /// the user's own server identity in `dir`, and certificates that the platform trusts.
    ///
    /// # Errors
    ///
    /// Names the file in `dir` that can't be used.
    pub fn new(server: ServerId, dir: &StateDir) -> Result<Self, TrustError> {
        let known_servers = KnownServers::new(dir.clone());
        let basis = match known_servers.find(&server)? {
            Some(entry) => TrustBasis::Known {
                entry,
                file: known_servers.path(),
            },
            None => TrustBasis::Unknown {
                own: load(dir, Role::Server)?.map(|identity| identity.fingerprint()),
                platform: OnceLock::new(),
            },
        };
        Ok(Self::with_basis(server, basis))
    }

    /// Trusts `server` if an authority in the PEM file `ca` has certified its name.
    ///
    /// # Errors
    ///
    /// Names `ca` when it can't be used.
    pub fn with_ca(server: ServerId, ca: &Path) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in load_certificates(ca)? {
            roots.add(certificate).map_err(|source| TrustError::Ca {
                path: ca.to_owned(),
                source,
            })?;
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider())
                .build()
                .map_err(TrustError::Verifier)?;
        let basis = TrustBasis::Ca {
            verifier,
            file: ca.to_owned(),
        };
        Ok(Self::with_basis(server, basis))
    }

    /// Trusts `server` only with the key `fingerprint`, which the user has accepted.
    pub fn pinned(server: ServerId, fingerprint: Fingerprint) -> Self {
        Self::with_basis(server, TrustBasis::Pinned(fingerprint))
    }

    fn with_basis(server: ServerId, basis: TrustBasis) -> Self {
        Self {
            server,
            basis,
            provider: tls::provider(),
            refusal: Mutex::new(None),
        }
    }

    /// Takes the reason for which the last handshake was refused here, if it was.
    pub(crate) fn take_refusal(&self) -> Option<Box<Refusal>> {
        self.refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn leave(&self, refusal: Box<Refusal>) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }

    /// Verifies the certificate, but not possession of its key.
    fn judge(&self, presented: &Presented<'_>) -> Result<(), Box<Refusal>> {
        let server = self.server.clone();
        let Ok(seen) = Fingerprint::of_certificate(presented.end_entity) else {
            return Err(Box::new(Refusal::Malformed { server }));
        };
        let refusal = match &self.basis {
            TrustBasis::Ca { verifier, file } => match presented.verify_by(verifier.as_ref()) {
                Ok(()) => return Ok(()),
                Err(error) => self.refusal_by_ca(file, error),
            },
            TrustBasis::Pinned(agreed) if seen == *agreed => return Ok(()),
            TrustBasis::Pinned(agreed) => Refusal::NotPinned {
                server,
                agreed: *agreed,
                seen,
            },
            TrustBasis::Known { entry, .. } if seen == entry.fingerprint => return Ok(()),
            TrustBasis::Known { entry, file } => Refusal::Changed {
                server,
                known: entry.fingerprint,
                seen,
                file: file.clone(),
                line: entry.line,
            },
            TrustBasis::Unknown { own, .. } if *own == Some(seen) => return Ok(()),
            TrustBasis::Unknown { platform, .. } => {
                let platform = platform.get_or_init(|| platform_verifier(&self.provider));
                match platform.as_ref().map(|p| presented.verify_by(p.as_ref())) {
                    Some(Ok(())) => return Ok(()),
                    Some(Err(_)) | None => Refusal::Unknown { server, seen },
                }
            }
        };
        Err(Box::new(refusal))
    }

    fn refusal_by_ca(&self, file: &Path, source: Error) -> Refusal {
        let server = self.server.clone();
        match source {
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Refusal::WrongName { server, source },
            source => Refusal::NotByCa {
                server,
                file: file.to_owned(),
                source,
            },
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = Presented {
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        };
        self.judge(&presented).map_err(|refusal| {
            let alert = refusal.alert();
            self.leave(refusal);
            alert
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls::verify_possession(&self.provider, message, certificate, signature).inspect_err(
            |_error| {
                self.leave(Box::new(Refusal::NotProved {
                    server: self.server.clone(),
                }));
            },
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Why a server was not trusted.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Refusal {
    /// Nothing authenticates it. If the user accepts `seen`, connect again, pinned to that.
    #[error("{server} is not known; its key is {seen}")]
    Unknown {
        /// The server.
        server: ServerId,
        /// The key that was presented.
        seen: Fingerprint,
    },
    /// It presented another key than the one in the known servers.
    #[error(
        "the key of {server} has changed: known is {known}, shown was {seen}; an attacker may be \
         intercepting the connection. If the change is intended, remove line {line} of {file:?}"
    )]
    Changed {
        /// The server.
        server: ServerId,
        /// The key among the known servers.
        known: Fingerprint,
        /// The key that was presented.
        seen: Fingerprint,
        /// The file of known servers.
        file: PathBuf,
        /// The entry's line in it, counted from 1.
        line: usize,
    },
    /// It presented another key than the one that the user accepted before.
    #[error("{server} showed the key {seen} and not {agreed} as before")]
    NotPinned {
        /// The server.
        server: ServerId,
        /// The key that the user accepted.
        agreed: Fingerprint,
        /// The key that was presented.
        seen: Fingerprint,
    },
    /// The given authorities have certified it, but for another name.
    #[error("the certificate of {server} is for another name")]
    WrongName {
        /// The server.
        server: ServerId,
        /// The names in the certificate.
        #[source]
        source: Error,
    },
    /// The given authorities have not certified it.
    #[error("the certificate of {server} is not valid by {file:?}")]
    NotByCa {
        /// The server.
        server: ServerId,
        /// The file with the authorities.
        file: PathBuf,
        /// What is wrong with the certificate.
        #[source]
        source: Error,
    },
    /// It presented a certificate without possession of its key.
    #[error("{server} showed a certificate whose key it does not have")]
    NotProved {
        /// The server.
        server: ServerId,
    },
    /// It presented something that is not a certificate.
    #[error("{server} showed a malformed certificate")]
    Malformed {
        /// The server.
        server: ServerId,
    },
}

impl Refusal {
    /// The TLS alert that is sent to the server.
    fn alert(&self) -> Error {
        Error::InvalidCertificate(match self {
            Self::Unknown { .. } => CertificateError::UnknownIssuer,
            Self::Changed { .. } | Self::NotPinned { .. } => {
                CertificateError::ApplicationVerificationFailure
            }
            Self::NotProved { .. } => CertificateError::BadSignature,
            Self::Malformed { .. } => CertificateError::BadEncoding,
            Self::WrongName { source, .. } | Self::NotByCa { source, .. } => return source.clone(),
        })
    }
}

/// Why a server can't be verified at all.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The file of known servers can't be used.
    #[error(transparent)]
    KnownServers(#[from] KnownServersError),
    /// A file with keys or certificates can't be used.
    #[error(transparent)]
    Certs(#[from] CertsError),
    /// A certificate that can't be used as an authority.
    #[error("{path:?} has a certificate that can't be used as an authority")]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Error,
    },
    /// rustls refused the authorities.
    #[error("these authorities can't be used")]
    Verifier(#[source] VerifierBuilderError),
}

/// Basis of the decision about a server.
#[derive(Debug)]
enum TrustBasis {
    /// Only the authorities that the user named.
    Ca {
        verifier: Arc<WebPkiServerVerifier>,
        file: PathBuf,
    },
    /// The key that the user accepted just now.
    Pinned(Fingerprint),
    /// The entry among the known servers. It has precedence over `Unknown`, so that a certificate
    /// for the name can't replace a key that was accepted once.
    Known { entry: KnownServer, file: PathBuf },
    /// The user's own identity, then the platform's authorities. The latter are slow to load and
    /// rarely needed, so they are loaded on first use.
    Unknown {
        own: Option<Fingerprint>,
        platform: OnceLock<Option<Arc<dyn ServerCertVerifier>>>,
    },
}

/// The certificates that the server presented, with the other arguments of a verifier.
struct Presented<'a> {
    end_entity: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    server_name: &'a ServerName<'a>,
    ocsp_response: &'a [u8],
    now: UnixTime,
}

impl Presented<'_> {
    fn verify_by(&self, verifier: &dyn ServerCertVerifier) -> Result<(), Error> {
        verifier
            .verify_server_cert(
                self.end_entity,
                self.intermediates,
                self.server_name,
                self.ocsp_response,
                self.now,
            )
            .map(|_verified| ())
    }
}

/// Loads the authorities of the platform; `None` on a system without them.
fn platform_verifier(provider: &Arc<CryptoProvider>) -> Option<Arc<dyn ServerCertVerifier>> {
    let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(provider)).ok()?;
    Some(Arc::new(verifier))
}

#[cfg(test)]
mod tests;
