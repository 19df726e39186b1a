//! Rekeying of Child SAs and of the IKE SA: message by message where exchanges
//! collide, and at random over bad links. A model of the data plane's sending side
//! checks throughout that the peer receives on whatever is sent on.

#[path = "sim_ike_rekey/child.rs"]
mod child;
#[path = "sim_ike_rekey/ike.rs"]
mod ike;
#[path = "sim_ike_rekey/lifetime.rs"]
mod lifetime;
#[path = "sim_ike_rekey/post.rs"]
mod post;
#[path = "sim_ike_rekey/storm.rs"]
mod storm;
