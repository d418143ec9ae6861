//! The engine over a device whose answers depend on everything the engine could get wrong.
#![forbid(unsafe_code)]

mod answers;
mod cancel;
mod constraints;
mod device;
mod driver;
mod eye;
mod images;
mod order;
mod prefix;
mod random;
mod stops;
mod tenants;
