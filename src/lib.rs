//! Sessions for applications: started, checked, listed and ended, over SQLite, in one process.
//!
//! Everything the `sessiond` binary does is here, for programs that would rather embed it: [`manager::SessionManager`]
//! is the sessions without HTTP, [`server::Server`] the whole server. `examples/embed.rs` puts the first into an
//! actix-web application.
//!
//! # How it works
//!
//! A *check* takes a token apart into session id and secret, compares the secret's hash in constant time with a copy of
//! the session in memory ([`cache`]), or reads the row once, decides from the clock whether it is over, and notes the
//! use in memory ([`touch`]). It never writes and never waits for a writer.
//!
//! A *change* is one command to the store's single writer, which commits what has come together meanwhile in one durable
//! transaction and keeps one order for all of it: **fence → commit → announce → answer** ([`store`]).
//!
//! Events are rows that are written with the change they tell of. Whoever is told ([`observer`]) is rung after the commit and reads on
//! from a place of their own.
//!
//! # What holds
//!
//! 1. A session that was ended before an answer was sent is refused by every check that starts after that answer.
//! 2. What was acknowledged is on disk.
//! 3. In the database are only hashes of secrets, and secrets of webhooks that the server's own key seals, which is in a file
//!    beside it; none is ever logged.
//! 4. One function ends sessions, whatever the reason; each ended row has exactly one ending event.
//! 5. A user's limit is counted, enforced and inserted against in one transaction.
//! 6. Eviction from memory, restarts and lost touches can only shorten a session. The clock never goes back.
//! 7. Every queue, cache, page, body and batch has a bound.

// What cannot be printed is no bug of ours: see `cli::output`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod session;

pub mod user;

pub mod data;

pub mod event;

pub mod error;

pub mod clock;

pub mod address;

pub mod webhook;

pub mod key_file;

pub mod config;

pub mod policy;

pub mod manager;

pub mod observer;

pub mod cache;

#[cfg(test)]
mod cache_orders;

mod locks;

pub mod touch;

pub mod sweeper;

pub mod backups;

pub mod enrich;

pub mod store;

pub mod metrics;

pub mod tls;

pub mod http;

pub mod server;

pub mod cli;

pub mod telemetry;
