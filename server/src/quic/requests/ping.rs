//! `Ping`: is the server there, and what may this client do.

use quire_shared::protocol::Pong;

use crate::auth::access::Access;
use crate::state::State;

/// Says what the server is.
pub(crate) fn carry_out(access: &Access, state: &State) -> Pong {
    Pong {
        software: concat!("quire-server ", env!("CARGO_PKG_VERSION")).to_owned(),
        writable: access.may_change() && state.root.read_only().is_none(),
    }
}
