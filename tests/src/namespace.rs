//! Names: listing, stat, rename, delete, copy, and requests that meet at one path.

mod changes;
mod listing;
mod locks;
mod special_files;
