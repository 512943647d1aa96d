//! What is known of changes after a kill at each step of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use quire_shared::digest::DigestKind;
use quire_shared::protocol::{ChangeId, Precondition, Preserve};

use super::super::Parents;
use super::super::copy::CopySource;
use super::super::fixture::{StoreFixture, path};
use super::super::open::Options;
use super::super::publish::Destination;
use super::super::staging::STAGING_NAME;
use super::record::ReadRecords;
use super::table::KEEP_SECONDS;
use super::*;

pub(super) fn key(owner: u8, id: u64) -> ChangeKey {
    let letter = char::from(b'A' + owner);
    let owner = format!("{letter}{}", "A".repeat(42)).parse().unwrap();
    let mut bytes = [0; ChangeId::BYTES];
    bytes[..8].copy_from_slice(&id.to_be_bytes());
    let id = ChangeId::new(bytes);
    ChangeKey { owner, id }
}

fn request() -> Digest {
    DigestKind::Blake3.of(b"a request")
}

pub(super) fn intent(id: u64, at: &str, before: Option<WitnessIdentity>) -> Intent {
    Intent {
        change: MadeChange {
            key: key(1, id),
            request: request(),
            time: 7,
            outcome: Outcome::default(),
        },
        witness: path(at),
        before,
        target: Some(path("b")),
    }
}

pub(super) fn made(id: u64, time: u64) -> MadeChange {
    MadeChange {
        key: key(1, id),
        request: request(),
        time,
        outcome: Outcome::default(),
    }
}

fn target(at: &str) -> Destination {
    Destination {
        path: path(at),
        precondition: Precondition::Absent,
        parents: Parents::MustExist,
    }
}

fn rename(_: &StoreFixture) -> Change {
    Change::Rename {
        from: path("a"),
        to: path("new"),
        source: Precondition::Any,
        target: Precondition::Absent,
    }
}

fn delete(_: &StoreFixture) -> Change {
    Change::Delete {
        path: path("a"),
        recursive: true,
        precondition: Precondition::Any,
    }
}

fn make_directory(_: &StoreFixture) -> Change {
    let target = target("new");
    Change::Directory { target }
}

fn copy(fixture: &StoreFixture) -> Change {
    let target = target("new");
    let source = CopySource {
        path: path("d"),
        recursive: true,
        precondition: Precondition::Any,
        preserve: Preserve::Usual,
        details: Default::default(),
    };
    let staged = fixture.root.stage_copy(&source, &target).unwrap();
    Change::Copy { target, staged }
}

const CHANGES: &[fn(&StoreFixture) -> Change] = &[rename, delete, make_directory, copy];

/// A root with the file `a`, and a directory with a link that copies leave out.
fn fixture() -> StoreFixture {
    let fixture = StoreFixture::new();
    fixture.write("a", "content");
    fixture.write("d/file", "content");
    std::os::unix::fs::symlink("x", fixture.local("d/link")).unwrap();
    fixture.root.inner.writable().unwrap();
    fixture
}

fn claim(fixture: &StoreFixture, id: u64) -> Claim {
    fixture.root.memory().claim(key(1, id), request())
}

#[track_caller]
fn named(fixture: &StoreFixture, id: u64) -> NamedChange {
    match claim(fixture, id) {
        Claim::Mine(named) => named,
        known => panic!("{known:?}"),
    }
}

#[track_caller]
fn known(fixture: &StoreFixture, id: u64) -> Outcome {
    match claim(fixture, id) {
        Claim::Made(outcome) => outcome,
        unknown => panic!("{unknown:?}"),
    }
}

/// Makes a change.
fn make(fixture: &StoreFixture, id: u64, change: Change) -> Result<Committed, Error> {
    fixture.root.commit_named(change, named(fixture, id))
}

/// Stores that a change begins, and no more.
fn begin(fixture: &StoreFixture, id: u64, change: &Change) {
    let named = named(fixture, id);
    let inner = &fixture.root.inner;
    let (intent, _) = inner.intent(change, &named).unwrap();
    let staging = inner.writable().unwrap();
    inner.memory.begin(inner, &staging, intent).unwrap();
}

