//! Handshakes in memory between the client's settings and servers of all kinds.

use std::fs;

use quire_certs::{Identity, load_or_create};
use quire_shared::protocol::ALPN;
use rustls::{
    ClientConnection, ServerConfig, ServerConnection,
    crypto::ring::sign::any_supported_type,
    server::ResolvesServerCert,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tempfile::TempDir;

use super::*;
use crate::tls::rustls_config;

/// A state directory, and servers to connect to.
struct World {
    base: TempDir,
    dir: StateDir,
}

impl World {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let dir = StateDir::open(Some(&base.path().join("state"))).unwrap();
        Self { base, dir }
    }

    fn verifier(&self) -> Arc<ServerVerifier> {
        Arc::new(ServerVerifier::new(server_id(), &self.dir).unwrap())
    }

    /// A verifier for which the platform's authorities are the issuers of `trusted`.
    fn verifier_with_platform(&self, trusted: &Identity) -> Arc<ServerVerifier> {
        let verifier = ServerVerifier::new(server_id(), &self.dir).unwrap();
        if let TrustBasis::Unknown { platform, .. } = &verifier.basis {
            let mut roots = RootCertStore::empty();
            roots.add(trusted.chain()[0].clone()).unwrap();
            let authorities =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider())
                    .build()
                    .unwrap();
            platform.set(Some(authorities)).unwrap();
        }
        Arc::new(verifier)
    }

    fn ca_file(&self, pem: &str) -> PathBuf {
        let path = self.base.path().join("ca.pem");
        fs::write(&path, pem).unwrap();
        path
    }

    fn known_servers(&self) -> KnownServers {
        KnownServers::new(self.dir.clone())
    }
}

const HOST: &str = "files.example";

fn server_id() -> ServerId {
    ServerId::new(HOST, 4433).unwrap()
}

fn stranger() -> Identity {
    Identity::generate(&[HOST.to_owned()]).unwrap()
}

