//! Cache tests: admission, eviction, fills, invalidation, and the budget.

mod model;

use std::task::{Context, Poll, Waker};

use tokio::task::JoinSet;

use super::*;

const LIMIT: u64 = 64 * 1024;

fn cache() -> Cache {
    Cache::new(CacheConfig {
        limit: LIMIT,
        file_max: LIMIT,
    })
}

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text).unwrap()
}

fn version(number: u8) -> Version {
    Version::new(&[number; 40]).unwrap()
}

/// The byte at `offset` of the file with this version's number.
fn byte(number: u8, offset: u64) -> u8 {
    // A prime, so that no two pieces of a file are equal.
    u8::try_from(offset % 251).unwrap() ^ number
}

fn bytes_of(number: u8, range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|offset| byte(number, offset)).collect()
}

/// Polls a future once.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut context = Context::from_waker(Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn fill(cache: &Cache, number: u8, size: u64, name: &str) -> (FillGuard, CachedReader) {
    match cache.open(&version(number), size, &path(name), true) {
        Lookup::Fill(guard, reader) => (guard, reader),
        other => panic!("expected a fill: {other:?}"),
    }
}

fn hit(cache: &Cache, number: u8, size: u64, name: &str) -> CachedReader {
    match cache.open(&version(number), size, &path(name), true) {
        Lookup::Hit(reader) => reader,
        other => panic!("expected a hit: {other:?}"),
    }
}

fn bypassed(cache: &Cache, number: u8, size: u64, name: &str) -> bool {
    matches!(
        cache.open(&version(number), size, &path(name), true),
        Lookup::Bypass
    )
}

/// Puts a file into the cache, without readers.
fn put(cache: &Cache, number: u8, size: u64, name: &str) {
    let (guard, _) = fill(cache, number, size, name);
    guard.push(bytes_of(number, 0..size)).unwrap();
    assert!(guard.finish(&version(number)));
}

fn names(cache: &Cache) -> Vec<String> {
    let entries = cache.list().entries.into_iter();
    entries.map(|entry| entry.path.to_relative()).collect()
}

#[test]
fn the_least_recently_used_entries_are_evicted_first_and_as_many_as_needed() {
    let cache = cache();
    for (number, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        put(&cache, number, LIMIT / 4, name);
    }
    assert_eq!(names(&cache), ["d", "c", "b", "a"]);
    drop(hit(&cache, 1, LIMIT / 4, "a"));
    put(&cache, 5, LIMIT / 2, "e");
    assert_eq!(names(&cache), ["e", "a", "d"]);
    assert_eq!(cache.list().live, LIMIT);
    put(&cache, 6, LIMIT, "f");
    assert_eq!(names(&cache), ["f"]);
}

#[test]
fn files_that_are_too_large_empty_or_not_admitted_are_not_cached() {
    let cache = Cache::new(CacheConfig {
        limit: LIMIT,
        file_max: LIMIT / 2,
    });
    put(&cache, 1, LIMIT / 2, "a");
    assert!(bypassed(&cache, 2, LIMIT / 2 + 1, "b"));
    assert!(bypassed(&cache, 2, LIMIT + 1, "b"));
    assert!(bypassed(&cache, 2, u64::MAX, "b"));
    assert!(bypassed(&cache, 2, 0, "b"));
    assert!(matches!(
        cache.open(&version(2), 1, &path("b"), false),
        Lookup::Bypass
    ));
    assert_eq!(names(&cache), ["a"], "a bypass evicted an entry");
    let off = Cache::new(CacheConfig {
        limit: 0,
        file_max: LIMIT,
    });
    assert!(bypassed(&off, 1, 1, "a") && bypassed(&off, 1, 0, "a"));
    assert_eq!(
        off.list(),
        CacheSnapshot {
            entries: Vec::new(),
            limit: 0,
            live: 0
        }
    );
}

