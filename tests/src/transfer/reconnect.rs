//! Transfers whose server is killed and started again while they run.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use quire_test_harness::programs::{Programs, ServerProcess};
use quire_test_harness::relay::{NetworkPath, Relay};
use quire_test_harness::tree::names;
use quire_test_harness::{KIB, Tree, assert_same, content, within};

/// A path that takes a second for the content of [`files`].
const PATH: NetworkPath = NetworkPath {
    rate: Some(16_000_000),
    ..NetworkPath::GOOD
};

/// A large file and many small ones, by name.
fn files() -> Vec<(String, Vec<u8>)> {
    let small = (0..200).map(|number| (format!("t/s/{number}"), content(number, 20 * KIB)));
    let large = [("t/large".to_owned(), content(1000, 12 * 1024 * KIB))];
    small.chain(large).collect()
}

/// What a transfer has moved when the server is killed.
const KILLED_AFTER: u64 = 4 * 1024 * 1024;

/// Bytes in a directory, hidden files and those below included.
pub(super) fn bytes_in(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let entries = entries.filter_map(Result::ok);
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// Runs the client with these arguments, where HOST stands for the server, which is killed and started
/// again when `watched` has so many bytes more.
async fn killed_server(
    programs: &Programs,
    tree: &Tree,
    watched: PathBuf,
    arguments: &[&str],
) -> Output {
    let server = programs.serve(&tree.root());
    let port = server.port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let relay = Relay::start(address, PATH, 1).await;
    let host = format!("127.0.0.1:{}", relay.address().port());
    let arguments: Vec<_> = arguments
        .iter()
        .map(|argument| argument.replace("HOST", &host))
        .collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let before = bytes_in(&watched);
    let mut client = programs.command(&arguments);
    client.stdout(Stdio::piped()).stderr(Stdio::piped());
    let client = client.spawn().unwrap();
    let has_moved = async {
        while bytes_in(&watched) < before + KILLED_AFTER {
            tokio::task::yield_now().await;
        }
    };
    within("some bytes", has_moved).await;
    // Killed, not stopped.
    drop(server);
    let again: ServerProcess = programs.serve_at(port, &tree.root());
    let ended = tokio::task::spawn_blocking(|| client.wait_with_output().unwrap());
    let output = within("the end of the transfer", ended).await.unwrap();
    drop(again);
    output
}

fn assert_went_on(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("trying again"), "{said}");
    assert!(said.contains("connected again"), "{said}");
    assert!(!said.contains("exists"), "{said}");
}

#[tokio::test]
async fn a_get_of_a_tree_goes_on_with_a_server_that_was_killed() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let mut tree = Tree::new();
    for (name, bytes) in files() {
        tree = tree.file(&name, bytes);
    }
    let local = programs.state.path().join("here");
    fs::create_dir(&local).unwrap();
    let to = local.join("t");
    let get = ["get", "-r", "HOST/t", to.to_str().unwrap()];
    let output = killed_server(&programs, &tree, local.clone(), &get).await;
    assert_went_on(&output);
    for (name, bytes) in files() {
        assert_same(fs::read(local.join(&name)).unwrap(), &bytes);
    }
    assert_eq!(names(&to), ["large", "s"]);
}

#[tokio::test]
async fn a_put_of_a_tree_goes_on_with_a_server_that_was_killed() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new();
    let local = programs.state.path().join("here");
    for (name, bytes) in files() {
        let path = local.join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let from = local.join("t");
    let put = ["put", "-r", from.to_str().unwrap(), "HOST/t"];
    let output = killed_server(&programs, &tree, tree.root(), &put).await;
    assert_went_on(&output);
    for (name, bytes) in files() {
        assert_same(tree.read(&name), &bytes);
    }
}

#[tokio::test]
async fn a_sync_goes_on_with_a_server_that_was_killed_in_both_directions() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let mut tree = Tree::new();
    let here = programs.state.path().join("here");
    for (name, bytes) in files() {
        let path = here.join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &bytes).unwrap();
        tree = tree.file(&format!("down/{name}"), bytes);
    }
    let to = programs.state.path().join("to");
    let (here, to) = (here.to_str().unwrap(), to.to_str().unwrap());
    let up = ["sync", here, "HOST/up", "--delete"];
    assert_went_on(&killed_server(&programs, &tree, tree.root(), &up).await);
    let down = ["sync", "HOST/down", to, "--delete"];
    assert_went_on(&killed_server(&programs, &tree, to.into(), &down).await);
    for (name, bytes) in files() {
        assert_same(tree.read(&format!("up/{name}")), &bytes);
        assert_same(fs::read(Path::new(to).join(&name)).unwrap(), &bytes);
    }
}

#[tokio::test]
async fn a_file_goes_on_where_it_was_in_the_same_command() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let bytes = content(1, 16 * 1024 * KIB);
    let tree = Tree::new().file("f", &bytes);
    let local = programs.state.path().join("here");
    fs::create_dir(&local).unwrap();
    let to = local.join("f");
    let get = ["get", "HOST/f", to.to_str().unwrap()];
    let output = killed_server(&programs, &tree, local.clone(), &get).await;
    assert_went_on(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("went on after"), "{said}");
    assert_same(fs::read(&to).unwrap(), &bytes);
    assert_eq!(names(&local), ["f"]);
}

#[tokio::test]
async fn without_time_for_that_the_loss_is_an_error() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("f", content(1, 16 * 1024 * KIB));
    let local = programs.state.path().join("here");
    fs::create_dir(&local).unwrap();
    let to = local.join("f");
    let get = ["get", "--timeout", "0", "HOST/f", to.to_str().unwrap()];
    let output = killed_server(&programs, &tree, local, &get).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(!said.contains("again"), "{said}");
    assert!(!to.exists());
}
