//! A workload for a server that will be killed, and the state that must be left.
//!
//! Each worker carries out its steps one after another, on names of its own in directories that it
//! shares with others, and counts acknowledgements. So whenever the end comes, all its acknowledged
//! steps have happened, perhaps the next one, and no other.

mod check;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use quire_client::transfer::{StoreOptions, Transfer, TransferEvent, UploadJob};
use quire_client::{Client, ClientError};
use quire_shared::RemotePath;
use quire_shared::protocol::Failure;

use quire_test_harness::client::{
    chmod, copy, delete, delete_all, make_directory, path, put, rename, store_as,
};
use quire_test_harness::content::{Random, content};
use quire_test_harness::tree::scratch;

pub(crate) use check::Found;

/// The steps of one worker, and the states between them.
#[derive(Debug)]
pub(crate) struct Plan {
    worker: u64,
    steps: Vec<PlannedStep>,
    /// The state before the first step, after it, after the second, and so on.
    states: Vec<NodesByName>,
    /// The length of each content that ever existed, by seed.
    lengths: BTreeMap<u64, usize>,
}

/// The nodes under the names of one worker.
type NodesByName = BTreeMap<String, Node>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File { seed: u64, len: usize },
}

#[derive(Debug, Clone)]
enum PlannedStep {
    Put(String, Node),
    PutWithParents(String, Node),
    Rename(String, String),
    Delete(String),
    DeleteAll(String),
    MakeWithParents(String),
    Copy(String, String),
    StoreTree(String, Vec<(String, Node)>),
    /// Changes only permissions, which leaves the state as it is.
    Chmod(String),
}

impl Plan {
    /// `count` random steps.
    pub(crate) fn random(worker: u64, count: usize, seed: u64) -> Self {
        let mut random = Random::new(seed ^ (worker << 32));
        let mut plan = Self::new(worker);
        // Something to rename, copy and delete.
        plan.push(PlannedStep::Put(plan.slot(0), node(&mut random)));
        while plan.steps.len() < count {
            let step = plan.draw(&mut random);
            plan.push(step);
        }
        plan
    }

