//! Files with several names, while a plan is carried out.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use quire_shared::RemotePath;

use crate::error::ClientError;
use crate::transfer::first_names::{FirstName, NameOfFile, OtherName};
use crate::transfer::sync::plan::PlannedFile;

/// The first names so far: no more than the comparison has had room for.
#[derive(Debug, Default)]
pub(super) struct PlannedNames(HashMap<RemotePath, Arc<FirstName>>);

impl PlannedNames {
    /// What a planned file is among the names of its file. `place` tells where a path of the plan is on
    /// the server and here.
    pub(super) fn name_of(
        &mut self,
        file: &PlannedFile,
        place: impl Fn(&RemotePath) -> Result<(RemotePath, PathBuf), ClientError>,
    ) -> Result<NameOfFile, ClientError> {
        if file.is_first {
            let (remote, local) = place(&file.path)?;
            let (first, guard) = FirstName::transferred(remote, local);
            self.0.insert(file.path.clone(), first);
            return Ok(NameOfFile::First(guard));
        }
        let Some(path) = &file.other_of else {
            return Ok(NameOfFile::Alone);
        };
        let first = match self.0.get(path) {
            Some(first) => Arc::clone(first),
            None => {
                // It isn't transferred, so it is there already, or has got its name by a rename.
                let (remote, local) = place(path)?;
                let first = FirstName::standing(remote, local);
                self.0.insert(path.clone(), Arc::clone(&first));
                first
            }
        };
        Ok(NameOfFile::Other(OtherName {
            first,
            replaces: file.replaced,
        }))
    }
}
