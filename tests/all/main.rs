//! All integration tests, in one binary.

// A harness is for whoever comes to need it: not every part is used by every test.
#[allow(dead_code)]
mod harness;

mod config;
mod device_names;
mod locations;
mod token_plane;
