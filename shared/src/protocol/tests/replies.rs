//! Replies: their optional keys, and their limits where they are sent.

use super::*;

// P14
#[test]
fn missing_optional_keys_of_replies_have_their_defaults() {
    let (software, writable, measured) = (String::new(), false, None);
    let pong = Pong {
        software,
        writable,
        measured,
        details: Default::default(),
        remembers: None,
    };
    assert_eq!(decode::<Reply<Pong>>(&[0x82, 0, 0xa0]), Ok(Reply::Ok(pong)));
    assert_eq!(
        decode::<Reply<Page>>(&[0x82, 0, 0xa0]),
        Ok(Reply::Ok(Page::default()))
    );
    assert_eq!(
        decode::<Reply<CachePage>>(&[0x82, 0, 0xa0]),
        Ok(Reply::Ok(CachePage::default()))
    );
}

#[test]
fn a_message_over_its_limit_is_not_sent() {
    let pong = Pong {
        software: "x".repeat(REPLY_BYTES_MAX),
        writable: true,
        measured: None,
        details: Default::default(),
        remembers: None,
    };
    let error = encode(&Reply::Ok(pong)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::MESSAGE_TOO_LONG);
}
