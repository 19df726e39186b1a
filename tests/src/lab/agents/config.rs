//! The configuration files of the lab's agents.

use std::path::{Path, PathBuf};

use super::Extra;
use crate::lab::topology::{Access, GATEWAY, POOL, SECOND_GATEWAY, WEIGHTS};

/// The end user.
pub(super) const IDENTITY: &str = "laptop@example.org";

const GATEWAY_IDENTITY: &str = "gw.example.org";

/// What must differ between agents on one machine.
pub(super) struct Names {
    role: &'static str,
    instance: String,
    pub(super) control: PathBuf,
    pub(super) state_dir: PathBuf,
}

impl Names {
    pub(super) fn new(tag: &str, role: &'static str, dir: &Path) -> Self {
        Self {
            role,
            instance: format!("lab{tag}-{role}"),
            control: dir.join(format!("{role}.sock")),
            state_dir: dir.join(format!("{role}-state")),
        }
    }

    /// Where the agent pins what outlives it.
    pub(super) fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/mifsec").join(&self.instance)
    }

    fn agent(&self, routing: &str) -> String {
        format!(
            "[agent]\n\
             name = \"{role}\"\n\
             instance = \"{instance}\"\n\
             control = \"{control}\"\n\
             state_dir = \"{state}\"\n\
             routing = \"{routing}\"\n",
            role = self.role,
            instance = self.instance,
            control = self.control.display(),
            state = self.state_dir.display(),
        )
    }
}

/// Full tunnel over all accesses, of which the third is plugged in later. The RAN
/// has the best priority and so carries the IKE channel; data go by weight.
pub(super) fn end_user(names: &Names, secret: &Path, extra: &Extra) -> String {
    let mut text = names.agent("managed");
    for (access, weight) in WEIGHTS {
        let priority = match access {
            Access::Wlan => 1,
            Access::Ran => 0,
            Access::Ethernet => 2,
        };
        text += &format!(
            "\n[[access]]\n\
             interface = \"{link}\"\n\
             class = \"{class}\"\n\
             priority = {priority}\n\
             weight = {weight}\n",
            link = access.link(),
            class = access.class(),
        );
    }
    text + &format!(
        "\n[[peer]]\n\
         name = \"gw\"\n\
         remote = [\"{GATEWAY}\"]\n\
         local_id = \"{IDENTITY}\"\n\
         remote_id = \"{GATEWAY_IDENTITY}\"\n\
         psk_file = \"{secret}\"\n\
         addresses = [\"ipv4\"]\n\
         require = \"mif\"\n\
         start = \"auto\"\n\
         {extra}\n\
         \n\
         [[peer.child]]\n\
         name = \"internet\"\n\
         mode = \"tunnel\"\n\
         local_ts = [\"dynamic\"]\n\
         remote_ts = [\"0.0.0.0/0\"]\n\
         steering = \"load-balancing\"\n\
         layout = \"{layout}\"\n",
        secret = secret.display(),
        layout = match extra.layout.as_str() {
            "" => "bundle",
            other => other,
        },
        extra = extra.eu_peer,
    )
}

/// Two announced addresses of which one comes later, a pool, and a template for all subscribers.
pub(super) fn gateway(names: &Names, secrets: &Path, extra: &Extra) -> String {
    let (network, length) = POOL;
    names.agent("manual")
        + &format!(
            "\n[[access]]\n\
             interface = \"eth0\"\n\
             class = \"ethernet\"\n\
             addresses = [\"{GATEWAY}\", \"{SECOND_GATEWAY}\"]\n\
             \n\
             [[pool]]\n\
             name = \"subscribers\"\n\
             cidr = [\"{network}/{length}\"]\n\
             {pool_extra}\n\
             \n\
             [[peer]]\n\
             name = \"subscribers\"\n\
             local_id = \"{GATEWAY_IDENTITY}\"\n\
             remote_id = \"*@example.org\"\n\
             psk_table = \"{secrets}\"\n\
             pool = \"subscribers\"\n\
             {extra}\n\
             \n\
             [[peer.child]]\n\
             name = \"internet\"\n\
             mode = \"tunnel\"\n\
             local_ts = [\"0.0.0.0/0\"]\n\
             remote_ts = [\"dynamic\"]\n\
             steering = \"load-balancing\"\n\
             layout = \"bundle\"\n",
            secrets = secrets.display(),
            pool_extra = extra.gw_pool,
            extra = extra.gw_peer,
        )
}
