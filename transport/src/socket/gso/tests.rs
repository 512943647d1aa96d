//! `GsoSocket` on a fake socket that records sends and blocks on demand.

use std::task::Waker;

use quinn::udp::EcnCodepoint;
use tokio::sync::mpsc;

use super::super::amplification::AmplificationLimit;
use super::*;

/// One call to the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RecordedSend {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    segment_size: Option<usize>,
    contents: Vec<u8>,
}

#[derive(Debug)]
struct FakeState {
    /// Calls that succeed before the socket blocks.
    budget: usize,
    wakers: Vec<Waker>,
    segments_max: usize,
    error: Option<io::ErrorKind>,
}

/// A fake kernel that enforces the limit of a UDP send and reports each send.
#[derive(Debug)]
struct Fake {
    state: Mutex<FakeState>,
    sends: mpsc::UnboundedSender<RecordedSend>,
}

impl Fake {
    fn wrapped() -> (Arc<Self>, GsoSocket, mpsc::UnboundedReceiver<RecordedSend>) {
        let (sends, receiver) = mpsc::unbounded_channel();
        let state = FakeState {
            budget: usize::MAX,
            wakers: Vec::new(),
            segments_max: 64,
            error: None,
        };
        let fake = Arc::new(Self {
            state: Mutex::new(state),
            sends,
        });
        let socket = GsoSocket::new(
            Arc::clone(&fake) as Arc<dyn AsyncUdpSocket>,
            AmplificationLimit::default(),
        );
        (fake, socket, receiver)
    }

    fn allow(&self, budget: usize) {
        let mut state = self.state.lock();
        state.budget = budget;
        state.wakers.drain(..).for_each(Waker::wake);
    }
}

#[derive(Debug)]
struct FakePoller(Arc<Fake>);

impl UdpPoller for FakePoller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.state.lock();
        if state.budget > 0 {
            return Poll::Ready(Ok(()));
        }
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncUdpSocket for Fake {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(FakePoller(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(kind) = state.error.take() {
            return Err(kind.into());
        }
        if state.budget == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        assert!(
            transmit.contents.len() <= SEND_BYTES_MAX,
            "more than UDP carries"
        );
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        assert!(transmit.contents.len().div_ceil(segment) <= state.segments_max);
        state.budget -= 1;
        // The test may have stopped listening.
        let _ = self.sends.send(RecordedSend {
            destination: transmit.destination,
            ecn: transmit.ecn,
            segment_size: transmit.segment_size,
            contents: transmit.contents.to_vec(),
        });
        Ok(())
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(peer(0))
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.lock().segments_max
    }
}

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// `segments` datagrams of `size` bytes that carry their numbers, counted from `first`.
fn datagrams(first: usize, segments: usize, size: usize) -> Vec<u8> {
    (first..first + segments)
        .flat_map(|number| {
            let mut datagram = vec![0; size];
            datagram[..4].copy_from_slice(&u32::try_from(number).unwrap().to_be_bytes());
            datagram
        })
        .collect()
}

/// The numbers in what was sent.
fn numbers(sent: &RecordedSend) -> Vec<usize> {
    sent.contents
        .chunks(sent.segment_size.unwrap_or(sent.contents.len()))
        .map(|datagram| u32::from_be_bytes(datagram[..4].try_into().unwrap()) as usize)
        .collect()
}

fn transmit(port: u16, contents: &[u8], segment: usize) -> Transmit<'_> {
    Transmit {
        destination: peer(port),
        ecn: None,
        contents,
        segment_size: (contents.len() > segment).then_some(segment),
        src_ip: None,
    }
}

fn received(receiver: &mut mpsc::UnboundedReceiver<RecordedSend>) -> Vec<RecordedSend> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}

#[tokio::test]
async fn full_transmits_are_combined_up_to_the_limit_of_a_send() {
    let (_fake, socket, mut sends) = Fake::wrapped();
    for first in [0, 10, 20, 30] {
        socket
            .try_send(&transmit(1, &datagrams(first, 10, 1452), 1452))
            .unwrap();
    }
    let sent = received(&mut sends);
    assert_eq!(sent.len(), 1, "one send for four transmits");
    assert_eq!(numbers(&sent[0]), (0..40).collect::<Vec<_>>());
    assert_eq!(sent[0].segment_size, Some(1452));
}