/// An authority as PEM, and a server certificate for `name` that it issued.
fn issued(world: &World, name: &str) -> (String, Identity) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new([name.to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let path = world.base.path().join("leaf.pem");
    fs::write(&path, leaf.pem() + &key.serialize_pem()).unwrap();
    (ca_pem, Identity::from_pem_file(&path).unwrap())
}

/// Connects to a server that shows `certificate` and signs with the key of `signer`; the
/// server's end of the connection.
fn connect_to(
    verifier: &Arc<ServerVerifier>,
    certificate: &Identity,
    signer: &Identity,
) -> Result<ServerConnection, Error> {
    let user = Identity::generate(&[]).unwrap();
    let client = rustls_config(&user, Arc::clone(verifier)).unwrap();
    let key = any_supported_type(&signer.private_key()).unwrap();
    let key = CertifiedKey::new(certificate.chain().to_vec(), key);
    let resolver: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(key));
    let mut server = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(tls::VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    server.alpn_protocols = vec![ALPN.to_vec()];
    handshake(client, server)
}

fn handshake(
    client: rustls::ClientConfig,
    server: ServerConfig,
) -> Result<ServerConnection, Error> {
    let name = ServerName::try_from(HOST).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        server.read_tls(&mut flight.as_slice()).unwrap();
        server.process_new_packets()?;
        flight.clear();
        while server.wants_write() {
            server.write_tls(&mut flight).unwrap();
        }
        client.read_tls(&mut flight.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert!(!server.is_handshaking());
    Ok(server)
}

/// Connects to an honest server and expects success.
fn accept(verifier: &Arc<ServerVerifier>, server: &Identity) {
    connect_to(verifier, server, server).unwrap();
    assert_eq!(verifier.take_refusal(), None);
}

/// Connects to an honest server and expects a refusal.
fn refuse(verifier: &Arc<ServerVerifier>, server: &Identity) -> Refusal {
    connect_to(verifier, server, server).unwrap_err();
    let refusal = verifier.take_refusal().unwrap();
    assert_eq!(verifier.take_refusal(), None, "a refusal is told once");
    *refusal
}

#[test]
fn the_users_own_server_is_trusted_under_any_name() {
    let world = World::new();
    let own = load_or_create(&world.dir, Role::Server).unwrap();
    accept(&world.verifier(), &own);
}

#[test]
fn an_unknown_server_is_refused_with_its_key_and_accepted_once_pinned() {
    let world = World::new();
    load_or_create(&world.dir, Role::Server).unwrap();
    let server = stranger();
    let seen = server.fingerprint();
    let expected = Refusal::Unknown {
        server: server_id(),
        seen,
    };
    assert_eq!(refuse(&world.verifier(), &server), expected);

    let pinned = Arc::new(ServerVerifier::pinned(server_id(), seen));
    accept(&pinned, &server);
    let other = stranger();
    let expected = Refusal::NotPinned {
        server: server_id(),
        agreed: seen,
        seen: other.fingerprint(),
    };
    assert_eq!(refuse(&pinned, &other), expected);
}

#[test]
fn a_known_server_is_trusted() {
    let world = World::new();
    let server = stranger();
    let known = world.known_servers();
    known.add(&server_id(), server.fingerprint()).unwrap();
    accept(&world.verifier(), &server);
}

#[test]
fn an_entry_for_another_port_is_no_ground() {
    let world = World::new();
    let server = stranger();
    let elsewhere = ServerId::new(HOST, 4434).unwrap();
    let known = world.known_servers();
    known.add(&elsewhere, server.fingerprint()).unwrap();
    let refusal = refuse(&world.verifier(), &server);
    assert!(matches!(refusal, Refusal::Unknown { .. }));
}

#[test]
fn a_changed_key_is_refused_with_the_line_to_remove() {
    let world = World::new();
    let before = stranger();
    let now = stranger();
    fs::write(world.known_servers().path(), "# mine\n").unwrap();
    let known = world.known_servers();
    known.add(&server_id(), before.fingerprint()).unwrap();
    let refusal = refuse(&world.verifier(), &now);
    let expected = Refusal::Changed {
        server: server_id(),
        known: before.fingerprint(),
        seen: now.fingerprint(),
        file: known.path(),
        line: 2,
    };
    assert_eq!(refusal, expected);
    let text = refusal.to_string();
    for part in [
        before.fingerprint().to_string().as_str(),
        now.fingerprint().to_string().as_str(),
        "files.example:4433",
        "line 2",
        "known-servers",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn an_entry_beats_the_own_identity_and_the_platform() {
    let world = World::new();
    let own = load_or_create(&world.dir, Role::Server).unwrap();
    let known = world.known_servers();
    known.add(&server_id(), stranger().fingerprint()).unwrap();
    for server in [own, stranger()] {
        let refusal = refuse(&world.verifier_with_platform(&server), &server);
        assert!(matches!(refusal, Refusal::Changed { .. }));
    }
}

#[test]
fn the_platform_authenticates_a_server_under_its_name_only() {
    let world = World::new();
    let named = stranger();
    accept(&world.verifier_with_platform(&named), &named);
    let other = Identity::generate(&["elsewhere.example".to_owned()]).unwrap();
    let refusal = refuse(&world.verifier_with_platform(&other), &other);
    assert!(matches!(refusal, Refusal::Unknown { .. }));
}

#[test]
fn a_given_authority_authenticates_alone_and_for_the_name() {
    let world = World::new();
    let (ca, server) = issued(&world, HOST);
    let ca = world.ca_file(&ca);
    let verifier = Arc::new(ServerVerifier::with_ca(server_id(), &ca).unwrap());
    accept(&verifier, &server);

    // Neither the own identity nor an entry counts beside it.
    let own = load_or_create(&world.dir, Role::Server).unwrap();
    let known = world.known_servers();
    known.add(&server_id(), own.fingerprint()).unwrap();
    let refusal = refuse(&verifier, &own);
    assert!(
        matches!(&refusal, Refusal::NotByCa { file, .. } if *file == ca),
        "{refusal:?}"
    );
}

#[test]
fn a_given_authority_does_not_authenticate_another_name() {
    let world = World::new();
    let (ca, server) = issued(&world, "elsewhere.example");
    let ca = world.ca_file(&ca);
    let verifier = Arc::new(ServerVerifier::with_ca(server_id(), &ca).unwrap());
    let refusal = refuse(&verifier, &server);
    assert!(matches!(refusal, Refusal::WrongName { .. }), "{refusal:?}");
}

#[test]
fn a_servers_own_certificate_serves_as_its_authority() {
    let world = World::new();
    let identity = load_or_create(&world.dir, Role::Server).unwrap();
    let ca = Role::Server.path(&world.dir);
    let verifier = ServerVerifier::with_ca(ServerId::new("localhost", 1).unwrap(), &ca).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    verifier
        .verify_server_cert(&identity.chain()[0], &[], &name, &[], UnixTime::now())
        .unwrap();
}

#[test]
fn a_copied_certificate_without_its_key_is_refused_on_every_ground() {
    let world = World::new();
    let own = load_or_create(&world.dir, Role::Server).unwrap();
    let (ca, named) = issued(&world, HOST);
    let ca = world.ca_file(&ca);
    let pinned = ServerVerifier::pinned(server_id(), named.fingerprint());
    let known_world = World::new();
    let known = known_world.known_servers();
    known.add(&server_id(), named.fingerprint()).unwrap();
    let platform = stranger();
    let thief = stranger();
    for (verifier, victim) in [
        (world.verifier(), &own),
        (world.verifier_with_platform(&platform), &platform),
        (known_world.verifier(), &named),
        (Arc::new(pinned), &named),
        (
            Arc::new(ServerVerifier::with_ca(server_id(), &ca).unwrap()),
            &named,
        ),
    ] {
        accept(&verifier, victim);
        let error = connect_to(&verifier, victim, &thief).unwrap_err();
        let expected = Error::InvalidCertificate(CertificateError::BadSignature);
        assert_eq!(error, expected);
        let refusal = *verifier.take_refusal().unwrap();
        assert!(matches!(refusal, Refusal::NotProved { .. }));
    }
}

#[test]
fn a_tampered_certificate_is_refused() {
    let world = World::new();
    let own = load_or_create(&world.dir, Role::Server).unwrap();
    let verifier = world.verifier();
    let name = ServerName::try_from(HOST).unwrap();
    let verify = |der: Vec<u8>| {
        let certificate = CertificateDer::from(der);
        verifier
            .verify_server_cert(&certificate, &[], &name, &[], UnixTime::now())
            .map(|_verified| certificate)
    };
    let whole = own.chain()[0].to_vec();
    verify(whole.clone()).unwrap();
    for position in 0..whole.len() {
        let mut tampered = whole.clone();
        tampered[position] ^= 1;
        // What passes still carries the very same key, so only its holder can use it.
        if let Ok(certificate) = verify(tampered) {
            let fingerprint = Fingerprint::of_certificate(&certificate).unwrap();
            assert_eq!(fingerprint, own.fingerprint());
        }
    }
    verify(b"\x30\x03abc".to_vec()).unwrap_err();
    verifier.take_refusal();
    verify(Vec::new()).unwrap_err();
    let refusal = *verifier.take_refusal().unwrap();
    assert!(matches!(refusal, Refusal::Malformed { .. }));
}

#[test]
fn the_client_shows_its_own_key() {
    let world = World::new();
    let own = load_or_create(&world.dir, Role::Server).unwrap();
    let user = load_or_create(&world.dir, Role::Client).unwrap();
    let client = rustls_config(&user, world.verifier()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(user.chain()[0].clone()).unwrap();
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        tls::provider(),
    )
    .build()
    .unwrap();
    let mut server = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(tls::VERSIONS)
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(own.chain().to_vec(), own.private_key())
        .unwrap();
    server.alpn_protocols = vec![ALPN.to_vec()];
    let connection = handshake(client, server).unwrap();
    assert_eq!(connection.peer_certificates().unwrap(), user.chain());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let world = World::new();
    let absent = world.base.path().join("absent.pem");
    let error = ServerVerifier::with_ca(server_id(), &absent).unwrap_err();
    assert!(error.to_string().contains("absent.pem"), "{error}");
    let empty = world.ca_file("");
    let error = ServerVerifier::with_ca(server_id(), &empty).unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
    let rubbish = world.ca_file("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let error = ServerVerifier::with_ca(server_id(), &rubbish).unwrap_err();
    assert!(matches!(error, TrustError::Ca { .. }), "{error}");

    fs::write(world.known_servers().path(), "rubbish\n").unwrap();
    let error = ServerVerifier::new(server_id(), &world.dir).unwrap_err();
    assert!(error.to_string().contains("known-servers"), "{error}");
    fs::write(world.known_servers().path(), "").unwrap();
    load_or_create(&world.dir, Role::Server).unwrap();
    fs::write(Role::Server.path(&world.dir), "").unwrap();
    let error = ServerVerifier::new(server_id(), &world.dir).unwrap_err();
    assert!(error.to_string().contains("server.pem"), "{error}");
}
