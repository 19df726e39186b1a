//! What `monitor` hears of interfaces: announced, carried, refused.

use serde_json::{Value, json};

use crate::ids::{IfaceId, IkeId};
use crate::ike::mif::IfaceState;
use crate::ike::{End, Event};

use super::Agent;

impl Agent {
    /// Tells listeners what the engine says of interfaces, before it is acted upon.
    pub(super) fn heard(&mut self, event: &Event) {
        match event {
            Event::PeerInterfaces { ike, ifaces } => {
                let ifaces: Vec<Value> = ifaces
                    .iter()
                    .map(|iface| {
                        let addresses = iface.addresses.iter().map(|a| a.ip.to_string());
                        json!({
                            "access": format!("peer:{}", iface.id.0),
                            "state": state(iface.state),
                            "priority": iface.priority,
                            "weight": iface.weight,
                            "addresses": addresses.collect::<Vec<_>>(),
                        })
                    })
                    .collect();
                self.tell_of(*ike, "interfaces", &[("interfaces", json!(ifaces))]);
            }
            Event::PeerAlternates { ike, iface, list } => {
                let name = |iface: &IfaceId| self.interface_name(End::Remote, *iface);
                let list: Option<Vec<String>> =
                    list.as_ref().map(|list| list.iter().map(name).collect());
                let iface = name(iface);
                self.tell_of(
                    *ike,
                    "alternate",
                    &[("access", json!(iface)), ("alternates", json!(list))],
                );
            }
            Event::Carried {
                ike,
                end,
                iface,
                by,
                ..
            } => {
                let name = |iface| json!(self.interface_name(*end, iface));
                let fields = [("access", name(*iface)), ("by", name(*by))];
                self.tell_of(*ike, "alternate", &fields);
            }
            Event::AddRefused {
                ike, iface, reason, ..
            }
            | Event::DeleteRefused { ike, iface, reason } => {
                let fields = [
                    ("access", json!(self.interface_name(End::Local, *iface))),
                    ("reason", json!(reason.to_string())),
                ];
                self.tell_of(*ike, "alert", &fields);
            }
            _ => {}
        }
    }

    /// An event about one peer.
    pub(super) fn tell_of(&mut self, ike: IkeId, event: &str, fields: &[(&str, Value)]) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        let config = self.config.peers.get(peer.config);
        let mut all = vec![
            ("peer", json!(config.map(|c| &c.name))),
            ("remote_id", json!(peer.remote_id)),
        ];
        all.extend(fields.iter().cloned());
        self.tell(event, &all);
    }

    /// An interface as commands name it.
    pub(super) fn interface_name(&self, end: End, iface: IfaceId) -> String {
        match end {
            End::Local => self.accesses.label(iface),
            End::Remote => format!("peer:{}", iface.0),
        }
    }
}

fn state(state: IfaceState) -> &'static str {
    match state {
        IfaceState::UP => "up",
        IfaceState::BACKUP => "backup",
        IfaceState::NO_ADDRESS => "no-address",
        _ => "down",
    }
}
