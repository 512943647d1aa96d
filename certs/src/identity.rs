//! Identity of a program: a private key and the certificate chain of its public key.
//!
//! Every constructor of [`Identity`] checks that key and certificate match. So a mismatch is reported
//! at the start and with file names, not at the first handshake.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::ParsedCertificate,
};

use crate::{CertsError, Fingerprint, pem};

/// Certificate chain of a program, leaf first, and the leaf's private key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// Generates a key and a self-signed certificate for `names`, which are host names and IP
    /// addresses. A program that only connects needs none.
    ///
    /// # Errors
    ///
    /// [`CertsError::Generate`] when a name can't stand in a certificate or randomness fails.
    pub fn generate(names: &[String]) -> Result<Self, CertsError> {
        Self::generate_with_pem(names).map(|(identity, _pem)| identity)
    }

    /// As [`Identity::generate`], with the text that [`Identity::from_pem`] reads back.
    pub(crate) fn generate_with_pem(names: &[String]) -> Result<(Self, String), CertsError> {
        // P-256 and not Ed25519: as fast to verify here, and the one that every TLS stack,
        // platform verifier and debugging tool accepts.
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CertsError::Generate)?;
        let certificate = certificate_params(names)
            .and_then(|params| params.self_signed(&key))
            .map_err(CertsError::Generate)?;
        let identity = Self {
            fingerprint: Fingerprint::of_certificate(certificate.der())?,
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        };
        Ok((identity, certificate.pem() + &key.serialize_pem()))
    }

    /// Loads a certificate chain, leaf first, and the leaf's key from PEM files.
    ///
    /// # Errors
    ///
    /// Names the file that can't be read or used, or both when they don't belong together.
    pub fn from_pem_files(certificate: &Path, key: &Path) -> Result<Self, CertsError> {
        let chain = pem::load_certificates(certificate)?;
        let private = pem::private_key(key, &pem::read(key)?)?;
        Self::new((certificate, chain), (key, private))
    }

    /// Loads key and certificate chain, leaf first, from one PEM file.
    ///
    /// # Errors
    ///
    /// As [`Identity::from_pem_files`].
    pub fn from_pem_file(path: &Path) -> Result<Self, CertsError> {
        Self::from_pem(path, &pem::read(path)?)
    }

    /// As [`Identity::from_pem_file`], from the file's content; `path` is for errors.
    pub(crate) fn from_pem(path: &Path, text: &[u8]) -> Result<Self, CertsError> {
        let chain = pem::certificates(path, text)?;
        let key = pem::private_key(path, text)?;
        Self::new((path, chain), (path, key))
    }

    fn new(
        (chain_path, chain): (&Path, Vec<CertificateDer<'static>>),
        (key_path, key): (&Path, PrivateKeyDer<'static>),
    ) -> Result<Self, CertsError> {
        let signer = ring::sign::any_supported_type(&key).map_err(|source| {
            CertsError::UnusablePrivateKey {
                path: key_path.to_owned(),
                source,
            }
        })?;
        let leaf = chain.first().ok_or_else(|| CertsError::NoCertificate {
            path: chain_path.to_owned(),
        })?;
        let public = ParsedCertificate::try_from(leaf)
            .map_err(|source| CertsError::MalformedCertificate {
                path: chain_path.to_owned(),
                source,
            })?
            .subject_public_key_info();
        if signer.public_key().as_ref() != Some(&public) {
            return Err(CertsError::KeyMismatch {
                certificate: chain_path.to_owned(),
                key: key_path.to_owned(),
            });
        }
        Ok(Self {
            fingerprint: Fingerprint::of_key(&public),
            chain,
            key,
        })
    }

    /// The fingerprint of the key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The certificates, the identity's own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// A copy of the private key, for a TLS configuration to keep.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

/// Shows the fingerprint alone: a private key never reaches a log.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.fingerprint).finish()
    }
}