fn records_path(fixture: &StoreFixture) -> std::path::PathBuf {
    fixture.local(STAGING_NAME).join(RECORDS_NAME)
}

fn stored(fixture: &StoreFixture) -> Vec<ChangeRecord> {
    let read = ReadRecords::parse(&fs::read(records_path(fixture)).unwrap());
    assert_eq!(read.damaged, 0);
    read.records
}

/// Removes the last record, as if it had never been written.
fn lose_last(fixture: &StoreFixture) {
    let records = stored(fixture);
    let mut bytes = record::HEADER.to_vec();
    for record in &records[..records.len() - 1] {
        record.append(&mut bytes);
    }
    fs::write(records_path(fixture), bytes).unwrap();
}

/// What has the names that the changes are about.
fn state(fixture: &StoreFixture) -> [bool; 3] {
    ["a", "new", "new/file"].map(|name| fixture.exists(name))
}

#[test]
fn a_change_is_known_after_a_restart() {
    for change in CHANGES {
        let fixture = fixture();
        let committed = make(&fixture, 1, change(&fixture)).unwrap();
        let before = known(&fixture, 1);
        let fixture = fixture.restarted(Options::default());
        assert_eq!(known(&fixture, 1), before);
        assert_eq!(before.version, committed.version);
    }
}

#[test]
fn how_much_a_copy_left_out_is_known_as_well() {
    let fixture = fixture();
    make(&fixture, 1, copy(&fixture)).unwrap();
    lose_last(&fixture);
    let fixture = fixture.restarted(Options::default());
    let outcome = known(&fixture, 1);
    assert_eq!(outcome.left_out, 1);
}

#[test]
fn a_change_whose_outcome_was_not_stored_is_known_by_what_it_did() {
    for change in CHANGES {
        let fixture = fixture();
        let version = make(&fixture, 1, change(&fixture)).unwrap().version;
        let done = state(&fixture);
        lose_last(&fixture);
        // It is decided once, whatever comes later.
        let mut fixture = fixture;
        for _ in 0..2 {
            fixture = fixture.restarted(Options::default());
            assert_eq!(known(&fixture, 1).version, version);
            assert_eq!(state(&fixture), done);
            fixture.write("a", "of another");
            fixture = fixture.restarted(Options::default());
            assert_eq!(known(&fixture, 1).version, version);
            assert_eq!(fixture.read("a"), "of another");
            if !done[0] {
                fs::remove_file(fixture.local("a")).unwrap();
            }
        }
    }
}

#[test]
fn a_change_that_had_only_begun_is_made_once_after_a_restart() {
    for change in CHANGES {
        let fixture = fixture();
        let one = change(&fixture);
        begin(&fixture, 1, &one);
        drop(one);
        let before = state(&fixture);
        let fixture = fixture.restarted(Options::default());
        assert_eq!(state(&fixture), before);
        let committed = make(&fixture, 1, change(&fixture)).unwrap();
        assert_ne!(state(&fixture), before);
        assert_eq!(known(&fixture, 1).version, committed.version);
    }
}

#[test]
fn a_file_that_got_the_deleted_name_before_the_restart_stays() {
    let fixture = fixture();
    make(&fixture, 1, delete(&fixture)).unwrap();
    lose_last(&fixture);
    fixture.write("a", "of another");
    let fixture = fixture.restarted(Options::default());
    known(&fixture, 1);
    assert_eq!(fixture.read("a"), "of another");
}

#[test]
fn a_change_that_failed_is_forgotten() {
    let fixture = fixture();
    fixture.write("new", "there");
    for change in [rename, make_directory] {
        make(&fixture, 1, change(&fixture)).unwrap_err();
        drop(named(&fixture, 1));
    }
    fs::remove_file(fixture.local("new")).unwrap();
    let fixture = fixture.restarted(Options::default());
    make(&fixture, 1, rename(&fixture)).unwrap();
    assert_eq!(fixture.read("new"), "content");
    // Nothing is stored of one that can't succeed.
    let count = stored(&fixture).len();
    make(&fixture, 2, delete(&fixture)).unwrap_err();
    assert_eq!(stored(&fixture).len(), count);
}

