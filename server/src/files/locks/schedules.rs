//! Schedule exploration: runs requests in every order of their steps. None overlaps with one that
//! it excludes, none deadlocks, and the table is empty in the end.
//!
//! A request yields where it waits, and here once more while it holds its locks. What it does to
//! the table in between is under the table's mutex. So only the order of these steps can differ.
//! Each schedule runs on a table of its own, by polling. At every step one of the requests that can
//! continue is chosen, and in the next schedule another one. That is what loom does with threads.
//! loom and shuttle themselves would need a tokio built for them, because the waiting is in its
//! `RwLock`. Where there are too many schedules to run all of them, random ones are run.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use quire_shared::RemotePath;

use super::LockTable;

/// Locks of one request: some paths for reading, others for a change.
#[derive(Debug, Clone, Default)]
struct Request {
    shared: Vec<RemotePath>,
    exclusive: Vec<RemotePath>,
}

impl Request {
    fn new(shared: &[&str], exclusive: &[&str]) -> Self {
        let paths = |texts: &[&str]| texts.iter().map(|text| path(text)).collect();
        Self {
            shared: paths(shared),
            exclusive: paths(exclusive),
        }
    }

    /// Whether the two must not overlap: one changes a path that the other uses, or an ancestor of
    /// it.
    fn excludes(&self, other: &Self) -> bool {
        let changes = |one: &Self, other: &Self| {
            let mut used = other.shared.iter().chain(&other.exclusive);
            used.any(|used| one.exclusive.iter().any(|changed| changed.contains(used)))
        };
        changes(self, other) || changes(other, self)
    }
}

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text).unwrap()
}

/// Way to take locks: the correct one, and wrong ones that the exploration has to detect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Take {
    AtOnce,
    OneByOne,
    None,
}

/// Defect of a schedule.
#[derive(Debug, PartialEq, Eq)]
enum Flaw {
    /// Two requests overlapped that exclude each other.
    Overlap,
    /// A request waits, and none can continue.
    Deadlock,
    /// The table was not empty in the end.
    EntriesLeft,
}

/// Chooses the request that continues.
trait Choose {
    fn choose(&mut self, among: usize) -> usize;
}

/// All schedules, one after another.
#[derive(Debug, Default)]
struct Exhaustive {
    /// Each choice, and the number of its alternatives.
    chosen: Vec<(usize, usize)>,
    at: usize,
}

impl Exhaustive {
    /// Advances to the next schedule, if there is one.
    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((last, among)) = self.chosen.pop() {
            if last + 1 < among {
                self.chosen.push((last + 1, among));
                return true;
            }
        }
        false
    }
}

impl Choose for Exhaustive {
    fn choose(&mut self, among: usize) -> usize {
        if self.at == self.chosen.len() {
            self.chosen.push((0, among));
        }
        let (chosen, of) = self.chosen[self.at];
        assert_eq!(of, among, "the same choices lead to the same state");
        self.at += 1;
        chosen
    }
}

/// Pseudo-random choices from a seed.
#[derive(Debug)]
struct Seeded(u64);

impl Choose for Seeded {
    fn choose(&mut self, among: usize) -> usize {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % among as u64).unwrap()
    }
}

/// Waker that records whether a request was woken since its last poll.
#[derive(Debug)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Request in progress; without a future once it has completed or was cancelled.
struct Turn {
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    woken: Arc<Woken>,
}

