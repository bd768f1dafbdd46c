//! All integration tests, in one binary.

mod config;
mod device_names;
mod locations;
