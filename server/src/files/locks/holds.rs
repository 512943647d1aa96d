//! Tests of holds: they block all operations on a path but those of their owner.

use std::time::Duration;

use quire_shared::RemotePath;

use super::{Busy, LockTable};

fn at(text: &str) -> RemotePath {
    RemotePath::parse(text).unwrap()
}

#[tokio::test]
async fn a_hold_blocks_others_and_not_its_owner() {
    let locks = LockTable::new(Duration::from_millis(20));
    let owner = locks.new_owner();
    let other = locks.new_owner();
    let held = locks.hold(owner, &at("d")).await.unwrap();
    for path in ["d", "d/a", "d/a/b"] {
        let path = at(path);
        assert_eq!(locks.shared(other, &path).await.unwrap_err(), Busy);
        assert_eq!(locks.exclusive(other, &[&path]).await.unwrap_err(), Busy);
        assert!(locks.try_exclusive(other, &[&path]).is_none());
        drop(locks.exclusive(owner, &[&path]).await.unwrap());
        drop(locks.try_shared(owner, &path).unwrap());
    }
    // It doesn't block paths beside it, nor operations above it that don't change its path.
    drop(locks.exclusive(other, &[&at("e")]).await.unwrap());
    drop(locks.shared(other, &at("")).await.unwrap());
    drop(held);
    drop(locks.exclusive(other, &[&at("d/a")]).await.unwrap());
    assert!(locks.is_empty());
}

#[tokio::test]
async fn operations_within_a_hold_exclude_each_other() {
    let locks = LockTable::new(Duration::from_millis(20));
    let owner = locks.new_owner();
    let held = locks.hold(owner, &at("d")).await.unwrap();
    let first = locks.exclusive(owner, &[&at("d/a")]).await.unwrap();
    let second = locks.exclusive(owner, &[&at("d/a")]).await;
    assert_eq!(second.unwrap_err(), Busy);
    drop(locks.exclusive(owner, &[&at("d/b")]).await.unwrap());
    drop(first);
    drop(locks.exclusive(owner, &[&at("d/a")]).await.unwrap());
    drop(held);
    assert!(locks.is_empty());
}

#[tokio::test]
async fn a_hold_lasts_until_what_runs_within_it_has_ended() {
    let locks = LockTable::new(Duration::from_millis(20));
    let owner = locks.new_owner();
    let other = locks.new_owner();
    let held = locks.hold(owner, &at("d")).await.unwrap();
    let running = locks.exclusive(owner, &[&at("d/a")]).await.unwrap();
    drop(held);
    let busy = locks.exclusive(other, &[&at("d/b")]).await;
    assert_eq!(busy.unwrap_err(), Busy);
    drop(running);
    drop(locks.exclusive(other, &[&at("d/b")]).await.unwrap());
    assert!(locks.is_empty());
}

#[tokio::test]
async fn a_rename_out_of_a_hold_takes_locks_inside_and_outside() {
    let locks = LockTable::new(Duration::from_millis(20));
    let owner = locks.new_owner();
    let other = locks.new_owner();
    let held = locks.hold(owner, &at("d")).await.unwrap();
    let moving = locks.exclusive(owner, &[&at("d/a"), &at("e")]).await;
    let moving = moving.unwrap();
    let busy = locks.exclusive(other, &[&at("e")]).await;
    assert_eq!(busy.unwrap_err(), Busy);
    drop(moving);
    drop(locks.exclusive(other, &[&at("e")]).await.unwrap());
    drop(held);
    assert!(locks.is_empty());
}
