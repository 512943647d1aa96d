//! The durability laboratory: what was acknowledged survives power cuts, kills and failing system
//! calls, and nothing is torn.
//!
//! Each method sees what another can't. `power_cut` replays the log of a block device; `sync_order`
//! reads the order of sync calls, because file systems sync more than they promise; `each_call` makes
//! each system call of a change fail or kill the server; `kills` kills it at random moments;
//! `disk_full` runs out of space, inodes and handles; `linearizable` checks histories of concurrent
//! clients; `repeated` kills it in changes that are asked for again; `shutdown` stops servers and
//! starts them again; `slow_disk` delays calls, which `quire -v` must name. With the feature
//! `fault-injection` the server leaves out one precaution at a time, and the tests named `found_out`
//! must notice it.

#[cfg(test)]
mod disk_full;
#[cfg(feature = "fault-injection")]
#[cfg(test)]
mod each_call;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod linearizable;
#[cfg(test)]
mod power;
#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod repeated;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod slow_disk;
#[cfg(test)]
mod strace;
#[cfg(test)]
mod sync_order;
#[cfg(test)]
mod workload;
