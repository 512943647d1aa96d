//! A relay between clients and a server that can hold back the clients' datagrams.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Which of the clients' datagrams pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lets {
    /// All.
    All,
    /// Those that a client sends before it has received anything.
    FirstFlights,
    /// None.
    Nothing,
}

/// A gate, closed when dropped.
#[derive(Debug)]
pub struct DatagramGate {
    address: SocketAddr,
    state: Arc<Mutex<GateState>>,
    kept: watch::Sender<Vec<Vec<u8>>>,
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct GateState {
    server: SocketAddr,
    lets: Lets,
}

impl DatagramGate {
    /// Starts to relay to `server`.
    pub async fn to(server: SocketAddr) -> Self {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let address = socket.local_addr().unwrap();
        let lets = Lets::All;
        let state = Arc::new(Mutex::new(GateState { server, lets }));
        let kept = watch::Sender::default();
        let mut task = JoinSet::new();
        task.spawn(relay(socket, Arc::clone(&state), kept.clone()));
        Self {
            address,
            state,
            kept,
            _task: task,
        }
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Relays new clients to another server.
    pub fn lead_to(&self, server: SocketAddr) {
        lock(&self.state).server = server;
    }

    /// Changes what passes.
    pub fn let_pass(&self, lets: Lets) {
        lock(&self.state).lets = lets;
    }

    /// The datagrams held back, once `are_enough` accepts them.
    pub async fn kept(&self, are_enough: impl FnMut(&Vec<Vec<u8>>) -> bool) -> Vec<Vec<u8>> {
        let mut kept = self.kept.subscribe();
        let waited = super::within("datagrams", kept.wait_for(are_enough)).await;
        waited.unwrap().clone()
    }
}

/// Relays until dropped, with one socket per client.
async fn relay(
    socket: Arc<UdpSocket>,
    state: Arc<Mutex<GateState>>,
    kept: watch::Sender<Vec<Vec<u8>>>,
) {
    let mut clients: HashMap<SocketAddr, (Arc<UdpSocket>, watch::Receiver<bool>)> = HashMap::new();
    let mut ways_back = JoinSet::new();
    let mut buffer = vec![0; 65536];
    loop {
        // Errors belong to earlier datagrams to clients that are gone.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let GateState { server, lets } = *lock(&state);
        if let Entry::Vacant(entry) = clients.entry(client) {
            let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            upstream.connect(server).await.unwrap();
            let upstream = Arc::new(upstream);
            let (answered, was_answered) = watch::channel(false);
            ways_back.spawn(way_back(
                Arc::clone(&upstream),
                Arc::clone(&socket),
                client,
                answered,
            ));
            entry.insert((upstream, was_answered));
        }
        let (upstream, was_answered) = &clients[&client];
        let passes = match lets {
            Lets::All => true,
            Lets::FirstFlights => !*was_answered.borrow() || is_early_data(&buffer[..length]),
            Lets::Nothing => false,
        };
        if passes {
            let _ = upstream.send(&buffer[..length]).await;
        } else {
            kept.send_modify(|kept| kept.push(buffer[..length].to_vec()));
        }
    }
}

async fn way_back(
    upstream: Arc<UdpSocket>,
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    answered: watch::Sender<bool>,
) {
    let mut buffer = vec![0; 65536];
    loop {
        let Ok(length) = upstream.recv(&mut buffer).await else {
            continue;
        };
        answered.send_replace(true);
        let _ = socket.send_to(&buffer[..length], client).await;
    }
}

/// Whether the datagram begins with a 0-RTT packet, by the form and type of its long header (RFC 9000,
/// §17.2).
pub fn is_early_data(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xb0 == 0x90)
}

fn lock(state: &Mutex<GateState>) -> MutexGuard<'_, GateState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
