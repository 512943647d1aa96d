//! Transfers of which either side is killed again and again, at random points: each goes on, and little
//! is sent twice.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use quire_test_harness::content::Random;
use quire_test_harness::programs::Programs;
use quire_test_harness::relay::{NetworkPath, Relay};
use quire_test_harness::{KIB, Tree, assert_same, content};

use super::reconnect::bytes_in;

/// How a transfer is disturbed.
#[derive(Debug, Clone, Copy)]
struct Kills {
    /// Bytes of the one large file.
    size: usize,
    /// How often the client or the server is killed.
    count: usize,
    /// The most that is moved from one kill to the next, in bytes.
    step: usize,
    /// Bytes per second of the path.
    rate: u64,
}

/// For every run of the suite.
const FEW: Kills = Kills {
    size: 32 * MIB,
    count: 6,
    step: 8 * MIB,
    rate: 32_000_000,
};

/// Fifty in a gibibyte.
const MANY: Kills = Kills {
    size: 1024 * MIB,
    count: 50,
    step: 40 * MIB,
    rate: 100_000_000,
};

/// What a kill may cost, in bytes: what was on its way, and a beginning too short to be kept. With fifty
/// kills in a gibibyte that is less than a fifth; to begin anew each time would cost far more.
const LOST_MAX: u64 = 3 * 512 * 1024;

/// A mebibyte.
const MIB: usize = KIB * KIB;

/// The large file and some small ones, by name.
fn files(kills: Kills) -> Vec<(String, Vec<u8>)> {
    let small = (0..50).map(|number| (format!("s/{number}"), content(number, 20 * KIB)));
    let large = [("large".to_owned(), content(1000, kills.size))];
    small.chain(large).collect()
}

fn write(directory: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Runs the client with these arguments, in which HOST stands for the server, until it has succeeded.
/// Until then one side is killed each time that `watched` has some bytes more.
async fn transfer(
    programs: &Programs,
    root: &Path,
    watched: PathBuf,
    arguments: &[&str],
    kills: Kills,
) {
    let mut random = Random::new(7);
    let mut server = programs.serve(root);
    let port = server.port();
    let path = NetworkPath {
        rate: Some(kills.rate),
        ..NetworkPath::GOOD
    };
    let relay = Relay::start(SocketAddr::from(([127, 0, 0, 1], port)), path, 1).await;
    let host = format!("127.0.0.1:{}", relay.address().port());
    let arguments: Vec<_> = arguments
        .iter()
        .map(|argument| argument.replace("HOST", &host))
        .collect();
    let mut arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    arguments.extend(["--timeout", "0"]);
    let mut killed = 0;
    while killed < kills.count {
        let until = bytes_in(&watched) + random.below(kills.step) as u64;
        let mut client = programs.begin(&arguments);
        let mut ended = None;
        while ended.is_none() && bytes_in(&watched) < until {
            tokio::task::yield_now().await;
            ended = client.try_wait().unwrap();
        }
        if ended.is_some_and(|status| status.success()) {
            break;
        }
        if random.below(2) == 0 {
            // Killed, not stopped.
            drop(server);
            server = programs.serve_at(port, root);
        }
        client.kill().unwrap();
        client.wait().unwrap();
        killed += 1;
    }
    let mut last = programs.command(&arguments);
    let output = tokio::task::spawn_blocking(move || last.output().unwrap());
    let output = output.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(killed > kills.count / 2, "it was over after {killed} kills");
    let sent: u64 = relay.come().iter().sum();
    let most = kills.size as u64 / 10 * 11 + killed as u64 * LOST_MAX;
    assert!(sent <= most, "{sent} bytes were sent, with {killed} kills");
    drop(server);
}

async fn puts(kills: Kills) {
    let Some(programs) = Programs::find() else {
        return;
    };
    let (tree, files) = (Tree::new(), files(kills));
    let here = programs.state.path().join("here");
    write(&here, &files);
    let large = here.join("large");
    let put = [
        "put",
        "--skip-existing",
        large.to_str().unwrap(),
        "HOST/large",
    ];
    transfer(&programs, &tree.root(), tree.root(), &put, kills).await;
    assert_same(tree.read("large"), content(1000, kills.size));
}

async fn gets(kills: Kills) {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("large", content(1000, kills.size));
    let here = programs.state.path().join("here");
    fs::create_dir(&here).unwrap();
    let target = here.join("large");
    let get = [
        "get",
        "--skip-existing",
        "HOST/large",
        target.to_str().unwrap(),
    ];
    transfer(&programs, &tree.root(), here, &get, kills).await;
    assert_same(fs::read(target).unwrap(), content(1000, kills.size));
}

async fn syncs(kills: Kills) {
    let Some(programs) = Programs::find() else {
        return;
    };
    let (tree, files) = (Tree::new(), files(kills));
    let here = programs.state.path().join("here");
    let back = programs.state.path().join("back");
    write(&here, &files);
    let up = ["sync", here.to_str().unwrap(), "HOST/t"];
    transfer(&programs, &tree.root(), tree.root(), &up, kills).await;
    let down = ["sync", "HOST/t", back.to_str().unwrap()];
    transfer(&programs, &tree.root(), back.clone(), &down, kills).await;
    for (name, bytes) in files {
        assert_same(tree.read(&format!("t/{name}")), &bytes);
        assert_same(fs::read(back.join(name)).unwrap(), &bytes);
    }
}

#[tokio::test]
async fn a_put_goes_on_after_each_kill() {
    puts(FEW).await;
}

#[tokio::test]
async fn a_get_goes_on_after_each_kill() {
    gets(FEW).await;
}

#[tokio::test]
async fn a_sync_goes_on_after_each_kill_in_both_directions() {
    syncs(FEW).await;
}

#[tokio::test]
#[ignore = "minutes"]
async fn a_gibibyte_goes_on_after_fifty_kills() {
    puts(MANY).await;
    gets(MANY).await;
    syncs(MANY).await;
}