#[test]
fn tiny_files_are_charged_for_their_entries() {
    let cache = cache();
    for number in 0..=u8::MAX {
        put(&cache, number, 1, &format!("tiny-{number}"));
    }
    let listed = cache.list();
    assert!(listed.live <= LIMIT);
    let entries_max = LIMIT / ENTRY_BYTES;
    assert!(listed.entries.len() as u64 <= entries_max);
    // A cache smaller than the charge of one entry still holds a file that fits.
    let small = Cache::new(CacheConfig {
        limit: 100,
        file_max: 100,
    });
    put(&small, 1, 100, "a");
    assert_eq!(small.list().live, 100);
}

#[test]
fn an_entry_in_use_is_not_evicted() {
    let cache = cache();
    put(&cache, 1, LIMIT / 2, "a");
    let mut reader = hit(&cache, 1, LIMIT / 2, "a");
    let sending = now(reader.piece()).unwrap().unwrap().unwrap();
    drop(reader);
    put(&cache, 2, LIMIT / 2, "b");
    // "a" is the least recently used, but its bytes are still being sent.
    put(&cache, 3, LIMIT / 2, "c");
    assert_eq!(names(&cache), ["c", "a"]);
    assert_eq!(cache.list().entries[1].readers, 1);
    assert!(bypassed(&cache, 4, LIMIT / 2 + 1, "d"));
    assert_eq!(names(&cache), ["c", "a"], "evicted an entry for nothing");
    assert_eq!(sending, bytes_of(1, 0..LIMIT / 2));
    drop(sending);
    assert_eq!(cache.list().entries[1].readers, 0);
    put(&cache, 4, LIMIT, "d");
    assert_eq!(names(&cache), ["d"]);
}

#[test]
fn invalidated_bytes_count_until_they_are_sent() {
    let cache = cache();
    put(&cache, 1, LIMIT, "a");
    let mut stalled: Vec<_> = (0..256).map(|_| hit(&cache, 1, LIMIT, "a")).collect();
    let mut sending: Vec<_> = stalled
        .iter_mut()
        .map(|reader| now(reader.piece()).unwrap().unwrap().unwrap())
        .collect();
    drop(stalled);
    cache.invalidate(&path("a"));
    assert!(cache.list().entries.is_empty());
    assert_eq!(cache.list().live, LIMIT);
    while let Some(bytes) = sending.pop() {
        assert!(bypassed(&cache, 2, 1, "b"));
        // A slice of the bytes keeps all of them in memory.
        let tail = bytes.slice(bytes.len() - 1..);
        drop(bytes);
        assert!(bypassed(&cache, 2, 1, "b"));
        assert_eq!(tail, [byte(1, LIMIT - 1)].as_slice());
    }
    assert_eq!(cache.list().live, 0);
    put(&cache, 2, LIMIT, "b");
}

#[test]
fn invalidating_a_path_invalidates_everything_below_it() {
    let cache = cache();
    for (number, name) in [
        (1, "d"),
        (2, "d/x"),
        (3, "d/y/z"),
        (4, "d!"),
        (5, "dd"),
        (6, "c"),
    ] {
        put(&cache, number, 10, name);
    }
    cache.invalidate(&path("d/y"));
    assert_eq!(names(&cache), ["c", "dd", "d!", "d/x", "d"]);
    cache.invalidate(&path("d"));
    assert_eq!(names(&cache), ["c", "dd", "d!"]);
    cache.invalidate(&path("nothing"));
    cache.invalidate(&RemotePath::ROOT);
    assert_eq!(cache.list().live, 0);
}

#[test]
fn a_file_that_took_the_path_of_another_replaces_its_entry() {
    let cache = cache();
    put(&cache, 1, 10, "a");
    put(&cache, 2, 10, "a");
    assert_eq!(cache.list().entries.len(), 1);
    // A second path of the same file: one entry, under the path last used.
    drop(hit(&cache, 2, 10, "link"));
    assert_eq!(names(&cache), ["link"]);
    cache.invalidate(&path("a"));
    assert_eq!(cache.list().entries[0].hits, 1);
    // The old entry goes even if the new file can't be cached.
    assert!(bypassed(&cache, 3, LIMIT + 1, "link"));
    assert_eq!(cache.list().live, 0);
}

