//! QUIC transport parameters and timers of every connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};

use crate::congestion::{CongestionControl, PACKET_THRESHOLD, TIME_THRESHOLD};
use crate::controller::HandledFactory;
use crate::flow::windows;
use crate::socket;
use quire_shared::Side;
use quire_shared::limits::STREAMS_MAX;

/// Returns the transport configuration of a server for a client at `remote`.
pub fn server(remote: SocketAddr, congestion: CongestionControl) -> Arc<TransportConfig> {
    let mut config = common(remote, congestion, Side::Server);
    config.max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX));
    Arc::new(config)
}

/// Returns the transport configuration of a client for a server at `remote`.
///
/// It differs from the server's in two points: the server opens no streams, and only the client
/// keeps an idle connection alive.
pub fn client(remote: SocketAddr, congestion: CongestionControl) -> Arc<TransportConfig> {
    let mut config = common(remote, congestion, Side::Client);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .keep_alive_interval(Some(KEEP_ALIVE));
    Arc::new(config)
}

fn common(remote: SocketAddr, congestion: CongestionControl, side: Side) -> TransportConfig {
    let minimum = windows::minimum(side);
    let mut config = TransportConfig::default();
    config
        // The protocol uses neither unidirectional streams nor datagrams (PROTOCOL.md, P5).
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(windows::stream_window(side)))
        .receive_window(VarInt::from_u64(minimum.receive).unwrap_or(VarInt::MAX))
        .send_window(minimum.send)
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok())
        .initial_rtt(INITIAL_RTT)
        .packet_threshold(PACKET_THRESHOLD)
        .time_threshold(TIME_THRESHOLD)
        .congestion_controller_factory(Arc::new(HandledFactory::new(congestion.factory())))
        .mtu_discovery_config(Some(socket::mtu_discovery(remote)));
    config
}

/// The idle timeout of a connection. RFC 9308, §3.2, expects NAT bindings to last no longer without
/// traffic.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The round-trip time that is assumed before the first is measured, so that the first datagrams of
/// a connection are sent again after 0.6, 1.8 and 4.2 s. With the 333 ms that RFC 9002, §6.2.2,
/// recommends these are 1 and 3 s, and all may fall into outages that come each second.
const INITIAL_RTT: Duration = Duration::from_millis(200);

/// The interval of keep-alives: a third of the idle timeout, so that two lost packets don't end an
/// idle connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use quinn::Connection;
    use quinn::congestion::{Bbr, Cubic};

    use super::*;
    use crate::controller::controller_of;
    use crate::loopback::Loopback;

    fn is_as_chosen(connection: &Connection, choice: CongestionControl) -> bool {
        let controller = controller_of(connection).unwrap().into_any();
        match choice {
            CongestionControl::Quire => !controller.is::<Cubic>() && !controller.is::<Bbr>(),
            CongestionControl::Cubic => controller.is::<Cubic>(),
            CongestionControl::Bbr => controller.is::<Bbr>(),
        }
    }

    #[tokio::test]
    async fn each_end_uses_the_congestion_control_that_it_chose() {
        let all = CongestionControl::ALL;
        for (client, server) in all.into_iter().zip(all.into_iter().cycle().skip(1)) {
            let loopback = Loopback::connect_with(client, server).await;
            assert!(is_as_chosen(&loopback.client, client), "{client}");
            assert!(is_as_chosen(&loopback.server, server), "{server}");
        }
    }
}
