//! Attacks by an independent QUIC stack (scripts in `tests/adversary`): an honest client is served
//! meanwhile, and memory stays bounded.
//!
//! Here each attack lasts a second or two. At full length and rate they run with
//! `cargo test --release --workspace -- --ignored --nocapture adversary`, which prints the figures.

use serde_json::{Value, json};

use quire_test_harness::arena::{Arena, Attack};

/// Runs one attack on a server of its own; returns the script's output.
async fn run_attack(attack: Attack) -> Option<Value> {
    let arena = Arena::open(&[])?;
    Some(arena.run(attack).await.check())
}

/// The codes (RFC 9000, §20.1) that a script received, by what it tried.
fn codes(said: &Value) -> impl Iterator<Item = (&str, Option<u64>)> {
    let codes = said["codes"].as_object().unwrap();
    codes
        .iter()
        .map(|(name, code)| (name.as_str(), code.as_u64()))
}

async fn gaps(which: &'static str, seconds: u32) {
    let Some(said) = run_attack(Attack::new("gaps.py", which, seconds)).await else {
        return;
    };
    let codes = said["codes"].as_object().unwrap();
    assert!(codes.keys().all(|code| code != "open"), "{said}");
}

#[tokio::test]
async fn pieces_with_gaps_end_the_connection() {
    gaps("stream", 2).await;
}

#[tokio::test]
async fn pieces_with_gaps_in_the_handshake_end_the_connection() {
    gaps("crypto", 1).await;
}

#[tokio::test]
async fn frames_of_streams_beyond_the_limit_end_the_connection() {
    let Some(said) = run_attack(Attack::new("beyond.py", "", 1)).await else {
        return;
    };
    for (name, code) in codes(&said) {
        // quinn lets the last of these pass, which opens nothing.
        let is_refused = code == Some(STREAM_LIMIT_ERROR) || name == "STOP_SENDING";
        assert!(is_refused, "{name}: {said}");
    }
}

