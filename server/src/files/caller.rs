//! Who asks for an operation, as far as operations care.

use std::sync::Arc;

use super::locks::Owner;
use super::quota::Quota;
use crate::auth::access::Access;

/// Who asks for an operation: its rights, its quota, and the locks that it holds. A front end makes
/// one for each client that it has authenticated.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(super) access: Arc<Access>,
    pub(super) quota: Arc<Quota>,
    pub(super) owner: Owner,
}

impl Caller {
    pub(super) fn new(access: Arc<Access>, quota: Arc<Quota>, owner: Owner) -> Self {
        Self {
            access,
            quota,
            owner,
        }
    }

    /// The same client with other rights.
    #[must_use]
    pub fn with_access(&self, access: Arc<Access>) -> Self {
        Self {
            access,
            ..self.clone()
        }
    }

    /// What this client may do.
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// What this client shares with others of its key.
    pub(crate) fn quota(&self) -> &Quota {
        &self.quota
    }
}
