//! Tests of comparisons of walks in which something can't be read.

use std::sync::Mutex;

use quire_shared::ErrorCode;
use quire_shared::path::Unnameable;
use quire_shared::protocol::Time;

use super::*;
use crate::transfer::engine::TransferEvent;
use crate::transfer::sync::SyncDeletion;

fn entry(kind: EntryKind) -> WalkedEntry {
    WalkedEntry {
        kind,
        size: u64::from(kind == EntryKind::File),
        modified: Time {
            seconds: 1,
            nanoseconds: 0,
        },
        mode: 0o644,
        version: None,
        details: None,
        target: None,
        key: None,
    }
}

/// The items of a walk: `name` is a file, `name/` a directory, `/` leaves it, `!` leaves it after its
/// listing failed, `?` after names that can't be sent, and `-name` can't be looked at.
fn walk(text: &str) -> Walk {
    let item = |word: &str| {
        let name = |text| Name::new(text).unwrap();
        match word {
            "/" => WalkItem::Left(LeftDirectory::default()),
            "!" => WalkItem::Left(LeftDirectory {
                failure: Some(ClientError::of_code(ErrorCode::DENIED)),
                ..LeftDirectory::default()
            }),
            "?" => WalkItem::Left(LeftDirectory {
                unnameable: Unnameable {
                    count: 1,
                    names: Vec::new(),
                },
                ..LeftDirectory::default()
            }),
            word => match (word.strip_suffix('/'), word.strip_prefix('-')) {
                (Some(directory), _) => {
                    WalkItem::Entered(name(directory), entry(EntryKind::Directory))
                }
                (None, Some(missed)) => {
                    WalkItem::Missed(name(missed), ClientError::of_code(ErrorCode::DENIED))
                }
                (None, None) => WalkItem::Entry(name(word), entry(EntryKind::File)),
            },
        }
    };
    Walk::of_items(text.split(' ').map(item).collect())
}

/// What would be deleted, and how many failures were told.
fn deletions(source: &str, target: &str) -> (Vec<String>, usize) {
    let failures = std::sync::Arc::new(Mutex::new(0));
    let count = std::sync::Arc::clone(&failures);
    let transfer = Transfer::new(move |event| {
        if matches!(event, TransferEvent::Failed { .. }) {
            *count.lock().unwrap() += 1;
        }
    });
    let side = || SyncSide::Local("x".into());
    let options = SyncOptions {
        deletion: Some(SyncDeletion::default()),
        ..SyncOptions::default()
    };
    let (source_side, target_side) = (side(), side());
    let directory = || Some(entry(EntryKind::Directory));
    let mut comparison = Comparison {
        source_side: &source_side,
        target_side: &target_side,
        options: &options,
        transfer: &transfer,
        source: walk(source),
        target: walk(target),
        levels: Vec::new(),
        plan: SyncPlan::default(),
        has_source_entries: false,
        has_target_entries: false,
        first_names: FirstNames::default(),
    };
    comparison
        .enter(RemotePath::ROOT, directory(), directory())
        .unwrap();
    let plan = comparison.run().unwrap();
    let mut planned = plan.deletions.into_reader().unwrap();
    let mut paths = Vec::new();
    while let Some(deletion) = planned.next().unwrap() {
        paths.push(format!(
            "{} {}",
            deletion.path.to_relative(),
            deletion.below
        ));
    }
    let failures = *failures.lock().unwrap();
    (paths, failures)
}

#[test]
fn nothing_is_deleted_below_a_directory_of_the_source_whose_listing_failed() {
    for (source, target, expected, failures) in [
        (
            "a d/ b / /",
            "a c d/ b c e/ f / / g /",
            &["c 0", "d/c 0", "d/e 1", "g 0"][..],
            0,
        ),
        ("a d/ b ! /", "a c d/ b c e/ f / / g /", &["c 0", "g 0"], 1),
        ("a d/ b / !", "a c d/ b c e/ f / / g /", &[], 1),
        // A name that can't be looked at is there.
        ("-a -d /", "a c d/ b / /", &["c 0"], 2),
    ] {
        assert_eq!(
            deletions(source, target),
            (
                expected.iter().map(|path| (*path).to_owned()).collect(),
                failures
            ),
            "{source} | {target}"
        );
    }
}

#[test]
fn a_directory_of_the_target_goes_as_a_whole_only_if_all_in_it_is_known() {
    for (target, expected, failures) in [
        ("d/ b e/ f / / z /", &["d 3"][..], 0),
        ("d/ b e/ f ! / z /", &["d/b 0", "d/e/f 0"], 1),
        ("d/ b e/ f ? / z /", &["d/b 0", "d/e/f 0"], 1),
        ("d/ -b e/ f / / z /", &["d/e 1"], 1),
    ] {
        assert_eq!(
            deletions("z /", target),
            (
                expected.iter().map(|path| (*path).to_owned()).collect(),
                failures
            ),
            "{target}"
        );
    }
}
