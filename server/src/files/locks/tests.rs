//! Lock table tests: which requests exclude each other, no deadlock, and no entries left.
//!
//! The tests poll by hand: a request that is pending after a poll waits for another one.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tokio::task::JoinSet;

use super::*;

/// Owner without holds.
pub(super) const OWNER: Owner = Owner(0);

/// Longer than any test: a wait that lasts so long is a failure.
const FOREVER: Duration = Duration::from_secs(3600);

type Acquiring<'a> = Pin<Box<dyn Future<Output = Result<LockGuard, Busy>> + 'a>>;

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text).unwrap()
}

fn poll(acquiring: &mut Acquiring<'_>) -> Option<LockGuard> {
    let mut context = Context::from_waker(Waker::noop());
    match acquiring.as_mut().poll(&mut context) {
        Poll::Ready(guard) => Some(guard.unwrap()),
        Poll::Pending => None,
    }
}

/// Tells whether `second` gets its locks at once while `first` holds its own. Checks that it gets
/// them at the latest when `first` is dropped, and that no entries are left.
fn pair(first: (&[&str], &[&str]), second: (&[&str], &[&str])) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _context = runtime.enter();
    let locks = LockTable::new(FOREVER);
    let paths = |texts: &[&str]| texts.iter().map(|text| path(text)).collect::<Vec<_>>();
    let first = (paths(first.0), paths(first.1));
    let second = (paths(second.0), paths(second.1));
    let acquire = |(shared, exclusive): &(Vec<RemotePath>, Vec<RemotePath>)| -> Acquiring<'_> {
        let locks = locks.clone();
        let shared = shared.clone();
        let exclusive = exclusive.clone();
        Box::pin(async move {
            let shared: Vec<_> = shared.iter().collect();
            let exclusive: Vec<_> = exclusive.iter().collect();
            locks.acquire(OWNER, &shared, &exclusive).await
        })
    };
    let held = poll(&mut acquire(&first)).unwrap();
    let mut acquiring = acquire(&second);
    let at_once = poll(&mut acquiring);
    drop(held);
    let together = at_once.is_some();
    let held = at_once.or_else(|| poll(&mut acquiring));
    assert!(held.is_some(), "still waits for a lock that is free");
    drop(held);
    assert!(locks.is_empty());
    together
}

#[test]
fn requests_exclude_each_other_only_where_one_changes_what_the_other_uses() {
    const NONE: &[&str] = &[];
    let read = |path| (std::slice::from_ref(path), NONE);
    let change = |path| (NONE, std::slice::from_ref(path));
    assert!(pair(read(&"a/b"), read(&"a/b")));
    assert!(pair(read(&"a"), read(&"a/b")));
    assert!(!pair(read(&"a/b"), change(&"a/b")));
    assert!(!pair(change(&"a/b"), read(&"a/b")));
    assert!(!pair(change(&"a/b"), change(&"a/b")));
    assert!(pair(change(&"a/b"), change(&"a/c")));
    assert!(pair(change(&"a"), change(&"ab")));
    // A change of a directory waits for everything below it, and vice versa.
    assert!(!pair(read(&"a/b/c/d"), change(&"a/b")));
    assert!(!pair(change(&"a/b"), read(&"a/b/c/d")));
    assert!(!pair(change(&"a/b/c"), change(&"a")));
    assert!(!pair(read(&""), change(&"")));
    assert!(!pair(change(&"a/b/c"), change(&"")));
    // A change below a directory doesn't block reading the directory.
    assert!(pair(change(&"a/b"), read(&"a")));
    // One path twice, an ancestor with its descendant, reading and changing in one request.
    assert!(!pair((NONE, &["a", "a"]), read(&"a")));
    assert!(!pair((NONE, &["a/b", "a"]), read(&"a/c")));
    assert!(!pair((&["a"], &["a"]), read(&"a")));
    assert!(!pair((NONE, &["a", "b"]), (NONE, &["b", "a"])));
    assert!(pair((&["a"], &["b"]), (&["a"], &["c"])));
}

