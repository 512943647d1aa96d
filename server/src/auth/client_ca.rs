//! Client CA: rights by the DNS names in certificates.
//!
//! TLS accepts every client certificate whose key the client has. Here its chain is verified: a
//! certificate that the CA has signed and that is valid now gives its client the names in it. The
//! chain of a resumed session is verified again, because it may have expired since.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quire_certs::Fingerprint;
use quire_transport::tls;
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use thiserror::Error;
use webpki::EndEntityCert;

use crate::auth::authorized_keys::Peer;
use crate::quic::tls::peer_chain;

/// The CA whose certificates give clients names; none unless loaded.
#[derive(Clone, Default)]
pub struct ClientCa {
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCa")
            .field("is_loaded", &self.verifier.is_some())
            .finish_non_exhaustive()
    }
}

impl ClientCa {
    /// Trusts the certificates in the file `path`, and what they have signed.
    ///
    /// # Errors
    /// Names the file when there is no usable certificate in it.
    pub fn load(path: &Path) -> Result<Self, ClientCaError> {
        let fail = |fault| ClientCaError {
            path: path.to_owned(),
            fault,
        };
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        let certificates: Vec<_> = read.map_err(|error| fail(CaFault::Pem(error)))?;
        Self::new(certificates).map_err(fail)
    }

    fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, CaFault> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(CaFault::Certificate)?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider());
        let verifier = builder.build().map_err(CaFault::Verifier)?;
        Ok(Self {
            verifier: Some(verifier),
        })
    }

    /// The authenticated identity of the client of `connection`.
    pub(crate) fn peer(&self, connection: &quinn::Connection) -> Peer {
        let chain = peer_chain(connection).unwrap_or_default();
        Peer {
            // The handshake has rejected a leaf that does not parse.
            key: chain
                .first()
                .and_then(|leaf| Fingerprint::of_certificate(leaf).ok()),
            names: self.names(&chain, UnixTime::now()),
        }
    }

    /// The names in the first certificate of `chain`, if the CA has signed it.
    fn names(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Vec<String> {
        let (Some(verifier), Some((leaf, intermediates))) = (&self.verifier, chain.split_first())
        else {
            return Vec::new();
        };
        let vouched = verifier.verify_client_cert(leaf, intermediates, now);
        match (vouched, EndEntityCert::try_from(leaf)) {
            (Ok(_), Ok(leaf)) => {
                let names = leaf.valid_dns_names();
                names.map(str::to_ascii_lowercase).collect()
            }
            (Err(_), _) | (_, Err(_)) => Vec::new(),
        }
    }
}

/// Why the client CA can't be used.
#[derive(Debug, Error)]
#[error("{}", path.display())]
pub struct ClientCaError {
    path: PathBuf,
    #[source]
    fault: CaFault,
}

#[derive(Debug, Error)]
enum CaFault {
    #[error("cannot read certificates from it")]
    Pem(#[source] pem::Error),
    #[error("cannot use a certificate in it")]
    Certificate(#[source] rustls::Error),
    #[error("it has no certificate that can sign others")]
    Verifier(#[source] VerifierBuilderError),
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa,
        KeyPair, date_time_ymd,
    };

    use super::*;

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn signed(
        authority: &CertifiedIssuer<'static, KeyPair>,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, authority).unwrap().into()
    }

    #[test]
    fn only_the_authority_gives_names() {
        let (ours, other) = (authority(), authority());
        let ca = ClientCa::new(vec![ours.as_ref().der().clone()]).unwrap();
        let names = |leaf: CertificateDer<'_>| ca.names(&[leaf], UnixTime::now());
        assert_eq!(
            names(signed(&ours, &["Ann", "web-1.example.org"], |_| ())),
            ["ann", "web-1.example.org"]
        );
        assert!(names(signed(&other, &["ann"], |_| ())).is_empty());
        let no_more = |params: &mut CertificateParams| params.not_after = date_time_ymd(2001, 1, 1);
        assert!(names(signed(&ours, &["ann"], no_more)).is_empty());
        let not_yet =
            |params: &mut CertificateParams| params.not_before = date_time_ymd(2999, 1, 1);
        assert!(names(signed(&ours, &["ann"], not_yet)).is_empty());
        let meant_for = |usage: ExtendedKeyUsagePurpose| {
            names(signed(&ours, &["ann"], |params| {
                params.extended_key_usages = vec![usage];
            }))
        };
        assert_eq!(meant_for(ExtendedKeyUsagePurpose::ClientAuth), ["ann"]);
        assert!(meant_for(ExtendedKeyUsagePurpose::ServerAuth).is_empty());
        let own = quire_certs::Identity::generate(&["ann".to_owned()]).unwrap();
        assert!(names(own.chain()[0].clone()).is_empty());
        let nobody = ClientCa::default();
        let leaf = signed(&ours, &["ann"], |_| ());
        assert!(nobody.names(&[leaf], UnixTime::now()).is_empty());
        assert!(ca.names(&[], UnixTime::now()).is_empty());
    }

    #[test]
    fn a_file_without_certificates_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        for text in [
            "",
            "rubbish",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let error = ClientCa::load(&path).unwrap_err();
            assert!(error.to_string().contains("ca.pem"), "{error}");
        }
        ClientCa::load(&directory.path().join("missing")).unwrap_err();
        std::fs::write(&path, authority().as_ref().pem()).unwrap();
        ClientCa::load(&path).unwrap();
    }
}
