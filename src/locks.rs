//! The locks of the cache, apart so that `cache_orders` can give it others.

pub use std::sync::{Mutex, MutexGuard};
