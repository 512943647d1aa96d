//! The cases, one file per subject.

mod protocol_document;
