//! What the control plane of the test kit says to a client written by hand against the protocol, in memory under a paused
//! clock, and on sockets where the claim is about sockets.

mod answers;
mod breaking;
mod canary;
mod client;
mod delta;
mod resources;
mod sockets;
