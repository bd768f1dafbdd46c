//! All integration tests, in one binary.

// Helpers are for whoever comes to need them: not every part is used by every test.
#[allow(dead_code)]
mod browser_driver;
#[allow(dead_code)]
mod harness;
#[allow(dead_code)]
mod process;
mod receiver;
#[allow(dead_code)]
mod sse;
#[allow(dead_code)]
mod stores;
#[allow(dead_code)]
mod support;
#[allow(dead_code)]
mod wire;

mod addresses;
mod backup;
mod backups;
mod bad_input;
mod browser;
mod browser_activity;
mod browser_example;
mod browser_live;
mod cache;
mod checking;
mod cli;
mod cli_events;
mod client_sessions;
mod config;
mod contract;
mod cookies_and_csrf;
mod corpus;
mod crash;
mod creating;
mod dev_mode;
mod device_names;
mod disk_full;
mod edge;
mod ending;
mod event_pages;
mod event_streams;
#[cfg(target_os = "linux")]
mod faults;
mod following;
mod histories;
mod hostile_connections;
mod house;
mod idempotency;
mod identities;
mod key_file;
mod limits_denied;
mod locations;
mod model;
mod observers;
mod openapi;
mod operating;
mod policy;
#[cfg(target_os = "linux")]
mod power;
mod privacy;
mod races;
mod rate_limits;
mod restore;
mod secrets;
mod self_plane;
mod session_data;
mod soundness;
mod telling;
mod tls;
mod token_plane;
mod token_races;
mod tokens;
mod unwritten;
mod users_and_lists;
mod visitors;
mod webhooks;
mod webhooks_of_the_binary;
