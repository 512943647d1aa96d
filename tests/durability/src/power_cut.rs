//! Power cuts at every moment that matters: acknowledged changes are there, and nothing is torn.
//!
//! Each run is seeded, and its log is replayed to every flush and to a point between each two. The
//! negative controls leave out one sync each, and the test must notice.

use std::fmt;
use std::sync::Arc;

use quire_server::files::Faults;

use crate::power::{FileSystem, LoggedDisk, Mounted, Replay};
use crate::workload::{Found, Plan};
use quire_test_harness::server::STAGING;
use quire_test_harness::{TestServer, files};

/// The result of many power cuts.
#[derive(Debug)]
struct ReplayReport {
    file_system: FileSystem,
    disks: usize,
    unmountable: Vec<String>,
    found: Found,
}

impl ReplayReport {
    fn new(file_system: FileSystem) -> Self {
        Self {
            file_system,
            disks: 0,
            unmountable: Vec::new(),
            found: Found::default(),
        }
    }

    fn is_good(&self) -> bool {
        let Found {
            torn,
            missing,
            two_names,
        } = &self.found;
        let is_whole = self.unmountable.is_empty() && torn.is_empty() && missing.is_empty();
        is_whole && (two_names.is_empty() || !self.file_system.renames_in_one_step())
    }

    #[track_caller]
    fn assert_good(&self, disks: usize) {
        assert!(self.disks >= disks, "only {} disks", self.disks);
        assert!(
            self.is_good(),
            "{self}; the first of each: {:#?}",
            [
                &self.unmountable,
                &self.found.torn,
                &self.found.missing,
                &self.found.two_names,
            ]
            .map(|all| all.iter().take(SHOWN).collect::<Vec<_>>()),
        );
    }
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} disks with {}: {} not mounted, {} torn, {} acknowledged but missing, \
             {} renamed without an answer and under both names",
            self.disks,
            self.file_system.name(),
            self.unmountable.len(),
            self.found.torn.len(),
            self.found.missing.len(),
            self.found.two_names.len()
        )
    }
}

/// Cuts the power until `disks` of them were checked, in runs of a few steps each.
async fn cut(file_system: FileSystem, disks: usize) -> Option<ReplayReport> {
    let plans = |seed| {
        let workers = 0..WORKERS;
        workers
            .map(|worker| Plan::random(worker, STEPS, seed))
            .collect()
    };
    cut_plans(file_system, disks, plans, Faults::default()).await
}

/// As [`cut`], with the steps of each run's workers, and with faults.
async fn cut_plans(
    file_system: FileSystem,
    disks: usize,
    plans: impl Fn(u64) -> Vec<Plan>,
    faults: Faults,
) -> Option<ReplayReport> {
    let mut outcome = ReplayReport::new(file_system);
    for seed in 0.. {
        let plans: Vec<_> = plans(seed).into_iter().map(Arc::new).collect();
        let disk = LoggedDisk::start(file_system)?;
        work(&disk, &plans, faults).await;
        let replay = Replay::new(disk.finish(), file_system, seed);
        replay_all(replay, &plans, disks, &mut outcome);
        if outcome.disks >= disks {
            break;
        }
    }
    report(&outcome);
    Some(outcome)
}

/// Runs all workers at once on a server whose root is on `disk`.
async fn work(disk: &LoggedDisk, plans: &[Arc<Plan>], faults: Faults) {
    let root = disk.root();
    plans.iter().for_each(|plan| plan.lay_out(&root));
    rustix::fs::syncfs(std::fs::File::open(&root).unwrap()).unwrap();
    let server = TestServer::builder_at(&root).faults(faults).start().await;
    let mut running = tokio::task::JoinSet::new();
    for (plan, worker) in plans.iter().cloned().zip(0..) {
        let (client, marks) = (server.client().await, disk.marks());
        running.spawn(async move {
            marks.acknowledged(worker, 0);
            let acknowledged = |count| marks.acknowledged(worker, count);
            plan.carry_out(&client, acknowledged).await.unwrap();
            client.close().await;
        });
    }
    running.join_all().await;
    server.stop().await;
}

