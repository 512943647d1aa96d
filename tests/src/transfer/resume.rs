//! Downloads that are interrupted and go on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cut_gets::{Cut, answer, breaks_off};
use quire_client::Client;
use quire_client::download::{Fetched, PartUse};
use quire_shared::ErrorCode;
use quire_test_harness::client::path;
use quire_test_harness::programs::Programs;
use quire_test_harness::relay::{NetworkPath, Relay};
use quire_test_harness::tree::{names, scratch};
use quire_test_harness::{TestServer, Tree, assert_same, content, within};

pub(super) const MIB: usize = 1024 * 1024;

/// The size of the file.
pub(super) const SIZE: usize = 24 * MIB;

/// What has come when a download is interrupted.
const INTERRUPTED: u64 = 4 * MIB as u64;

/// A path that takes a second for the file.
pub(super) const PATH: NetworkPath = NetworkPath {
    rate: Some(24_000_000),
    delay: Duration::from_millis(1),
    ..NetworkPath::GOOD
};

/// A server with a file `f`, and a directory in which a download of it was interrupted.
struct Interrupted {
    server: TestServer,
    client: Client,
    tree: Tree,
    local: tempfile::TempDir,
}

impl Interrupted {
    async fn new() -> Self {
        let tree = Tree::new().file("f", content(1, SIZE));
        let server = TestServer::start(&tree).await;
        let client = server.client().await;
        let interrupted = Self {
            server,
            client,
            tree,
            local: scratch(),
        };
        interrupted.interrupt(INTERRUPTED).await;
        interrupted
    }

    /// Interrupts a download when so many bytes are there.
    async fn interrupt(&self, bytes: u64) {
        interrupt_get(&self.server, &self.target(), bytes).await;
        self.settle().await;
    }

    /// Lets the journal say that the system has been started again since, and adds `lines` to it.
    fn start_again(&self, lines: &str) {
        let journal = self.journal();
        let text = fs::read_to_string(&journal).unwrap();
        let text = text.replace("boot ", "boot 0");
        fs::write(&journal, format!("{text}{lines}")).unwrap();
    }

    /// Waits until the thread that wrote has ended.
    async fn settle(&self) {
        is_written(&self.part()).await;
    }

    fn target(&self) -> PathBuf {
        self.local.path().join("f")
    }

    /// The file with this ending, or with none.
    fn left(&self, is_journal: bool) -> PathBuf {
        let names = names(self.local.path());
        let mut left = names
            .iter()
            .filter(|name| name.ends_with(".journal") == is_journal);
        self.local
            .path()
            .join(left.next().expect("something is left"))
    }

    fn part(&self) -> PathBuf {
        self.left(false)
    }

    fn journal(&self) -> PathBuf {
        self.left(true)
    }

    /// Downloads again; the content must be right, and nothing else be left.
    async fn again(&self) -> Fetched {
        let fetched = self.client.download(path("f")).to_file(self.target()).await;
        let fetched = fetched.unwrap();
        assert_same(fs::read(self.target()).unwrap(), self.tree.read("f"));
        assert_eq!(names(self.local.path()), ["f"]);
        assert_eq!(fetched.bytes, self.tree.read("f").len() as u64);
        fetched
    }

    async fn end(self) {
        self.client.close().await;
        self.server.stop().await;
    }
}

/// Waits until nobody writes the file `part` of a download.
pub(super) async fn is_written(part: &Path) {
    let part = fs::File::open(part).unwrap();
    let is_free = async {
        while part.try_lock().is_err() {
            tokio::task::yield_now().await;
        }
    };
    within("the end of the last write", is_free).await;
}

