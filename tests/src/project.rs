//! The project itself: its files, manifests and documents agree with its code.

mod protocol_document;
mod tidy;
mod vocabulary;