#[tokio::test]
async fn a_wait_that_times_out_is_busy_and_leaves_no_entries() {
    let locks = LockTable::new(Duration::ZERO);
    let held = locks.exclusive(OWNER, &[&path("a/b")]).await.unwrap();
    let in_use = locks.len();
    let late = locks.acquire(OWNER, &[&path("a/b/c")], &[&path("0")]).await;
    assert_eq!(late.unwrap_err(), Busy);
    assert_eq!(locks.len(), in_use);
    // The lock that it took before it had to wait is free again.
    drop(locks.exclusive(OWNER, &[&path("0")]).await.unwrap());
    drop(held);
    assert!(locks.is_empty());
}

#[tokio::test]
async fn a_cancelled_wait_leaves_no_entries_and_unblocks_later_requests() {
    let locks = LockTable::new(FOREVER);
    let target = path("a/b");
    let reader = locks.shared(OWNER, &target).await.unwrap();
    let writers = [&target];
    let mut writer: Acquiring<'_> = Box::pin(locks.exclusive(OWNER, &writers));
    assert!(poll(&mut writer).is_none());
    let mut behind: Acquiring<'_> = Box::pin(locks.shared(OWNER, &target));
    assert!(poll(&mut behind).is_none(), "overtook a waiting writer");
    drop(writer);
    let behind = poll(&mut behind).unwrap();
    drop((reader, behind));
    assert!(locks.is_empty());
}

/// Waker that records how many paths are in use when a waiting request is woken.
struct CountsPaths {
    locks: LockTable,
    seen: Mutex<Option<usize>>,
}

impl std::task::Wake for CountsPaths {
    fn wake(self: Arc<Self>) {
        *self.seen.lock() = Some(self.locks.len());
    }
}

/// In the other order, a new request could get a second lock for a path that is locked.
#[tokio::test]
async fn locks_are_released_before_their_entries_are_removed() {
    let locks = LockTable::new(FOREVER);
    let a = path("a");
    let b = path("b");
    let held = locks.exclusive(OWNER, &[&a, &b]).await.unwrap();
    let waker = Arc::new(CountsPaths {
        locks: locks.clone(),
        seen: Mutex::new(None),
    });
    let mut waiting: Acquiring<'_> = Box::pin(locks.shared(OWNER, &a));
    let as_waker = Waker::from(Arc::clone(&waker));
    let polled = waiting.as_mut().poll(&mut Context::from_waker(&as_waker));
    assert!(polled.is_pending());
    drop(held);
    let root_a_and_b = 3;
    assert_eq!(*waker.seen.lock(), Some(root_a_and_b));
    drop(poll(&mut waiting).unwrap());
    assert!(locks.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opposite_renames_never_deadlock() {
    const ROUNDS: usize = 2000;
    let locks = LockTable::new(FOREVER);
    let mut tasks = JoinSet::new();
    for (from, to) in [
        ("a", "b/c"),
        ("b/c", "a"),
        ("b", "a/d"),
        ("a/d", "b/c"),
        ("", "b"),
    ] {
        let locks = locks.clone();
        let from = path(from);
        let to = path(to);
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                let held = locks.exclusive(OWNER, &[&from, &to]).await.unwrap();
                tokio::task::yield_now().await;
                drop(held);
            }
        });
    }
    tasks.join_all().await;
    assert!(locks.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusive_lock_excludes() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    const ROUNDS: usize = 2000;
    let locks = LockTable::new(FOREVER);
    let inside = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let locks = locks.clone();
        let inside = Arc::clone(&inside);
        tasks.spawn(async move {
            for round in 0..ROUNDS {
                // The entry is added and removed all the time; there must never be two of it.
                let held = locks.exclusive(OWNER, &[&path("a")]).await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                if round % 2 == 0 {
                    tokio::task::yield_now().await;
                }
                inside.fetch_sub(1, Ordering::SeqCst);
                drop(held);
            }
        });
    }
    tasks.join_all().await;
    assert!(locks.is_empty());
}

const PATHS: [&str; 8] = ["", "a", "a/b", "a/b/c", "a/d", "ab", "b", "b/c"];

#[derive(Debug, Clone)]
enum LockStep {
    Acquire(Vec<usize>, Vec<usize>),
    /// Drops the guard or the waiting future of one request.
    Drop(usize),
}

fn step() -> impl Strategy<Value = LockStep> {
    let some = || prop::collection::vec(0..PATHS.len(), 0..3);
    prop_oneof![
        (some(), some()).prop_map(|(shared, exclusive)| LockStep::Acquire(shared, exclusive)),
        any::<usize>().prop_map(LockStep::Drop),
    ]
}

