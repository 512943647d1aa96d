//! `Ping`: is the server there, and what may this client do.

use quire_shared::protocol::Pong;

use crate::connection::Session;

/// Says what the server is.
pub(crate) fn carry_out(session: &Session) -> Pong {
    Pong {
        software: concat!("quire-server ", env!("CARGO_PKG_VERSION")).to_owned(),
        writable: session.rights.may_write() && session.state.root.read_only().is_none(),
    }
}
