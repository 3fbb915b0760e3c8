//! Directories of the host: each is served by a process that is started here, or by one that listens somewhere.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use viv_share::Cache;
use viv_vmm::config::{Mount, Share, ShareSource};

use crate::cli::{RunArgs, ShareArg, SharedArg};
use crate::failure::Failure;
use crate::session::Plan;

/// A process that serves a directory. Dropped, it ends: what the guest has written is written.
#[derive(Debug)]
pub struct ShareServer(Child);

impl Drop for ShareServer {
    fn drop(&mut self) {
        // One that has ended by itself is what is wanted too.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gives the machine the directories that are asked for, and has the guest's agent mount them. A system that has none finds
/// them by their tags, `share0` and so on.
pub fn connect(args: &RunArgs, plan: &mut Plan) -> Result<Vec<ShareServer>, Failure> {
    let mut places = HashSet::new();
    let mut servers = Vec::new();
    for (index, ShareArg { source, directory, readonly }) in args.share.iter().enumerate() {
        let option = format!("--share {source}:{directory}");
        if !places.insert(directory) {
            let why = "another share is given for the same place";
            return Err(Failure::new(option, why).remedy("give each a place of its own"));
        }
        let (tag, readonly) = (format!("share{index}"), *readonly);
        let source = match source {
            SharedArg::VhostUser(socket) => ShareSource::VhostUser(socket.clone()),
            SharedArg::Directory { path, cache } => {
                check(path).map_err(|error| Failure::of(&*option, &error))?;
                let (server, socket) =
                    serve(args, path, readonly, *cache).map_err(|error| Failure::of(&*option, &error))?;
                servers.push(server);
                let name = path.display().to_string();
                ShareSource::Connected { socket: plan.fds.add(socket), name }
            }
        };
        if let Some(agent) = &mut plan.config.agent {
            agent.mounts.push(Mount { tag: tag.clone(), directory: directory.clone(), readonly });
        }
        plan.config.shares.push(Share { source, tag, readonly });
    }
    Ok(servers)
}

/// Whether there is such a directory.
fn check(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Starts a process that serves a directory; returns the other end of its socket too.
fn serve(args: &RunArgs, path: &Path, readonly: bool, cache: Cache) -> io::Result<(ShareServer, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    // The link leads to this program even if its file is another by now.
    let mut server = Command::new("/proc/self/exe");
    server.args(["share", "--cache", &cache.to_string(), "--jail", &args.jail.to_string()]);
    if readonly {
        server.arg("--read-only");
    }
    server.arg("--").arg(path);
    server.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::inherit());
    Ok((ShareServer(server.spawn()?), ours.into()))
}
