//! The retry layer against scripted services, under a paused clock: each rule of the driver, and all of them together on
//! random scripts.

mod support;

mod attempts;
mod bounds;
mod budget;
mod repetitions;
mod requests;
mod services;
mod time_limits;
mod waits;
