//! What the requests of one connection share.

use std::sync::Arc;

use parking_lot::RwLock;
use quinn::{Connection, VarInt};
use quire_shared::limits::STREAMS_MAX;
use quire_transport::flow::ConnectionFlow;
use quire_transport::flow::stream_limits::{RateLimiter, StreamLimits};

use super::Shared;
use crate::auth::access::Access;
use crate::auth::authorized_keys::Peer;
use crate::files::Caller;

/// What the requests of one connection share.
#[derive(Debug)]
pub(crate) struct Session {
    /// What all connections share.
    pub(crate) shared: Arc<Shared>,
    /// The connection itself.
    pub(crate) connection: Connection,
    /// Who the client has proved to be.
    pub(crate) peer: Peer,
    /// As whom it calls operations.
    caller: RwLock<Arc<Caller>>,
    /// Flow control that its streams share.
    pub(crate) flow: ConnectionFlow,
    /// How slow and how fast its streams may be.
    pub(crate) limits: StreamLimits,
    /// What its requests wait for.
    pub(crate) requests: Option<Arc<RateLimiter>>,
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        connection: &Connection,
        peer: Peer,
        access: Access,
        flow: ConnectionFlow,
    ) -> Self {
        let key = peer.key.filter(|_| shared.gate.knows(&peer));
        let caller = shared.files.caller(Arc::new(access), key);
        let rate_limiters = [&shared.rate_limiter, &caller.quota().rate_limiter];
        let limits = StreamLimits {
            rate_limiters: rate_limiters.into_iter().flatten().cloned().collect(),
            ..shared.limits.stream_limits()
        };
        let requests = shared.limits.request_rate.rate_limiter();
        let session = Self {
            shared,
            connection: connection.clone(),
            peer,
            caller: RwLock::new(Arc::new(caller)),
            flow,
            limits,
            requests,
        };
        session.allow_streams();
        session
    }

    /// As whom the client calls operations now. A request asks once, and is judged by the answer to
    /// its end.
    pub(crate) fn caller(&self) -> Arc<Caller> {
        Arc::clone(&self.caller.read())
    }

    /// Gives the client other rights from now on.
    pub(crate) fn set_access(&self, access: Access) {
        let caller = self.caller().with_access(Arc::new(access));
        *self.caller.write() = Arc::new(caller);
        self.allow_streams();
    }

    /// Allows a client that may do something as many streams as any.
    fn allow_streams(&self) {
        if !self.caller().access().is_empty() {
            let streams = VarInt::from_u32(STREAMS_MAX);
            self.connection.set_max_concurrent_bi_streams(streams);
        }
    }
}