/// Checks the disk of each moment until there were enough.
fn replay_all(mut replay: Replay, plans: &[Arc<Plan>], disks: usize, outcome: &mut ReplayReport) {
    let at = |name: &str| replay.scratch().join(name);
    let (image, target) = (at("image"), at("left"));
    std::fs::create_dir(&target).unwrap();
    for moment in replay.moments() {
        if outcome.disks == disks {
            break;
        }
        outcome.disks += 1;
        replay.write_image(moment, &image);
        let mounted = match Mounted::image(&image, outcome.file_system, target.clone()) {
            Ok(mounted) => mounted,
            Err(why) => {
                outcome.unmountable.push(format!("{moment:?}: {why}"));
                continue;
            }
        };
        let acknowledged = replay.acknowledged(moment);
        for (plan, worker) in plans.iter().zip(0..) {
            // A worker that hadn't started has nothing to lose.
            if let Some(count) = acknowledged.get(&worker) {
                plan.check(&target, *count, &mut outcome.found);
            }
        }
        // A server that starts there removes what was incomplete.
        drop(files::open(&target));
        assert!(
            !target.join(STAGING).exists(),
            "{moment:?}: staged files are left"
        );
        drop(mounted);
    }
}

/// Prints how many disks a run has checked.
#[expect(clippy::print_stderr, reason = "the full runs are read by people")]
fn report(outcome: &ReplayReport) {
    eprintln!("power cuts: {outcome}");
}

async fn loses_nothing(file_system: FileSystem, disks: usize) {
    if let Some(outcome) = cut(file_system, disks).await {
        outcome.assert_good(disks);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_a_power_cut_is_there_after_it() {
    loses_nothing(FileSystem::Ext4, 150).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn two_thousand_power_cuts_of_ext4_lose_nothing() {
    loses_nothing(FileSystem::Ext4, 2000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn five_hundred_power_cuts_of_xfs_lose_nothing() {
    loses_nothing(FileSystem::Xfs, 500).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn five_hundred_power_cuts_of_btrfs_lose_nothing() {
    loses_nothing(FileSystem::Btrfs, 500).await;
}

#[cfg(feature = "fault-injection")]
mod controls {
    use quire_server::files::{Fault, Faults};

    use super::{FileSystem, STEPS, cut_plans};
    use crate::workload::Plan;

    async fn is_found_out(fault: Fault, plan: impl Fn(u64) -> Plan) {
        is_found_out_on(FileSystem::Ext4, fault, plan).await;
    }

    /// With one worker, because the syncs of others would make up for those left out; and repeatedly,
    /// because one hit may be chance.
    async fn is_found_out_on(file_system: FileSystem, fault: Fault, plan: impl Fn(u64) -> Plan) {
        let plans = |seed| vec![plan(seed)];
        let outcome = cut_plans(file_system, 150, plans, Faults::only(fault)).await;
        let Some(outcome) = outcome else { return };
        let unmountable = &outcome.unmountable;
        assert!(unmountable.is_empty(), "{fault:?}: {unmountable:#?}");
        let found = outcome.found.torn.len() + outcome.found.missing.len();
        assert!(
            found >= HITS,
            "{fault:?} was noticed in {found} places: {outcome}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "takes minutes"]
    async fn other_file_systems_show_what_is_left_out_as_well() {
        for file_system in [FileSystem::Xfs, FileSystem::Btrfs] {
            is_found_out_on(file_system, Fault::FileSync, random).await;
            is_found_out_on(file_system, Fault::PlaceSync, random).await;
            is_found_out_on(file_system, Fault::DeleteSync, deletions).await;
            // Not that of a copied file: both share its blocks, which are on the disk already.
        }
    }

    fn random(seed: u64) -> Plan {
        Plan::random(0, STEPS, seed)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_put_without_the_sync_of_the_file_is_found_out() {
        is_found_out(Fault::FileSync, random).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_without_the_sync_of_its_directory_is_found_out() {
        is_found_out(Fault::PlaceSync, random).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_delete_without_a_sync_is_found_out() {
        is_found_out(Fault::DeleteSync, deletions).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_copied_tree_without_the_syncs_of_its_files_is_found_out() {
        is_found_out(Fault::CopiedFileSync, copies).await;
    }

    fn deletions(seed: u64) -> Plan {
        Plan::deletions(STEPS, seed)
    }

    fn copies(seed: u64) -> Plan {
        Plan::copies(STEPS, seed)
    }

    /// Fewest violations that a missing sync must show among 150 disks.
    const HITS: usize = 10;
}

/// Most violations that are printed.
const SHOWN: usize = 10;

/// Parallel workers.
const WORKERS: u64 = 3;

/// Steps of each worker between two disks: few, so that there is a moment after each flush.
const STEPS: usize = 10;
