//! A relay that loses, repeats, delays and reorders datagrams between a client and a server, and that
//! changes the client's address.
//!
//! Both directions of a path have the same properties, unless a property names its direction, and
//! states of their own: a burst of losses in one says nothing about the other.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::content::Random;

/// What a path does to datagrams; rates are per hundred.
#[derive(Debug, Clone, Copy)]
pub struct NetworkPath {
    /// Lost.
    pub lost: usize,
    /// Lost as well, of those from the client.
    pub lost_there: usize,
    /// Lost as well, of those to the client.
    pub lost_back: usize,
    /// Losses in bursts.
    pub bursts: Option<BurstLosses>,
    /// Sent twice.
    pub repeated: usize,
    /// Delayed until some later datagrams have passed.
    pub held_up: usize,
    /// Bytes per second, of each direction. What would wait longer than [`QUEUE`] is lost.
    pub rate: Option<u64>,
    /// Delay of each datagram.
    pub delay: Duration,
    /// Greatest additional delay, which is random; datagrams stay in order.
    pub jitter: Duration,
    /// Largest datagram that passes, in bytes.
    pub size_max: usize,
    /// Number of datagrams of a direction after which it falls silent.
    pub ends_after: usize,
    /// Number of datagrams of a direction that are lost in the silence.
    pub silent_for: usize,
    /// Times in which nothing passes.
    pub outages: Option<Outages>,
    /// Number of the client's datagrams after which its address changes.
    pub rebinds_every: usize,
}

/// Losses of the model of Gilbert: its state changes with datagrams, and not with time.
#[derive(Debug, Clone, Copy)]
pub struct BurstLosses {
    /// Datagrams that are lost.
    pub lost: usize,
    /// Mean number of datagrams in a burst.
    pub length: usize,
}

/// Outages at regular times.
#[derive(Debug, Clone, Copy)]
pub struct Outages {
    /// Time from the begin of one to that of the next.
    pub every: Duration,
    /// Duration of each.
    pub lasts: Duration,
}

impl NetworkPath {
    /// A path that passes everything once, in order.
    pub const GOOD: Self = Self {
        lost: 0,
        lost_there: 0,
        lost_back: 0,
        bursts: None,
        repeated: 0,
        held_up: 0,
        rate: None,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        size_max: 65_535,
        ends_after: usize::MAX,
        silent_for: usize::MAX,
        outages: None,
        rebinds_every: usize::MAX,
    };
}

/// A relay for one client.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    path: watch::Sender<NetworkPath>,
    rebinding: watch::Sender<u32>,
    come: Arc<[AtomicU64; 2]>,
    _task: JoinSet<()>,
}

impl Relay {
    /// Starts a relay to `server`; what it does to datagrams follows from `seed`.
    pub async fn start(server: SocketAddr, path: NetworkPath, seed: u64) -> Self {
        let front = Arc::new(any_socket().await);
        let address = front.local_addr().unwrap();
        let (path, path_now) = watch::channel(path);
        let (rebinding, rebound) = watch::channel(0);
        let come = Arc::<[AtomicU64; 2]>::default();
        let mut task = JoinSet::new();
        let ways = [Way::There, Way::Back];
        let ways = ways.map(|way| Forwarder::new(way, &path_now, seed, Arc::clone(&come)));
        task.spawn(run(front, server, path_now, rebound, ways));
        Self {
            address,
            path,
            rebinding,
            come,
            _task: task,
        }
    }

