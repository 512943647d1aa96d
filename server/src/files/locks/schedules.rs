//! Requests that take turns in every order there is: none meets one that excludes it, none waits
//! for ever, and the table is empty in the end.
//!
//! A request gives way to others where it waits, and here once more while it holds its locks; what
//! it does to the table in between it does under the table's mutex. So what can differ is the order
//! of these turns. Each is carried out on a table of its own, by polling: at every turn one of those
//! that can go on is chosen, the next time another. That is what loom does with threads; loom and
//! shuttle themselves would need a tokio built for them, since the waiting is in its `RwLock`.
//! Where there are too many orders for all of them, they are drawn.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use quire_shared::RemotePath;

use super::LockTable;

/// What one request locks: some paths for reading, others for a change.
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

    /// Whether the two must not be at work together: one changes a path that the other uses, or
    /// something above it.
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

/// How requests take their locks: as they should, or so that it has to be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Take {
    AtOnce,
    OneByOne,
    None,
}

/// What must not happen.
#[derive(Debug, PartialEq, Eq)]
enum Flaw {
    /// Two were at work that exclude each other.
    Together,
    /// Somebody waits, and nobody can go on.
    Stuck,
    /// The table was not empty in the end.
    Left,
}

/// Which of those that can go on goes on.
trait Choose {
    fn choose(&mut self, among: usize) -> usize;
}

/// All orders, one after another.
#[derive(Debug, Default)]
struct Exhaustive {
    /// What was chosen, and among how many.
    chosen: Vec<(usize, usize)>,
    at: usize,
}

impl Exhaustive {
    /// Goes on to the next order, if there is one.
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

/// Orders that follow from a seed.
#[derive(Debug)]
struct Drawn(u64);

impl Choose for Drawn {
    fn choose(&mut self, among: usize) -> usize {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % among as u64).unwrap()
    }
}

/// Says whether somebody was woken since it was polled.
#[derive(Debug)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One request under way; without a future once it is done or was given up.
struct Turn {
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    woken: Arc<Woken>,
}

