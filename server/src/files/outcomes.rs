//! Changes that clients name, so that they can ask for one again after its answer was lost.
//!
//! One place decides whether such a change is made: [`Files::first_attempt`]. It comes after the
//! rights and before everything else. The store remembers the outcomes.

use quire_shared::codec;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{ChangeId, Copied, Request, Version};

use super::Files;
use super::caller::Caller;
use super::error::Error;
use super::store::{self, ChangeKey, Claim, NamedChange, Outcome};

impl Files {
    /// Finds out whether a change is asked for the first time; then it is for the caller to make it,
    /// and to have it remembered if the result says so. Waits while an earlier request makes it.
    /// Otherwise returns the outcome.
    ///
    /// # Errors
    /// If another change has this identifier, or nothing may be changed.
    pub(super) async fn first_attempt(
        &self,
        caller: &Caller,
        id: Option<ChangeId>,
        request: &(impl Into<Request> + Clone),
    ) -> Result<Result<Option<NamedChange>, Outcome>, Error> {
        // What clients without a key of their own share is no secret of one of them.
        let (Some(owner), Some(id)) = (caller.key, id) else {
            return Ok(Ok(None));
        };
        let bytes = codec::encode(&request.clone().into());
        let bytes = bytes.map_err(|_| store::Error::Internal("a request that is too long"))?;
        let request = DigestKind::Blake3.of(&bytes);
        self.store().load_memory().await?;
        let key = ChangeKey { owner, id };
        loop {
            match self.store().memory().claim(key, request.clone()) {
                Claim::Mine(named) => return Ok(Ok(Some(named))),
                Claim::Running(ended) => ended.cancelled().await,
                Claim::Made(outcome) => return Ok(Err(outcome)),
                Claim::Other => return Err(store::Error::Conflict.into()),
            }
        }
    }

    /// For how many seconds back the changes that the caller has named are remembered, if they are.
    pub(crate) fn remembers(&self, caller: &Caller) -> Option<u64> {
        self.store().memory().reach(&caller.key?)
    }
}

impl Outcome {
    /// The version that a change has left.
    ///
    /// # Errors
    /// Only for a defect.
    pub(super) fn version(self) -> Result<Version, Error> {
        let nothing = store::Error::Internal("a change that left nothing");
        Ok(self.version.ok_or(nothing)?)
    }

    /// The answer to a copy.
    ///
    /// # Errors
    /// Only for a defect.
    pub(super) fn copied(self) -> Result<Copied, Error> {
        let left_out = self.left_out;
        Ok(Copied::new(self.version()?, left_out, Vec::new()))
    }
}
