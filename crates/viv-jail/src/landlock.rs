//! Landlock: no path, no port, no signal or abstract socket of others.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError,
    RulesetStatus, Scope,
};

/// The newest version whose rights are known here. An older kernel gives what it has.
const NEWEST: ABI = ABI::V6;

/// Takes from the process all rights that Landlock knows, those to ports only without `network`. Descriptors that are open
/// keep theirs.
///
/// # Errors
/// When the kernel has no Landlock, or an older one than that of [`NEWEST`]; then as much as it has is in force.
pub(crate) fn restrict(network: bool) -> io::Result<()> {
    match apply(network).map_err(io::Error::other)? {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced => Err(io::Error::other("this kernel has an older version of it")),
        RulesetStatus::NotEnforced => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn apply(network: bool) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    if !network {
        rules = rules.handle_access(AccessNet::from_all(NEWEST))?;
    }
    Ok(rules.create()?.restrict_self()?.ruleset)
}
