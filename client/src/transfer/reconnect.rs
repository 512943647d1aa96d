//! Going on with a transfer over another connection after the first was lost.

use std::future::Future;

use super::engine::Transfer;
use crate::client::Client;
use crate::error::ClientError;

/// Makes the connection of a transfer again.
pub trait Reconnect: Sync {
    /// Returns a new connection to the same server, or `None` to give up. `loss` is why the last one
    /// ended.
    fn reconnect(&self, loss: &ClientError) -> impl Future<Output = Option<Client>> + Send;
}

/// Gives up at once.
#[derive(Debug, Clone, Copy)]
pub struct GiveUp;

impl Reconnect for GiveUp {
    async fn reconnect(&self, _: &ClientError) -> Option<Client> {
        None
    }
}

/// Runs `pass` over `client`, and, if it `may_repeat`, again over each connection that is made after a
/// loss; then it is told that it isn't the first. The loss is reported when `reconnect` gives up.
pub(super) async fn passes<F: Future<Output = ()>>(
    client: &Client,
    reconnect: &impl Reconnect,
    transfer: &Transfer,
    may_repeat: bool,
    pass: impl Fn(Client, bool) -> F,
) {
    pass(client.clone(), false).await;
    while let Some(loss) = transfer.take_loss() {
        let again = match may_repeat && loss.error.may_pass() {
            true => reconnect.reconnect(&loss.error).await,
            false => None,
        };
        let Some(client) = again else {
            transfer.report_loss(loss);
            return;
        };
        transfer.begin_again();
        pass(client, true).await;
    }
}