/// Runs all requests in one schedule. The one at `cancelled`, if any, is dropped at some step,
/// which is chosen like the others.
fn run_schedule(
    requests: &[Request],
    take: Take,
    cancelled: Option<usize>,
    choices: &mut impl Choose,
) -> Result<(), Flaw> {
    let locks = LockTable::new(FOREVER);
    let working = Rc::new(RefCell::new(Working::default()));
    let turn = |request: &Request| Turn {
        future: Some(Box::pin(work(
            request.clone(),
            take,
            locks.clone(),
            Rc::clone(&working),
        ))),
        woken: Arc::new(Woken(AtomicBool::new(true))),
    };
    let mut turns: Vec<_> = requests.iter().map(turn).collect();
    loop {
        let can_go_on = |turn: &Turn| turn.future.is_some() && turn.woken.0.load(Ordering::Relaxed);
        let ready: Vec<_> = (0..turns.len())
            .filter(|index| can_go_on(&turns[*index]))
            .collect();
        if ready.is_empty() {
            break;
        }
        let droppable = cancelled.filter(|index| turns[*index].future.is_some());
        let choice = choices.choose(ready.len() + usize::from(droppable.is_some()));
        match (ready.get(choice), droppable) {
            (Some(index), _) => turns[*index].poll(),
            (None, Some(index)) => turns[index].future = None,
            (None, None) => unreachable!("chosen among those that are ready"),
        }
        if working.borrow().is_flawed {
            return Err(Flaw::Overlap);
        }
    }
    if turns.iter().any(|turn| turn.future.is_some()) {
        return Err(Flaw::Deadlock);
    }
    if !locks.is_empty() {
        return Err(Flaw::EntriesLeft);
    }
    Ok(())
}

impl Turn {
    fn poll(&mut self) {
        let Some(future) = &mut self.future else {
            return;
        };
        self.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.woken));
        if future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
        {
            self.future = None;
        }
    }
}

/// Requests that hold all their locks.
#[derive(Debug, Default)]
struct Working {
    requests: Vec<Request>,
    is_flawed: bool,
}

/// Request that holds all its locks until this is dropped, perhaps because it is cancelled.
struct Entered(Rc<RefCell<Working>>, Request);

impl Entered {
    fn new(working: Rc<RefCell<Working>>, request: Request) -> Self {
        let mut here = working.borrow_mut();
        here.is_flawed |= here.requests.iter().any(|other| request.excludes(other));
        here.requests.push(request.clone());
        drop(here);
        Self(working, request)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Self(working, request) = self;
        let is_this = |other: &Request| {
            other.shared == request.shared && other.exclusive == request.exclusive
        };
        let here = &mut working.borrow_mut().requests;
        if let Some(index) = here.iter().position(is_this) {
            here.swap_remove(index);
        }
    }
}

async fn work(request: Request, take: Take, locks: LockTable, working: Rc<RefCell<Working>>) {
    let shared: Vec<_> = request.shared.iter().collect();
    let exclusive: Vec<_> = request.exclusive.iter().collect();
    let mut held = Vec::new();
    match take {
        Take::AtOnce => held.push(
            locks
                .acquire(super::tests::OWNER, &shared, &exclusive)
                .await
                .unwrap(),
        ),
        Take::OneByOne => {
            for path in exclusive {
                held.push(locks.exclusive(super::tests::OWNER, &[path]).await.unwrap());
                yield_once().await;
            }
        }
        Take::None => {}
    }
    // Dropped before the locks, because it was made after them.
    let entered = Entered::new(working, request.clone());
    yield_once().await;
    drop(entered);
}