async fn floods(kinds: &[&'static str], seconds: u32) {
    for which in kinds {
        let Some(said) = run_attack(Attack::new("floods.py", which, seconds)).await else {
            return;
        };
        let frames = said["frames"].as_u64().unwrap();
        assert!(frames > 0, "{said}");
    }
}

#[tokio::test]
async fn floods_of_control_frames_do_no_harm() {
    floods(ANSWERED, 1).await;
    floods(NOTED, 1).await;
}

/// Frames that the server has to answer, and whose answers it keeps until they are acknowledged.
const ANSWERED: &[&str] = &[
    "new-connection-id",
    "retire-connection-id",
    "path-challenge",
];

/// Frames that the server only takes note of.
const NOTED: &[&str] = &["max-stream-data", "max-data", "stream-data-blocked", "ping"];

async fn resets(seconds: u32, limits: &[&str]) {
    let Some(arena) = Arena::open(limits) else {
        return;
    };
    let outcome = arena.run(Attack::new("resets.py", "", seconds)).await;
    let said = outcome.check();
    let limit = quire_shared::ErrorCode::LIMIT.number().to_string();
    let codes = said["codes"].as_object().unwrap();
    // The close may be lost on its way to a busy client, which receives a reset then.
    let is_told = |code: &String| [limit.as_str(), "-1"].contains(&code.as_str());
    assert!(codes.keys().all(is_told), "{said}");
}

#[tokio::test]
async fn streams_opened_and_reset_without_end_end_the_connection() {
    // As many as even a busy machine opens in a second.
    resets(2, &["--abort-rate", "50"]).await;
}

#[tokio::test]
async fn packets_acknowledged_before_they_were_sent_end_the_connection() {
    for which in ["unsent", "all"] {
        let Some(said) = run_attack(Attack::new("acks.py", which, 60)).await else {
            return;
        };
        assert!(is_sent_away(&said), "{said}");
    }
}

/// Whether a client received the code of a broken rule, or a reset where the close was lost on its way,
/// among all the rest.
fn is_sent_away(said: &Value) -> bool {
    let code = &said["closed"]["code"];
    *code == PROTOCOL_VIOLATION || *code == -1
}

#[tokio::test]
async fn frames_that_do_not_exist_end_the_connection() {
    let Some(said) = run_attack(Attack::new("frames.py", "", 1)).await else {
        return;
    };
    assert_eq!(said["survived"], Value::Array(Vec::new()), "{said}");
}

#[tokio::test]
async fn transport_parameters_that_cannot_be_end_the_handshake() {
    let Some(said) = run_attack(Attack::new("parameters.py", "", 1)).await else {
        return;
    };
    for (name, code) in codes(&said) {
        let is_accepted = said["accepted"].as_array().unwrap().contains(&name.into());
        let expected = (!is_accepted).then_some(TRANSPORT_PARAMETER_ERROR);
        assert_eq!(code, expected, "{name}: {said}");
    }
    assert_eq!(said["connected"], said["accepted"], "{said}");
}

#[tokio::test]
async fn messages_of_the_handshake_where_they_do_not_belong_end_the_connection() {
    // One of the attacks waits for it.
    let Some(arena) = Arena::open(&["--handshake-time", "1"]) else {
        return;
    };
    let said = arena.run(Attack::new("levels.py", "", 1)).await.check();
    assert_eq!(said["connected"], Value::Array(Vec::new()), "{said}");
    for (name, code) in codes(&said) {
        let code = code.unwrap_or_else(|| panic!("{name} was accepted: {said}"));
        let is_alert = (CRYPTO_ERROR..=CRYPTO_ERROR + 0xff).contains(&code);
        let is_late = code == APPLICATION_ERROR && said["dropped"] == name;
        assert!(
            is_alert || is_late || code == PROTOCOL_VIOLATION,
            "{name}: {said}"
        );
    }
}

#[tokio::test]
async fn tokens_prove_one_address_and_first_packets_can_be_repeated() {
    let limits = [
        "--validate-addresses",
        "always",
        "--connections-per-address",
        "4",
    ];
    let Some(arena) = Arena::open(&limits) else {
        return;
    };
    let said = arena.run(Attack::new("tokens.py", "", 1)).await.check();
    let expected = json!({
        "of another address": [format!("closed {INVALID_TOKEN:#x}")],
        "changed": ["asked"],
        "none, repeated": ["asked", true, "let in"],
        "right, repeated": ["let in"],
        "right, of a full address": [format!("closed {CONNECTION_REFUSED:#x}")],
        "right, of a full address, repeated": [format!("closed {CONNECTION_REFUSED:#x}")],
        "those let in": [],
    });
    assert_eq!(said["answers"], expected);
    assert_eq!(said["kept"], 4, "{said}");
}

async fn first_packets(seconds: u32) {
    let attack = Attack {
        rate: 2000,
        is_authorized: false,
        ..Attack::new("initials.py", "", seconds)
    };
    let Some(said) = run_attack(attack).await else {
        return;
    };
    let bytes = |name: &str| said[name].as_u64().unwrap();
    assert!(bytes("received") <= 3 * bytes("sent"), "{said}");
}

#[tokio::test]
async fn two_thousand_first_packets_a_second_lock_no_client_out() {
    first_packets(2).await;
}

/// First packets that end their connections, which quinn then keeps until they are idle. An address has
/// to be validated before it can have many of them, as with handshakes that don't go on.
#[tokio::test]
async fn first_packets_that_close_take_no_more_than_those_that_open() {
    let attack = Attack {
        rate: 2000,
        is_authorized: false,
        ..Attack::new("initials.py", "close", 2)
    };
    let Some(said) = run_attack(attack).await else {
        return;
    };
    // A token for nearly each.
    let bytes = |name: &str| said[name].as_u64().unwrap();
    assert!(bytes("received") >= bytes("sent") / 20, "{said}");
}

/// Clients that each take as long as they can, up to `limits`. Returns the server.
async fn slow(which: &'static str, seconds: u32, clients: u32, limits: &[&str]) -> Option<Arena> {
    let arena = Arena::open(limits)?;
    let attack = Attack {
        clients,
        ..Attack::new("slow.py", which, seconds)
    };
    let said = arena.run(attack).await.check();
    if which == "handshake" {
        assert_eq!(said["codes"]["went on"], 0, "{said}");
    } else {
        // On a busy machine a handshake may exceed its limit.
        let number = |name: &str| said[name].as_u64().unwrap();
        assert!(number("connected") >= u64::from(clients) / 2, "{said}");
        assert_eq!(number("cut"), number("connected"), "{said}");
    }
    Some(arena)
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    slow("handshake", 3, 20, &["--handshake-time", "1"]).await;
    slow("header", 20, 20, &["--request-time", "1"]).await;
    slow("body", 20, 20, &["--stall-time", "1"]).await;
    slow("shut", 20, 20, &["--stall-time", "1"]).await;
    slow("unacknowledged", 20, 20, &["--stall-time", "1"]).await;
    // Enough that all their windows together exceed the server's memory limit.
    slow("window", 40, 250, &["--stall-time", "5"]).await;
}

// Codes of RFC 9000, §20.1.

/// The server accepts no more connections, from this address or at all.
const CONNECTION_REFUSED: u64 = 0x02;

/// Too many streams.
const STREAM_LIMIT_ERROR: u64 = 0x04;

/// Invalid transport parameters.
const TRANSPORT_PARAMETER_ERROR: u64 = 0x08;

/// An error without a code of its own.
const PROTOCOL_VIOLATION: u64 = 0x0a;

/// A token of another address, or an expired one.
const INVALID_TOKEN: u64 = 0x0b;

/// The application closed before the handshake was over.
const APPLICATION_ERROR: u64 = 0x0c;

/// The first of the codes that carry a TLS alert.
const CRYPTO_ERROR: u64 = 0x100;

mod full_length {
    //! The same attacks at full rate and length, as SECURITY.md describes them.

    use std::time::Duration;

    use quire_test_harness::arena::{Attack, say};

    /// How much is sent to clients that acknowledge missing packets until they are disconnected, and to an
    /// honest client in the same time.
    #[tokio::test]
    #[ignore = "20 s"]
    async fn acknowledgements() {
        let Some(honest) = super::run_attack(Attack::new("acks.py", "honest", 2)).await else {
            return;
        };
        let number = |value: &super::Value| value.as_f64().unwrap();
        let honest: Vec<_> = honest["arrived"].as_array().unwrap().iter().collect();
        for which in ["unsent", "all"].repeat(5) {
            let said = super::run_attack(Attack::new("acks.py", which, 60))
                .await
                .unwrap();
            assert!(super::is_sent_away(&said), "{said}");
            let (seconds, bytes) = (number(&said["seconds"]), &said["received"]);
            let later = honest.iter().find(|at| number(&at[0]) >= seconds);
            let meanwhile = &later.expect("it was closed before")[1];
            say(&format!(
                "{which}: closed after {seconds} s and {bytes} bytes; an honest client had {meanwhile}"
            ));
        }
    }

    /// A thousand slow clients, and the server's memory a minute after they have gone.
    async fn slow_thousand(which: &'static str) {
        if let Some(arena) = super::slow(which, 240, 1000, &[]).await {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let (now, _) = arena.memory();
            say(&format!("a minute later: {} MiB", now / 1024 / 1024));
        }
    }

    /// The effect on the client of another server on the same, busy machine.
    #[tokio::test]
    #[ignore = "30 s each"]
    async fn gaps_elsewhere() {
        for which in ["stream", "crypto"] {
            let attack = Attack::new("gaps.py", which, 30);
            super::run_attack(attack.elsewhere()).await;
        }
    }

    #[tokio::test]
    #[ignore = "30 s each"]
    async fn gaps() {
        super::gaps("stream", 30).await;
        super::gaps("crypto", 30).await;
    }

    #[tokio::test]
    #[ignore = "30 s each"]
    async fn floods_to_answer() {
        super::floods(super::ANSWERED, 30).await;
    }

    #[tokio::test]
    #[ignore = "30 s each"]
    async fn floods_to_note() {
        super::floods(super::NOTED, 30).await;
    }

    #[tokio::test]
    #[ignore = "10 s"]
    async fn resets() {
        super::resets(10, &[]).await;
    }

    #[tokio::test]
    #[ignore = "a minute"]
    async fn slow_beginnings() {
        super::slow("handshake", 10, 1000, &[]).await;
        super::slow("header", 30, 1000, &[]).await;
    }

    #[tokio::test]
    #[ignore = "two minutes"]
    async fn slow_senders() {
        slow_thousand("body").await;
    }

    #[tokio::test]
    #[ignore = "two minutes"]
    async fn slow_readers() {
        slow_thousand("window").await;
    }

    #[tokio::test]
    #[ignore = "two minutes"]
    async fn readers_that_take_nothing() {
        slow_thousand("shut").await;
    }

    #[tokio::test]
    #[ignore = "two minutes"]
    async fn readers_that_acknowledge_nothing() {
        slow_thousand("unacknowledged").await;
    }

    #[tokio::test]
    #[ignore = "20 s"]
    async fn first_packets() {
        super::first_packets(20).await;
    }
}
