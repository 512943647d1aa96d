//! `List`: the entries of a directory, page by page.

use quire_shared::protocol::{List, Reply};
use quire_transport::stream::Sender;

use crate::auth::access::Access;
use crate::error::RequestError;
use crate::state::State;

/// Sends one page after another; the next is read only when the client has room for it.
pub(crate) async fn serve(
    request: List,
    access: &Access,
    state: &State,
    sender: &mut Sender,
) -> Result<(), RequestError> {
    let guard = state.locks.shared(&request.path).await?;
    let List { path, after } = request;
    let shown = access.shown_entries(&path);
    let mut listing = state
        .read(move |root| root.list(&path, after, shown))
        .await?;
    drop(guard);
    loop {
        let (page, rest) = state
            .read(move |_| {
                let page = listing.next_page()?;
                Ok((page, listing))
            })
            .await?;
        listing = rest;
        let last = page.last;
        sender.send(&Reply::Ok(page)).await?;
        if last {
            sender.finish_and_wait().await?;
            return Ok(());
        }
    }
}
