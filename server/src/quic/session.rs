//! Session: state that the requests of one connection share.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use quinn::{Connection, VarInt};
use quire_shared::limits::STREAMS_MAX;
use quire_transport::bottleneck::Meters;
use quire_transport::flow::ConnectionFlow;
use quire_transport::flow::stream_limits::{RateLimiter, StreamLimits};

use super::Shared;
use crate::auth::access::Access;
use crate::auth::authorized_keys::Peer;
use crate::files::Caller;

/// State that the requests of one connection share.
#[derive(Debug)]
pub(crate) struct Session {
    /// State that all connections share.
    pub(crate) shared: Arc<Shared>,
    /// The connection itself.
    pub(crate) connection: Connection,
    /// Identity that the client has proved.
    pub(crate) peer: Peer,
    /// Rights, quota and lock owner of the client; replaced when its rights change.
    caller: RwLock<Arc<Caller>>,
    /// Flow control that the streams share.
    pub(crate) flow: ConnectionFlow,
    /// What the client may ask about its transfers.
    pub(crate) meters: Mutex<Meters>,
    /// Stall timeout and rate limits of each stream.
    pub(crate) limits: StreamLimits,
    /// Rate limit of requests.
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
            meters: Mutex::new(Meters::new(&flow)),
            flow,
            limits,
            requests,
        };
        session.allow_streams();
        session
    }

    /// Current caller of operations. A request reads it once, so a change of rights affects only
    /// later requests.
    pub(crate) fn caller(&self) -> Arc<Caller> {
        Arc::clone(&self.caller.read())
    }

    /// Replaces the rights of the client, for all later requests.
    pub(crate) fn set_access(&self, access: Access) {
        let caller = self.caller().with_access(Arc::new(access));
        *self.caller.write() = Arc::new(caller);
        self.allow_streams();
    }

    /// Raises the stream limit of a client that has rights. Until then it has the low limit that
    /// `endpoint` sets, so a client without rights can't open many streams.
    fn allow_streams(&self) {
        if !self.caller().access().is_empty() {
            let streams = VarInt::from_u32(STREAMS_MAX);
            self.connection.set_max_concurrent_bi_streams(streams);
        }
    }
}
