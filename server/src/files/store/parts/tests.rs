//! Parts on disk: what is kept, for how long, and how many.

use std::io::Write;
use std::time::Duration;

use quire_shared::protocol::{Precondition, Time, Version};

use super::super::fixture::{StoreFixture, path};
use super::super::open::Options;
use super::*;

fn for_seconds(seconds: u64) -> Options {
    Options {
        keep_uploads: Duration::from_secs(seconds),
        ..Options::default()
    }
}

/// A fixture whose parts are kept for a day.
fn keeping() -> StoreFixture {
    StoreFixture::with(for_seconds(24 * 60 * 60))
}

fn source(name: &str) -> UploadSource {
    UploadSource {
        owner: "somebody".to_owned(),
        path: path(name),
        size: 2 * PART_BYTES_MIN,
        modified: Time {
            seconds: 5,
            nanoseconds: 7,
        },
        precondition: Precondition::Absent,
    }
}

/// Stages the part of `source`, as nobody else does.
fn stage(fixture: &StoreFixture, source: &UploadSource) -> StagedFile {
    let active = fixture.root.inner.uploads.take_idle(&source.name());
    fixture
        .root
        .stage_part(source, active.unwrap(), None)
        .unwrap()
}

/// Leaves a part of so many bytes.
fn leave(fixture: &StoreFixture, source: &UploadSource, bytes: u64) {
    let mut staged = stage(fixture, source);
    let content = vec![b'x'; usize::try_from(bytes).unwrap()];
    staged.write_all(&content).unwrap();
}

fn parts(fixture: &StoreFixture) -> Vec<FoundPart> {
    let root = RemotePath::default();
    fixture.root.parts("somebody", &root, false).unwrap()
}

#[test]
fn a_source_is_read_from_its_journal_as_it_was() {
    for precondition in [
        Precondition::Any,
        Precondition::Absent,
        Precondition::Match(Version::new(b"\x00\xffv").unwrap()),
    ] {
        for name in ["a", "d/e f", "line\nsynced 5", "ü/\u{1f980}"] {
            let source = UploadSource {
                precondition: precondition.clone(),
                modified: Time {
                    seconds: -1,
                    nanoseconds: 999_999_999,
                },
                ..source(name)
            };
            let text = source.to_string();
            assert_eq!(UploadSource::parse(&text).as_ref(), Some(&source), "{text}");
        }
    }
    assert_eq!(UploadSource::parse("owner x\nsize 5\n"), None);
}

#[test]
fn whatever_tells_uploads_apart_gives_another_name() {
    let other_time = Time {
        seconds: 5,
        nanoseconds: 8,
    };
    let base = source("a");
    let others = [
        source("b"),
        UploadSource {
            owner: "other".to_owned(),
            ..base.clone()
        },
        UploadSource {
            size: base.size + 1,
            ..base.clone()
        },
        UploadSource {
            modified: other_time,
            ..base.clone()
        },
        UploadSource {
            precondition: Precondition::Any,
            ..base.clone()
        },
    ];
    for other in others {
        assert_ne!(other.name(), base.name(), "{other:?}");
    }
}

#[test]
fn only_what_is_worth_it_is_kept() {
    let fixture = keeping();
    leave(&fixture, &source("little"), PART_BYTES_MIN - 1);
    assert_eq!(fixture.staged_count(), 0);
    leave(&fixture, &source("much"), PART_BYTES_MIN + 5);
    let [part] = &*parts(&fixture) else {
        panic!("not kept");
    };
    assert_eq!((part.received, part.is_active), (PART_BYTES_MIN + 5, false));
    assert_eq!(part.source, source("much"));
    // What was reserved for the rest is free again.
    let name = format!(".quire-staging/{}", part.name);
    let metadata = std::fs::metadata(fixture.local(&name)).unwrap();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&metadata);
    assert!(blocks * 512 <= PART_BYTES_MIN + SURPLUS_BYTES, "{blocks}");
}

#[test]
fn a_part_that_is_given_up_is_removed() {
    let fixture = keeping();
    let mut staged = stage(&fixture, &source("a"));
    staged.write_all(&vec![0; 2 << 20]).unwrap();
    staged.give_up_part();
    drop(staged);
    assert_eq!(fixture.staged_count(), 0);
}

#[test]
fn a_restart_keeps_parts_with_their_time_and_removes_old_ones() {
    let fixture = keeping();
    leave(&fixture, &source("a"), PART_BYTES_MIN);
    let before = parts(&fixture);
    let fixture = fixture.restarted(for_seconds(60 * 60));
    let [after] = &*parts(&fixture) else {
        panic!("not kept");
    };
    assert_eq!(
        (after.last, after.received),
        (before[0].last, PART_BYTES_MIN)
    );
    fixture.root.expire_parts().unwrap();
    assert_eq!(parts(&fixture).len(), 1);
    let fixture = fixture.restarted(for_seconds(0));
    assert!(parts(&fixture).is_empty());
}

#[test]
fn parts_that_are_too_old_expire_unless_they_are_written() {
    let fixture = StoreFixture::with(for_seconds(0));
    leave(&fixture, &source("a"), PART_BYTES_MIN);
    let written = stage(&fixture, &source("b"));
    fixture.root.expire_parts().unwrap();
    assert!(parts(&fixture).iter().all(|part| part.is_active));
    drop(written);
    assert_eq!(fixture.staged_count(), 0);
}

#[test]
fn the_oldest_part_of_an_owner_gives_way() {
    let fixture = keeping();
    for number in 0..=PARTS_MAX {
        leave(&fixture, &source(&number.to_string()), PART_BYTES_MIN);
        if number == 0 {
            wait_for_later_than(&fixture, parts(&fixture)[0].last);
        }
    }
    let left = parts(&fixture);
    assert_eq!(left.len(), PARTS_MAX);
    let is_first = |part: &FoundPart| part.source == source("0");
    assert!(!left.iter().any(is_first), "the oldest is still there");
}

/// Waits until the clock of the file system, which advances in steps, is past `time`.
fn wait_for_later_than(fixture: &StoreFixture, time: Time) {
    let probe = fixture.outside("probe");
    let changed = || {
        std::fs::write(&probe, "x").unwrap();
        Metadata::of(File::open(&probe).unwrap()).unwrap().changed
    };
    while changed() <= time {}
}
