//! Cables between machines: a [`Switch`] joins the machines that are plugged into it, and its cables can be pulled.

use std::process::Command;

use crate::Machine;
use crate::machine::run;

/// One link that several machines share.
#[derive(Debug)]
pub struct Switch {
    /// It is a machine that does nothing but bridge.
    machine: Machine,
}

impl Switch {
    /// A switch with nothing plugged in.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        let machine = Machine::new();
        machine.run("ip", ["link", "add", "switch", "type", "bridge", "forward_delay", "0"]).ok();
        machine.run("ip", ["link", "set", "switch", "up"]).ok();
        Self { machine }
    }

    /// Plugs a machine in: it gets an interface `name` with an address such as 192.0.2.1/24.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn plug(&self, machine: &Machine, name: &str, address: &str) {
        let port = port(address);
        let (ours, theirs) = (self.machine.namespace(), machine.namespace());
        run(Command::new("ip")
            .args(["-n", ours, "link", "add", &port, "type", "veth", "peer", "name", name, "netns", theirs]))
        .ok();
        self.machine.run("ip", ["link", "set", &port, "master", "switch", "up"]).ok();
        machine.run("ip", ["address", "add", address, "dev", name]).ok();
        machine.run("ip", ["link", "set", name, "up"]).ok();
    }

    /// Pulls the cable of the machine that was plugged in with this address.
    ///
    /// # Panics
    /// When there is none.
    pub fn pull(&self, address: &str) {
        self.machine.run("ip", ["link", "set", &port(address), "nomaster"]).ok();
    }

    /// Plugs it in again.
    ///
    /// # Panics
    /// When there is none.
    pub fn plug_again(&self, address: &str) {
        self.machine.run("ip", ["link", "set", &port(address), "master", "switch"]).ok();
    }
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}

/// Name of the switch's end of a cable.
fn port(address: &str) -> String {
    let octets: Vec<&str> = address.split('/').next().unwrap_or(address).split('.').collect();
    format!("p{}", octets.iter().skip(2).copied().collect::<Vec<_>>().join("-"))
}
