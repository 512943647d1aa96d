//! Listings of directories and of the cache, received page by page.
//!
//! Only one page is in memory at a time, so a large directory or a malicious server can't exhaust
//! it. Names must be in strictly ascending order, so no name is repeated and every listing ends.

use std::collections::VecDeque;

use quire_shared::Name;
use quire_shared::codec::DecodeError;
use quire_shared::path::Unnameable;
use quire_shared::protocol::{CacheEntry, CachePage, Entry, List, ListCache, Page};
use quire_transport::stream::Receiver;

use crate::error::ClientError;
use crate::exchange::{Connection, read_to_end};

/// The entries of a directory.
#[derive(Debug)]
pub struct DirectoryListing {
    connection: Connection,
    receiver: Receiver,
    entries: VecDeque<Entry>,
    last_name: Option<Name>,
    is_last_page: bool,
    unnameable: Unnameable,
}

impl DirectoryListing {
    /// Sends the request and receives the first page, so that a refusal is reported at once.
    pub(crate) async fn open(connection: Connection, list: List) -> Result<Self, ClientError> {
        let last_name = list.after.clone();
        let receiver = connection.send(list).await?;
        let mut listing = Self {
            connection,
            receiver,
            entries: VecDeque::new(),
            last_name,
            is_last_page: false,
            unnameable: Unnameable::default(),
        };
        listing.receive_page().await?;
        Ok(listing)
    }

    /// The next entry, or nothing at the end.
    ///
    /// # Errors
    /// If the connection breaks, the server gives up, or entries are out of order.
    pub async fn next(&mut self) -> Result<Option<Entry>, ClientError> {
        while self.entries.is_empty() && !self.is_last_page {
            self.receive_page().await?;
        }
        Ok(self.entries.pop_front())
    }

    /// Names that can't be sent because they aren't UTF-8; complete at the end.
    pub fn unnameable(&self) -> &Unnameable {
        &self.unnameable
    }

    async fn receive_page(&mut self) -> Result<(), ClientError> {
        let page: Page = self.connection.answer(&mut self.receiver).await?;
        // Otherwise a server could keep the client busy with empty pages forever.
        if page.entries.is_empty() && !page.last {
            return Err(ClientError::Unexpected(DecodeError::Malformed));
        }
        if page.last {
            read_to_end(&mut self.receiver).await;
        }
        for entry in &page.entries {
            if self
                .last_name
                .as_ref()
                .is_some_and(|last| *last >= entry.name)
            {
                return Err(ClientError::Unexpected(DecodeError::Malformed));
            }
            self.last_name = Some(entry.name.clone());
        }
        self.entries = page.entries.into();
        self.is_last_page = page.last;
        self.unnameable = Unnameable {
            count: page.unnameable,
            names: page.raw_names,
        };
        Ok(())
    }
}

/// The entries of the server's memory cache.
#[derive(Debug)]
pub struct CacheListing {
    connection: Connection,
    receiver: Receiver,
    entries: VecDeque<CacheEntry>,
    is_last_page: bool,
    limit: u64,
}

impl CacheListing {
    pub(crate) async fn open(connection: Connection) -> Result<Self, ClientError> {
        let receiver = connection.send(ListCache {}).await?;
        let mut listing = Self {
            connection,
            receiver,
            entries: VecDeque::new(),
            is_last_page: false,
            limit: 0,
        };
        listing.receive_page().await?;
        Ok(listing)
    }

    /// Capacity of the cache in bytes; 0 if it is disabled.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The next entry, most recently used first, or nothing at the end.
    ///
    /// # Errors
    /// If the connection breaks or the server gives up.
    pub async fn next(&mut self) -> Result<Option<CacheEntry>, ClientError> {
        while self.entries.is_empty() && !self.is_last_page {
            self.receive_page().await?;
        }
        Ok(self.entries.pop_front())
    }

    async fn receive_page(&mut self) -> Result<(), ClientError> {
        let page: CachePage = self.connection.answer(&mut self.receiver).await?;
        if page.entries.is_empty() && !page.last {
            return Err(ClientError::Unexpected(DecodeError::Malformed));
        }
        self.entries = page.entries.into();
        self.is_last_page = page.last;
        self.limit = page.limit;
        if page.last {
            read_to_end(&mut self.receiver).await;
        }
        Ok(())
    }
}
