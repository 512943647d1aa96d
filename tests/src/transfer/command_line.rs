//! Both programs together, run from the command line.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use quire_client::upload::UploadBody;
use rustix::process::Signal;

use quire_test_harness::client::{fetch, put, store, store_as};
use quire_test_harness::programs::Programs;
use quire_test_harness::server::STAGING;
use quire_test_harness::tree::{HOSTILE_NAMES, names, scratch};
use quire_test_harness::{LARGE, SIZES, Tree, assert_same, content, within};

#[tokio::test]
async fn the_first_lines_of_the_readme_work_as_typed() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let readme = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .join("README.md"),
    );
    let (readme, tree, here) = (readme.unwrap(), Tree::new(), scratch());
    let server = programs.serve(&tree.root());
    std::fs::write(programs.state.path().join("README.md"), &readme).unwrap();
    let (host, tmp) = (server.host(), here.path().to_str().unwrap());
    let block = readme
        .split("```sh\n")
        .nth(2)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let lines: Vec<_> = block
        .lines()
        .filter(|line| line.starts_with("quire "))
        .collect();
    assert!(lines.len() >= 6, "{lines:?}");
    for line in lines {
        // The server of this test has a port and a directory of its own.
        let line = line.replace("localhost", &host).replace("/tmp", tmp);
        let words: Vec<_> = line.split(' ').skip(1).collect();
        let stdout = programs.expect(0, &words);
        match words[0] {
            "put" => assert_same(tree.read("hello.md"), &readme),
            "list" => assert!(stdout.contains("hello.md"), "{stdout}"),
            "get" => assert_same(
                std::fs::read(here.path().join("hello.md")).unwrap(),
                &readme,
            ),
            "rename" => assert!(tree.has("goodbye.md") && !tree.has("hello.md")),
            "delete" => assert!(!tree.has("goodbye.md")),
            _ => {}
        }
    }
    server.signal(Signal::TERM);
    assert_eq!(server.end().await.0, Some(0));
    // What clients may ask for again outlives the server.
    assert_eq!(names(&tree.root()), [STAGING]);
    assert_eq!(tree.names(STAGING), ["changes"]);
}

#[tokio::test]
async fn a_tree_stored_and_fetched_again_is_the_same() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let source = Tree::new().directory("empty/in/empty");
    for (seed, name) in HOSTILE_NAMES.iter().enumerate() {
        let size = SIZES[seed % SIZES.len()];
        source.write(&format!("names/{name}/{name}"), content(seed as u64, size));
    }
    for file in 0..300_usize {
        source.write(
            &format!("many/{}/{file}", file % 7),
            content(file as u64, file * 37),
        );
    }
    let source = source.mode("many/1/1", 0o600).mode("many/2/2", 0o755);
    let (tree, back) = (Tree::new(), scratch());
    let server = programs.serve(&tree.root());
    let remote = format!("{}/copy", server.host());
    programs.expect(0, &["put", "-r", source.root().to_str().unwrap(), &remote]);
    let back = back.path().join("back");
    programs.expect(0, &["get", "-r", &remote, back.to_str().unwrap()]);
    let stored = described(&source.root());
    assert!(stored.len() > 300);
    let copy = if tree.has("copy/root") {
        "copy/root"
    } else {
        "copy"
    };
    assert_eq!(described(&tree.path(copy)), stored);
    assert_eq!(described(&back), stored);
    server.signal(Signal::INT);
    assert_eq!(server.end().await.0, Some(0));
}

/// Everything below `root`: path, mode, and the digest of a file's content.
fn described(root: &Path) -> Vec<(String, u32, Option<String>)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let below = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if metadata.is_dir() {
                waiting.push(path);
                found.push((below, 0, None));
            } else {
                let mut hasher = quire_shared::digest::DigestKind::Xxh3.hasher();
                hasher.update(&std::fs::read(&path).unwrap());
                let digest = hasher.finish().to_string();
                found.push((below, metadata.mode() & 0o777, Some(digest)));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn each_failure_has_its_exit_status() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("f", "content").directory("d");
    let server = programs.serve(&tree.root());
    let at = |name: &str| format!("{}/{name}", server.host());
    let here = programs.state.path().join("here");
    std::fs::write(&here, "mine").unwrap();
    let here = here.to_str().unwrap();
    for (status, arguments) in [
        (0, &["stat", &at("f")][..]),
        (1, &["cat", &at("d")]),
        (2, &["no-such-command-or-host/x", "y", "z"]),
        (3, &["stat", &at("missing")]),
        (3, &["get", &at("missing"), "-"]),
        (4, &["get", &at("f"), here]),
        (4, &["put", here, &at("f")]),
        (0, &["get", "--force", &at("f"), here]),
        (0, &["put", "--force", here, &at("f")]),
        (
            0,
            &["put", "--force", "--congestion", "cubic", here, &at("f")],
        ),
        (
            0,
            &["get", "--force", "--congestion", "bbr", &at("f"), here],
        ),
        (1, &["delete", &at("d")]),
        (0, &["delete", "-r", &at("d")]),
    ] {
        programs.expect(status, arguments);
    }
    let json = programs.expect(0, &["list", "--json", &server.host()]);
    assert_eq!(json.lines().count(), 1);
    assert!(json.starts_with('{') && json.contains("\"f\""), "{json}");
    let host = server.host();
    server.signal(Signal::TERM);
    assert_eq!(server.end().await.0, Some(0));
    programs.expect(6, &["ping", &host]);
}

