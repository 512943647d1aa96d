//! Which packets are lost: independently, in bursts (Gilbert-Elliott), and in outages.

use rand::RngExt;
use rand_pcg::Pcg64;

/// Two-state (Gilbert-Elliott) loss: the chain moves before each packet, then the packet is
/// lost with the probability of the state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gilbert {
    /// Probability of going from the good state to the bad one.
    pub p: f64,
    /// Probability of going from the bad state to the good one.
    pub r: f64,
    /// Loss probability in the bad state.
    pub loss_bad: f64,
    /// Loss probability in the good state.
    pub loss_good: f64,
}

/// A silence that comes back: what leaves the queue while it lasts is lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outage {
    pub length_ns: u64,
    pub period_ns: u64,
    /// When in each period the silence begins, counted from the start of the link.
    pub phase_ns: u64,
}

impl Outage {
    pub fn covers(&self, time: u64) -> bool {
        // One period is added so that the difference is never negative.
        let since = (time + self.period_ns - self.phase_ns) % self.period_ns;
        since < self.length_ns
    }
}

/// The random losses of one direction.
pub struct LossProcess {
    single: f64,
    burst: Option<Gilbert>,
    bad_state: bool,
    // Two sequences: switching one kind of loss on does not change what the other does.
    single_rng: Pcg64,
    burst_rng: Pcg64,
}

impl LossProcess {
    pub fn new(single: f64, burst: Option<Gilbert>, rng: impl Fn(u64) -> Pcg64) -> Self {
        LossProcess {
            single,
            burst,
            bad_state: false,
            single_rng: rng(1),
            burst_rng: rng(2),
        }
    }

    /// Decides about the next packet. Both kinds move on with every packet, whatever the
    /// other says.
    pub fn takes_next(&mut self) -> bool {
        let single = self.single > 0.0 && self.single_rng.random_bool(self.single);
        let burst = match self.burst {
            None => false,
            Some(gilbert) => {
                let leave = if self.bad_state { gilbert.r } else { gilbert.p };
                if self.burst_rng.random_bool(leave) {
                    self.bad_state = !self.bad_state;
                }
                let loss = if self.bad_state {
                    gilbert.loss_bad
                } else {
                    gilbert.loss_good
                };
                self.burst_rng.random_bool(loss)
            }
        };
        single || burst
    }
}
