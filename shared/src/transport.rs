//! Transport settings common to both ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};

use crate::closing::OpenableFactory;
use crate::congestion::CongestionControl;
use crate::limits::STREAMS_MAX;
use crate::socket;

/// The protocol's name in TLS (RFC 7301); it carries the version.
pub const ALPN: &[u8] = b"quire/1";

/// The UDP port a server listens on, and a client connects to, unless told otherwise.
pub const PORT: u16 = 4433;

/// The transport settings of a server towards a client at `remote`.
pub fn server(remote: SocketAddr, congestion: CongestionControl) -> Arc<TransportConfig> {
    let mut config = common(remote, congestion);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(SERVER_STREAM_WINDOW))
        .receive_window(VarInt::from_u32(2 * SERVER_STREAM_WINDOW))
        .send_window(u64::from(CLIENT_STREAM_WINDOW));
    Arc::new(config)
}

/// The transport settings of a client towards a server at `remote`: as the server's, but the
/// server opens no streams, and keeping an idle connection alive is the client's wish alone.
pub fn client(remote: SocketAddr, congestion: CongestionControl) -> Arc<TransportConfig> {
    let mut config = common(remote, congestion);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(CLIENT_STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CLIENT_STREAM_WINDOW / 2 * 3))
        .send_window(u64::from(SERVER_STREAM_WINDOW))
        .keep_alive_interval(Some(KEEP_ALIVE));
    Arc::new(config)
}

fn common(remote: SocketAddr, congestion: CongestionControl) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        .congestion_controller_factory(Arc::new(OpenableFactory(congestion.factory())))
        .mtu_discovery_config(Some(socket::mtu_discovery(remote)));
    config
}

/// How long a silent connection lives, in milliseconds: RFC 9308, §3.2, expects NAT bindings to
/// last no longer without traffic.
const IDLE_MS: u32 = 30_000;

/// A third of the idle timeout, so that two lost packets don't end an idle session.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What may be under way to a client on one stream, in bytes: what a path of 500 Mbit/s and 200 ms
/// holds (12.5 MB), and some more for what is lost there and holds up the rest. With many streams
/// at once a client needs about four times the window of the connection in memory. That is half as
/// large again as this one, so that one stream that nobody reads can't block the others. How much
/// really is under way the congestion controller decides.
pub const CLIENT_STREAM_WINDOW: u32 = 16 * 1024 * 1024;

/// The same to a server, which has many clients and must bear their windows all at once: what a
/// path of 200 Mbit/s and 160 ms holds, twice. The window of the connection is twice that.
const SERVER_STREAM_WINDOW: u32 = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use quinn::Connection;
    use quinn::congestion::{Bbr, Cubic};

    use super::*;
    use crate::closing::controller_of;
    use crate::loopback::Loopback;

    fn is_as_chosen(connection: &Connection, choice: CongestionControl) -> bool {
        let controller = controller_of(connection).into_any();
        match choice {
            CongestionControl::Quire => !controller.is::<Cubic>() && !controller.is::<Bbr>(),
            CongestionControl::Cubic => controller.is::<Cubic>(),
            CongestionControl::Bbr => controller.is::<Bbr>(),
        }
    }

    #[tokio::test]
    async fn each_end_sends_under_the_control_that_it_chose() {
        let all = CongestionControl::ALL;
        for (client, server) in all.into_iter().zip(all.into_iter().cycle().skip(1)) {
            let loopback = Loopback::connect_with(client, server).await;
            assert!(is_as_chosen(&loopback.client, client), "{client}");
            assert!(is_as_chosen(&loopback.server, server), "{server}");
        }
    }
}
