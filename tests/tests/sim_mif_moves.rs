//! IKEv2-MIF between two engines: what carries what, who stands in for whom, and what
//! becomes of it when messages are lost, cross or come from a peer that keeps no
//! rule.

#![expect(clippy::print_stdout, reason = "figures, shown with --nocapture")]

#[path = "sim_mif_moves/alternates.rs"]
mod alternates;
#[path = "sim_mif_moves/announce.rs"]
mod announce;
#[path = "sim_mif_moves/channel.rs"]
mod channel;
#[path = "sim_mif_moves/errors.rs"]
mod errors;
#[path = "sim_mif_moves/merge.rs"]
mod merge;
#[path = "sim_mif_moves/together.rs"]
mod together;
#[path = "sim_mif_moves/world.rs"]
mod world;
