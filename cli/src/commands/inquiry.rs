//! Commands that transfer no files: ping, hash, key, pair.

use std::io::BufRead as _;
use std::time::Instant;

use quire_shared::Printable;
use quire_shared::protocol::Hash;

use super::{CommandError, fail, require_directory};
use crate::args::{HashArgs, PairCodeArgs, PingArgs};
use crate::event::{Event, EventKind};
use crate::failure::HintFlags;
use crate::operand::{Remote, on_one_server};
use crate::progress;
use crate::session::CliSession;

/// Measures handshake and round trip, and shows this client's rights.
///
/// # Errors
/// If the server doesn't answer or refuses.
pub(super) async fn ping(session: &CliSession, args: &PingArgs) -> Result<(), CommandError> {
    let remote = Remote::parse(&args.operand)?;
    let client = session.client(&remote.server).await?;
    // The first answer comes after the server has looked up this client's rights.
    let pong = client.ping().await?;
    let asked = Instant::now();
    client.ping().await?;
    let round_trip = asked.elapsed();
    let path = client.path();
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    // An answered request means that the handshake is complete.
    let handshake = client.handshake().unwrap_or_default();
    session.output.result(
        || {
            format!(
                "{} at {}: {}; handshake {:.1} ms, round trip {:.2} ms; datagrams of {} bytes; you may {}",
                remote.server,
                client.remote_address(),
                Printable(&pong.software),
                milliseconds(handshake),
                milliseconds(round_trip),
                path.current_mtu,
                if pong.writable { "read and write" } else { "read" },
            )
        },
        || {
            Event::new(EventKind::Ping)
                .with("server", remote.server.to_string())
                .with("address", client.remote_address().to_string())
                .with("software", pong.software.as_str())
                .with("writable", pong.writable)
                .with("handshake_ms", milliseconds(handshake))
                .with("round_trip_ms", milliseconds(round_trip))
                .with("datagram_bytes", path.current_mtu)
                .with("window_bytes", path.cwnd)
                .with("lost_packets", path.lost_packets)
        },
    )?;
    Ok(())
}

/// Computes digests on the server.
///
/// # Errors
/// If the operands are invalid or there is no connection. The error of a single operand is printed.
pub(super) async fn hash(session: &CliSession, args: &HashArgs) -> Result<(), CommandError> {
    let digest = session.config.hash_digest();
    for remote in on_one_server(&args.operands)? {
        let client = session.client(&remote.server).await?;
        let hash = Hash {
            path: remote.path.clone(),
            digest,
        };
        let hashed = match require_directory(&client, &remote).await {
            Ok(()) => {
                let what = format!("hashing {}", remote.path);
                progress::wait(&session.output, &what, client.hash(hash)).await
            }
            Err(error) => Err(error),
        };
        let hashed = match hashed {
            Ok(hashed) => hashed,
            Err(error) => {
                let failed = fail(session, &client, &remote.path, &error, HintFlags::NONE).await;
                if failed.is_break() {
                    break;
                }
                continue;
            }
        };
        if hashed.grew {
            session.output.note(&format!(
                "{}: grew meanwhile; this is the digest of its first {} bytes",
                remote.path, hashed.size
            ));
        }
        session.output.result(
            // As sha256sum and b3sum print it.
            || format!("{}  {}", hashed.digest, remote.path),
            || {
                Event::new(EventKind::Hashed)
                    .remote("path", &remote.path)
                    .with("digest", digest.name())
                    .with("value", hashed.digest.to_string())
                    .with("bytes", hashed.size)
                    .with("version", hashed.version.to_string())
            },
        )?;
    }
    Ok(())
}

/// Shows this client's own fingerprint.
///
/// # Errors
/// If the key can't be read or generated.
pub(super) async fn key(session: &CliSession) -> Result<(), CommandError> {
    let fingerprint = session.identity().await?.fingerprint();
    session.output.result(
        || fingerprint.to_string(),
        || Event::new(EventKind::Key).with("fingerprint", fingerprint.to_string()),
    )?;
    Ok(())
}

/// Registers this client with a server by a pairing code.
///
/// # Errors
/// If the code is malformed or not accepted, or there is no connection.
pub(super) async fn pair(session: &CliSession, args: &PairCodeArgs) -> Result<(), CommandError> {
    let remote = Remote::parse(&args.operand)?;
    let code = match &args.code {
        Some(code) => code.clone(),
        // Other users can see the arguments of a process, so the code can be typed instead.
        None => {
            session
                .output
                .message("Pairing code from `quire-server pair`:");
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
            line
        }
    };
    session.pair(&remote.server, &code.parse()?).await?;
    session.output.result(
        || format!("{} accepts this client from now on", remote.server),
        || Event::new(EventKind::Paired).with("server", remote.server.to_string()),
    )?;
    Ok(())
}
