//! `Copy`: a second file or directory, made by the server without sending anything.
//!
//! The copy is made in staging without a lock on the target, which is taken only to publish it. A
//! client that gives up meanwhile ends the work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quire_shared::protocol::{Changed, Copy, EntryKind};
use quire_transport::stream::Sender;
use tracing::debug;

use crate::error::RequestError;
use crate::quic::request::{Client, answer};
use crate::state::State;
use crate::store::{Parents, Root, StagedCopy};

/// Makes the copy and gives it its name.
pub(crate) async fn serve(
    request: Copy,
    client: Client<'_>,
    state: &State,
    sender: &mut Sender,
) -> Result<(), RequestError> {
    let staged = {
        let _guard = state.locks.shared(&request.from).await?;
        let wanted = Wanted(Arc::new(AtomicBool::new(true)));
        let (request, flag) = (request.clone(), Arc::clone(&wanted.0));
        tokio::select! {
            staged = state.change(move |root| stage(root, &request, &flag)) => staged?,
            () = sender.given_up() => return Err(RequestError::Cancelled),
        }
    };
    if staged.skipped() > 0 {
        debug!(
            skipped = staged.skipped(),
            "passed over what is neither file nor directory"
        );
    }
    let charge = client.holder.charge(staged.bytes(), staged.entries())?;
    let Copy { to, target, .. } = request;
    let guard = state.locks.exclusive(&[&to]).await?;
    let name = to.clone();
    let version = state
        .change(move |root| root.publish_copy(staged, &to, &target))
        .await?;
    charge.keep();
    state.cache.forget(&name);
    // The answer waits for the client, which must not hold up others.
    drop(guard);
    answer(sender, Changed { version }).await
}

/// Refuses what can be refused before anything is copied, and copies.
fn stage(root: &Root, request: &Copy, wanted: &AtomicBool) -> Result<StagedCopy, RequestError> {
    let Copy {
        from,
        to,
        recursive,
        source,
        target,
    } = request;
    let is_directory = root.stat(from)?.kind == EntryKind::Directory;
    if !is_directory {
        root.check(to, target, Parents::MustExist, None)?;
    } else if !from.contains(to) && root.stat(to).is_ok() {
        return Err(RequestError::Exists);
    }
    root.stage_copy((from, to), *recursive, source, &|| {
        wanted.load(Ordering::Relaxed)
    })
}

/// Says that a copy isn't wanted any more when nobody waits for it.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
