//! Requests that are made again after the connection was lost, without being carried out twice.

use std::time::{Duration, Instant};

use quire_shared::protocol::{
    ChangeId, Chmod, Copy, Delete, MakeDirectory, Rename, RequestMessage, Stat,
};

use crate::client::Client;
use crate::error::ClientError;
use crate::transfer::Reconnect;

/// A request that may be made again after its answer was lost.
pub trait Repeatable: RequestMessage + Clone {
    /// Whether it changes something.
    const IS_CHANGE: bool = true;

    /// Whether it may only be made again if the server remembers it by its identifier.
    const NEEDS_MEMORY: bool = true;

    /// Gives it its identifier, if it has one.
    #[must_use]
    fn identified(self, id: Option<ChangeId>) -> Self;
}

/// Implements [`Repeatable`] for changes with an identifier.
macro_rules! identified_changes {
    ($($name:ident)*) => {
        $(impl Repeatable for $name {
            fn identified(self, change_id: Option<ChangeId>) -> Self {
                Self { change_id, ..self }
            }
        })*
    };
}

identified_changes! { Rename Delete MakeDirectory Copy }

/// The second of two changes to the same permissions changes nothing.
impl Repeatable for Chmod {
    const NEEDS_MEMORY: bool = false;

    fn identified(self, _: Option<ChangeId>) -> Self {
        self
    }
}

impl Repeatable for Stat {
    const IS_CHANGE: bool = false;
    const NEEDS_MEMORY: bool = false;

    fn identified(self, _: Option<ChangeId>) -> Self {
        self
    }
}

/// Makes a request over `client`. If the connection is lost, it is made again over the one that
/// `reconnect` makes, which takes the place of `client`. A change is made once: it gets an
/// identifier, and is only made again if the server says that it remembers that.
///
/// # Errors
/// The server's refusal; or [`ClientError::OutcomeUnknown`] if the connection was lost, and the
/// change can't be made again.
pub async fn repeat<M: Repeatable>(
    client: &mut Client,
    reconnect: &impl Reconnect,
    request: M,
) -> Result<M::Answer, ClientError> {
    let id = random_id();
    let request = request.identified(id);
    let began = Instant::now();
    // What the next step over the connection is.
    let mut is_known = true;
    loop {
        let step = match is_known {
            true => client.connection().ask(request.clone()).await.map(Some),
            false => remembers(client, began).await.map(|()| None),
        };
        let loss = match step {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {
                is_known = true;
                continue;
            }
            Err(error) if error.may_pass() => error,
            Err(error) => return Err(error),
        };
        let may_repeat = !M::NEEDS_MEMORY || id.is_some();
        let again = match may_repeat {
            true => reconnect.reconnect(&loss).await,
            false => None,
        };
        match again {
            Some(next) => *client = next,
            None if M::IS_CHANGE => return Err(ClientError::OutcomeUnknown(loss.into())),
            None => return Err(loss),
        }
        is_known = !M::NEEDS_MEMORY;
    }
}

/// Checks that the server would know of a change that it has made since `began`.
async fn remembers(client: &Client, began: Instant) -> Result<(), ClientError> {
    let reach = client.ping().await?.remembers.map(Duration::from_secs);
    match reach.is_some_and(|reach| began.elapsed() < reach) {
        true => Ok(()),
        false => Err(ClientError::OutcomeUnknown(ClientError::Forgetful.into())),
    }
}

/// An identifier, unless the system has no random bytes.
fn random_id() -> Option<ChangeId> {
    let mut bytes = [0; ChangeId::BYTES];
    let random = quire_transport::tls::provider().secure_random;
    random.fill(&mut bytes).ok()?;
    Some(ChangeId::new(bytes))
}
