//! Details of open files, as both ends read and set them: extended attributes, and the names of owners
//! and groups.

pub mod accounts;
#[cfg(unix)]
pub mod xattrs;
