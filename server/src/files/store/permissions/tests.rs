//! Permissions of what is stored, compared with what the kernel gives to what is created in place.

use std::ffi::CStr;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::super::Parents;
use super::super::fixture::{StoreFixture, path};
use super::*;

const ANY: Precondition = Precondition::Any;

/// Everything about permissions: owner, group, mode, access ACL and default ACL.
type Seen = (u32, u32, u32, Option<Vec<u8>>, Option<Vec<u8>>);

fn seen(local: &Path) -> Seen {
    let metadata = fs::metadata(local).unwrap();
    let list = |name| {
        let mut bytes = vec![0; 1024];
        let length = getxattr(local, name, &mut bytes).ok()?;
        bytes.truncate(length);
        Some(bytes)
    };
    let mode = metadata.mode() & 0o7777;
    let lists = (list(acl::ACCESS), list(acl::DEFAULT));
    (metadata.uid(), metadata.gid(), mode, lists.0, lists.1)
}

fn given(mode: u32) -> GivenAttributes {
    GivenAttributes::new(None, Some(mode), Preserve::Usual)
}

fn exactly(mode: u32) -> GivenAttributes {
    GivenAttributes::new(None, Some(mode), Preserve::Exact)
}

/// An ACL of tags, permissions and users, as the kernel keeps it.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// A list that gives user 1234 everything, and others nothing.
fn shared_list() -> Vec<u8> {
    let none = u32::MAX;
    list(&[
        (0x01, 7, none),
        (0x02, 7, 1234),
        (0x04, 5, none),
        (0x10, 7, none),
        (0x20, 0, none),
    ])
}

/// A list that says no more than permission bits, and that counts instead of the umask.
fn plain_list() -> Vec<u8> {
    let none = u32::MAX;
    list(&[(0x01, 7, none), (0x04, 7, none), (0x20, 7, none)])
}

/// Sets a list; prints why a test is skipped where there are no lists.
#[expect(clippy::print_stdout, reason = "the test runner shows it")]
fn set_list(local: &Path, name: &CStr, bytes: &[u8]) -> bool {
    let is_set = setxattr(local, name, bytes, XattrFlags::empty()).is_ok();
    if !is_set {
        println!("skipped: the file system has no ACLs");
    }
    is_set
}

/// Some group that isn't the server's own; its own if it can't give files to others.
fn other_group(local: &Path) -> u32 {
    let own = fs::metadata(local).unwrap().gid();
    match chown(local, None, Some(own + 4321)) {
        Ok(()) => own + 4321,
        Err(_) => own,
    }
}

/// Directories that decide differently about what is created in them.
fn directories(fixture: &StoreFixture) -> Vec<&'static str> {
    for name in ["plain", "setgid", "shared", "open", "all"] {
        fs::create_dir(fixture.local(name)).unwrap();
    }
    for name in ["setgid", "all"] {
        other_group(&fixture.local(name));
        fs::set_permissions(fixture.local(name), PermissionsExt::from_mode(0o2775)).unwrap();
    }
    let mut names = vec!["plain", "setgid"];
    if set_list(&fixture.local("shared"), acl::DEFAULT, &shared_list()) {
        set_list(&fixture.local("open"), acl::DEFAULT, &plain_list());
        set_list(&fixture.local("all"), acl::DEFAULT, &shared_list());
        names.extend(["shared", "open", "all"]);
    }
    names
}

const MODES: [u32; 6] = [0o666, 0o777, 0o644, 0o640, 0o600, 0o077];

#[test]
fn a_new_file_gets_what_open_would_have_given_it() {
    let fixture = StoreFixture::new();
    for directory in directories(&fixture) {
        for mode in MODES {
            let local = fixture.local(&format!("{directory}/by-open-{mode:o}"));
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(mode);
            options.open(&local).unwrap();
            let put = format!("{directory}/put-{mode:o}");
            fixture.put_with(&put, given(mode)).unwrap();
            let expected = seen(&local);
            assert_eq!(
                seen(&fixture.local(&put)),
                expected,
                "{mode:o} in {directory}"
            );
        }
        let local = fixture.local(&format!("{directory}/by-open"));
        fs::write(&local, "").unwrap();
        let put = format!("{directory}/put");
        fixture.put_with(&put, GivenAttributes::default()).unwrap();
        assert_eq!(seen(&fixture.local(&put)), seen(&local), "in {directory}");
    }
}