/// Yields to the other requests once.
async fn yield_once() {
    let mut is_over = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs all schedules, up to the first flaw; returns how many it ran.
fn all_schedules(
    requests: &[Request],
    take: Take,
    cancelled: Option<usize>,
) -> (usize, Result<(), Flaw>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.unwrap();
    let _context = runtime.enter();
    let mut schedules = 0;
    let mut choices = Exhaustive::default();
    loop {
        schedules += 1;
        let flaw = run_schedule(requests, take, cancelled, &mut choices);
        if flaw.is_err() || !choices.advance() {
            return (schedules, flaw);
        }
    }
}

/// Runs `count` random schedules of eight random requests each, one of which is cancelled in half
/// of them.
fn random_schedules(count: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.unwrap();
    let _context = runtime.enter();
    for seed in 0..count {
        let mut choices = Seeded(seed << 20);
        let mut some = |most: usize| {
            let count = choices.choose(most + 1);
            (0..count)
                .map(|_| path(PATHS[choices.choose(PATHS.len())]))
                .collect()
        };
        let requests: Vec<_> = (0..8)
            .map(|_| Request {
                shared: some(1),
                exclusive: some(2),
            })
            .collect();
        let cancelled = Some(choices.choose(16)).filter(|index| *index < 8);
        let flaw = run_schedule(&requests, Take::AtOnce, cancelled, &mut choices);
        assert_eq!(
            flaw,
            Ok(()),
            "{seed}: {requests:?}, cancelled: {cancelled:?}"
        );
    }
}

/// Mixes in which any two requests could deadlock if locks were taken in another way.
fn mixes() -> Vec<Vec<Request>> {
    let request = Request::new;
    vec![
        // Two renames against each other, and a put below one of their names.
        vec![
            request(&[], &["a", "b"]),
            request(&[], &["b", "a"]),
            request(&[], &["a/x"]),
        ],
        // Renames into and out of one directory, and a delete of that directory.
        vec![
            request(&[], &["d/x", "e"]),
            request(&[], &["e", "d/y"]),
            request(&[], &["d"]),
        ],
        // A reader, the writer that waits for it, and more readers after that.
        vec![
            request(&["a"], &[]),
            request(&[], &["a"]),
            request(&["a"], &[]),
            request(&["a/b"], &[]),
        ],
        // A copy, which reads one path and changes another, against its opposite and a rename.
        vec![
            request(&["a"], &["b"]),
            request(&["b"], &["a"]),
            request(&[], &["a", "b"]),
        ],
        // One path twice, and a path and its ancestor, in one request.
        vec![
            request(&["a"], &["a", "a/b"]),
            request(&[], &["a/b", "a"]),
            request(&["a/b"], &[]),
        ],
        // Everything below the root.
        vec![
            request(&[], &[""]),
            request(&[], &["a", "b"]),
            request(&["b"], &["a"]),
        ],
    ]
}

#[test]
#[expect(
    clippy::print_stderr,
    reason = "the number of schedules depends on the table"
)]
fn in_every_schedule_requests_exclude_each_other_and_none_deadlocks() {
    let mut schedules = 0;
    for requests in mixes() {
        for cancelled in std::iter::once(None).chain((0..requests.len()).map(Some)) {
            let (tried, flaw) = all_schedules(&requests, Take::AtOnce, cancelled);
            assert_eq!(flaw, Ok(()), "{requests:?}, cancelled: {cancelled:?}");
            schedules += tried;
        }
    }
    eprintln!("{schedules} schedules");
    assert!(schedules > 1000, "only {schedules} schedules");
}

#[test]
fn taking_locks_one_by_one_is_detected_as_a_deadlock() {
    let renames = [
        Request::new(&[], &["a", "b"]),
        Request::new(&[], &["b", "a"]),
    ];
    assert_eq!(
        all_schedules(&renames, Take::OneByOne, None).1,
        Err(Flaw::Deadlock)
    );
}

#[test]
fn taking_no_locks_is_detected_as_an_overlap() {
    for requests in mixes() {
        let (_, flaw) = all_schedules(&requests, Take::None, None);
        assert_eq!(flaw, Err(Flaw::Overlap), "{requests:?}");
    }
}

#[test]
fn in_random_schedules_many_requests_exclude_each_other_and_none_deadlocks() {
    random_schedules(10_000);
}

#[test]
#[ignore = "takes minutes"]
fn in_a_million_random_schedules_none_deadlocks() {
    random_schedules(1_000_000);
}

const PATHS: [&str; 8] = ["", "a", "a/b", "a/b/c", "a/d", "ab", "b", "b/c"];

/// Longer than any test: the clock isn't advanced here.
const FOREVER: Duration = Duration::from_secs(3600);
