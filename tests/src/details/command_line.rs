//! The flags of the program, against a server in its sandbox.

use std::fs;

use quire_test_harness::Tree;
use quire_test_harness::programs::Programs;

use super::{expected, has_xattrs, set_xattr, xattrs_of};

#[test]
fn the_program_keeps_what_its_flags_say() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new();
    if !has_xattrs(&tree.root()) {
        return;
    }
    let server = programs.serve(&tree.root());
    let at = |path: &str| format!("{}/{path}", server.host());
    let here = programs.state.path();
    fs::create_dir(here.join("up")).unwrap();
    fs::write(here.join("up/f"), "content").unwrap();
    set_xattr(&here.join("up/f"), "user.a", b"1");
    let given = expected(&[("user.a", b"1")]);
    programs.expect(0, &["put", "-r", "--xattrs", "up", &at("")]);
    assert_eq!(xattrs_of(&tree.path("up/f")), given);
    programs.expect(0, &["get", "-r", "--xattrs", &at("up"), "down"]);
    assert_eq!(xattrs_of(&here.join("down/f")), given);
    programs.expect(0, &["get", &at("up/f"), "plain"]);
    assert_eq!(xattrs_of(&here.join("plain")), expected(&[]));
    programs.expect(0, &["copy", "-r", "--xattrs", &at("up"), &at("copied")]);
    assert_eq!(xattrs_of(&tree.path("copied/f")), given);
    set_xattr(&here.join("up/f"), "user.a", b"2");
    let sync = || programs.expect(0, &["sync", "--xattrs", "--json", "up", &at("up")]);
    let step = r#""action":"details""#;
    assert!(sync().contains(step));
    assert!(!sync().contains(r#""event":"step""#));
    assert_eq!(xattrs_of(&tree.path("up/f")), expected(&[("user.a", b"2")]));
    // `write` doesn't include to set owners.
    for flag in ["--owner", "--group"] {
        programs.expect(5, &["put", flag, "up/f", &at("owned")]);
        assert!(!tree.has("owned"));
    }
}
