//! Landlock: no path, no port, no signal or abstract socket of others.

use std::io;
use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest version whose rights are known here. An older kernel gives what it has.
const NEWEST: ABI = ABI::V6;

/// Takes from the process all rights that Landlock knows, those to ports only without `network`. Descriptors that are open
/// keep theirs.
///
/// # Errors
/// When the kernel has no Landlock, or an older one than that of [`NEWEST`]; then as much as it has is in force.
pub(crate) fn restrict(network: bool) -> io::Result<()> {
    judge(rules(network).and_then(|rules| Ok(rules.create()?.restrict_self()?.ruleset)))
}

/// Takes from the process all rights that Landlock knows but those to what is below `directory`, where nothing is executed
/// and no device is made; with `read_only`, where nothing is changed.
///
/// # Errors
/// As for [`restrict`]. Where the kernel cannot permit to move files from one directory to another, as before Linux 5.19,
/// nothing is restricted: git and package managers would not work.
pub(crate) fn restrict_to(directory: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let all = if read_only { AccessFs::from_read(NEWEST) } else { AccessFs::from_all(NEWEST) };
    let rights = all & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    judge(rules(false).and_then(|rules| {
        let rules = rules.set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::Refer)?;
        Ok(rules
            .set_compatibility(CompatLevel::BestEffort)
            .create()?
            .add_rule(PathBeneath::new(directory, rights))?
            .restrict_self()?
            .ruleset)
    }))
}

fn judge(result: Result<RulesetStatus, RulesetError>) -> io::Result<()> {
    match result.map_err(io::Error::other)? {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced => Err(io::Error::other("this kernel has an older version of it")),
        RulesetStatus::NotEnforced => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// What is restricted.
fn rules(network: bool) -> Result<Ruleset, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    if !network {
        rules = rules.handle_access(AccessNet::from_all(NEWEST))?;
    }
    Ok(rules)
}
