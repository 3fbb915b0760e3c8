//! Directories of the host.

use viv_vmm::config::{Mount, Share, ShareSource};

use crate::cli::ShareArg;
use crate::session::Plan;

/// Gives the machine the directories that are asked for, and has the guest's agent mount them. A system that has none finds
/// them by their tags, `share0` and so on.
pub fn connect(asked: &[ShareArg], plan: &mut Plan) {
    for (index, ShareArg { socket, directory, readonly }) in asked.iter().enumerate() {
        let (tag, readonly) = (format!("share{index}"), *readonly);
        if let Some(agent) = &mut plan.config.agent {
            agent.mounts.push(Mount { tag: tag.clone(), directory: directory.clone(), readonly });
        }
        plan.config.shares.push(Share { source: ShareSource::VhostUser(socket.clone()), tag, readonly });
    }
}