/// Finds names of this machine without network traffic: those of loopback, the host name, and the
/// source addresses of outgoing packets.
pub fn local_names() -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    if let Some(name) = host_name().filter(|name| DnsName::try_from(name.as_str()).is_ok())
        && name != "localhost"
    {
        names.push(name);
    }
    let mut addresses = vec![
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ];
    for outside in OUTSIDE {
        if let Some(address) = source_address(*outside)
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    names.extend(addresses.iter().map(IpAddr::to_string));
    names
}

#[cfg(unix)]
fn host_name() -> Option<String> {
    rustix::system::uname()
        .nodename()
        .to_str()
        .ok()
        .map(str::to_owned)
}

#[cfg(not(unix))]
fn host_name() -> Option<String> {
    std::env::var("COMPUTERNAME").ok()
}

/// Finds the source address of packets to `outside`. Connecting a UDP socket looks up the route and
/// sends nothing.
fn source_address(outside: SocketAddr) -> Option<IpAddr> {
    let any = match outside {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(outside).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

fn certificate_params(names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    // Trust belongs to the key and has no expiry. A certificate that expires, or that a machine with
    // a wrong clock considers not yet valid, would only lock clients out.
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, SUBJECT);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // The same identity may be used by a server and a client.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}

/// Subject in certificates, only for certificate viewers.
const SUBJECT: &str = "quire";

/// Documentation addresses (RFC 5737, RFC 3849): routed like the rest of the Internet, and
/// assigned to no host.
const OUTSIDE: &[SocketAddr] = &[
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), DISCARD_PORT),
    SocketAddr::new(
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        DISCARD_PORT,
    ),
];

