//! Making the connection of a transfer again after it was lost: the network was away, the server was
//! restarted, or this machine slept.

use std::sync::Mutex;
use std::time::Duration;

use quire_client::transfer::Reconnect;
use quire_client::{Client, ClientError, ErrorKind, ServerId};
use tokio::time::{Instant, sleep, timeout};

use crate::session::CliSession;

/// Tries to reach a server again, for as long as `--timeout` says.
#[derive(Debug)]
pub(super) struct Reconnecting<'a> {
    session: &'a CliSession,
    server: &'a ServerId,
    attempts: Mutex<AttemptTimes>,
}

/// When attempts are made.
#[derive(Debug)]
struct AttemptTimes {
    /// When the connection was made last.
    connected: Instant,
    /// When the first connection was lost, or the last that had been good.
    lost: Option<Instant>,
    /// The wait after the next attempt that fails.
    wait: Duration,
}

impl<'a> Reconnecting<'a> {
    /// For a transfer whose connection to `server` has just been made.
    pub(super) fn new(session: &'a CliSession, server: &'a ServerId) -> Self {
        let now = Instant::now();
        let attempts = Mutex::new(AttemptTimes {
            connected: now,
            lost: None,
            wait: WAIT_MIN,
        });
        Self {
            session,
            server,
            attempts,
        }
    }

    /// Notes a loss; returns until when attempts are made, and the first wait.
    fn begin(&self) -> (Instant, Duration) {
        let now = Instant::now();
        let Ok(mut times) = self.attempts.lock() else {
            return (now, WAIT_MIN);
        };
        if now - times.connected >= GOOD_TIME {
            times.lost = None;
            times.wait = WAIT_MIN;
        }
        // A server that ends each connection at once is given the time of one loss.
        let lost = *times.lost.get_or_insert(now);
        (lost + self.session.config.timeout, times.wait)
    }

    async fn attempt(&self) -> Result<Client, ClientError> {
        let client = self.session.client(self.server).await?;
        // Early data is no proof that anybody is there.
        client.ping().await?;
        Ok(client)
    }
}

impl Reconnect for Reconnecting<'_> {
    async fn reconnect(&self, loss: &ClientError) -> Option<Client> {
        let seconds = self.session.config.timeout.as_secs();
        if seconds == 0 {
            return None;
        }
        let (deadline, mut wait) = self.begin();
        let server = self.server;
        let output = &self.session.output;
        output.note(&format!("{server}: {loss}; trying again for {seconds} s"));
        for attempt in 1_u32.. {
            let time = match attempt.is_multiple_of(SLOW_EVERY) {
                true => ATTEMPT_TIME_SLOW,
                false => ATTEMPT_TIME,
            };
            match timeout(time, self.attempt()).await {
                Ok(Ok(client)) => {
                    output.note(&format!("{server}: connected again"));
                    if let Ok(mut times) = self.attempts.lock() {
                        times.connected = Instant::now();
                        times.wait = wait;
                    }
                    return Some(client);
                }
                Ok(Err(error)) if error.kind() != ErrorKind::Unreachable => {
                    output.note(&format!("{server}: {error}"));
                    return None;
                }
                Ok(Err(_)) | Err(_) => {}
            }
            if Instant::now() + wait > deadline {
                break;
            }
            sleep(wait).await;
            wait = WAIT_MAX.min(2 * wait);
        }
        None
    }
}

/// The first wait between two attempts, which doubles.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// The longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Time for one attempt: three round trips over a satellite. quinn sends its first packet again after a
/// second, and then after twice that, so a new attempt notices sooner that the network is back.
const ATTEMPT_TIME: Duration = Duration::from_secs(2);

/// Every so many attempts, one has more time, for a path on which nothing is that fast.
const SLOW_EVERY: u32 = 5;

/// Time for such an attempt.
const ATTEMPT_TIME_SLOW: Duration = Duration::from_secs(10);

/// A connection that has lasted so long was good.
const GOOD_TIME: Duration = Duration::from_secs(10);