#[tokio::test]
async fn with_v_a_transfer_says_in_one_line_what_limited_it() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new();
    let server = programs.serve(&tree.root());
    let remote = format!("{}/f", server.host());
    let local = programs.state.path().join("local");
    std::fs::write(&local, content(1, SIZES[9])).unwrap();
    let local = local.to_str().unwrap();
    for command in [["put", local, &remote], ["get", &remote, "got"]] {
        let said = |more: &[&str]| {
            let output = programs.quire(&[&command[..], more].concat());
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        let quiet = said(&["--force"]);
        assert!(!quiet.contains("limited by"), "{quiet}");
        let text = said(&["--force", "-v"]);
        let lines: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("limited by "))
            .collect();
        let [line] = lines[..] else { panic!("{text}") };
        assert!(line.starts_with("the "), "{line}");
        for figure in [
            " % for the disk, ",
            " % for the other side; processor ",
            " of a core; round trip ",
            " ms; ",
        ] {
            assert!(line.contains(figure), "{line}");
        }
    }
}

// P24
#[tokio::test]
async fn a_server_killed_in_the_middle_of_a_put_leaves_no_torn_file() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("f", "old");
    for _ in 0..3 {
        let server = programs.serve(&tree.root());
        let client = programs.client(&server).await;
        let moved = AtomicU64::new(0);
        let endless = UploadBody::stream(std::io::repeat(b'x'), "endless");
        let request = quire_shared::protocol::Put {
            size: None,
            ..put("f", 0)
        };
        let putting = client.put(request, endless, &moved);
        let half = async {
            while moved.load(std::sync::atomic::Ordering::Relaxed) < 20 << 20 {
                client.ping().await.unwrap();
            }
        };
        tokio::select! {
            result = putting => panic!("it ended: {result:?}"),
            () = async {
                within("a part of the body", half).await;
                server.signal(Signal::KILL);
            } => {}
        }
        assert_eq!(server.end().await.0, None);
        assert_same(tree.read("f"), "old");
        assert_eq!(
            tree.names(STAGING).len(),
            1,
            "it was not killed in the middle"
        );
        let server = programs.serve(&tree.root());
        assert_eq!(tree.names(""), ["f"]);
        let client = programs.client(&server).await;
        store(&client, "f", b"old").await.unwrap();
        client.close().await;
        server.signal(Signal::TERM);
        assert_eq!(server.end().await.0, Some(0));
        assert_eq!(tree.names(""), ["f"]);
    }
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_finishes_a_download_first() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let bytes = content(1, LARGE);
    let tree = Tree::new().file("f", &bytes);
    let server = programs.serve(&tree.root());
    let client = programs.client(&server).await;
    let download = client
        .get(quire_test_harness::client::get("f"))
        .await
        .unwrap();
    server.signal(Signal::TERM);
    let (got, _) = quire_test_harness::client::receive(download).await.unwrap();
    assert_same(got, &bytes);
    let (status, log) = server.end().await;
    assert_eq!(status, Some(0), "{log}");
    fetch(&client, "f").await.unwrap_err();
    client.close().await;
}

// P17
#[tokio::test]
async fn a_put_is_answered_when_content_names_and_new_directories_are_synced() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new();
    let trace = programs.state.path().join("trace");
    let Some(server) = programs.serve_traced(&tree.root(), &trace) else {
        return;
    };
    let client = programs.client(&server).await;
    let request = quire_shared::protocol::Put {
        make_parents: true,
        ..put("d/e/f", 3)
    };
    store_as(&client, request, b"abc").await.unwrap();
    // At once: a call missing from the trace had not been made before the answer.
    server.signal(Signal::KILL);
    server.end().await;
    let trace = std::fs::read_to_string(trace).unwrap();
    // A call may take two lines, of which the second has its result.
    let calls: Vec<_> = trace
        .lines()
        .filter(|line| line.ends_with("= 0"))
        .filter_map(|line| {
            ["sync", "renameat2"]
                .into_iter()
                .find(|name| line.contains(name))
        })
        .collect();
    // The first renames are those of the server's own keys.
    let of_the_put = calls.iter().rposition(|call| *call == "renameat2");
    let of_the_put = of_the_put.unwrap_or_else(|| panic!("nothing was renamed:\n{trace}"));
    let (before, after) = calls.split_at(of_the_put);
    let earlier = before.iter().rev().take_while(|call| **call == "sync");
    assert_eq!(
        earlier.count(),
        2,
        "the directory of the keys, then the content:\n{trace}"
    );
    let syncs = after.iter().filter(|call| **call == "sync").count();
    assert_eq!(
        syncs, 3,
        "its directory, and what each new directory is in:\n{trace}"
    );
    assert_same(tree.read("d/e/f"), "abc");
    drop(client);
}
