//! Transcripts in state of the world.

mod absence;
mod another_server;
mod answers;
mod passed_over;
mod refusals;
mod requests;
mod streams;

use super::*;
