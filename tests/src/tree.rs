//! Many files on one stream, in both directions.

mod get_many;
pub(crate) mod get_trees;
mod many_operands;
pub(crate) mod put_trees;

use std::sync::{Arc, Mutex};

use quire_client::transfer::{Transfer, TransferEvent};
use quire_shared::ErrorCode;

/// A name that the client reported as failed, with the server's code if it was the server's refusal.
pub(crate) type FailedEntry = (String, Option<ErrorCode>);

/// A transfer that notes what fails.
fn noting_failures() -> (Arc<Transfer>, Arc<Mutex<Vec<FailedEntry>>>) {
    let failed = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&failed);
    let transfer = Transfer::new(move |event| {
        if let TransferEvent::Failed { name, error } = event {
            log.lock().unwrap().push((name.to_string(), error.code()));
        }
    });
    (transfer, failed)
}
