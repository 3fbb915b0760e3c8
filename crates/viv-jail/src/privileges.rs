//! No capabilities, and no way to get any.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits, set_no_new_privs,
};

use crate::stage::Missing;

/// Takes all privileges from the calling thread, which is to be the only one.
pub(crate) fn drop_all(missing: &mut Missing) {
    drop_but(CapabilitySet::empty(), missing);
}

/// Takes all privileges from the calling thread, which is to be the only one, but for those of `kept` that it has.
pub(crate) fn drop_but(kept: CapabilitySet, missing: &mut Missing) {
    // What a crash would leave of a guest's memory is nobody's to read, and the process not its user's to trace.
    missing.note("to be no core file", set_dumpable_behavior(DumpableBehavior::NotDumpable));
    missing.note("locked secure bits", set_capabilities_secure_bits(secure_bits()));
    let every = (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number));
    let dropped = every.filter(|capability| !kept.contains(*capability)).try_for_each(|capability| {
        match remove_capability_from_bounding_set(capability) {
            // The number after the last that the kernel knows.
            Err(rustix::io::Errno::INVAL) => Ok(()),
            result => result,
        }
    });
    missing.note("an empty bounding set of capabilities", dropped);
    missing.note("an empty ambient set of capabilities", clear_ambient_capability_set());
    let has = capabilities(None).map_or(CapabilitySet::empty(), |has| has.permitted) & kept;
    let few = CapabilitySets { effective: has, permitted: has, inheritable: CapabilitySet::empty() };
    missing.note("no capabilities", set_capabilities(None, few));
    missing.note("no new privileges", set_no_new_privs(true));
}

/// Root has no powers, and none of that changes.
fn secure_bits() -> CapabilitiesSecureBits {
    CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED
}