#[test]
fn a_new_directory_gets_what_mkdir_would_have_given_it() {
    let fixture = StoreFixture::new();
    let make = |name: &str| {
        let made = fixture
            .root
            .make_directory(&path(name), Parents::MustExist, &ANY);
        made.unwrap();
    };
    for directory in directories(&fixture) {
        for mode in MODES {
            let local = fixture.local(&format!("{directory}/by-mkdir-{mode:o}"));
            fs::DirBuilder::new().mode(mode).create(&local).unwrap();
            let made = format!("{directory}/made-{mode:o}");
            make(&made);
            fixture.set_attributes(&made, given(mode), true).unwrap();
            let expected = seen(&local);
            assert_eq!(
                seen(&fixture.local(&made)),
                expected,
                "{mode:o} in {directory}"
            );
        }
    }
}

#[test]
fn a_copied_tree_gets_what_mkdir_and_open_would_have_given_it() {
    let fixture = StoreFixture::new();
    for name in ["t/s/f", "t/g"] {
        fixture.write(name, "x");
    }
    let modes = [
        ("t", 0o755),
        ("t/s", 0o770),
        ("t/s/f", 0o666),
        ("t/g", 0o711),
    ];
    for (name, mode) in modes {
        fs::set_permissions(fixture.local(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    for directory in directories(&fixture) {
        let to = format!("{directory}/t");
        fixture.copy(("t", &to), Preserve::Usual).unwrap();
        let copied: Vec<_> = modes
            .map(|(name, _)| seen(&fixture.local(directory).join(name)))
            .into();
        fs::rename(
            fixture.local(&to),
            fixture.local(&format!("{directory}/copied")),
        )
        .unwrap();
        for (name, mode) in modes {
            let local = fixture.local(directory).join(name);
            if fixture.local(name).is_dir() {
                fs::DirBuilder::new().mode(mode).create(&local).unwrap();
            } else {
                let mut options = OpenOptions::new();
                options
                    .write(true)
                    .create_new(true)
                    .mode(mode)
                    .open(&local)
                    .unwrap();
            }
        }
        let expected: Vec<_> = modes
            .map(|(name, _)| seen(&fixture.local(directory).join(name)))
            .into();
        assert_eq!(copied, expected, "in {directory}");
    }
}

#[test]
fn what_is_replaced_keeps_owner_group_mode_and_acl() {
    let fixture = StoreFixture::new();
    fixture.write("source", "new");
    for mode in [0o600, 0o644, 0o755, 0o060] {
        let name = format!("old-{mode:o}");
        fixture.write(&name, "old");
        let local = fixture.local(&name);
        other_group(&local);
        fs::set_permissions(&local, PermissionsExt::from_mode(mode)).unwrap();
        let before = seen(&local);
        for replaced in [given(0o666), GivenAttributes::default()] {
            fixture.put_with(&name, replaced).unwrap();
            assert_eq!(seen(&local), before, "{mode:o}");
        }
        fixture.copy(("source", &name), Preserve::Usual).unwrap();
        assert_eq!(seen(&local), before, "{mode:o}, by a copy");
        fixture.put_with(&name, exactly(0o612)).unwrap();
        let exact = seen(&local);
        assert_eq!(exact, (before.0, before.1, 0o612, None, None));
    }
    fixture.write("shared", "old");
    if set_list(&fixture.local("shared"), acl::ACCESS, &shared_list()) {
        let before = seen(&fixture.local("shared"));
        fixture.put_with("shared", given(0o644)).unwrap();
        assert_eq!(seen(&fixture.local("shared")), before);
        fixture.put_with("shared", exactly(0o644)).unwrap();
        assert_eq!(seen(&fixture.local("shared")).2, 0o644);
        assert_eq!(seen(&fixture.local("shared")).3, None, "bits alone count");
    }
}

#[test]
fn permissions_changed_after_the_upload_began_are_those_that_stay() {
    let fixture = StoreFixture::new();
    fixture.write("f", "old");
    let local = fixture.local("f");
    let set = |mode| fs::set_permissions(&local, PermissionsExt::from_mode(mode)).unwrap();
    set(0o644);
    let staged = fixture.staged_for("f", given(0o666));
    set(0o600);
    fixture
        .root
        .publish(staged, &path("f"), &ANY, Parents::MustExist)
        .unwrap();
    assert_eq!(seen(&local).2, 0o600);
    let staged = fixture.staged_for("g", given(0o666));
    fixture.write("g", "meanwhile");
    fs::set_permissions(fixture.local("g"), PermissionsExt::from_mode(0o604)).unwrap();
    fixture
        .root
        .publish(staged, &path("g"), &ANY, Parents::MustExist)
        .unwrap();
    assert_eq!(seen(&fixture.local("g")).2, 0o604);
}

#[test]
fn special_bits_are_neither_set_nor_kept_by_files() {
    let fixture = StoreFixture::new();
    fixture.put_with("new", exactly(0o6751)).unwrap();
    assert_eq!(seen(&fixture.local("new")).2, 0o751);
    fs::set_permissions(fixture.local("new"), PermissionsExt::from_mode(0o6755)).unwrap();
    fixture.put_with("new", given(0o600)).unwrap();
    assert_eq!(seen(&fixture.local("new")).2, 0o755);
}

#[test]
fn chmod_sets_bits_whatever_they_were_and_directories_go_on_giving_their_group() {
    let fixture = StoreFixture::new();
    fixture.write("d/f", "x");
    let chmod = |name: &str, mode| fixture.chmod(name, mode, &ANY);
    for mode in [0o555, 0o000, 0o333, 0o755] {
        for name in ["d/f", "d"] {
            let version = chmod(name, mode);
            // Permissions don't keep root from what is below the directory.
            if version.is_err() && name == "d/f" {
                continue;
            }
            version.unwrap();
            let local = fixture.local(name);
            assert_eq!(fs::symlink_metadata(&local).unwrap().mode() & 0o7777, mode);
        }
    }
    fs::set_permissions(fixture.local("d"), PermissionsExt::from_mode(0o2700)).unwrap();
    chmod("d", 0o7750).unwrap();
    assert_eq!(seen(&fixture.local("d")).2, 0o2750);
    let stale = Precondition::Match(fixture.version("d/f"));
    chmod("d/f", 0o600).unwrap();
    assert!(matches!(
        fixture.chmod("d/f", 0o644, &stale),
        Err(Error::Conflict)
    ));
    std::os::unix::fs::symlink("d/f", fixture.local("link")).unwrap();
    assert!(matches!(chmod("link", 0o644), Err(Error::SpecialFile)));
    assert!(matches!(chmod("", 0o755), Err(Error::RootItself)));
    assert!(matches!(chmod("nothing", 0o755), Err(Error::NotFound)));
    assert_eq!(seen(&fixture.local("d/f")).2, 0o600);
}

#[test]
fn nothing_is_inherited_from_the_root_by_what_goes_elsewhere() {
    let fixture = StoreFixture::new();
    fs::create_dir(fixture.local("d")).unwrap();
    fs::set_permissions(fixture.local(""), PermissionsExt::from_mode(0o2775)).unwrap();
    let has_lists = set_list(&fixture.local(""), acl::DEFAULT, &shared_list());
    fs::write(fixture.local("d/by-open"), "").unwrap();
    fixture
        .put_with("d/put", GivenAttributes::default())
        .unwrap();
    assert_eq!(
        seen(&fixture.local("d/put")),
        seen(&fixture.local("d/by-open"))
    );
    // In the root itself it counts.
    fs::write(fixture.local("by-open"), "").unwrap();
    fixture.put_with("put", GivenAttributes::default()).unwrap();
    assert_eq!(seen(&fixture.local("put")), seen(&fixture.local("by-open")));
    assert_eq!(seen(&fixture.local("put")).3.is_some(), has_lists);
}

#[test]
fn a_missing_directory_hands_down_what_it_will_inherit() {
    let fixture = StoreFixture::new();
    for directory in directories(&fixture) {
        let name = format!("{directory}/x/y/f");
        let staged = fixture.staged_for(&name, given(0o666));
        let parents = Parents::MadeBelow(0);
        let at = path(&name);
        fixture.root.publish(staged, &at, &ANY, parents).unwrap();
        fs::write(fixture.local(&format!("{directory}/x/y/by-open")), "").unwrap();
        let expected = seen(&fixture.local(&format!("{directory}/x/y/by-open")));
        assert_eq!(seen(&fixture.local(&name)), expected, "in {directory}");
    }
}

#[test]
fn the_attributes_of_a_directory_that_was_there_are_narrowed_only_on_request() {
    let fixture = StoreFixture::new();
    fs::create_dir(fixture.local("d")).unwrap();
    fs::set_permissions(fixture.local("d"), PermissionsExt::from_mode(0o2770)).unwrap();
    fixture.set_attributes("d", given(0o755), false).unwrap();
    assert_eq!(seen(&fixture.local("d")).2, 0o2770);
    fixture.set_attributes("d", exactly(0o755), false).unwrap();
    assert_eq!(seen(&fixture.local("d")).2, 0o2755);
}
