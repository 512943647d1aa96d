//! Files on disk: names, attributes, and what is refused.

use quire_shared::path::RESERVED_PREFIX;

use super::*;

const MODIFIED: Time = Time {
    seconds: 1_000_000_000,
    nanoseconds: 500,
};

const OVERWRITE: SaveOptions = SaveOptions {
    overwrite: true,
    sync: true,
    preserve: Preserve::Usual,
    keep: Keep::NOTHING,
};

fn create(target: &Path, options: SaveOptions, mode: u32) -> Result<Unfinished, ClientError> {
    SaveTarget::open(target, options, Links::Follow)?.create(mode, SaveStart::Nothing(None))
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_whole_file_has_its_name_time_and_mode() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    let mut file = create(&target, SaveOptions::default(), 0o4750).unwrap();
    file.write_all(b"abc").unwrap();
    assert!(!target.exists());
    file.publish(MODIFIED, None).unwrap();
    assert_eq!(names(directory.path()), ["f"]);
    assert_eq!(fs::read(&target).unwrap(), b"abc");
    let metadata = fs::metadata(&target).unwrap();
    let since = metadata
        .modified()
        .unwrap()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert_eq!(since.as_secs(), 1_000_000_000);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = metadata.permissions().mode() & 0o7777;
        assert_eq!(mode & !0o750, 0, "{mode:o}: no more than the server said");
        assert_eq!(mode & 0o700, 0o700, "{mode:o}");
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_is_replaced_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    for mode in [0o600, 0o644, 0o666, 0o440] {
        fs::write(&target, "old").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
        let mut file = create(&target, OVERWRITE, 0o755).unwrap();
        file.write_all(b"new").unwrap();
        file.publish(MODIFIED, None).unwrap();
        let metadata = fs::metadata(&target).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{mode:o}");
        assert_eq!(fs::read(&target).unwrap(), b"new");
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    let mut file = create(&target, SaveOptions::default(), 0o644).unwrap();
    file.write_all(b"abc").unwrap();
    let [name] = names(directory.path()).try_into().unwrap();
    assert!(name.starts_with(RESERVED_PREFIX));
    drop(file);
    assert!(names(directory.path()).is_empty());
}

#[test]
fn a_file_that_appears_meanwhile_is_replaced_only_with_overwrite() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    let file = create(&target, SaveOptions::default(), 0o644).unwrap();
    fs::write(&target, "theirs").unwrap();
    let error = file.publish(MODIFIED, None).unwrap_err();
    assert!(matches!(error, ClientError::LocalExists(_)), "{error}");
    let error = create(&target, SaveOptions::default(), 0o644).unwrap_err();
    assert!(matches!(error, ClientError::LocalExists(_)), "{error}");
    assert_eq!(fs::read(&target).unwrap(), b"theirs");
    assert_eq!(names(directory.path()), ["f"]);
    let file = create(&target, OVERWRITE, 0o644).unwrap();
    file.publish(MODIFIED, None).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"");
}

#[test]
fn a_directory_as_target_and_a_missing_parent_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    let error = create(directory.path(), OVERWRITE, 0o644).unwrap_err();
    assert!(error.to_string().ends_with("is a directory"), "{error}");
    let missing = directory.path().join("missing/f");
    let error = create(&missing, OVERWRITE, 0o644).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("missing/f") && !text.contains(RESERVED_PREFIX),
        "{text}"
    );
}