    /// The address for the client.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that have come from the client, and from the server, lost ones included.
    pub fn come(&self) -> [u64; 2] {
        [0, 1].map(|way: usize| self.come[way].load(Ordering::Relaxed))
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

async fn run(
    front: Arc<UdpSocket>,
    server: SocketAddr,
    mut path: watch::Receiver<NetworkPath>,
    mut rebound: watch::Receiver<u32>,
    mut ways: [Forwarder; 2],
) {
    let [there, here] = &mut ways;
    let mut back = Arc::new(any_socket().await);
    let (mut client, mut sent) = (None, 0_usize);
    let (mut to_server, mut to_client) = (vec![0; 65_535], vec![0; 65_535]);
    loop {
        tokio::select! {
            received = front.recv_from(&mut to_server) => {
                // The error is about a datagram that was sent to a closed socket.
                let Ok((length, from)) = received else { continue };
                // Our client also probes, from a socket of its own and without a
                // QUIC datagram, whether a server listens.
                if length >= FIRST_DATAGRAM_BYTES {
                    client = Some(from);
                }
                there.forward(&to_server[..length], &back, server).await;
                sent += 1;
                if sent.is_multiple_of(path.borrow_and_update().rebinds_every) {
                    back = Arc::new(any_socket().await);
                }
            }
            received = back.recv_from(&mut to_client) => {
                let (Ok((length, _)), Some(client)) = (received, client) else { continue };
                here.forward(&to_client[..length], &front, client).await;
            }
            changed = rebound.changed() => match changed {
                Ok(()) => back = Arc::new(any_socket().await),
                Err(_) => return,
            },
        }
    }
}

/// A direction of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// A datagram that leaves later.
struct Late {
    due: Instant,
    bytes: Vec<u8>,
    from: Arc<UdpSocket>,
    to: SocketAddr,
}

impl Late {
    async fn leave(self) {
        tokio::time::sleep_until(self.due).await;
        let _ = self.from.send_to(&self.bytes, self.to).await;
    }
}

struct Forwarder {
    way: Way,
    path: watch::Receiver<NetworkPath>,
    random: Random,
    /// Time at which the path was set.
    set: Instant,
    /// Number of datagrams since then.
    come: usize,
    /// Bytes of all datagrams, of both directions.
    bytes: Arc<[AtomicU64; 2]>,
    /// Whether a burst of losses goes on.
    in_burst: bool,
    held_up: JoinSet<()>,
    /// Datagrams that are delayed in order, once there are any.
    late: Option<mpsc::UnboundedSender<Late>>,
    /// Time at which the last of them leaves.
    last_due: Instant,
    /// Time at which a path with a rate has sent all that came.
    free: Instant,
}

impl Forwarder {
    fn new(
        way: Way,
        path: &watch::Receiver<NetworkPath>,
        seed: u64,
        bytes: Arc<[AtomicU64; 2]>,
    ) -> Self {
        Self {
            way,
            path: path.clone(),
            random: Random::new(seed ^ ((way as u64) << 63)),
            set: Instant::now(),
            come: 0,
            bytes,
            in_burst: false,
            held_up: JoinSet::new(),
            late: None,
            last_due: Instant::now(),
            free: Instant::now(),
        }
    }

    async fn forward(&mut self, datagram: &[u8], from: &Arc<UdpSocket>, to: SocketAddr) {
        if self.path.has_changed().unwrap_or(false) {
            self.come = 0;
            self.set = Instant::now();
        }
        let path = *self.path.borrow_and_update();
        self.come += 1;
        self.bytes[self.way as usize].fetch_add(datagram.len() as u64, Ordering::Relaxed);
        if datagram.len() > path.size_max || self.is_silent(&path) || self.is_lost(&path) {
            return;
        }
        let times = 1 + u32::from(self.happens(path.repeated));
        let is_held_up = self.happens(path.held_up);
        let Some(due) = self.due(&path, datagram.len()) else {
            return;
        };
        for _ in 0..times {
            let late = |due| Late {
                due,
                bytes: datagram.to_vec(),
                from: Arc::clone(from),
                to,
            };
            if is_held_up {
                self.held_up.spawn(late(due + HELD_UP).leave());
            } else if due > Instant::now() || self.last_due > Instant::now() {
                self.last_due = self.last_due.max(due);
                let late = late(self.last_due);
                self.delay(late);
            } else {
                let _ = from.send_to(datagram, to).await;
            }
        }
        while self.held_up.try_join_next().is_some() {}
    }

    /// When a datagram of so many bytes leaves; `None` if the queue is full.
    fn due(&mut self, path: &NetworkPath, bytes: usize) -> Option<Instant> {
        let now = Instant::now();
        let mut due = now;
        if let Some(rate) = path.rate {
            let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
            due = self.free.max(now) + takes;
            if due > now + QUEUE {
                return None;
            }
            self.free = due;
        }
        let micros = usize::try_from(path.jitter.as_micros()).unwrap();
        let jitter = self.random.below(micros + 1) as u64;
        Some(due + path.delay + Duration::from_micros(jitter))
    }

    fn is_silent(&self, path: &NetworkPath) -> bool {
        let silence = path.ends_after..path.ends_after.saturating_add(path.silent_for);
        let is_out = path.outages.is_some_and(|outages| {
            let since = self.set.elapsed().as_nanos() % outages.every.as_nanos();
            since < outages.lasts.as_nanos()
        });
        is_out || silence.contains(&(self.come - 1))
    }

    fn is_lost(&mut self, path: &NetworkPath) -> bool {
        if let Some(BurstLosses { lost, length }) = path.bursts {
            // Of all datagrams, `lost` of a hundred are in bursts, which end after `length`.
            let ends = |random: &mut Random| random.below(length) == 0;
            let begins = |random: &mut Random| random.below(length * (100 - lost)) < lost;
            self.in_burst = match self.in_burst {
                true => !ends(&mut self.random),
                false => begins(&mut self.random),
            };
            if self.in_burst {
                return true;
            }
        }
        let of_this_way = match self.way {
            Way::There => path.lost_there,
            Way::Back => path.lost_back,
        };
        self.happens(path.lost) || self.happens(of_this_way)
    }

    fn happens(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    /// Sends a datagram later, after all that are delayed already.
    fn delay(&mut self, late: Late) {
        let held_up = &mut self.held_up;
        let sender = self.late.get_or_insert_with(|| {
            let (sender, mut waiting) = mpsc::unbounded_channel::<Late>();
            held_up.spawn(async move {
                while let Some(late) = waiting.recv().await {
                    late.leave().await;
                }
            });
            sender
        });
        let _ = sender.send(late);
    }
}

async fn any_socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

/// Smallest first datagram of a client (RFC 9000, §14.1).
const FIRST_DATAGRAM_BYTES: usize = 1200;

/// Time for which a datagram waits at most on a path with a rate.
const QUEUE: Duration = Duration::from_millis(50);

/// Long enough for many datagrams to overtake a delayed one.
const HELD_UP: Duration = Duration::from_millis(5);
