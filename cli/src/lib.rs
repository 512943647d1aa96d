//! The program `quire`: the command line is [`args`], what it means [`config`] and [`operand`], and
//! what it does [`commands`], within one [`CliSession`]; [`menu`] is the interactive client on top.

pub mod args;
pub mod commands;
pub mod config;
pub mod menu;
pub mod operand;
pub mod output;
mod progress;
pub mod session;

pub use session::CliSession;
