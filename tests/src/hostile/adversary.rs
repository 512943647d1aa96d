//! What a hostile client of an independent QUIC stack does to the server, by the scripts of
//! `tests/adversary`, while a good client must be served and memory is bounded.
//!
//! Here each attack lasts a second or two. At full length and rate they are
//! `cargo test --release --workspace -- --ignored --nocapture adversary`, which says what it
//! measured.

use serde_json::{Value, json};

use quire_test_harness::arena::{Arena, Attack};

/// Runs one attack on a server of its own, and gives what the script says.
async fn bear(attack: Attack) -> Option<Value> {
    let arena = Arena::open(&[])?;
    Some(arena.bear(attack).await.check())
}

/// The codes of RFC 9000, §20.1, that a script saw, by what it tried.
fn codes(said: &Value) -> impl Iterator<Item = (&str, Option<u64>)> {
    let codes = said["codes"].as_object().unwrap();
    codes
        .iter()
        .map(|(name, code)| (name.as_str(), code.as_u64()))
}

async fn gaps(which: &'static str, seconds: u32) {
    let Some(said) = bear(Attack::new("gaps.py", which, seconds)).await else {
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
    let Some(said) = bear(Attack::new("beyond.py", "", 1)).await else {
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
        let Some(said) = bear(Attack::new("floods.py", which, seconds)).await else {
            return;
        };
        let frames = said["frames"].as_u64().unwrap();
        assert!(frames > 0, "{said}");
    }
}

#[tokio::test]
async fn floods_of_control_frames_are_borne() {
    floods(ANSWERED, 1).await;
    floods(NOTED, 1).await;
}

/// Frames that the server has to answer with others, and keep these until they are acknowledged.
const ANSWERED: &[&str] = &[
    "new-connection-id",
    "retire-connection-id",
    "path-challenge",
];

/// Frames that it only takes note of.
const NOTED: &[&str] = &["max-stream-data", "max-data", "stream-data-blocked", "ping"];

async fn resets(seconds: u32, limits: &[&str]) {
    let Some(arena) = Arena::open(limits) else {
        return;
    };
    let outcome = arena.bear(Attack::new("resets.py", "", seconds)).await;
    let said = outcome.check();
    let limit = quire_shared::ErrorCode::LIMIT.number().to_string();
    let codes = said["codes"].as_object().unwrap();
    // The close may be lost on its way to a client that is busy, which hears of a reset then.
    let is_told = |code: &String| [limit.as_str(), "-1"].contains(&code.as_str());
    assert!(codes.keys().all(is_told), "{said}");
}

#[tokio::test]
async fn streams_opened_and_reset_without_end_end_the_connection() {
    // Of those that even a busy machine opens in a second.
    resets(2, &["--abort-rate", "50"]).await;
}

#[tokio::test]
async fn packets_acknowledged_before_they_were_sent_end_the_connection() {
    for which in ["unsent", "all"] {
        let Some(said) = bear(Attack::new("acks.py", which, 60)).await else {
            return;
        };
        assert!(is_sent_away(&said), "{said}");
    }
}

/// Whether a client was told that it broke a rule, or heard of a reset as the close was lost on its
/// way, among all the rest that was sent.
fn is_sent_away(said: &Value) -> bool {
    let code = &said["closed"]["code"];
    *code == PROTOCOL_VIOLATION || *code == -1
}

#[tokio::test]
async fn frames_that_do_not_exist_end_the_connection() {
    let Some(said) = bear(Attack::new("frames.py", "", 1)).await else {
        return;
    };
    assert_eq!(said["survived"], Value::Array(Vec::new()), "{said}");
}

#[tokio::test]
async fn transport_parameters_that_cannot_be_end_the_handshake() {
    let Some(said) = bear(Attack::new("parameters.py", "", 1)).await else {
        return;
    };
    for (name, code) in codes(&said) {
        let is_borne = said["borne"].as_array().unwrap().contains(&name.into());
        let expected = (!is_borne).then_some(TRANSPORT_PARAMETER_ERROR);
        assert_eq!(code, expected, "{name}: {said}");
    }
    assert_eq!(said["connected"], said["borne"], "{said}");
}

#[tokio::test]
async fn messages_of_the_handshake_where_they_do_not_belong_end_the_connection() {
    // One of the attacks waits for it.
    let Some(arena) = Arena::open(&["--handshake-time", "1"]) else {
        return;
    };
    let said = arena.bear(Attack::new("levels.py", "", 1)).await.check();
    assert_eq!(said["connected"], Value::Array(Vec::new()), "{said}");
    for (name, code) in codes(&said) {
        let code = code.unwrap_or_else(|| panic!("{name} was borne: {said}"));
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
        "--prove-addresses",
        "always",
        "--connections-per-address",
        "4",
    ];
    let Some(arena) = Arena::open(&limits) else {
        return;
    };
    let said = arena.bear(Attack::new("tokens.py", "", 1)).await.check();
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
    let Some(said) = bear(attack).await else {
        return;
    };
    let bytes = |name: &str| said[name].as_u64().unwrap();
    assert!(bytes("received") <= 3 * bytes("sent"), "{said}");
}

#[tokio::test]
async fn two_thousand_first_packets_a_second_keep_nobody_out() {
    first_packets(2).await;
}

/// First packets that end their connections, which quinn then keeps until they are idle: an address
/// has to be proved before it can have many of them, as with handshakes that don't go on.
#[tokio::test]
async fn first_packets_that_close_take_no_more_than_those_that_open() {
    let attack = Attack {
        rate: 2000,
        is_authorized: false,
        ..Attack::new("initials.py", "close", 2)
    };
    let Some(said) = bear(attack).await else {
        return;
    };
    // A token for nearly each.
    let bytes = |name: &str| said[name].as_u64().unwrap();
    assert!(bytes("received") >= bytes("sent") / 20, "{said}");
}

/// Clients that each take as long as they can; `limits` say how long that is. Gives the server.
async fn slow(which: &'static str, seconds: u32, clients: u32, limits: &[&str]) -> Option<Arena> {
    let arena = Arena::open(limits)?;
    let attack = Attack {
        clients,
        ..Attack::new("slow.py", which, seconds)
    };
    let said = arena.bear(attack).await.check();
    if which == "handshake" {
        assert_eq!(said["codes"]["went on"], 0, "{said}");
    } else {
        // On a busy machine a handshake may take longer than it may.
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
    // Enough for what each has in its windows to be more than the server's memory.
    slow("window", 40, 250, &["--stall-time", "5"]).await;
}

// Codes of RFC 9000, §20.1.

/// The server takes no more connections, of this address or at all.
const CONNECTION_REFUSED: u64 = 0x02;

/// Too many streams.
const STREAM_LIMIT_ERROR: u64 = 0x04;

/// Transport parameters that can't be.
const TRANSPORT_PARAMETER_ERROR: u64 = 0x08;

/// An error that has no code of its own.
const PROTOCOL_VIOLATION: u64 = 0x0a;

/// A token that isn't of this address, or too old.
const INVALID_TOKEN: u64 = 0x0b;

/// The application closed before the handshake was over.
const APPLICATION_ERROR: u64 = 0x0c;

/// The first of those that carry an alert of TLS.
const CRYPTO_ERROR: u64 = 0x100;

mod full_length {
    //! As the same attacks are described where their figures are: rate and length in full.

    use std::time::Duration;

    use quire_test_harness::arena::{Attack, say};

    /// How much comes to those that acknowledge what they haven't until they are sent away, and to
    /// an honest client in the same time.
    #[tokio::test]
    #[ignore = "20 s"]
    async fn acknowledgements() {
        let Some(honest) = super::bear(Attack::new("acks.py", "honest", 2)).await else {
            return;
        };
        let number = |value: &super::Value| value.as_f64().unwrap();
        let honest: Vec<_> = honest["arrived"].as_array().unwrap().iter().collect();
        for which in ["unsent", "all"].repeat(5) {
            let said = super::bear(Attack::new("acks.py", which, 60))
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

    /// A thousand slow clients, and what the server has of memory when they have been gone for a
    /// minute.
    async fn slow_thousand(which: &'static str) {
        if let Some(arena) = super::slow(which, 240, 1000, &[]).await {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let (now, _) = arena.memory();
            say(&format!("a minute later: {} MiB", now / 1024 / 1024));
        }
    }

    /// What the same does to somebody whose server isn't attacked, only the machine busy.
    #[tokio::test]
    #[ignore = "30 s each"]
    async fn gaps_elsewhere() {
        for which in ["stream", "crypto"] {
            let attack = Attack::new("gaps.py", which, 30);
            super::bear(attack.elsewhere()).await;
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