#[tokio::test]
async fn a_batch_is_flushed_when_the_sender_pauses() {
    let (_fake, socket, mut sends) = Fake::wrapped();
    for first in [0, 10] {
        socket
            .try_send(&transmit(1, &datagrams(first, 10, 1200), 1200))
            .unwrap();
    }
    assert!(received(&mut sends).is_empty());
    let sent = sends.recv().await.unwrap();
    assert_eq!(numbers(&sent), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_flush_waits_for_a_sender_that_is_ready_again() {
    let (_fake, socket, mut sends) = Fake::wrapped();
    // A task like quinn's, in the scheduler's queue as the flusher is.
    let mut sender = JoinSet::new();
    sender.spawn(async move {
        for first in [0, 20] {
            socket
                .try_send(&transmit(1, &datagrams(first, 10, 1200), 1200))
                .unwrap();
            socket
                .try_send(&transmit(1, &datagrams(first + 10, 10, 1200), 1200))
                .unwrap();
            after_ready_tasks().await;
        }
    });
    let sent = sends.recv().await.unwrap();
    assert_eq!(numbers(&sent), (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_short_transmit_flushes_the_batch_at_once() {
    let (_fake, socket, mut sends) = Fake::wrapped();
    socket
        .try_send(&transmit(1, &datagrams(0, 10, 1200), 1200))
        .unwrap();
    socket
        .try_send(&transmit(1, &datagrams(10, 1, 700), 1200))
        .unwrap();
    let sent = received(&mut sends);
    // The lone datagram has another segment size of its own, so it follows in a send of its own.
    assert_eq!(
        sent.iter().flat_map(numbers).collect::<Vec<_>>(),
        (0..11).collect::<Vec<_>>()
    );
    let mut tail = datagrams(11, 10, 1200);
    tail.extend(datagrams(21, 1, 300));
    socket.try_send(&transmit(1, &tail, 1200)).unwrap();
    assert_eq!(
        numbers(&received(&mut sends)[0]),
        (11..22).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_lone_datagram_is_sent_at_once() {
    let (_fake, socket, mut sends) = Fake::wrapped();
    socket
        .try_send(&transmit(1, &datagrams(0, 1, 40), 1200))
        .unwrap();
    assert_eq!(received(&mut sends).len(), 1);
}

#[tokio::test]
async fn another_kind_of_datagram_waits_for_those_before_it() {
    let (_fake, socket, mut sends) = Fake::wrapped();
    let contents = datagrams(0, 10, 1200);
    let congested = Transmit {
        ecn: Some(EcnCodepoint::Ect0),
        ..transmit(1, &contents, 1200)
    };
    // The same lane, but another destination.
    let elsewhere = u16::try_from(1 + LANES).unwrap();
    socket.try_send(&transmit(1, &contents, 1200)).unwrap();
    socket.try_send(&congested).unwrap();
    socket
        .try_send(&transmit(elsewhere, &contents, 1200))
        .unwrap();
    socket
        .try_send(&transmit(elsewhere, &datagrams(10, 10, 1452), 1452))
        .unwrap();
    drop(socket);
    let sent = received(&mut sends);
    let kinds: Vec<_> = sent
        .iter()
        .map(|sent| (sent.destination, sent.ecn, sent.segment_size))
        .collect();
    assert_eq!(
        kinds,
        [
            (peer(1), None, Some(1200)),
            (peer(1), Some(EcnCodepoint::Ect0), Some(1200)),
            (peer(elsewhere), None, Some(1200)),
            (peer(elsewhere), None, Some(1452)),
        ]
    );
}

#[tokio::test]
async fn oversized_transmits_are_split_at_segments() {
    let (_fake, socket, mut sends) = Fake::wrapped();
    socket
        .try_send(&transmit(1, &datagrams(0, 10, 8952), 8952))
        .unwrap();
    let sent = received(&mut sends);
    assert_eq!(numbers(&sent[0]), (0..7).collect::<Vec<_>>());
    assert_eq!(numbers(&sent[1]), (7..10).collect::<Vec<_>>());
    assert_eq!(
        socket.max_transmit_segments(),
        7,
        "the next one comes in the right size"
    );
    socket
        .try_send(&transmit(
            1,
            &datagrams(10, 2, SEND_BYTES_MAX),
            SEND_BYTES_MAX,
        ))
        .unwrap();
    let sent = received(&mut sends);
    assert_eq!(
        sent.iter()
            .map(|sent| sent.segment_size)
            .collect::<Vec<_>>(),
        [None, None]
    );
    assert_eq!(socket.max_transmit_segments(), 1);
    socket
        .try_send(&transmit(1, &datagrams(12, 1, 1200), 1200))
        .unwrap();
    assert_eq!(
        socket.max_transmit_segments(),
        54,
        "small datagrams are not held back by it"
    );
}

#[tokio::test]
async fn without_segmentation_offload_each_datagram_is_sent_alone() {
    let (fake, socket, mut sends) = Fake::wrapped();
    fake.state.lock().segments_max = 1;
    socket
        .try_send(&transmit(1, &datagrams(0, 10, 1200), 1200))
        .unwrap();
    assert_eq!(received(&mut sends).len(), 10);
    assert_eq!(socket.max_transmit_segments(), 1);
}

#[tokio::test]
async fn offload_that_ends_while_datagrams_wait_costs_none() {
    let (fake, socket, mut sends) = Fake::wrapped();
    socket
        .try_send(&transmit(1, &datagrams(0, 10, 1200), 1200))
        .unwrap();
    fake.state.lock().segments_max = 1;
    drop(socket);
    let sent = received(&mut sends);
    assert_eq!(
        sent.iter().flat_map(numbers).collect::<Vec<_>>(),
        (0..10).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_blocked_flush_keeps_everything_in_order_and_tries_again_when_writable() {
    let (fake, socket, mut sends) = Fake::wrapped();
    fake.allow(0);
    let mut next = 0;
    let size = 1452;
    // Taken until one send is full, then refused: memory stays bounded.
    while socket
        .try_send(&transmit(1, &datagrams(next, 10, size), size))
        .is_ok()
    {
        next += 10;
        assert!(
            next * size <= SEND_BYTES_MAX,
            "the wrapper takes without end"
        );
    }
    assert_eq!(next, 40);
    // The task has tried, too, and waits.
    after_ready_tasks().await;
    after_ready_tasks().await;
    assert!(received(&mut sends).is_empty());
    fake.allow(usize::MAX);
    assert_eq!(
        numbers(&sends.recv().await.unwrap()),
        (0..40).collect::<Vec<_>>()
    );
    socket
        .try_send(&transmit(1, &datagrams(40, 1, 99), size))
        .unwrap();
    assert_eq!(numbers(&received(&mut sends)[0]), [40]);
}

#[tokio::test]
async fn a_refused_send_is_writable_only_when_the_socket_is() {
    let (fake, socket, _sends) = Fake::wrapped();
    fake.allow(0);
    let socket = Arc::new(socket);
    let refused = socket
        .try_send(&transmit(1, &datagrams(0, 1, 99), 1200))
        .unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    let mut poller = Arc::clone(&socket).create_io_poller();
    let polled = poll_fn(|cx| Poll::Ready(poller.as_mut().poll_writable(cx))).await;
    assert!(polled.is_pending());
    fake.allow(1);
    poll_fn(|cx| poller.as_mut().poll_writable(cx))
        .await
        .unwrap();
    socket
        .try_send(&transmit(1, &datagrams(0, 1, 99), 1200))
        .unwrap();
}

#[tokio::test]
async fn a_split_that_blocks_half_way_sends_each_datagram_once() {
    let (fake, socket, mut sends) = Fake::wrapped();
    fake.allow(1);
    socket
        .try_send(&transmit(1, &datagrams(0, 10, 8952), 8952))
        .unwrap();
    let blocked = socket.try_send(&transmit(1, &datagrams(10, 10, 8952), 8952));
    assert_eq!(blocked.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    fake.allow(2);
    socket
        .try_send(&transmit(1, &datagrams(10, 10, 8952), 8952))
        .unwrap();
    fake.allow(usize::MAX);
    let mut seen = Vec::new();
    while seen.len() < 20 {
        seen.extend(numbers(&sends.recv().await.unwrap()));
    }
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_error_of_the_network_costs_the_batch_and_nothing_else() {
    let (fake, socket, mut sends) = Fake::wrapped();
    socket
        .try_send(&transmit(1, &datagrams(0, 10, 1200), 1200))
        .unwrap();
    fake.state.lock().error = Some(io::ErrorKind::ConnectionRefused);
    socket
        .try_send(&transmit(1, &datagrams(10, 1, 99), 1200))
        .unwrap();
    assert_eq!(numbers(&received(&mut sends)[0]), [10]);
}

#[tokio::test]
async fn dropping_the_socket_sends_the_rest_and_ends_the_task() {
    let (fake, socket, mut sends) = Fake::wrapped();
    socket
        .try_send(&transmit(1, &datagrams(0, 10, 1200), 1200))
        .unwrap();
    drop(socket);
    drop(fake);
    assert_eq!(numbers(&sends.recv().await.unwrap()).len(), 10);
    // The channel closes with the last owner of the inner socket: the task is gone.
    assert_eq!(sends.recv().await, None);
}