#[test]
fn followers_get_each_piece_when_it_is_pushed() {
    let cache = cache();
    let (guard, mut leader) = fill(&cache, 1, 10, "a");
    let mut follower = hit(&cache, 1, 10, "a");
    assert!(now(follower.piece()).is_none());
    guard.push(bytes_of(1, 0..4)).unwrap();
    guard.push(Vec::new()).unwrap();
    assert_eq!(
        now(leader.piece()).unwrap().unwrap().unwrap(),
        bytes_of(1, 0..4)
    );
    follower.seek(3);
    assert_eq!(
        now(follower.piece()).unwrap().unwrap().unwrap(),
        bytes_of(1, 3..4)
    );
    assert!(now(follower.piece()).is_none());
    assert!(
        cache.list().entries.is_empty(),
        "listed before it was complete"
    );
    guard.push(bytes_of(1, 4..10)).unwrap();
    assert_eq!(
        now(follower.piece()).unwrap().unwrap().unwrap(),
        bytes_of(1, 4..10)
    );
    assert_eq!(now(follower.piece()).unwrap(), Ok(None));
    assert!(!follower.is_complete());
    assert!(guard.finish(&version(1)));
    assert!(follower.is_complete() && leader.is_complete());
    let listed = cache.list().entries.remove(0);
    assert_eq!((listed.bytes, listed.hits, listed.readers), (10, 1, 2));
    follower.seek(11);
    assert_eq!(now(follower.piece()).unwrap(), Ok(None));
}

#[test]
fn a_fill_that_fails_tells_its_readers_and_leaves_nothing() {
    type End = fn(FillGuard) -> bool;
    let ends: [(End, FillFailed); 4] = [
        (|guard| guard.finish(&version(9)), FillFailed::Changed),
        (|guard| guard.finish(&version(1)), FillFailed::Changed),
        (|guard| guard.push(vec![0; 7]).is_ok(), FillFailed::Changed),
        (
            |guard| {
                drop(guard);
                false
            },
            FillFailed::Abandoned,
        ),
    ];
    for (end, failed) in ends {
        let cache = cache();
        let (guard, mut reader) = fill(&cache, 1, 10, "a");
        guard.push(bytes_of(1, 0..4)).unwrap();
        assert!(!end(guard));
        assert_eq!(now(reader.piece()).unwrap(), Err(failed));
        assert_eq!(reader.position(), 0);
        assert!(!reader.is_complete());
        drop(reader);
        assert_eq!(cache.list().live, 0);
        put(&cache, 1, 10, "a");
    }
}

#[test]
fn a_fill_knows_whether_anybody_still_reads_it() {
    let cache = cache();
    for is_invalidated in [false, true] {
        let (guard, reader) = fill(&cache, 1, 10, "a");
        let follower = hit(&cache, 1, 10, "a");
        if is_invalidated {
            cache.invalidate(&path("a"));
        }
        drop(reader);
        assert!(guard.has_readers());
        drop(follower);
        assert!(!guard.has_readers());
    }
}

