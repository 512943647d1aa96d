//! Commands that transfer no files: ping, hash, key, pair.

use std::io::BufRead as _;
use std::time::Instant;

use quire_shared::Printable;
use quire_shared::protocol::Hash;
use serde_json::json;

use super::{CommandError, FirstFailure, json_path};
use crate::args::{HashArgs, PairCodeArgs, PingArgs};
use crate::exit::Exit;
use crate::hint::HintFlags;
use crate::operand::{Remote, on_one_server};
use crate::session::CliSession;

/// Measures handshake and round trip, and shows this client's rights.
///
/// # Errors
/// If the server doesn't answer or refuses.
pub(super) async fn ping(session: &CliSession, args: &PingArgs) -> Result<Exit, CommandError> {
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
            json!({
                "server": remote.server.to_string(),
                "address": client.remote_address().to_string(),
                "software": pong.software,
                "writable": pong.writable,
                "handshake_ms": milliseconds(handshake),
                "round_trip_ms": milliseconds(round_trip),
                "datagram_bytes": path.current_mtu,
                "window_bytes": path.cwnd,
                "lost_packets": path.lost_packets,
            })
        },
    )?;
    Ok(Exit::Done)
}

/// Computes digests on the server.
///
/// # Errors
/// If the operands are invalid or there is no connection. The error of a single operand is printed.
pub(super) async fn hash(session: &CliSession, args: &HashArgs) -> Result<Exit, CommandError> {
    let digest = session.config.hash_digest();
    let mut failure = FirstFailure::none(HintFlags::NONE);
    for remote in on_one_server(&args.operands)? {
        let client = session.client(&remote.server).await?;
        let hash = Hash {
            path: remote.path.clone(),
            digest,
        };
        let hashed = match client.hash(hash).await {
            Ok(hashed) => hashed,
            Err(error) => {
                if failure.note(session, &remote.path, &error).is_break() {
                    break;
                }
                continue;
            }
        };
        session.output.result(
            // As sha256sum and b3sum print it.
            || format!("{}  {}", hashed.digest, remote.path),
            || {
                json!({
                    "path": json_path(&remote.path),
                    "digest": digest.name(),
                    "value": hashed.digest.to_string(),
                    "bytes": hashed.size,
                    "version": hashed.version.to_string(),
                })
            },
        )?;
    }
    Ok(failure.exit())
}

/// Shows this client's own fingerprint.
///
/// # Errors
/// If the key can't be read or generated.
pub(super) async fn key(session: &CliSession) -> Result<Exit, CommandError> {
    let fingerprint = session.identity().await?.fingerprint();
    session.output.result(
        || fingerprint.to_string(),
        || json!({ "fingerprint": fingerprint.to_string() }),
    )?;
    Ok(Exit::Done)
}

/// Registers this client with a server by a pairing code.
///
/// # Errors
/// If the code is malformed or not accepted, or there is no connection.
pub(super) async fn pair(session: &CliSession, args: &PairCodeArgs) -> Result<Exit, CommandError> {
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
        || json!({ "paired": remote.server.to_string() }),
    )?;
    Ok(Exit::Done)
}