/// Carries out all requests in one order. The one at `given_up`, if any, is dropped at some moment,
/// which is chosen like the order.
fn carry_out(
    requests: &[Request],
    take: Take,
    given_up: Option<usize>,
    choices: &mut impl Choose,
) -> Result<(), Flaw> {
    let locks = LockTable::new(FOREVER);
    let at_work = Rc::new(RefCell::new(AtWork::default()));
    let turn = |request: &Request| Turn {
        future: Some(Box::pin(work(
            request.clone(),
            take,
            locks.clone(),
            Rc::clone(&at_work),
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
        let droppable = given_up.filter(|index| turns[*index].future.is_some());
        let choice = choices.choose(ready.len() + usize::from(droppable.is_some()));
        match (ready.get(choice), droppable) {
            (Some(index), _) => turns[*index].poll(),
            (None, Some(index)) => turns[index].future = None,
            (None, None) => unreachable!("chosen among those that are ready"),
        }
        if at_work.borrow().is_flawed {
            return Err(Flaw::Together);
        }
    }
    if turns.iter().any(|turn| turn.future.is_some()) {
        return Err(Flaw::Stuck);
    }
    if !locks.is_empty() {
        return Err(Flaw::Left);
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

/// Those that hold all their locks.
#[derive(Debug, Default)]
struct AtWork {
    requests: Vec<Request>,
    is_flawed: bool,
}

/// Somebody who is at work until it is dropped, perhaps because it was given up.
struct Entered(Rc<RefCell<AtWork>>, Request);

impl Entered {
    fn new(at_work: Rc<RefCell<AtWork>>, request: Request) -> Self {
        let mut here = at_work.borrow_mut();
        here.is_flawed |= here.requests.iter().any(|other| request.excludes(other));
        here.requests.push(request.clone());
        drop(here);
        Self(at_work, request)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Self(at_work, request) = self;
        let is_this = |other: &Request| {
            other.shared == request.shared && other.exclusive == request.exclusive
        };
        let here = &mut at_work.borrow_mut().requests;
        if let Some(index) = here.iter().position(is_this) {
            here.swap_remove(index);
        }
    }
}

async fn work(request: Request, take: Take, locks: LockTable, at_work: Rc<RefCell<AtWork>>) {
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
                give_way().await;
            }
        }
        Take::None => {}
    }
    // Dropped before the locks, as they were taken before.
    let entered = Entered::new(at_work, request.clone());
    give_way().await;
    drop(entered);
}

/// Lets others go on once.
async fn give_way() {
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

/// Tries all orders, up to the first flaw; says how many there were.
fn all_orders(
    requests: &[Request],
    take: Take,
    given_up: Option<usize>,
) -> (usize, Result<(), Flaw>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.unwrap();
    let _context = runtime.enter();
    let (mut orders, mut choices) = (0, Exhaustive::default());
    loop {
        orders += 1;
        let flaw = carry_out(requests, take, given_up, &mut choices);
        if flaw.is_err() || !choices.advance() {
            return (orders, flaw);
        }
    }
}

/// Tries `count` orders of eight random requests each, one of which is given up in half of them.
fn drawn_orders(count: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.unwrap();
    let _context = runtime.enter();
    for seed in 0..count {
        let mut choices = Drawn(seed << 20);
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
        let given_up = Some(choices.choose(16)).filter(|index| *index < 8);
        let flaw = carry_out(&requests, Take::AtOnce, given_up, &mut choices);
        assert_eq!(flaw, Ok(()), "{seed}: {requests:?}, given up: {given_up:?}");
    }
}

/// Mixes in which any two requests could wait for each other if locks were taken carelessly.
fn mixes() -> Vec<Vec<Request>> {
    let request = Request::new;
    vec![
        // Two renames against each other, and a put below one of their names.
        vec![
            request(&[], &["a", "b"]),
            request(&[], &["b", "a"]),
            request(&[], &["a/x"]),
        ],
        // Renames into and out of one directory, which somebody deletes.
        vec![
            request(&[], &["d/x", "e"]),
            request(&[], &["e", "d/y"]),
            request(&[], &["d"]),
        ],
        // A reader, who comes again while a writer waits, and the writer.
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
    reason = "how many there are depends on the table"
)]
fn in_every_order_of_turns_requests_exclude_each_other_and_none_waits_for_ever() {
    let mut orders = 0;
    for requests in mixes() {
        for given_up in std::iter::once(None).chain((0..requests.len()).map(Some)) {
            let (tried, flaw) = all_orders(&requests, Take::AtOnce, given_up);
            assert_eq!(flaw, Ok(()), "{requests:?}, given up: {given_up:?}");
            orders += tried;
        }
    }
    eprintln!("{orders} orders of turns");
    assert!(orders > 1000, "only {orders} orders");
}

#[test]
fn requests_that_take_their_locks_one_by_one_are_found_to_wait_for_each_other() {
    let renames = [
        Request::new(&[], &["a", "b"]),
        Request::new(&[], &["b", "a"]),
    ];
    assert_eq!(
        all_orders(&renames, Take::OneByOne, None).1,
        Err(Flaw::Stuck)
    );
}

#[test]
fn requests_that_take_no_locks_are_found_together() {
    for requests in mixes() {
        let (_, flaw) = all_orders(&requests, Take::None, None);
        assert_eq!(flaw, Err(Flaw::Together), "{requests:?}");
    }
}

#[test]
fn in_drawn_orders_many_requests_exclude_each_other_and_none_waits_for_ever() {
    drawn_orders(10_000);
}

#[test]
#[ignore = "takes minutes"]
fn in_a_million_drawn_orders_none_waits_for_ever() {
    drawn_orders(1_000_000);
}

const PATHS: [&str; 8] = ["", "a", "a/b", "a/b/c", "a/d", "ab", "b", "b/c"];

/// Longer than any test: nobody moves the clock here.
const FOREVER: Duration = Duration::from_secs(3600);