/// Interrupts a download of the file `f` when so many bytes are there.
pub(super) async fn interrupt_get(server: &TestServer, target: &Path, bytes: u64) {
    let relay = Relay::start(server.address(), PATH, 1).await;
    let connector = server.connector(relay.address(), &server.keys().writer);
    let client = connector.connect().await.unwrap();
    let moved = AtomicU64::new(0);
    let download = client.download(path("f")).progress(&moved);
    let until = async {
        while moved.load(Ordering::Relaxed) < bytes {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        fetched = download.to_file(target) => panic!("it was not interrupted: {fetched:?}"),
        () = within("some bytes", until) => {}
    }
    client.close().await;
}

#[tokio::test]
async fn a_get_goes_on_where_it_was_interrupted() {
    let interrupted = Interrupted::new().await;
    let there = fs::metadata(interrupted.part()).unwrap().len();
    assert!(there >= INTERRUPTED / 2, "{there}");
    let fetched = interrupted.again().await;
    assert_eq!(fetched.part, PartUse::Continued(there));
    interrupted.end().await;
}

#[tokio::test]
async fn a_get_that_had_all_but_its_end_goes_on() {
    let interrupted = Interrupted::new().await;
    fs::write(interrupted.part(), interrupted.tree.read("f")).unwrap();
    let fetched = interrupted.again().await;
    assert_eq!(fetched.part, PartUse::Continued(SIZE as u64));
    interrupted.end().await;
}

#[tokio::test]
async fn after_a_change_on_the_server_a_get_begins_anew() {
    let interrupted = Interrupted::new().await;
    fs::write(interrupted.tree.path("f"), content(2, SIZE)).unwrap();
    let fetched = interrupted.again().await;
    assert_eq!(fetched.part, PartUse::Discarded);
    interrupted.end().await;
}

#[tokio::test]
async fn a_part_that_was_damaged_is_found_out_by_the_digest_of_the_whole() {
    let interrupted = Interrupted::new().await;
    let mut part = fs::read(interrupted.part()).unwrap();
    part[1_000_000] ^= 1;
    fs::write(interrupted.part(), part).unwrap();
    let fetched = interrupted.again().await;
    assert_eq!(fetched.part, PartUse::Discarded);
    interrupted.end().await;
}

#[tokio::test]
async fn a_part_is_used_only_with_a_journal_that_belongs_to_it() {
    type Damage = fn(&Path, &str);
    let damages: [(&str, Damage); 6] = [
        ("it is missing", |journal, _| {
            fs::remove_file(journal).unwrap();
        }),
        ("it is empty", |journal, _| fs::write(journal, "").unwrap()),
        ("it is cut off", |journal, text| {
            fs::write(journal, &text[..text.len() / 2]).unwrap();
        }),
        ("it is of another file", |journal, text| {
            fs::write(journal, text.replace("f\"", "g\"")).unwrap();
        }),
        ("it is a link", |journal, text| {
            let other = journal.with_extension("other");
            fs::write(&other, text).unwrap();
            fs::remove_file(journal).unwrap();
            symlink(&other, journal).unwrap();
        }),
        (
            "it is of another start of the system, before a sync",
            |journal, text| {
                fs::write(journal, text.replace("boot ", "boot 0")).unwrap();
            },
        ),
    ];
    for (why, damage) in damages {
        let interrupted = Interrupted::new().await;
        let journal = interrupted.journal();
        damage(&journal, &fs::read_to_string(&journal).unwrap());
        let other = journal.with_extension("other");
        let fetched = interrupted
            .client
            .download(path("f"))
            .to_file(interrupted.target())
            .await
            .unwrap();
        assert!(!matches!(fetched.part, PartUse::Continued(_)), "{why}");
        let _ = fs::remove_file(other);
        assert_same(
            fs::read(interrupted.target()).unwrap(),
            interrupted.tree.read("f"),
        );
        assert_eq!(names(interrupted.local.path()), ["f"], "{why}");
        interrupted.end().await;
    }
}

#[tokio::test]
async fn after_a_restart_of_the_system_only_what_was_synced_counts() {
    let interrupted = Interrupted::new().await;
    let synced = 2 * MIB;
    // The last line was cut off.
    interrupted.start_again(&format!("synced {synced}\nsynced 99"));
    // What was not synced may be anything.
    let mut part = fs::read(interrupted.part()).unwrap();
    part[synced..].fill(0);
    fs::write(interrupted.part(), part).unwrap();
    let fetched = interrupted.again().await;
    assert_eq!(fetched.part, PartUse::Continued(synced as u64));
    interrupted.end().await;
}

#[tokio::test]
async fn after_a_restart_of_the_system_and_a_kill_all_that_was_written_since_counts() {
    let interrupted = Interrupted::new().await;
    interrupted.start_again(&format!("synced {}\n", 2 * MIB));
    interrupted.interrupt(2 * INTERRUPTED).await;
    let there = fs::metadata(interrupted.part()).unwrap().len();
    assert!(there > INTERRUPTED, "{there}");
    let fetched = interrupted.again().await;
    assert_eq!(fetched.part, PartUse::Continued(there));
    interrupted.end().await;
}

#[tokio::test]
async fn a_journal_that_is_ahead_of_its_part_is_no_harm() {
    let interrupted = Interrupted::new().await;
    interrupted.start_again(&format!("synced {SIZE}\n"));
    let part = fs::File::options().write(true).open(interrupted.part());
    part.unwrap().set_len(2 * MIB as u64).unwrap();
    let fetched = interrupted.again().await;
    assert_eq!(fetched.part, PartUse::Continued(2 * MIB as u64));
    interrupted.end().await;
}

#[tokio::test]
async fn little_is_not_kept() {
    let interrupted = Interrupted::new().await;
    let part = fs::File::options().write(true).open(interrupted.part());
    part.unwrap().set_len(1000).unwrap();
    assert_eq!(interrupted.again().await.part, PartUse::None);
    interrupted.end().await;
}

#[tokio::test]
async fn a_fifo_has_no_part_and_is_not_opened_again_after_an_error() {
    let local = scratch();
    let fifo = local.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let body = content(1, 200_000);
    let answer = answer(&body);
    let server = breaks_off(&answer[..100_000], Cut::Reset(ErrorCode::DISK));
    let client = server.client().await;
    let reading = fifo.clone();
    let reader = tokio::task::spawn_blocking(move || fs::read(reading).unwrap().len());
    let fetching = client.download(path("f")).to_file(&fifo);
    let error = within("an error", fetching).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::DISK));
    assert!(reader.await.unwrap() < body.len());
    assert_eq!(names(local.path()), ["fifo"]);
    client.close().await;
}

