//! A relay that loses, repeats, delays and reorders datagrams between a client and a server, and that
//! changes the client's address.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::content::Random;

/// What a path does to datagrams; rates are per hundred.
#[derive(Debug, Clone, Copy)]
pub struct NetworkPath {
    /// Lost.
    pub lost: usize,
    /// Sent twice.
    pub repeated: usize,
    /// Delayed until some later datagrams have passed.
    pub held_up: usize,
    /// Largest datagram that passes, in bytes.
    pub size_max: usize,
    /// Number of datagrams after which none passes.
    pub ends_after: usize,
    /// Number of the client's datagrams after which its address changes.
    pub rebinds_every: usize,
}

impl NetworkPath {
    /// A path that passes everything once, in order.
    pub const GOOD: Self = Self {
        lost: 0,
        repeated: 0,
        held_up: 0,
        size_max: 65_535,
        ends_after: usize::MAX,
        rebinds_every: usize::MAX,
    };
}

/// A relay for one client.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    path: watch::Sender<NetworkPath>,
    rebinding: watch::Sender<u32>,
    _task: JoinSet<()>,
}

impl Relay {
    /// Starts a relay to `server`; what it does to datagrams follows from `seed`.
    pub async fn start(server: SocketAddr, path: NetworkPath, seed: u64) -> Self {
        let front = Arc::new(any_socket().await);
        let address = front.local_addr().unwrap();
        let (path, path_now) = watch::channel(path);
        let (rebinding, rebound) = watch::channel(0);
        let mut task = JoinSet::new();
        let mut forwarder = Forwarder {
            path: path_now,
            random: Random::new(seed),
            come: 0,
            held_up: JoinSet::new(),
        };
        task.spawn(async move { forwarder.run(front, server, rebound).await });
        Self {
            address,
            path,
            rebinding,
            _task: task,
        }
    }

    /// The address for the client.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the path.
    pub fn set(&self, path: NetworkPath) {
        self.path.send_replace(path);
    }

    /// Changes the client's address, as the server sees it.
    pub fn rebind(&self) {
        self.rebinding.send_modify(|times| *times += 1);
    }
}

struct Forwarder {
    path: watch::Receiver<NetworkPath>,
    random: Random,
    /// Number of datagrams since the path was set.
    come: usize,
    held_up: JoinSet<()>,
}

impl Forwarder {
    async fn run(
        &mut self,
        front: Arc<UdpSocket>,
        server: SocketAddr,
        mut rebound: watch::Receiver<u32>,
    ) {
        let mut back = Arc::new(any_socket().await);
        let (mut client, mut sent) = (None, 0_usize);
        let (mut there, mut here) = (vec![0; 65_535], vec![0; 65_535]);
        loop {
            tokio::select! {
                received = front.recv_from(&mut there) => {
                    // The error is about a datagram that was sent to a closed socket.
                    let Ok((length, from)) = received else { continue };
                    // Our client also probes, from a socket of its own and without a
                    // QUIC datagram, whether a server listens.
                    if length >= FIRST_DATAGRAM_BYTES {
                        client = Some(from);
                    }
                    self.forward(&there[..length], &back, server).await;
                    sent += 1;
                    if sent.is_multiple_of(self.path.borrow().rebinds_every) {
                        back = Arc::new(any_socket().await);
                    }
                }
                received = back.recv_from(&mut here) => {
                    let (Ok((length, _)), Some(client)) = (received, client) else { continue };
                    self.forward(&here[..length], &front, client).await;
                }
                changed = rebound.changed() => match changed {
                    Ok(()) => back = Arc::new(any_socket().await),
                    Err(_) => return,
                },
            }
        }
    }

    async fn forward(&mut self, datagram: &[u8], from: &Arc<UdpSocket>, to: SocketAddr) {
        if self.path.has_changed().unwrap_or(false) {
            self.come = 0;
        }
        let path = *self.path.borrow_and_update();
        self.come += 1;
        let mut happens = |percent| self.random.below(100) < percent;
        let is_over = self.come > path.ends_after || datagram.len() > path.size_max;
        if is_over || happens(path.lost) {
            return;
        }
        let times = 1 + u32::from(happens(path.repeated));
        let is_held_up = happens(path.held_up);
        for _ in 0..times {
            if is_held_up {
                let (datagram, from) = (datagram.to_vec(), Arc::clone(from));
                self.held_up.spawn(async move {
                    tokio::time::sleep(HELD_UP).await;
                    let _ = from.send_to(&datagram, to).await;
                });
            } else {
                let _ = from.send_to(datagram, to).await;
            }
        }
        while self.held_up.try_join_next().is_some() {}
    }
}

async fn any_socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

/// Smallest first datagram of a client (RFC 9000, §14.1).
const FIRST_DATAGRAM_BYTES: usize = 1200;

/// Long enough for many datagrams to overtake a delayed one.
const HELD_UP: Duration = Duration::from_millis(5);