/// RFC 863; no packet is sent to it.
const DISCARD_PORT: u16 = 9;

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, sync::Arc};

    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        pki_types::{ServerName, UnixTime},
        server::WebPkiClientVerifier,
    };
    use tempfile::TempDir;

    use super::*;

    /// Directory of PEM files.
    struct PemFiles(TempDir);

    impl PemFiles {
        fn new() -> Self {
            Self(TempDir::new().unwrap())
        }

        fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, content).unwrap();
            path
        }
    }

    /// A certificate and its key, as PEM.
    fn pem_pair(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = certificate_params(&["localhost".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn p256() -> (String, String) {
        pem_pair(&PKCS_ECDSA_P256_SHA256)
    }

    fn roots(identity: &Identity) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(identity.chain()[0].clone()).unwrap();
        Arc::new(roots)
    }

    #[test]
    fn a_generated_certificate_passes_full_verification_for_its_names_only() {
        let names = ["localhost", "files.example", "127.0.0.1", "::1"].map(str::to_owned);
        let identity = Identity::generate(&names).unwrap();
        let verifier = WebPkiServerVerifier::builder_with_provider(
            roots(&identity),
            Arc::new(ring::default_provider()),
        )
        .build()
        .unwrap();
        let verify = |name: &str, now: u64| {
            verifier.verify_server_cert(
                &identity.chain()[0],
                &[],
                &ServerName::try_from(name).unwrap(),
                &[],
                UnixTime::since_unix_epoch(std::time::Duration::from_secs(now)),
            )
        };
        let centuries = 200 * 365 * 24 * 3600;
        for name in &names {
            verify(name, 0).unwrap();
            verify(name, centuries).unwrap();
        }
        verify("elsewhere.example", 0).unwrap_err();
        verify("10.0.0.1", 0).unwrap_err();
    }

    #[test]
    fn a_generated_certificate_may_be_a_client() {
        let identity = Identity::generate(&[]).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(
            roots(&identity),
            Arc::new(ring::default_provider()),
        )
        .build()
        .unwrap();
        verifier
            .verify_client_cert(&identity.chain()[0], &[], UnixTime::now())
            .unwrap();
    }

    #[test]
    fn names_that_cannot_be_certified_are_an_error() {
        assert!(matches!(
            Identity::generate(&["bücher".to_owned()]),
            Err(CertsError::Generate(_))
        ));
    }

    #[test]
    fn local_names_are_certifiable_and_begin_with_loopback() {
        let names = local_names();
        assert_eq!(names[0], "localhost");
        for loopback in ["127.0.0.1", "::1"] {
            assert!(names.iter().any(|name| name == loopback));
        }
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        Identity::generate(&names).unwrap();
    }

    #[test]
    fn debug_shows_the_fingerprint_alone() {
        let identity = Identity::generate(&[]).unwrap();
        let shown = format!("{identity:?}");
        assert_eq!(shown, format!("Identity({:?})", identity.fingerprint()));
    }

    #[test]
    fn two_files_and_one_give_the_same_identity() {
        let files = PemFiles::new();
        let (certificate, key) = p256();
        let pair = Identity::from_pem_files(
            &files.write("cert.pem", &certificate),
            &files.write("key.pem", &key),
        )
        .unwrap();
        let one = Identity::from_pem_file(&files.write("both.pem", certificate + &key)).unwrap();
        assert_eq!(pair.fingerprint(), one.fingerprint());
        assert_eq!(pair.chain(), one.chain());
        assert_eq!(
            pair.private_key().secret_der(),
            one.private_key().secret_der()
        );
    }

    #[test]
    fn a_chain_keeps_its_order_and_other_kinds_of_key_work() {
        for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let files = PemFiles::new();
            let (leaf, key) = pem_pair(algorithm);
            let (issuer, _) = p256();
            let identity = Identity::from_pem_files(
                &files.write("cert.pem", leaf + &issuer),
                &files.write("key.pem", key),
            )
            .unwrap();
            assert_eq!(identity.chain().len(), 2);
            assert_eq!(
                identity.fingerprint(),
                Fingerprint::of_certificate(&identity.chain()[0]).unwrap()
            );
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_with_both_names() {
        let files = PemFiles::new();
        let error = Identity::from_pem_files(
            &files.write("cert.pem", p256().0),
            &files.write("key.pem", p256().1),
        )
        .unwrap_err();
        assert!(matches!(error, CertsError::KeyMismatch { .. }));
        let text = error.to_string();
        assert!(
            text.contains("cert.pem") && text.contains("key.pem"),
            "{text}"
        );
    }

    #[test]
    fn what_is_missing_or_broken_is_named() {
        let files = PemFiles::new();
        let (certificate, key) = p256();
        let good_certificate = files.write("good-cert.pem", &certificate);
        let good_key = files.write("good-key.pem", &key);
        let bad = |content: &str| files.write("bad.pem", content);
        let error = |certificate: &Path, key: &Path| {
            let error = Identity::from_pem_files(certificate, key).unwrap_err();
            assert!(error.to_string().contains("bad.pem"), "{error}");
            error
        };
        let broken = certificate.replacen("-----END", "*", 1);
        let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

        assert!(matches!(
            error(&bad(""), &good_key),
            CertsError::NoCertificate { .. }
        ));
        assert!(matches!(
            error(&bad(&key), &good_key),
            CertsError::NoCertificate { .. }
        ));
        assert!(matches!(
            error(&bad(&broken), &good_key),
            CertsError::Pem { .. }
        ));
        assert!(matches!(
            error(&bad(not_der), &good_key),
            CertsError::MalformedCertificate { .. }
        ));
        assert!(matches!(
            error(&good_certificate, &bad(&certificate)),
            CertsError::NoPrivateKey { .. }
        ));
        assert!(matches!(
            error(&good_certificate, &bad(no_key)),
            CertsError::UnusablePrivateKey { .. }
        ));
        assert!(matches!(
            error(&good_certificate, &bad(&(key.clone() + &key))),
            CertsError::SeveralPrivateKeys { .. }
        ));
        let missing = files.0.path().join("absent-bad.pem");
        assert!(matches!(error(&missing, &good_key), CertsError::Io { .. }));
        let huge = files.write("huge-bad.pem", vec![b'\n'; (1 << 20) + 1]);
        assert!(matches!(
            error(&huge, &good_key),
            CertsError::TooLarge { .. }
        ));
    }
}
