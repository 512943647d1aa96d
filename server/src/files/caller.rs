//! Caller of operations: rights, quota and lock owner of one client.

use std::sync::Arc;

use quire_certs::Fingerprint;
use quire_shared::RemotePath;
use quire_shared::protocol::{Attributes, Details};

use super::locks::Owner;
use super::quota::Quota;
use crate::auth::access::Access;

/// Caller of operations: its rights, its quota, and the owner of its locks. A front end makes one
/// for each client that it has authenticated.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(super) access: Arc<Access>,
    pub(super) quota: Arc<Quota>,
    pub(super) owner: Owner,
    /// Key of the client, if it has rights of its own.
    pub(super) key: Option<Fingerprint>,
}

impl Caller {
    pub(super) fn new(
        access: Arc<Access>,
        quota: Arc<Quota>,
        owner: Owner,
        key: Option<Fingerprint>,
    ) -> Self {
        Self {
            access,
            quota,
            owner,
            key,
        }
    }

    /// Makes a caller for the same client with other rights.
    #[must_use]
    pub fn with_access(&self, access: Arc<Access>) -> Self {
        Self {
            access,
            ..self.clone()
        }
    }

    /// Rights of this client.
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// The attributes of `path` as far as this client may know them: extended attributes are content.
    pub(super) fn shown(&self, path: &RemotePath, attributes: Attributes) -> Attributes {
        match attributes.details.is_none() || self.access.get(path).is_ok() {
            true => attributes,
            false => without_xattrs(attributes),
        }
    }

    /// Quota, which all connections of the client's key share.
    pub(crate) fn quota(&self) -> &Quota {
        &self.quota
    }
}

/// Attributes as they are told to who may not get the content.
pub(super) fn without_xattrs(attributes: Attributes) -> Attributes {
    let without = |details: Box<Details>| {
        let xattrs = None;
        Details { xattrs, ..*details }.boxed()
    };
    Attributes {
        details: attributes.details.and_then(without),
        ..attributes
    }
}