    /// Deletions, each of a file that was just put.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn deletions(count: usize, seed: u64) -> Self {
        let (mut plan, mut random) = (Self::new(0), Random::new(seed));
        while plan.steps.len() < count {
            plan.push(PlannedStep::Put("w0/f".to_owned(), node(&mut random)));
            plan.push(PlannedStep::Delete("w0/f".to_owned()));
        }
        plan
    }

    /// Copies of one directory after another.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn copies(count: usize, seed: u64) -> Self {
        let (mut plan, mut random) = (Self::new(0), Random::new(seed));
        let files = (0..TREE_FILES).map(|number| (format!("w0/d/{number}"), node(&mut random)));
        plan.push(PlannedStep::StoreTree("w0/d".to_owned(), files.collect()));
        for number in 1..count {
            plan.push(PlannedStep::Copy(
                "w0/d".to_owned(),
                format!("w0/c{number}"),
            ));
        }
        plan
    }

    /// One plan for each kind of step, all for the same directory.
    pub(crate) fn of_each_kind() -> Vec<Self> {
        let file = |seed, len| Node::File { seed, len };
        let name = |text: &str| text.to_owned();
        let steps = [
            PlannedStep::Put(name("s/w0-new"), file(10, 5000)),
            PlannedStep::Put(name("w0/old"), file(11, 300 * 1024)),
            PlannedStep::PutWithParents(name("w0/p/q/f"), file(12, 100)),
            PlannedStep::Rename(name("w0/old"), name("s/w0-moved")),
            PlannedStep::Rename(name("w0/old"), name("s/w0-old")),
            PlannedStep::Delete(name("w0/old")),
            PlannedStep::DeleteAll(name("w0/t")),
            PlannedStep::MakeWithParents(name("w0/m/x/y")),
            PlannedStep::Copy(name("w0/old"), name("s/w0-old")),
            PlannedStep::Copy(name("w0/t"), name("w0/c")),
            PlannedStep::Chmod(name("w0/old")),
            PlannedStep::StoreTree(
                name("w0/r"),
                vec![
                    (name("w0/r/a"), file(13, 4096)),
                    (name("w0/r/s/b"), file(14, 9)),
                ],
            ),
        ];
        let plan = |step| {
            let mut plan = Self::new(0);
            let [initial] = &mut plan.states[..] else {
                unreachable!("a new plan has one state")
            };
            initial.extend([
                (name("w0/old"), file(1, 9000)),
                (name("s/w0-old"), file(2, 100)),
                (name("w0/t"), Node::Directory),
                (name("w0/t/x"), file(3, 5000)),
                (name("w0/t/s"), Node::Directory),
                (name("w0/t/s/y"), file(4, 100)),
            ]);
            plan.push(step);
            plan
        };
        steps.map(plan).into()
    }

    /// Creates the state before the first step, as another program would.
    pub(crate) fn lay_out(&self, root: &Path) {
        for directory in self.directories() {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        // Directories sort before what is in them.
        for (name, node) in &self.states[0] {
            match node {
                Node::Directory => std::fs::create_dir_all(root.join(name)).unwrap(),
                Node::File { .. } => std::fs::write(root.join(name), node.content()).unwrap(),
            }
        }
    }

    fn new(worker: u64) -> Self {
        Self {
            worker,
            steps: Vec::new(),
            states: vec![NodesByName::from([(format!("w{worker}"), Node::Directory)])],
            lengths: BTreeMap::new(),
        }
    }

    /// The directories that must exist from the start.
    fn directories(&self) -> [String; 2] {
        [SHARED.to_owned(), format!("w{}", self.worker)]
    }

    /// A name for a file: in a directory of the worker's own, or in the shared one.
    fn slot(&self, number: usize) -> String {
        let worker = self.worker;
        match number % 2 {
            0 => format!("{SHARED}/w{worker}-{number}"),
            _ => format!("w{worker}/{number}"),
        }
    }

    fn draw(&self, random: &mut Random) -> PlannedStep {
        let now = &self.states[self.states.len() - 1];
        let slot = self.slot(random.below(SLOTS));
        let unused = format!("w{}/d{}", self.worker, self.steps.len());
        let files: Vec<_> = (0..SLOTS).map(|number| self.slot(number)).collect();
        let files: Vec<_> = files
            .iter()
            .filter(|name| now.contains_key(*name))
            .collect();
        let file = (!files.is_empty()).then(|| (*random.one_of(&files)).clone());
        let mut trees = now
            .keys()
            .filter(|name| now[*name] == Node::Directory && name.matches('/').count() == 1);
        let tree = trees.next().cloned();
        match (random.below(12), file, tree) {
            (0 | 1, Some(file), _) if file != slot => PlannedStep::Rename(file, slot),
            (2, Some(file), _) => PlannedStep::Delete(file),
            (3, Some(file), _) if file != slot => PlannedStep::Copy(file, slot),
            (4, ..) => PlannedStep::MakeWithParents(format!("{unused}/x/y")),
            (5, ..) => PlannedStep::PutWithParents(format!("{unused}/x/f"), node(random)),
            (6, ..) => {
                let name = |number| format!("{unused}/{}{number}", ["", "sub/"][number % 2]);
                let files = (0..TREE_FILES).map(|number| (name(number), node(random)));
                PlannedStep::StoreTree(unused.clone(), files.collect())
            }
            (7, _, Some(tree)) => PlannedStep::Copy(tree, unused),
            (8, _, Some(tree)) => PlannedStep::Rename(tree, unused),
            (9, _, Some(tree)) => PlannedStep::DeleteAll(tree),
            _ => PlannedStep::Put(slot, node(random)),
        }
    }

    fn push(&mut self, step: PlannedStep) {
        let mut state = self.states[self.states.len() - 1].clone();
        step.apply(&mut state);
        for node in self
            .states
            .iter()
            .chain([&state])
            .flat_map(NodesByName::values)
        {
            if let Node::File { seed, len } = node {
                self.lengths.insert(*seed, *len);
            }
        }
        self.states.push(state);
        self.steps.push(step);
    }

    /// Carries out all steps, and calls `acknowledged` after each with their number.
    ///
    /// # Errors
    /// The first error of a step; the remaining steps are not tried.
    pub(crate) async fn carry_out(
        &self,
        client: &Client,
        mut acknowledged: impl FnMut(u64),
    ) -> Result<(), ClientError> {
        for (step, count) in self.steps.iter().zip(1..) {
            step.carry_out(client).await?;
            acknowledged(count);
        }
        Ok(())
    }

    /// Whether the first step deletes a directory, whose content is removed after the answer.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn deletes_a_directory(&self) -> bool {
        matches!(self.steps.first(), Some(PlannedStep::DeleteAll(_)))
    }

    /// Whether the first step consists of several requests.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn is_many_changes(&self) -> bool {
        matches!(self.steps.first(), Some(PlannedStep::StoreTree(..)))
    }
}

impl PlannedStep {
    /// Whether it is atomic; else any part of it may have happened before its end.
    fn is_atomic(&self) -> bool {
        !matches!(
            self,
            Self::PutWithParents(..) | Self::MakeWithParents(_) | Self::StoreTree(..)
        )
    }