/// Computes what a request locks, from the description in the header of `locks.rs`.
fn locked(shared: &[usize], exclusive: &[usize]) -> BTreeMap<RemotePath, bool> {
    let mut locked = BTreeMap::new();
    for index in shared.iter().chain(exclusive) {
        let mut here = Some(path(PATHS[*index]));
        while let Some(ancestor) = here {
            here = ancestor.parent();
            locked.insert(ancestor, false);
        }
    }
    for index in exclusive {
        locked.insert(path(PATHS[*index]), true);
    }
    locked
}

fn conflict(one: &BTreeMap<RemotePath, bool>, other: &BTreeMap<RemotePath, bool>) -> bool {
    one.iter()
        .any(|(path, change)| other.get(path).is_some_and(|also| *change || *also))
}

struct RunningTask<'a> {
    locked: BTreeMap<RemotePath, bool>,
    acquiring: Acquiring<'a>,
    held: Option<LockGuard>,
}

/// Polls requests until none progresses, and checks that no two hold conflicting locks.
fn settle(running: &mut [RunningTask<'_>]) {
    loop {
        let waiting = running.iter_mut().filter(|request| request.held.is_none());
        let mut moved = false;
        for request in waiting {
            request.held = poll(&mut request.acquiring);
            moved |= request.held.is_some();
        }
        if !moved {
            break;
        }
    }
    let held: Vec<_> = running
        .iter()
        .filter(|request| request.held.is_some())
        .collect();
    for (index, one) in held.iter().enumerate() {
        for other in &held[index + 1..] {
            assert!(!conflict(&one.locked, &other.locked));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        rng_seed: RngSeed::Fixed(0x10c5),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_mix_of_requests_excludes_progresses_and_leaves_no_entries(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let _context = runtime.enter();
        let locks = LockTable::new(FOREVER);
        let mut running: Vec<RunningTask<'_>> = Vec::new();
        for step in steps {
            match step {
                LockStep::Acquire(shared, exclusive) => {
                    let locked = locked(&shared, &exclusive);
                    let free = running.iter().all(|other| !conflict(&locked, &other.locked));
                    let paths = |indices: Vec<usize>| -> Vec<RemotePath> {
                        indices.into_iter().map(|index| path(PATHS[index])).collect()
                    };
                    let locks = locks.clone();
                    let shared = paths(shared);
                    let exclusive = paths(exclusive);
                    let mut acquiring: Acquiring<'_> = Box::pin(async move {
                        let shared: Vec<_> = shared.iter().collect();
                        let exclusive: Vec<_> = exclusive.iter().collect();
                        locks.acquire(OWNER, &shared, &exclusive).await
                    });
                    let held = poll(&mut acquiring);
                    prop_assert!(held.is_some() || !free, "waits although nothing conflicts");
                    running.push(RunningTask { locked, acquiring, held });
                }
                LockStep::Drop(index) if !running.is_empty() => {
                    running.remove(index % running.len());
                }
                LockStep::Drop(_) => {}
            }
            settle(&mut running);
            let in_use: std::collections::BTreeSet<_> =
                running.iter().flat_map(|request| request.locked.keys()).collect();
            prop_assert_eq!(locks.len(), in_use.len());
        }
        while let Some(index) = running.iter().position(|request| request.held.is_some()) {
            running.remove(index);
            settle(&mut running);
        }
        prop_assert!(running.is_empty(), "a request waits although all locks are free");
        prop_assert!(locks.is_empty());
    }
}

#[tokio::test]
async fn a_try_on_a_lock_that_is_not_free_fails_and_leaves_no_entries() {
    let locks = LockTable::new(FOREVER);
    let file = path("d/f");
    let beside = path("d/g");
    let held = locks.exclusive(OWNER, &[&file]).await.unwrap();
    let paths_in_use = locks.len();
    assert!(locks.try_shared(OWNER, &file).is_none());
    assert_eq!(locks.len(), paths_in_use);
    assert!(locks.try_shared(OWNER, &beside).is_some());
    assert!(locks.try_exclusive(OWNER, &[&beside, &file]).is_none());
    assert!(locks.try_exclusive(OWNER, &[&beside]).is_some());
    drop(held);
    let first = locks.try_shared(OWNER, &file).unwrap();
    assert!(locks.try_shared(OWNER, &file).is_some());
    drop(first);
    assert!(locks.is_empty());
}
