//! What becomes of files that exist at the target: `--skip-existing` and `--update`.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use quire_test_harness::Tree;
use quire_test_harness::programs::Programs;

/// Modification times, in seconds since 1970.
const OLD: u64 = 1_000_000_000;
const NEW: u64 = 1_100_000_000;

/// NamedFiles of a tree and of its target: name, content and time of each.
type NamedFiles = [(&'static str, &'static str, u64)];

const SOURCE: &NamedFiles = &[
    ("missing", "source", OLD),
    ("same", "source", OLD),
    ("older", "source", NEW),
    ("newer", "source", OLD),
    ("d/other-size", "source and more", OLD),
];

const TARGET: &NamedFiles = &[
    ("same", "target", OLD),
    ("older", "target", OLD),
    ("newer", "target", NEW),
    ("d/other-size", "target", OLD),
];

fn make(root: &Path, files: &NamedFiles) {
    for (name, content, time) in files {
        make_one(&root.join(name), content, *time);
    }
}

fn make_one(path: &Path, content: &str, time: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
    file.set_modified(time).unwrap();
}

/// The names of the files in `root` that came from the source.
fn came(root: &Path) -> Vec<&'static str> {
    let names = SOURCE.iter().map(|(name, ..)| *name);
    names
        .filter(|name| {
            let content = fs::read_to_string(root.join(name)).unwrap();
            content.starts_with("source")
        })
        .collect()
}

#[test]
fn what_exists_is_left_or_replaced_as_the_flags_say() {
    let Some(programs) = Programs::find() else {
        return;
    };
    for (flag, expected) in [
        ("--skip-existing", &["missing"][..]),
        ("--update", &["missing", "older", "d/other-size"]),
    ] {
        let tree = Tree::new();
        let root = tree.root();
        make(&root.join("there"), SOURCE);
        make(&root.join("target"), TARGET);
        let server = programs.serve(&root);
        let local = programs.state.path().join(format!("local{flag}"));
        make(&local.join("t"), TARGET);
        make(&local.join("source"), SOURCE);
        let at = |path: &str| format!("{}/{path}", server.host());
        let here = |path: &str| local.join(path).to_str().unwrap().to_owned();

        programs.expect(0, &["get", "-r", flag, &at("there/."), &here("t")]);
        assert_eq!(came(&local.join("t")), expected, "get -r {flag}");
        let put = ["put", "-r", flag, &here("source/."), &at("target")];
        programs.expect(0, &put);
        assert_eq!(came(&root.join("target")), expected, "put -r {flag}");

        // One by one as well.
        for directory in [local.join("one"), root.join("one")] {
            fs::create_dir_all(directory).unwrap();
        }
        for (name, ..) in SOURCE {
            let one = Path::new(name).file_name().unwrap().to_str().unwrap();
            let single = here(&format!("one/{one}"));
            let target = root.join("one").join(one);
            if let Some((_, content, time)) = TARGET.iter().find(|(other, ..)| other == name) {
                make_one(Path::new(&single), content, *time);
                make_one(&target, content, *time);
            }
            programs.expect(0, &["get", flag, &at(&format!("there/{name}")), &single]);
            let got = fs::read_to_string(&single).unwrap().starts_with("source");
            assert_eq!(got, expected.contains(name), "get {flag} {name}");
            let source = here(&format!("source/{name}"));
            programs.expect(0, &["put", flag, &source, &at(&format!("one/{one}"))]);
            let stored = fs::read_to_string(target).unwrap().starts_with("source");
            assert_eq!(stored, expected.contains(name), "put {flag} {name}");
        }
    }
    programs.expect(2, &["put", "--update", "--force", "f", "localhost/f"]);
    programs.expect(
        2,
        &["get", "--update", "--skip-existing", "localhost/f", "f"],
    );
}