    fn apply(&self, state: &mut NodesByName) {
        match self {
            Self::Put(name, node) => {
                state.insert(name.clone(), *node);
            }
            Self::PutWithParents(name, node) => {
                make_parents(state, name);
                state.insert(name.clone(), *node);
            }
            Self::MakeWithParents(name) => make_parents(state, &format!("{name}/")),
            Self::Rename(from, to) => {
                for (below, node) in below(state, from) {
                    state.remove(&format!("{from}{below}"));
                    state.insert(format!("{to}{below}"), node);
                }
            }
            Self::Copy(from, to) => {
                for (below, node) in below(state, from) {
                    state.insert(format!("{to}{below}"), node);
                }
            }
            Self::Delete(name) | Self::DeleteAll(name) => {
                for (below, _) in below(state, name) {
                    state.remove(&format!("{name}{below}"));
                }
            }
            Self::Chmod(_) => {}
            Self::StoreTree(_, files) => {
                for (name, node) in files {
                    make_parents(state, name);
                    state.insert(name.clone(), *node);
                }
            }
        }
    }

    async fn carry_out(&self, client: &Client) -> Result<(), ClientError> {
        match self {
            Self::Put(name, node) => put_node(client, name, *node, false).await?,
            Self::PutWithParents(name, node) => put_node(client, name, *node, true).await?,
            Self::Rename(from, to) => drop(client.rename(rename(from, to)).await?),
            Self::Delete(name) => client.delete(delete(name)).await.map(|_| ())?,
            Self::DeleteAll(name) => client.delete(delete_all(name)).await.map(|_| ())?,
            Self::MakeWithParents(name) => {
                let mut make = make_directory(name);
                make.make_parents = true;
                client.make_directory(make).await?;
            }
            Self::Copy(from, to) => {
                let mut copy = copy(from, to);
                copy.recursive = true;
                client.copy(copy).await?;
            }
            Self::StoreTree(to, files) => store_tree(client, to, files).await?,
            Self::Chmod(name) => drop(client.chmod(chmod(name, 0o640)).await?),
        }
        Ok(())
    }
}

/// The nodes at and below `name`, with the rest of their names.
fn below(state: &NodesByName, name: &str) -> Vec<(String, Node)> {
    let rest = |full: &str| {
        let rest = full.strip_prefix(name)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
    };
    let found = state.iter();
    found
        .filter_map(|(full, node)| Some((rest(full)?, *node)))
        .collect()
}

fn make_parents(state: &mut NodesByName, name: &str) {
    let own = name.find('/').unwrap() + 1;
    for (slash, _) in name.match_indices('/').filter(|(slash, _)| *slash >= own) {
        state.insert(name[..slash].to_owned(), Node::Directory);
    }
}

async fn put_node(
    client: &Client,
    name: &str,
    node: Node,
    make_parents: bool,
) -> Result<(), ClientError> {
    let bytes = node.content();
    let mut put = put(name, bytes.len());
    put.make_parents = make_parents;
    store_as(client, put, &bytes).await.map(drop)
}

async fn store_tree(
    client: &Client,
    to: &str,
    files: &[(String, Node)],
) -> Result<(), ClientError> {
    let local = scratch();
    for (name, node) in files {
        let name = local
            .path()
            .join(name.strip_prefix(to).unwrap().trim_start_matches('/'));
        std::fs::create_dir_all(name.parent().unwrap()).unwrap();
        std::fs::write(name, node.content()).unwrap();
    }
    let to: RemotePath = path(to);
    let items = vec![UploadJob {
        from: local.path().to_owned(),
        to,
    }];
    let options = StoreOptions {
        recursive: true,
        ..Default::default()
    };
    let failed = Arc::new(Mutex::new(None));
    let first = Arc::clone(&failed);
    let transfer = Transfer::new(move |event| {
        if let TransferEvent::Failed { error, .. } = event {
            first.lock().unwrap().get_or_insert(error.code());
        }
    });
    quire_client::transfer::store(client, items, options, &transfer).await;
    if transfer.files() == files.len() as u64 {
        return Ok(());
    }
    let code = failed.lock().unwrap().flatten();
    Err(code.map_or(ClientError::Truncated, |code| {
        ClientError::Refused(Failure::new(code))
    }))
}

impl Node {
    fn content(self) -> Vec<u8> {
        match self {
            Self::Directory => Vec::new(),
            Self::File { seed, len } => content(seed, len),
        }
    }
}

/// A file unlike all others.
fn node(random: &mut Random) -> Node {
    Node::File {
        seed: random.next_u64(),
        len: *random.one_of(LENGTHS),
    }
}

/// The directory that all workers share.
const SHARED: &str = "s";

/// Names for files, for each worker.
const SLOTS: usize = 6;

/// Files in a stored tree.
const TREE_FILES: usize = 8;

/// From empty to a size for which the server reserves space.
const LENGTHS: &[usize] = &[0, 1, 100, 4096, 5000, 96 * 1024, 300 * 1024];