#[test]
fn a_torn_record_is_of_a_change_that_was_not_made() {
    let fixture = fixture();
    make(&fixture, 1, make_directory(&fixture)).unwrap();
    begin(&fixture, 2, &delete(&fixture));
    let bytes = fs::read(records_path(&fixture)).unwrap();
    fs::write(records_path(&fixture), &bytes[..bytes.len() - 1]).unwrap();
    let fixture = fixture.restarted(Options::default());
    known(&fixture, 1);
    drop(named(&fixture, 2));
    let reach = fixture.root.memory().reach(&key(1, 0).owner);
    assert_eq!(reach, Some(KEEP_SECONDS));
    assert_eq!(stored(&fixture).len(), 1, "the damage is gone");
}

#[test]
fn a_server_whose_records_are_damaged_says_that_it_knows_nothing() {
    let fixture = fixture();
    make(&fixture, 1, delete(&fixture)).unwrap();
    let mut bytes = fs::read(records_path(&fixture)).unwrap();
    bytes[record::HEADER.len() + 30] ^= 1;
    fs::write(records_path(&fixture), bytes).unwrap();
    let fixture = fixture.restarted(Options::default());
    drop(named(&fixture, 1));
    let owner = key(1, 0).owner;
    assert!(fixture.root.memory().reach(&owner) < Some(KEEP_SECONDS));
    // The same where a full disk left no room for records.
    let staging = fixture.root.inner.writable().unwrap();
    make(&fixture, 2, make_directory(&fixture)).unwrap();
    forget_durably(&fixture.root.inner, &staging).unwrap();
    drop(staging);
    known(&fixture, 2);
    let fixture = fixture.restarted(Options::default());
    drop(named(&fixture, 2));
    assert!(fixture.root.memory().reach(&owner) < Some(KEEP_SECONDS));
}

#[test]
fn a_file_that_has_grown_is_rewritten_with_what_counts() {
    let fixture = fixture();
    let memory = Arc::clone(fixture.root.memory());
    make(&fixture, 1, delete(&fixture)).unwrap();
    make(&fixture, 2, make_directory(&fixture)).unwrap();
    assert_eq!(stored(&fixture).len(), 4, "an intent and an outcome each");
    let mode = fs::metadata(records_path(&fixture)).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    memory.table.lock().remove(&key(1, 1));
    memory.file.lock().as_mut().unwrap().limit = 0;
    fixture.write("a", "again");
    make(&fixture, 4, delete(&fixture)).unwrap();
    let kept = stored(&fixture);
    let is_made = |record: &&ChangeRecord| matches!(record, ChangeRecord::Made(_));
    assert_eq!(kept.iter().filter(is_made).count(), 2, "{kept:?}");
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert_eq!(
        fs::read_dir(fixture.local(STAGING_NAME)).unwrap().count(),
        1
    );
    drop(memory);
    let fixture = fixture.restarted(Options::default());
    known(&fixture, 2);
    known(&fixture, 4);
    drop(named(&fixture, 1));
}

#[test]
fn the_file_goes_with_what_is_in_it() {
    let fixture = fixture();
    make(&fixture, 1, delete(&fixture)).unwrap();
    fixture.root.expire_outcomes().unwrap();
    assert!(records_path(&fixture).exists());
    fixture.root.memory().table.lock().remove(&key(1, 1));
    fixture.root.expire_outcomes().unwrap();
    assert!(!records_path(&fixture).exists());
    let local = fixture.local(STAGING_NAME);
    drop(fixture.root);
    assert!(!local.exists());
}

#[test]
fn one_request_makes_a_change_and_others_wait_for_it() {
    let fixture = fixture();
    let first = named(&fixture, 1);
    let Claim::Running(ended) = claim(&fixture, 1) else {
        panic!("made twice");
    };
    assert!(!ended.is_cancelled());
    fixture.root.commit_named(delete(&fixture), first).unwrap();
    assert!(ended.is_cancelled());
    known(&fixture, 1);
    let another = DigestKind::Blake3.of(b"another request");
    let memory = fixture.root.memory();
    assert!(matches!(memory.claim(key(1, 1), another), Claim::Other));
    // The name of a change says nothing to another client.
    let of_another = memory.claim(key(2, 1), request());
    assert!(matches!(of_another, Claim::Mine(_)));
}
