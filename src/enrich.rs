//! What can be said about where a session comes from: the device, from what the browser tells; the place, from the
//! address. An enricher that fails or finds nothing leaves its fields empty and never fails a sign-in.

pub mod device;
pub mod location;