#[tokio::test]
async fn a_get_goes_on_after_a_kill() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("f", content(1, SIZE));
    let server = programs.serve(&tree.root());
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], server.port()));
    let relay = Relay::start(address, PATH, 1).await;
    let remote = format!("127.0.0.1:{}/f", relay.address().port());
    let local = programs.state.path().join("here");
    fs::create_dir(&local).unwrap();
    let target = local.join("f");
    let target = target.to_str().unwrap();
    let mut first = programs.begin(&["get", &remote, target]);
    let has_begun = async {
        let length = |name: &String| fs::metadata(local.join(name)).map_or(0, |part| part.len());
        while names(&local).iter().map(length).max().unwrap_or(0) < INTERRUPTED {
            tokio::task::yield_now().await;
        }
    };
    within("some bytes", has_begun).await;
    first.kill().unwrap();
    first.wait().unwrap();
    relay.set(NetworkPath::GOOD);
    let remote = remote.clone();
    let said = {
        let arguments = [
            "get".to_owned(),
            remote,
            target.to_owned(),
            "--json".to_owned(),
        ];
        let mut command = programs.command(&arguments.each_ref().map(String::as_str));
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let said = said.await.unwrap();
    assert!(said.status.success(), "{said:?}");
    let said = String::from_utf8(said.stdout).unwrap();
    let (_, there) = said.split_once("\"continued\":").expect(&said);
    let there: String = there.chars().take_while(char::is_ascii_digit).collect();
    assert!(there.parse::<u64>().unwrap() >= INTERRUPTED, "{said}");
    assert_same(fs::read(target).unwrap(), tree.read("f"));
    assert_eq!(names(&local), ["f"]);
}
