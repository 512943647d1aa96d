//! Tests of server-side copies of files and directories, and of what they skip.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use quire_shared::ErrorCode;

use super::super::fixture::{StoreFixture, code, path};
use super::content::copy_bytes;
use super::*;
use quire_shared::protocol::Version;

const ANY: Precondition = Precondition::Any;
const ABSENT: Precondition = Precondition::Absent;

fn stage(fixture: &StoreFixture, from: &str, to: &str) -> Result<StagedCopy, Error> {
    let paths = (&path(from), &path(to));
    fixture.root.copy_to_staging(paths, true, &ANY, false)
}

fn copy(
    fixture: &StoreFixture,
    from: &str,
    to: &str,
    target: &Precondition,
) -> Result<Version, Error> {
    let copy = stage(fixture, from, to)?;
    fixture.root.publish_copy(copy, &path(to), target)
}

fn mode_and_time(fixture: &StoreFixture, name: &str) -> (u32, i64) {
    let metadata = fixture.local(name).metadata().unwrap();
    (metadata.mode() & 0o7777, metadata.mtime())
}

#[test]
fn a_file_is_copied_with_mode_and_time() {
    let fixture = StoreFixture::new();
    fixture.write("a", &"content".repeat(100_000));
    let executable = PermissionsExt::from_mode(0o751);
    std::fs::set_permissions(fixture.local("a"), executable).unwrap();
    let modified = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(9);
    let file = File::options()
        .write(true)
        .open(fixture.local("a"))
        .unwrap();
    file.set_modified(modified).unwrap();
    let version = copy(&fixture, "a", "b", &ABSENT).unwrap();
    assert_eq!(version, fixture.version("b"));
    assert!(fixture.read("b") == fixture.read("a"));
    assert_eq!(mode_and_time(&fixture, "b"), (0o751, 9));
    assert_eq!(code(copy(&fixture, "a", "b", &ABSENT)), ErrorCode::EXISTS);
    copy(&fixture, "a", "b", &ANY).unwrap();
    copy(&fixture, "a", "a", &ANY).unwrap();
    assert_eq!(fixture.staged_count(), 0);
}

#[test]
fn content_is_copied_with_read_and_write_where_the_kernel_copies_nothing() {
    let fixture = StoreFixture::new();
    // Files of /proc have a size of 0 for copy_file_range, which therefore returns 0.
    let content = std::fs::read_to_string("/proc/self/limits").unwrap();
    let source = File::open("/proc/self/limits").unwrap();
    let mut target = File::create(fixture.local("a")).unwrap();
    let size = content.len() as u64;
    copy_bytes(&source, &mut target, size).unwrap();
    assert_eq!(fixture.read("a"), content);
    let more = copy_bytes(&source, &mut target, size + 1);
    assert_eq!(code(more), ErrorCode::CHANGED);
}

#[test]
fn holes_are_copied_as_holes() {
    use std::os::unix::fs::FileExt;
    const SIZE: u64 = 64 * 1024 * 1024;
    let fixture = StoreFixture::new();
    let original = File::create(fixture.local("a")).unwrap();
    original.set_len(SIZE).unwrap();
    original.write_all_at(b"island", SIZE / 2).unwrap();
    let taken = original.metadata().unwrap().blocks();
    copy(&fixture, "a", "b", &ABSENT).unwrap();
    let copied = fixture.local("b").metadata().unwrap();
    assert_eq!(copied.len(), SIZE);
    // As much as the original takes, where there are no holes as well.
    assert!(
        copied.blocks() <= taken + 2048,
        "{} of {taken}",
        copied.blocks()
    );
    assert!(
        std::fs::read(fixture.local("a")).unwrap() == std::fs::read(fixture.local("b")).unwrap()
    );
}

#[test]
fn a_tree_is_copied_without_links_and_special_files() {
    let fixture = StoreFixture::new();
    fixture.write("d/a", "a");
    fixture.write("d/b/c/e", "e");
    fixture.write("d/b/f", "f");
    fixture.write("d/.quire-partial", "x");
    std::fs::create_dir(fixture.local("d/empty")).unwrap();
    symlink(fixture.outside(""), fixture.local("d/link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(fixture.local("d/b/socket")).unwrap();
    for name in ["d", "d/b"] {
        let closed = PermissionsExt::from_mode(0o555);
        std::fs::set_permissions(fixture.local(name), closed).unwrap();
    }
    let copy = stage(&fixture, "d", "g").unwrap();
    assert_eq!(copy.left_out.count, 2);
    let mut left_out = copy.left_out.names.clone();
    left_out.sort();
    assert_eq!(left_out, [path("b/socket"), path("link")]);
    let version = fixture.root.publish_copy(copy, &path("g"), &ANY).unwrap();
    assert_eq!(version, fixture.version("g"));
    for name in ["a", "b/c/e", "b/f"] {
        let content = fixture.read(&format!("d/{name}"));
        assert_eq!(fixture.read(&format!("g/{name}")), content);
    }
    assert!(fixture.local("g/empty").is_dir());
    for name in ["g/link", "g/b/socket", "g/.quire-partial"] {
        assert!(!fixture.exists(name), "{name}");
    }
    for (from, to) in [("d", "g"), ("d/b", "g/b"), ("d/b/c", "g/b/c")] {
        assert_eq!(mode_and_time(&fixture, from), mode_and_time(&fixture, to));
        for name in [from, to] {
            let open = PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(fixture.local(name), open).unwrap();
        }
    }
    assert_eq!(fixture.staged_count(), 0);
}

#[test]
fn a_refused_copy_leaves_nothing() {
    let fixture = StoreFixture::new();
    fixture.write("d/a", "a");
    fixture.write("file", "x");
    symlink("file", fixture.local("link")).unwrap();
    assert_eq!(code(stage(&fixture, "d", "d/e")), ErrorCode::INTO_ITSELF);
    assert_eq!(code(stage(&fixture, "link", "e")), ErrorCode::SPECIAL_FILE);
    assert_eq!(code(stage(&fixture, "missing", "e")), ErrorCode::NOT_FOUND);
    assert_eq!(code(copy(&fixture, "d", "file", &ANY)), ErrorCode::EXISTS);
    assert_eq!(
        code(copy(&fixture, "file", "d", &ANY)),
        ErrorCode::IS_DIRECTORY
    );
    let d = path("d");
    let e = path("e");
    let flat = fixture.root.copy_to_staging((&d, &e), false, &ANY, false);
    assert_eq!(code(flat), ErrorCode::NOT_EMPTY);
    let unwanted = fixture.root.copy_to_staging((&d, &e), true, &ANY, true);
    assert_eq!(code(unwanted), ErrorCode::CANCELLED);
    let other = Precondition::Match(fixture.version("file"));
    let conflict = fixture.root.copy_to_staging((&d, &e), true, &other, false);
    assert_eq!(code(conflict), ErrorCode::CONFLICT);
    assert_eq!(fixture.staged_count(), 0);
}

#[test]
fn a_copy_that_fails_names_the_entry() {
    let fixture = StoreFixture::new();
    let deep = vec!["n"; LEVELS_MAX + 1].join("/");
    std::fs::create_dir_all(fixture.local("d").join(&deep)).unwrap();
    match stage(&fixture, "d", "e") {
        Err(Error::Below { path: below, .. }) => {
            assert_eq!(below.names().len(), LEVELS_MAX);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(code(stage(&fixture, "d", "e")), ErrorCode::LIMIT);
    assert_eq!(fixture.staged_count(), 0);
}