#[test]
fn a_file_that_is_invalidated_during_its_fill_serves_its_readers_only() {
    let cache = cache();
    let (guard, mut reader) = fill(&cache, 1, 10, "a");
    cache.invalidate(&path("a"));
    put(&cache, 1, 10, "b");
    guard.push(bytes_of(1, 0..10)).unwrap();
    assert!(guard.finish(&version(1)));
    assert_eq!(
        now(reader.piece()).unwrap().unwrap().unwrap(),
        bytes_of(1, 0..10)
    );
    assert!(reader.is_complete());
    drop(reader);
    assert_eq!(names(&cache), ["b"]);
    assert_eq!(cache.list().live, charge(10, &path("b")));
    // The failure of an invalidated fill doesn't affect its successor either.
    let (guard, _) = fill(&cache, 2, 10, "c");
    cache.invalidate(&path("c"));
    put(&cache, 2, 10, "c");
    drop(guard);
    assert_eq!(names(&cache), ["c", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_read_the_file_once_and_see_the_same_bytes() {
    const SIZE: u64 = LIMIT - 1;
    const PIECE: usize = 1000;
    let cache = cache();
    for round in 0..8 {
        let mut tasks = JoinSet::new();
        for offset in (0..SIZE).step_by(4099) {
            let cache = cache.clone();
            tasks.spawn(async move {
                let (guard, mut reader) = match cache.open(&version(round), SIZE, &path("a"), true)
                {
                    Lookup::Hit(reader) => (None, reader),
                    Lookup::Fill(guard, reader) => (Some(guard), reader),
                    Lookup::Bypass => panic!("bypassed"),
                };
                let filled = guard.map(|guard| {
                    tokio::task::spawn_blocking(move || {
                        for start in (0..SIZE).step_by(PIECE) {
                            let end = SIZE.min(start + PIECE as u64);
                            guard.push(bytes_of(round, start..end)).unwrap();
                        }
                        assert!(guard.finish(&version(round)));
                    })
                });
                reader.seek(offset);
                let mut bytes = Vec::new();
                while let Some(piece) = reader.piece().await.unwrap() {
                    bytes.extend_from_slice(&piece);
                }
                assert!(
                    bytes == bytes_of(round, offset..SIZE),
                    "wrong bytes from {offset}"
                );
                if let Some(filled) = filled {
                    filled.await.unwrap();
                    return 1;
                }
                0
            });
        }
        assert_eq!(tasks.join_all().await.iter().sum::<i32>(), 1, "fills");
        let listed = cache.list();
        assert_eq!((listed.entries.len(), listed.live), (1, SIZE));
        assert_eq!(listed.entries[0].readers, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_of_a_dropped_fill_get_its_failure() {
    let cache = cache();
    for round in 0..50 {
        let (guard, leader) = fill(&cache, round, LIMIT, "a");
        let mut followers = JoinSet::new();
        for _ in 0..16 {
            let mut reader = hit(&cache, round, LIMIT, "a");
            followers.spawn(async move {
                loop {
                    match reader.piece().await {
                        Ok(Some(_)) => {}
                        ended => return ended,
                    }
                }
            });
        }
        let leader = tokio::task::spawn_blocking(move || {
            guard.push(vec![0; 1000]).unwrap();
            drop((leader, guard));
        });
        leader.await.unwrap();
        for ended in followers.join_all().await {
            assert_eq!(ended, Err(FillFailed::Abandoned));
        }
        assert_eq!(cache.list().live, 0);
    }
}

/// Threads fill, read, keep and invalidate; the budget is never exceeded, seen from outside.
#[test]
fn the_budget_holds_under_threads() {
    let cache = cache();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let cache = &cache;
            scope.spawn(move || {
                let mut kept = std::collections::VecDeque::new();
                let mut random = u32::from(thread) + 1;
                for _ in 0..400 {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let number = (random >> 24) as u8 % 16;
                    let size = 2000 * (u64::from(number) + 1);
                    let name = format!("f{number}");
                    let reader = match cache.open(&version(number), size, &path(&name), true) {
                        Lookup::Fill(guard, reader) => {
                            guard.push(bytes_of(number, 0..size)).unwrap();
                            assert!(guard.finish(&version(number)));
                            Some(reader)
                        }
                        Lookup::Hit(reader) => Some(reader),
                        Lookup::Bypass => None,
                    };
                    if let Some(Ok(Some(bytes))) = reader.and_then(|mut reader| now(reader.piece()))
                    {
                        kept.push_back((number, bytes));
                    }
                    if random % 8 == 0 {
                        cache.invalidate(&path(&name));
                    }
                    assert!(cache.list().live <= LIMIT);
                    if kept.len() > 2 {
                        let (number, bytes) = kept.pop_front().unwrap();
                        assert!(bytes == bytes_of(number, 0..bytes.len() as u64));
                    }
                }
            });
        }
    });
    cache.invalidate(&RemotePath::ROOT);
    assert_eq!(cache.list().live, 0);
    assert_eq!(cache.store.lock().evictable, 0);
}
