//! Interfaces that carry others: who lends, to which, and when it is over.

use super::Agent;
use super::views::MovePlan;

#[allow(dead_code)]
impl Agent {
    /// Moves everything of a peer on `from` to `to`: both are accesses of ours, or
    /// interfaces of the peer as `peer:ID`. The same twice ends a loan.
    ///
    /// # Errors
    /// With one line for the operator when a name is unknown, both are not of one
    /// end, or nothing is to be moved.
    pub fn move_interface(
        &mut self,
        _peer: &str,
        _from: &str,
        _to: &str,
        _dry_run: bool,
    ) -> Result<MovePlan, String> {
        Err("not possible yet".into())
    }

    /// Moves everything of all peers off an access, and keeps it off until `undo`.
    ///
    /// # Errors
    /// With one line for the operator when the access is unknown.
    pub fn drain_access(&mut self, _access: &str, _undo: bool) -> Result<Vec<MovePlan>, String> {
        Err("not possible yet".into())
    }
}
